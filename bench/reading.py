# SPDX-License-Identifier: Apache-2.0
"""Entries per second of the reconciler, from a log over loopback HTTP to verified rows, by both protocols.

Knows how a pass is set up, timed and checked. The reconciler runs on the server's core, the rest on the other.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Final

import psycopg

from bench import ground
from bench.cores import Cores, on
from bench.figures import Figure, Sample
from bench.synthetic import CA_FILE
from demo.stage import StageError, command, run_admin, stop

_SOURCE: Final = "bench"
#: A pass that takes longer has failed.
_MOST_SECONDS: Final = 120
#: For each protocol, what the log's address is called in the settings.
_PROTOCOLS: Final = {"static": "monitoring_url", "rfc6962": "url"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries: of others and of ours in the first log; all of ours in the second."""

    foreign: int = 50_000
    ours: int = 500
    only_ours: int = 5_000


@dataclass(frozen=True, slots=True)
class SyntheticLog:
    """A log that is served: where, under which key, how many entries it has, and how many of them are ours."""

    url: str
    key: str
    size: int
    ours: int

    @property
    def contents(self) -> str:
        """What is in it, in words."""
        if self.ours == self.size:
            return f"{self.size:,} entries, all ours"
        return f"{self.size:,} entries, {self.ours:,} ours"


def measure(server: str, folder: Path, *, cores: Cores, repetitions: int, sizes: Sizes | None = None) -> list[Figure]:
    """Measure both logs by both protocols, in turns. `server` is the DSN of a PostgreSQL on the load's core."""
    samples: dict[str, list[Sample]] = {}
    with _serving(folder, sizes or Sizes(), cores=cores) as logs, ground.database(server) as template:
        admin = folder / "admin.toml"
        admin.write_text(ground.settings(template))
        run_admin(admin, "migrate")
        run_admin(admin, "issuer", "add", "ours", "--cert", str(folder / CA_FILE))
        # One round more than counts: the first one fills what a CDN in front of the log would hold.
        for repetition in range(repetitions + 1):
            for log, protocol in product(logs, _PROTOCOLS):
                with ground.database(server, template=ground.name_of(template)) as dsn:
                    sample = _read(folder, dsn, log, protocol=protocol, cores=cores)
                if repetition:
                    samples.setdefault(f"reconciler, {protocol}, {log.contents}", []).append(sample)
    return [Figure(name=name, unit="entries/s", samples=tuple(each)) for name, each in samples.items()]


@contextmanager
def _serving(folder: Path, sizes: Sizes, *, cores: Cores) -> Iterator[list[SyntheticLog]]:
    """Start the logs in a process on the load's core."""
    with on(cores.load), (folder / "synthetic.log").open("wb") as errors:
        running = subprocess.Popen(
            [
                sys.executable, "-m", "bench.synthetic", str(folder), "--foreign", str(sizes.foreign),
                "--ours", str(sizes.ours), "--only-ours", str(sizes.only_ours),
            ],
            stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[1],
        )  # fmt: skip
    try:
        said = running.stdout.readline() if running.stdout is not None else b""
        if not said:
            raise StageError(f"the log did not start:\n{(folder / 'synthetic.log').read_text()[-2000:]}")
        yield [SyntheticLog(**each) for each in json.loads(said)]
    finally:
        stop(running)


def _read(folder: Path, dsn: str, log: SyntheticLog, *, protocol: str, cores: Cores) -> Sample:
    """Have the reconciler read a log from the beginning, once, and see what it recorded."""
    config = folder / "reconciler.toml"
    config.write_text(f"""{ground.settings(dsn)}
[[ct_log]]
name = "{_SOURCE}"
kind = "{protocol}"
{_PROTOCOLS[protocol]} = {json.dumps(log.url)}
key = {json.dumps(log.key)}
start = "beginning"
""")
    with on(cores.server):
        said = subprocess.run(
            [command("ocsp-reconciler"), "--config", str(config), "once", "--strict"],
            capture_output=True, text=True, timeout=_MOST_SECONDS, check=False,
        )  # fmt: skip
    if said.returncode != 0:
        return Sample(value=0, faults=(f"ocsp-reconciler once: {said.stderr.strip()[-300:]}",))
    began = _began(said.stderr)
    ended, faults = _recorded(dsn, log)
    return Sample(value=log.size / (ended - began).total_seconds(), faults=tuple(faults))


def _began(log_lines: str) -> datetime:
    """Return when the pass began, after Python and the settings were loaded: when the issuers were."""
    lines = (json.loads(line) for line in log_lines.splitlines() if line.startswith("{"))
    return next(datetime.fromisoformat(line["at"]) for line in lines if line["event"] == "issuers.loaded")


def _recorded(dsn: str, log: SyntheticLog) -> tuple[datetime, list[str]]:
    """Return when the pass ended, by the same clock, and what is not as it has to be."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            """
            SELECT s.attempted_at, s.verified_at IS NOT NULL, p.verified_size,
                   (SELECT count(*) FROM ocsp.certificate), (SELECT count(*) FROM ocsp.quarantine)
            FROM ocsp.source s JOIN ocsp.ct_position p USING (source_id)
            WHERE s.name = %s
            """,
            (_SOURCE,),
        ).fetchone()
    if found is None:
        raise StageError("the reconciler has recorded no position")
    ended, *facts = found
    wanted = {"verified to its head": True, "verified size": log.size, "rows": log.ours, "quarantined": 0}
    return ended, [
        f"{name}: {fact}, not {expected}"
        for (name, expected), fact in zip(wanted.items(), facts, strict=True)
        if fact != expected
    ]
