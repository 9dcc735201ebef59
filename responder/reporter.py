# SPDX-License-Identifier: Apache-2.0
"""Once a second, and once more at the end: what a worker has counted, and how it is, goes into its file.

Knows neither metrics nor checks by name, but for those about the worker as a process. One per worker.
"""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from responder.counting import Counts
from responder.metrics import Series, counter, gauge, numbers_of
from responder.runtime.logs import Sparingly, get_logger
from responder.snapshots import Verdict, Writer

_log = get_logger("reporter")

_INTERVAL: Final = 1.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STATM: Final = Path("/proc/self/statm")


class Examined(Protocol):
    """What is asked how it is: checks.py, and in its tests something smaller."""

    def verdicts(self) -> dict[str, Verdict]:
        """Return what is to be said of each check now."""

    def gauges(self) -> dict[Series, float]:
        """Return gauges by series."""


class Reporter:
    """Writes for one worker."""

    def __init__(
        self,
        counts: Counts,
        writer: Writer,
        *,
        examined: Examined,
        kept: Callable[[], tuple[int, int]],
        clock: Callable[[], datetime],
    ) -> None:
        """Write nothing yet; `kept` returns how many answers are in memory, and how many octets."""
        self._counts = counts
        self._writer = writer
        self._examined = examined
        self._kept = kept
        self._clock = clock
        self._late = 0.0
        self._trouble = Sparingly(seconds=60.0)

    async def run(self) -> None:
        """Write for ever, and notice how late the event loop lets us."""
        while True:
            self.report()
            due = time.monotonic() + _INTERVAL
            await asyncio.sleep(_INTERVAL)
            self._late = max(0.0, time.monotonic() - due)

    def report(self) -> None:
        """Write now. A file that cannot be written costs numbers and no answers, so it is told and nothing else."""
        self._counts.fold(now=self._clock())
        numbers = numbers_of(self._counts)
        numbers.gauges |= self._examined.gauges() | self._of_process()
        numbers.gauges[gauge("kept_answers")], numbers.gauges[gauge("kept_octets")] = self._kept()
        used = resource.getrusage(resource.RUSAGE_SELF)
        numbers.totals[counter("cpu_seconds")] = used.ru_utime + used.ru_stime
        try:
            self._writer.write(numbers, self._examined.verdicts())
        except OSError as exc:
            if self._trouble.unsaid("write") is not None:
                _log.warning("metrics.not_written", detail=str(exc), meaning="/metrics and /readyz show former numbers")

    def _of_process(self) -> dict[Series, float]:
        resident = int(_STATM.read_text().split()[1]) * _PAGE
        return {gauge("resident_memory_bytes"): resident, gauge("loop_delay_seconds"): self._late}
