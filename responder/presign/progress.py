# SPDX-License-Identifier: Apache-2.0
"""How far signing ahead has come, as lines of JSON in the log; bar.py shows the same on a terminal.

Knows numbers only. Called by conductor.py and watch.py.
"""

import time
from types import TracebackType
from typing import Final, Protocol, Self

from responder.runtime.logs import get_logger

_log = get_logger("presign")

_BETWEEN_LINES: Final = 5.0  # seconds
# The rate is that of the last so many seconds: what counts is how long the rest takes as things are now.
_WINDOW: Final = 15.0


class Rate:
    """How many a second, lately."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._seen: list[tuple[float, int]] = []

    def at(self, done: int, *, now: float) -> float:
        """Take in how many are done by now, and return the rate."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            del self._seen[0]
        then, before = self._seen[0]
        return 0.0 if now <= then else max(0.0, (done - before) / (now - then))


class Shown(Protocol):
    """Something that shows how far we are."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def update(self, *, done: int, left: int) -> None:
        """Show that so many answers are done, by whomever, and so many are left."""


class Lines:
    """Shows it in the log, every few seconds."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self._rate = Rate()
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Need no end."""

    def update(self, *, done: int, left: int) -> None:
        """Log a line when the last one is a while ago."""
        now = time.monotonic()
        rate = self._rate.at(done, now=now)
        if now - self._said >= _BETWEEN_LINES:
            self._said = now
            eta = round(left / rate) if rate > 0 else None
            _log.info("presign.progress", done=done, left=left, per_second=round(rate), seconds_left=eta)
