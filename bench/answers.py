# SPDX-License-Identifier: Apache-2.0
"""Requests per second of our responder and of its peers, row by row and in turns, each on one core.

Knows which rows there are and what makes one wrong; a further row is one more entry in `_rows`. Called by __main__.py.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from bench import ground, peers
from bench.cores import Cores, Watch, on
from bench.figures import Figure, Sample
from bench.ground import Issuer
from bench.judge import judge_good
from bench.load import Counted, Counting, Load, MissingPeerError, Questions, Same, fetch
from demo.stage import run_admin

#: Rows for each issuer: twice what the responder keeps, so that going round in order never meets a kept answer.
ROWS: Final = 100_000
#: The certificate whose answer is kept. The counting rows come by it too, and leave it as it is.
_KEPT: Final = 7
# Signatures of ECDSA vary by a few octets; an answer without a signature would be hundreds short.
_TOLERANCE: Final = 6.0
# PostgreSQL's connections write their counters about once a second, and those of the responder take turns (seconds).
_COUNTERS_WRITTEN: Final = 3.0
_LEAST_LOOKED_UP: Final = 0.9

NGINX_KEPT: Final = "nginx, static file"
NGINX_CLOSED: Final = "nginx, static file, connection per request"


@dataclass(slots=True)
class Row:
    """One row: who is asked what. `judge` raises ValueError for an answer to question `number` that is not right."""

    name: str
    port: int
    questions: Questions
    judge: Callable[[bytes, int], None]
    close: bool = False
    against: str | None = None
    looks_up: bool = False
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: whole seconds of warm-up and of measurement, and how often."""

    warm_up: int = 1
    seconds: int = 5
    repetitions: int = 3


def measure(
    server: str, folder: Path, *, cores: Cores, effort: Effort, rows: int = ROWS, only: str = ""
) -> tuple[list[Figure], list[str]]:
    """Measure every row whose name contains `only`; return the figures, and a line for each peer that is missing.

    `server` is the DSN of a PostgreSQL that runs on the load's core.
    """
    try:
        load = Load(folder, core=cores.load)
    except MissingPeerError as missing:
        return [], [f"{missing} (no requests per second without it)"]
    with _standing(server, folder, cores=cores, rows=rows) as (all_rows, dsn, missing_peers):
        chosen = [row for row in all_rows if only in row.name]
        before, asked = ground.rows_looked_up(dsn), 0
        for _ in range(effort.repetitions):
            for row in chosen:
                counted = _repeat(row, load, cores=cores, effort=effort)
                asked += counted if row.looks_up else 0
        faults = _not_looked_up(dsn, before=before, asked=asked)
        return [_figure(row, faults) for row in chosen], missing_peers


def _repeat(row: Row, load: Load, *, cores: Cores, effort: Effort) -> int:
    """Warm up, measure once, look at an answer; return how many were asked for in all."""
    asked = 0
    if effort.warm_up:
        asked += load.ask(row.port, row.questions, seconds=effort.warm_up, close=row.close).requests
    watch = Watch(cores)
    counted = load.ask(row.port, row.questions, seconds=effort.seconds, close=row.close)
    busy = watch.busy()
    row.samples.append(
        Sample(
            value=counted.requests / counted.seconds,
            p50=counted.p50,
            p99=counted.p99,
            busy=busy,
            faults=tuple(_faults(row, counted)),
        )
    )
    return asked + counted.requests


def _faults(row: Row, counted: Counted) -> Iterator[str]:
    """Yield what is wrong with a repetition."""
    for name, number in counted.errors.items():
        if number:
            yield f"{number} errors of kind {name}"
    if counted.requests == 0:
        yield "no answers"
        return
    octets, body = fetch(row.port, row.questions.http(close=row.close))
    mean = counted.octets / counted.requests
    if abs(mean - octets) > _TOLERANCE:
        yield f"answers had {mean:.0f} octets on average, and one asked for by itself has {octets}"
    try:
        row.judge(body, row.questions.at)
    except ValueError as exc:
        yield str(exc)
    row.questions.at += 1


