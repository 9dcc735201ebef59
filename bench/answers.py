# SPDX-License-Identifier: Apache-2.0
"""Requests per second of our responder and of its peers, row by row and in turns, each on one core; and its memory.

Knows how a row is measured and what makes it wrong; rows.py knows which rows there are. Called by __main__.py.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import ground
from bench.cores import Cores, Watch
from bench.figures import Figure, Sample
from bench.load import Counted, Load, MissingPeerError, fetch
from bench.memory import Memory, memory_of
from bench.rows import Row, Size, Standing, standing

#: What a worker keeps by itself (docs/settings.md, [cache] most_answers).
KEPT: Final = 50_000
# Signatures of ECDSA vary by a few octets; an answer without a signature would be hundreds short.
_TOLERANCE: Final = 6.0
# PostgreSQL's connections write their counters about once a second, and those of the responder take turns (seconds).
_COUNTERS_WRITTEN: Final = 3.0
_LEAST_LOOKED_UP: Final = 0.9
# Requests by which ab's rate is guessed before it is measured.
_GUESSED_BY: Final = 2_000
# How long filling a worker's memory may take (seconds).
_FILLING: Final = 60.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: whole seconds of warm-up and of measurement, and how often."""

    warm_up: int = 1
    seconds: int = 3
    repetitions: int = 3


def measure(
    server: str, folder: Path, *, cores: Cores, effort: Effort, size: Size | None = None, only: str = ""
) -> tuple[list[Figure], list[str]]:
    """Measure every row whose name contains `only`; return the figures, and a line for each peer that is missing.

    `server` is the DSN of a PostgreSQL that runs on the load's core.
    """
    try:
        load = Load(folder, core=cores.load)
    except MissingPeerError as missing:
        return [], [f"{missing} (no requests per second without it)"]
    size = Size() if size is None else size
    with standing(server, folder, cores=cores, size=size) as stands:
        idle = memory_of(stands.responder.worker)
        chosen = [row for row in stands.rows if only in row.name]
        faults = _in_turns(chosen, load, cores=cores, effort=effort)
        figures = [_figure(row, faults.get(row.looks_up or "", ())) for row in chosen]
        if not only:
            figures += _memory(stands, load, idle=idle, answers=min(KEPT, size.p256 // 2))
        return figures, stands.missing


def _in_turns(chosen: Sequence[Row], load: Load, *, cores: Cores, effort: Effort) -> dict[str, tuple[str, ...]]:
    """Measure the rows; return for each database what is wrong with how often it was asked."""
    databases = sorted({row.looks_up for row in chosen if row.looks_up is not None})
    before, asked = {dsn: ground.rows_looked_up(dsn) for dsn in databases}, Counter[str]()
    for _ in range(effort.repetitions):
        for row in chosen:
            counted = _repeat(row, load, cores=cores, effort=effort)
            if row.looks_up is not None:
                asked[row.looks_up] += counted
    if databases:
        time.sleep(_COUNTERS_WRITTEN)
    return {dsn: _not_looked_up(ground.rows_looked_up(dsn) - before[dsn], asked=asked[dsn]) for dsn in databases}


def _repeat(row: Row, load: Load, *, cores: Cores, effort: Effort) -> int:
    """Warm up, measure once, look at an answer; return how many were asked for in all."""
    warmed = _warm_up(row, load, effort)
    with row.where() as port:
        watch = Watch(cores)
        if row.ab is None:
            counted = load.ask(
                port, row.questions, seconds=effort.seconds, close=row.close, connections=row.connections
            )
        else:
            times = max(_GUESSED_BY, int(warmed.requests / warmed.seconds * effort.seconds))
            counted = load.ask_so_often(port, row.ab.body, times=times)
        busy = watch.busy()
    sample = Sample(
        value=counted.requests / counted.seconds,
        p50=counted.p50,
        p99=counted.p99,
        busy=busy,
        faults=tuple(_faults(row, counted)),
    )
    row.samples.append(sample)
    return warmed.requests + counted.requests


def _warm_up(row: Row, load: Load, effort: Effort) -> Counted:
    with row.where() as port:
        if row.ab is not None:
            return load.ask_so_often(port, row.ab.body, times=_GUESSED_BY)
        if effort.warm_up:
            return load.ask(port, row.questions, seconds=effort.warm_up, close=row.close, connections=row.connections)
    return Counted(requests=0, seconds=1.0, octets=0, p50=0.0, p99=0.0, errors={})


def _faults(row: Row, counted: Counted) -> Iterator[str]:
    """Yield what is wrong with a repetition."""
    for name, number in counted.errors.items():
        if number:
            yield f"{number} errors of kind {name}"
    if counted.requests == 0:
        yield "no answers"
        return
    try:
        with row.where() as port:
            octets, body = fetch(port, row.questions.http(close=row.close))
        mean = counted.octets / counted.requests
        if abs(mean - octets) > _TOLERANCE:
            yield f"answers had {mean:.0f} octets on average, and one asked for by itself has {octets}"
        row.judge(body, row.questions.at)
    except ValueError as exc:
        yield str(exc)
    row.questions.at += 1


def _not_looked_up(looked_up: int, *, asked: int) -> tuple[str, ...]:
    """Return a fault when PostgreSQL fetched fewer rows than the uncached rows asked for: something was kept."""
    if looked_up >= asked * _LEAST_LOOKED_UP:
        return ()
    return (f"of {asked} distinct serials only {looked_up} were looked up in PostgreSQL",)


def _figure(row: Row, not_looked_up: tuple[str, ...]) -> Figure:
    return Figure(
        name=row.name,
        unit="requests/s",
        samples=tuple(row.samples),
        against=row.against,
        faults=not_looked_up,
    )


# --------------------------------------------------------------------------------------------------------- memory


def _memory(stands: Standing, load: Load, *, idle: Memory, answers: int) -> list[Figure]:
    """Fill the worker's memory with answers, and return what it took before and what it takes now."""
    asked, deadline = 0, time.monotonic() + _FILLING
    while asked < answers and time.monotonic() < deadline:
        with suppress(MissingPeerError):
            asked += load.ask(stands.responder.port, stands.filling, seconds=1, close=False).requests
    full = memory_of(stands.responder.worker)
    faults = () if asked >= answers else (f"only {asked} of {answers} answers were asked for",)
    return [
        *_two_figures(idle, "idle", ()),
        *_two_figures(full, f"{answers:,} answers kept", faults),
    ]


def _two_figures(memory: Memory, when: str, faults: tuple[str, ...]) -> list[Figure]:
    values = {"PSS": memory.proportional, "RSS": memory.resident}
    return [
        Figure(name=f"memory of a worker, {when}, {kind}", unit="MB", samples=(Sample(value=value),), faults=faults)
        for kind, value in values.items()
    ]
