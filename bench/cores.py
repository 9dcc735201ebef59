# SPDX-License-Identifier: Apache-2.0
"""Which processor core serves and which one asks, and how busy both were.

Knows Linux's affinity and /proc/stat; nothing of what runs. Called wherever the measurements start a process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Cores:
    """The two cores: what is measured runs on `server`, everything else on `load`. They differ where they can."""

    server: int
    load: int

    @classmethod
    def found(cls) -> Self:
        """Return the first and the last core that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])


@contextmanager
def on(core: int) -> Iterator[None]:
    """Run this thread on one core for the length of the block: a process started in it stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Watch:
    """How busy the two cores are, from its beginning on."""

    def __init__(self, cores: Cores) -> None:
        """Begin to watch."""
        self._cores = cores
        self._before = _ticks()

    def busy(self) -> tuple[float, float]:
        """Return the shares of time, 0 to 1, that the server's core and the load's were not idle."""
        now = _ticks()
        shares = []
        for core in (self._cores.server, self._cores.load):
            worked, idle = (after - before for after, before in zip(now[core], self._before[core], strict=True))
            shares.append(worked / (worked + idle) if worked + idle else 0.0)
        return shares[0], shares[1]


def _ticks() -> dict[int, tuple[int, int]]:
    """Return for each core the clock ticks worked and idle: proc(5), /proc/stat.

    cpuN user nice system idle iowait irq softirq steal guest guest_nice; the guests are in user and nice already.
    """
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, counts[:8])
            ticks[int(name.removeprefix("cpu"))] = user + nice + system + irq + softirq + steal, idle + iowait
    return ticks
