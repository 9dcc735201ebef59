# SPDX-License-Identifier: Apache-2.0
"""The change feed: keeps the cache honest, the issuers current, and writes down what could not be answered.

A table of the primary is read a few times a second; nothing depends on a connection that stays up. While the last
reading is too old the feed is not fresh, and nobody may use the cache (invariant 5).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from responder.cache import Cache
from responder.counting import Counts
from responder.replica import BOUND, REMEMBERED_READINGS, Replica
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import Sparingly, get_logger
from responder.status.feed_store import Mark, Reading, read_changes
from responder.status.model import is_serial
from responder.status.store import Key, note_unanswered

_log = get_logger("feed")

# A reading begins every half second; after BOUND without one, doubt begins (seconds).
_INTERVAL: Final = 0.5
# Changes to take from one reading, and to remember for look-ups under way. Beyond, as in a mass revocation, dropping
# every answer costs less than finding those that changed.
_MOST_CHANGES: Final = 10_000
_MOST_REMEMBERED: Final = 50_000
# Unanswered certificates to remember between two readings; more than this is an attack, and counting it is enough.
_MOST_UNANSWERED: Final = 1000
# What fails at every reading is told once in so many seconds.
_BETWEEN_LINES: Final = 5.0


class Feed:
    """Reads the change feed for one worker."""

    def __init__(
        self,
        database: Database,
        cache: Cache,
        *,
        reload: Callable[[int], Awaitable[None]],
        counts: Counts,
        replica: Replica | None = None,
    ) -> None:
        """`database` is the primary: two connections of it are in use at most, and one is always free for reading.

        `reload` is awaited with the new number when issuers or signers have changed; `replica` hears of every reading.
        """
        self._database = database
        self._cache = cache
        self._reload = reload
        self._replica = replica
        self._mark: Mark | None = None
        self._generation: int | None = None
        self._read_at = float("-inf")
        self._unanswered: dict[Key, tuple[str, int]] = {}
        self._overflow = 0
        self._counts = counts
        # The cache's number of each reading, and how many changes it brought.
        self._recent: deque[tuple[int, int]] = deque(maxlen=REMEMBERED_READINGS)
        self._failing = False
        self._not_loaded = Sparingly(seconds=_BETWEEN_LINES)
        self._taking_over: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the last reading is recent enough to vouch for what is cached."""
        return self.age <= BOUND

    @property
    def age(self) -> float:
        """How long ago the last reading began (seconds), infinite before the first."""
        return time.monotonic() - self._read_at

    def note_unanswered(self, key: Key, answer: str) -> None:
        """Remember that a certificate was asked for and not known, to be written down with the next reading."""
        if not is_serial(key[1]):
            return
        _, times = self._unanswered.get(key, (answer, 0))
        if times == 0 and len(self._unanswered) >= _MOST_UNANSWERED:
            self._overflow += 1
            self._counts.unanswered_dropped += 1
            return
        self._unanswered[key] = (answer, times + 1)

    async def run(self) -> None:
        """Read for ever. A reading that fails is told once, and tried again."""
        try:
            while True:
                await asyncio.sleep(_INTERVAL)
                try:
                    await self._read_and_tell()
                except Exception:  # noqa: BLE001 - a feed that ends would leave the cache bypassed for good, untold
                    _log.exception("feed.fault")
        finally:
            await self._end(self._taking_over, self._writing)

    async def read_once(self) -> None:
        """Read the feed once, and wait until issuers and signers are loaded and what was not answered is written."""
        await self._read_and_tell()
        for task in (self._taking_over, self._writing):
            if task is not None:
                await asyncio.wait({task})

    async def _read_and_tell(self) -> None:
        try:
            async with asyncio.timeout(BOUND):
                generation = await self._read()
        except (DatabaseError, TimeoutError) as exc:
            if not self._failing:
                _log.error("feed.failing", detail=str(exc) or type(exc).__name__, meaning="the cache is bypassed")
            self._failing = True
            return
        if self._failing:
            _log.info("feed.recovered")
        self._failing = False
        # Neither may keep the feed waiting: opening keys can take long, and so can a row that somebody else has locked.
        if generation != self._generation:
            self._taking_over = self._go_on(self._taking_over, self._take_over(generation))
        if self._unanswered:
            self._writing = self._go_on(self._writing, self._write_unanswered())

    async def _read(self) -> int:
        # The age of a reading counts from its beginning: what commits while it runs may not be in it.
        began = time.monotonic()
        async with self._database.connection() as connection:
            reading = await read_changes(connection, since=self._mark, most=_MOST_CHANGES)
        if self._must_start_over(reading):
            # Not every change since is known, so nothing from before this reading may stay.
            self._cache.empty()
            self._recent.clear()
        else:
            self._cache.changed(reading.changed)
        self._forget(len(reading.changed))
        self._mark = reading.mark
        self._read_at = began
        if self._replica is not None:
            self._replica.note(reading.mark, at=began, reading=self._cache.readings)
        return reading.generation

    def _must_start_over(self, reading: Reading) -> bool:
        """Tell whether the reading does not say all that changed since the mark before it.

        Another lineage is another history: a failover or a restore may have lost changes that were told of. So has a
        primary whose newest change is older than it was.
        """
        before, after = self._mark, reading.mark
        if before is None or reading.too_many:
            return True
        if before.lineage != after.lineage or after.newest < before.newest:
            _log.warning("feed.other_history", before=str(before.lineage), after=str(after.lineage))
            return True
        return len(reading.changed) + sum(changes for _, changes in self._recent) > _MOST_REMEMBERED

    def _forget(self, changes: int) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._cache.forget_changes(before=self._recent[0][0])
        self._recent.append((self._cache.readings, changes))

    async def _take_over(self, generation: int) -> None:
        """Have changed issuers and signers loaded. Where that fails, the next reading tries again."""
        try:
            await self._reload(generation)
        except DatabaseError as exc:
            if (more := self._not_loaded.unsaid("")) is not None:
                _log.error("issuers.not_loaded", detail=str(exc), meaning="the former ones go on", more_since=more)
        else:
            self._generation = generation

    async def _write_unanswered(self) -> None:
        notes, self._unanswered = self._unanswered, {}
        if self._overflow:
            _log.warning("unanswered.overflow", not_written=self._overflow)
            self._overflow = 0
        try:
            async with self._database.connection() as connection:
                await note_unanswered(connection, [(key, answer, times) for key, (answer, times) in notes.items()])
        except DatabaseError as exc:
            _log.warning("unanswered.not_written", number=len(notes), detail=str(exc))

    @staticmethod
    def _go_on(former: "asyncio.Task[None] | None", work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begin the work beside the readings, unless the former piece of it is not done yet."""
        if former is not None and not former.done():
            work.close()
            return former
        task = asyncio.create_task(work)
        task.add_done_callback(_tell_fault)
        return task

    @staticmethod
    async def _end(*tasks: "asyncio.Task[None] | None") -> None:
        for task in tasks:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


def _tell_fault(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        _log.error("feed.fault", exc_info=fault)
