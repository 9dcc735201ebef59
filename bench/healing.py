# SPDX-License-Identifier: Apache-2.0
"""Seconds from the publication of a precertificate whose SCT is lost to "good", as the demonstration plays it.

Knows how often it is played and with which poll; how the world is asked, demo/stage.py knows. Called by __main__.py.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import ground
from bench.figures import Figure, Sample
from bench.ground import Issuer
from demo.stage import Stage, log_process, process, reconciler_settings, run_admin

#: How often the reconciler asks the log (seconds).
POLL: Final = 1
NAME: Final = f"publication to good, log asked every {POLL} s"
_BETWEEN_QUESTIONS: Final = 0.02
_PATIENCE: Final = 30.0


def measure(server: str, folder: Path, *, times: int = 5) -> Figure:
    """Play the incident so many times. All processes run where they like, as they do in the demonstration."""
    (folder / "spool").mkdir()
    with _set_up(server, folder) as stage:
        samples = tuple(_play(stage, number) for number in range(times))
    return Figure(name=NAME, unit="seconds", samples=samples)


def _play(stage: Stage, number: int) -> Sample:
    """Publish just after the reconciler has asked the log, which is the worst moment, and wait for good."""
    orphan = stage.precertificate(f"orphan-{number}.example")
    stage.wait_for_a_poll()
    stage.lose_the_next_sct()
    published = time.monotonic()
    stage.submit_without_answer(orphan)
    first = answer = stage.ask(orphan.serial_number)
    while answer != "good" and time.monotonic() - published < _PATIENCE:
        time.sleep(_BETWEEN_QUESTIONS)
        answer = stage.ask(orphan.serial_number)
    seconds = time.monotonic() - published
    faults = []
    if answer != "good":
        faults.append(f"still {answer} after {seconds:.0f} seconds")
    if first not in {"unknown", "good"}:
        faults.append(f"the first answer was {first}")
    return Sample(value=seconds, faults=tuple(faults))


@contextmanager
def _set_up(server: str, folder: Path) -> Iterator[Stage]:
    issuer = Issuer.create(folder, "demo", key="p256")
    with ExitStack() as stack:
        dsn = stack.enter_context(ground.database(server))
        log = stack.enter_context(log_process(folder, roots=issuer.certificate_file))
        admin = folder / "admin.toml"
        admin.write_text(ground.settings(dsn))
        run_admin(admin, "migrate")
        issuer.add(admin)
        (folder / "reconciler.toml").write_text(
            reconciler_settings(ground.settings(dsn), folder=folder, log=log, poll=POLL)
        )
        stack.enter_context(process(folder, "ocsp-reconciler", "--config", str(folder / "reconciler.toml"), "run"))
        port = stack.enter_context(ground.responder(folder, dsn)).port
        # Where Stage looks for the issuer's certificate.
        (folder / "ca.pem").write_bytes(issuer.certificate_file.read_bytes())
        yield Stage(folder, issuer.ca, log_url=log["url"].rstrip("/"), ocsp_url=f"http://127.0.0.1:{port}/")
