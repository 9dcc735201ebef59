# SPDX-License-Identifier: Apache-2.0
"""What was measured: samples, their median and spread, the ratio to a peer of the same run, and the table of it all.

Pure. Knows nothing of how anything is measured; __main__.py gathers the figures and prints them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

_HEADINGS: Final = ("measured", "median", "unit", "spread", "p50 ms", "p99 ms", "ratio", "busy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One repetition. Latencies in milliseconds; `busy` are the shares of the server's core and the load's.

    `faults` say why it does not count: answers that were wrong, missing, or fewer than asked for.
    """

    value: float
    p50: float | None = None
    p99: float | None = None
    busy: tuple[float, float] | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """All repetitions of one row. `against` names the row that the ratio is taken to, repetition by repetition."""

    name: str
    unit: str
    samples: tuple[Sample, ...]
    against: str | None = None
    faults: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The median."""
        return median(sample.value for sample in self.samples)

    @property
    def p99(self) -> float | None:
        """The median of the p99 latencies in milliseconds; None where none was measured."""
        known = [sample.p99 for sample in self.samples if sample.p99 is not None]
        return median(known) if known else None

    @property
    def spread(self) -> float:
        """The distance from the least to the most, as a share of the median."""
        values = [sample.value for sample in self.samples]
        return (max(values) - min(values)) / self.value if self.value else 0.0

    @property
    def all_faults(self) -> tuple[str, ...]:
        """Everything that makes the row invalid, each once."""
        return tuple(dict.fromkeys([*self.faults, *(fault for each in self.samples for fault in each.faults)]))


def ratio(figure: Figure, figures: Sequence[Figure]) -> float | None:
    """Return the median of the ratios to the peer of the same repetition; None without a peer, or with a wrong one.

    Neighbours in time share the noise of the machine, which the ratio of two medians would not.
    """
    return ratio_of(figure, next((each for each in figures if each.name == figure.against), None))


def ratio_of(figure: Figure, peer: Figure | None) -> float | None:
    """Return that median for any two rows of one run."""
    if peer is None or peer.all_faults or len(peer.samples) != len(figure.samples):
        return None
    pairs = zip(figure.samples, peer.samples, strict=True)
    return median(ours.value / theirs.value if theirs.value else 0.0 for ours, theirs in pairs)


def table(figures: Sequence[Figure]) -> str:
    """Return the table as plain text, the same for a terminal and a document."""
    rows = [_HEADINGS, *(_row(figure, figures) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    faults = [f"INVALID  {figure.name}: {fault}" for figure in figures for fault in figure.all_faults]
    return "\n".join([*lines, *([""] if faults else []), *faults])


def _row(figure: Figure, figures: Sequence[Figure]) -> tuple[str, ...]:
    if figure.all_faults or not figure.samples:
        return figure.name, "INVALID", figure.unit, "", "", "", "", ""
    found = ratio(figure, figures)
    return (
        figure.name,
        _number(figure.value),
        figure.unit,
        f"{figure.spread:.0%}",
        _latency([sample.p50 for sample in figure.samples]),
        _latency([sample.p99 for sample in figure.samples]),
        "" if found is None else f"{found:.2f}",
        _busy([sample.busy for sample in figure.samples]),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _latency(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.2f}" if known else ""


def _busy(values: Sequence[tuple[float, float] | None]) -> str:
    known = [value for value in values if value is not None]
    return "/".join(f"{median(each):.0%}" for each in zip(*known, strict=True)) if known else ""