@contextmanager
def _standing(server: str, folder: Path, *, cores: Cores, rows: int) -> Iterator[tuple[list[Row], str, list[str]]]:
    """Start our responder, and the peers that are there, on the server's core.

    Yields the rows, those of one kind of connection together, the database, and a line for each missing peer.
    """
    with ExitStack() as stack:
        dsn = stack.enter_context(ground.database(server))
        issuers = {kind: Issuer.create(folder, kind, key=kind) for kind in ("p256", "rsa2048")}
        _fill(folder, dsn, issuers, rows=rows)
        missing: list[str] = []
        with on(cores.server):
            ours = _our_rows(stack.enter_context(ground.responder(folder, dsn)), issuers, rows=rows)
            _, answer = fetch(ours[0].port, ours[0].questions.http(close=False))
            theirs: list[Row] = []
            try:
                theirs += _nginx_rows(stack.enter_context(peers.nginx(folder / "nginx", answer)), answer)
            except MissingPeerError as exc:
                missing.append(str(exc))
        yield sorted([*ours, *theirs], key=lambda row: row.close), dsn, missing


def _fill(folder: Path, dsn: str, issuers: dict[str, Issuer], *, rows: int) -> None:
    """Make the database what an operator's would be, with so many rows for each issuer."""
    admin = folder / "admin.toml"
    admin.write_text(ground.settings(dsn))
    run_admin(admin, "migrate")
    for issuer in issuers.values():
        issuer.add(admin)
        ground.insert_rows(dsn, issuer.name, rows=rows)


def _our_rows(port: int, issuers: dict[str, Issuer], *, rows: int) -> list[Row]:
    p256, rsa2048 = issuers["p256"], issuers["rsa2048"]
    kept = ground.serial_of(_KEPT)
    same = Same("/" + quote(b64encode(p256.request(kept)).decode(), safe=""))
    # Distinct serials, each asked again only when the answer before is long gone from memory.
    distinct = {issuer.name: Counting(issuer.request(ground.serial_of(0))[:-4], rows) for issuer in (p256, rsa2048)}

    def judge_same(body: bytes, _: int) -> None:
        judge_good(body, signer=p256.signer, serial=kept)

    def uncached(name: str, issuer: Issuer, *, close: bool = False) -> Row:
        def judge(body: bytes, number: int) -> None:
            judge_good(body, signer=issuer.signer, serial=ground.serial_of(number % rows))

        against = NGINX_CLOSED if close else NGINX_KEPT
        return Row(name, port, distinct[issuer.name], judge, close=close, against=against, looks_up=True)

    return [
        Row("cached, GET, P-256", port, same, judge_same, against=NGINX_KEPT),
        uncached("uncached, POST, P-256", p256),
        uncached("uncached, POST, RSA-2048", rsa2048),
        Row("cached, GET, P-256, connection per request", port, same, judge_same, close=True, against=NGINX_CLOSED),
        uncached("uncached, POST, P-256, connection per request", p256, close=True),
    ]


def _nginx_rows(port: int, answer: bytes) -> list[Row]:
    def judge(body: bytes, _: int) -> None:
        if body != answer:
            raise ValueError("nginx serves something else than the file")

    file = Same(peers.STATIC_PATH)
    return [Row(NGINX_KEPT, port, file, judge), Row(NGINX_CLOSED, port, file, judge, close=True)]


def _not_looked_up(dsn: str, *, before: int, asked: int) -> tuple[str, ...]:
    """Return a fault when PostgreSQL fetched fewer rows than the uncached rows asked for: something was kept."""
    if asked == 0:
        return ()
    time.sleep(_COUNTERS_WRITTEN)
    looked_up = ground.rows_looked_up(dsn) - before
    if looked_up >= asked * _LEAST_LOOKED_UP:
        return ()
    return (f"of {asked} distinct serials only {looked_up} were looked up in PostgreSQL",)


def _figure(row: Row, not_looked_up: tuple[str, ...]) -> Figure:
    return Figure(
        name=row.name,
        unit="requests/s",
        samples=tuple(row.samples),
        against=row.against,
        faults=not_looked_up if row.looks_up else (),
    )
