# SPDX-License-Identifier: Apache-2.0
"""How far signing ahead has come, on a terminal: a bar with rate and remaining time.

Knows numbers only. Imported by command.py where there is a terminal, and nowhere else: rich is large.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from responder.presign.progress import Rate


class Bar:
    """Shows it on a terminal."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._rate = Rate()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("signing ahead", total=None, rate="–")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._progress.stop()

    def update(self, *, done: int, left: int) -> None:
        """Move the bar."""
        rate = self._rate.at(done, now=time.monotonic())
        self._progress.update(self._task, completed=done, total=done + left, rate=f"{rate:,.0f}")
