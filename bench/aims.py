# SPDX-License-Identifier: Apache-2.0
"""What the measurements are to reach, and whether they did. Pure. Called by report.py and __main__.py.

An aim compares two rows of one run, or a row with a number. A further aim is one more entry of `AIMS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.figures import Figure, ratio_of
from bench.presigning import BARE, PRESIGNED
from bench.rows import (
    CACHED_AB,
    CACHED_CLOSED,
    CACHED_KEPT,
    CACHED_POST,
    CFSSL_KEPT,
    EDGE,
    EDGE_CLOSED,
    LOOKED_UP,
    NGINX_CLOSED,
    NGINX_KEPT,
    OPENSSL,
    UNCACHED,
    Size,
)

_SIZE: Final = Size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A row that is to reach at least `least`: times the rate of the row `against`, or by itself in its own unit."""

    ours: str
    least: float
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A row whose p99 is to stay below so many milliseconds."""

    ours: str
    below: float


AIMS: Final[tuple[Aim | Latency, ...]] = (
    Aim(ours=CACHED_KEPT, against=NGINX_KEPT, least=0.40),
    Aim(ours=CACHED_POST, against=CFSSL_KEPT, least=3.0),
    Aim(ours=CACHED_CLOSED, against=NGINX_CLOSED, least=0.75),
    Aim(ours=CACHED_AB, against=OPENSSL, least=1.0),
    *(Aim(ours=EDGE.format(method=method), against=NGINX_KEPT, least=0.65) for method in ("GET", "POST")),
    *(Aim(ours=EDGE_CLOSED.format(method=method), against=NGINX_CLOSED, least=0.65) for method in ("GET", "POST")),
    Aim(ours=UNCACHED, least=9_000),
    Latency(ours=UNCACHED, below=30),
    *(
        Aim(ours=PRESIGNED.format(kind=kind), against=BARE.format(kind=kind), least=least)
        for kind, least in (("RSA-2048", 0.9), ("P-256", 0.6))
    ),
    # At one connection the rate is one over the latency: at most 1.3 times as long is at least 0.77 times as often.
    Aim(ours=LOOKED_UP.format(rows=_SIZE.most), against=LOOKED_UP.format(rows=_SIZE.least), least=1 / 1.3),
)


def verdicts(figures: Sequence[Figure]) -> str:
    """Return a line for each aim whose rows were measured: what was reached, and whether that is enough."""
    lines = list(_lines({figure.name: figure for figure in figures if not figure.all_faults and figure.samples}))
    if not lines:
        return ""
    width = max(len(what) for what, _, _, _ in lines)
    rows = [f"{what:<{width}}  {aim:>14}  {reached:>9}  {verdict}" for what, aim, reached, verdict in lines]
    head = f"{'aim':<{width}}  {'':>14}  {'reached':>9}"
    return "\n".join([head, "-" * (width + 35), *rows])


def _lines(figures: dict[str, Figure]) -> Iterator[tuple[str, str, str, str]]:
    for aim in AIMS:
        ours = figures.get(aim.ours)
        if ours is None:
            continue
        if isinstance(aim, Latency):
            reached = ours.p99
            if reached is not None:
                yield f"{aim.ours}: p99", f"below {aim.below:g} ms", f"{reached:.1f}", _verdict(reached < aim.below)
        elif aim.against is None:
            yield aim.ours, f"at least {aim.least:,.0f}", f"{ours.value:,.0f}", _verdict(ours.value >= aim.least)
        elif (times := ratio_of(ours, figures.get(aim.against))) is not None:
            what = f"{aim.ours}, beside {aim.against}"
            yield what, f"at least {aim.least:.2f}", f"{times:.2f}", _verdict(times >= aim.least)


def _verdict(enough: bool) -> str:
    return "reached" if enough else "MISSED"
