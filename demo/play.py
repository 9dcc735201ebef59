# SPDX-License-Identifier: Apache-2.0
"""The incident in miniature, with real processes: a precertificate whose SCT is lost, found and healed.

Knows the story; stage.py knows how to set it. `make demo` runs this.
"""

import time
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from demo.stage import Stage

#: How long anything may take before the demonstration has failed (seconds).
_PATIENCE: Final = 30.0
_BETWEEN_QUESTIONS: Final = 0.1


class Failed(Exception):  # noqa: N818 - it is printed as it stands
    """The play did not go as promised: what was expected, and what was seen."""


class Timeline:
    """Prints what happens, with the seconds since the orphan was published."""

    def __init__(self) -> None:
        """Nothing has been published yet."""
        self._zero: float | None = None

    def publish(self) -> None:
        """From here on seconds count."""
        self._zero = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since publication."""
        return 0.0 if self._zero is None else time.monotonic() - self._zero

    def tell(self, what: str) -> None:
        """Print one line of the timeline."""
        when = "        " if self._zero is None else f"{self.seconds:+7.2f}s"
        print(f"  {when}  {what}", flush=True)


def play(stage: Stage) -> None:
    """Play the incident from start to finish. Raises Failed where something is not as promised."""
    line = Timeline()
    print("\nA certificate, as it should go")
    ordinary = stage.precertificate("ordinary.example")
    stage.submit(ordinary)
    stage.record_in_issuance_log(ordinary)
    _until(stage, line, ordinary.serial_number, "good", "the issuance log names it")

    print("\nThe incident")
    orphan = stage.precertificate("orphan.example")
    stage.wait_for_a_poll()
    stage.lose_the_next_sct()
    line.publish()
    stage.submit_without_answer(orphan)
    line.tell(f"precertificate {_short(orphan)} is in CT; the SCT is lost on its way back, the CA's call fails")
    _expect(stage, line, orphan.serial_number, "unknown", "what the CA's OCSP would say for ever")
    second = stage.precertificate("orphan.example")
    stage.submit(second)
    stage.record_in_issuance_log(second)
    line.tell(f"the CA tries again with a new serial, {_short(second)}, and knows only that one")
    _until(
        stage, line, orphan.serial_number, "good", "the reconciler read CT, verified our signature, inserted the row"
    )
    healed = line.seconds
    line.tell(f"healed {healed:.1f} seconds after publication; the rules give fifteen minutes")

    print("\nA person decides")
    stage.revoke(orphan.serial_number, reason="superseded")
    line.tell("the CA revokes the orphan: superseded")
    _until(stage, line, orphan.serial_number, "revoked", "the change feed dropped the kept answer")
    _expect(stage, line, second.serial_number, "good", "the other certificate is not touched")

    print("\nThe evidence\n")
    print(stage.show(orphan.serial_number))


def _until(stage: Stage, line: Timeline, serial: int, wanted: str, why: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    seen = ""
    while time.monotonic() < deadline:
        seen = stage.ask(serial)
        if seen == wanted:
            line.tell(f"{stage.judge} says {seen}: {why}")
            return
        time.sleep(_BETWEEN_QUESTIONS)
    raise Failed(f"{stage.judge} should say {wanted} within {_PATIENCE:.0f} seconds, and says {seen}")


def _expect(stage: Stage, line: Timeline, serial: int, wanted: str, why: str) -> None:
    seen = stage.ask(serial)
    if seen != wanted:
        raise Failed(f"{stage.judge} should say {wanted}, and says {seen}")
    line.tell(f"{stage.judge} says {seen}: {why}")


def _short(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"[:8] + "…"


def opening() -> str:
    """Return the first line."""
    return f"Foundling: no precertificate left behind. {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
