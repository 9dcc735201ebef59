# SPDX-License-Identifier: Apache-2.0
"""Whether this host is to be sent requests, from what each of its workers says. Knows no check by name.

Called by private.py for /readyz.
"""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from responder.snapshots import Snapshot, Verdict

# A worker whose numbers are older than this hangs (seconds); gunicorn replaces it after thirty.
_SILENCE: Final = 10.0


class State(enum.IntEnum):
    """How a check turned out; the numbers are those of the metric."""

    OK = 0  # as it should be
    DEGRADED = 1  # a person has to look, and requests are still right here
    FAILING = 2  # requests are better sent elsewhere


_WORDS: Final = {State.OK: "ok", State.DEGRADED: "degraded", State.FAILING: "failing"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """What the host says of itself: each check, and whether it is to be sent requests."""

    ready: bool
    checks: dict[str, Verdict]

    def told(self) -> dict[str, object]:
        """Return it as the JSON of /readyz has it."""
        worst = max((verdict.state for verdict in self.checks.values()), default=0)
        return {
            "ready": self.ready,
            "state": _WORDS[State(worst)],
            "checks": {
                name: {"state": _WORDS[State(verdict.state)], "detail": verdict.detail}
                for name, verdict in self.checks.items()
            },
        }


def readiness(living: list[Snapshot], *, now: float, drain_file: Path | None) -> Readiness:
    """Return what all workers of the host say together; `now` is the monotonic clock.

    A check fails where it fails in at least half of the workers; where it fails in fewer, one worker's trouble would
    otherwise take the work of all others away.
    """
    speaking = [each for each in living if now - each.written <= _SILENCE]
    checks = {"workers": _of_workers(len(speaking), len(living))}
    for name in dict.fromkeys(name for each in speaking for name in each.checks):
        checks[name] = _of_all([each.checks[name] for each in speaking if name in each.checks])
    if drain_file is not None:
        draining = drain_file.exists()
        said = f"{drain_file} is there" if draining else f"{drain_file} is not there"
        checks["drain"] = Verdict(State.FAILING if draining else State.OK, said)
    return Readiness(all(verdict.state != State.FAILING for verdict in checks.values()), checks)


def _of_workers(speaking: int, living: int) -> Verdict:
    said = f"{speaking} of {living} tell their numbers"
    if 2 * speaking <= living:
        return Verdict(State.FAILING, said)
    return Verdict(State.OK if speaking == living else State.DEGRADED, said)


def _of_all(verdicts: list[Verdict]) -> Verdict:
    failing = [verdict for verdict in verdicts if verdict.state == State.FAILING]
    worst = max(verdicts, key=lambda verdict: verdict.state)
    if failing and 2 * len(failing) < len(verdicts):
        return Verdict(State.DEGRADED, f"in {len(failing)} of {len(verdicts)} workers: {worst.detail}")
    return worst
