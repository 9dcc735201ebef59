# SPDX-License-Identifier: Apache-2.0
"""The change feed: keeps the cache honest, the issuers current, and writes down what could not be answered.

A table is read a few times a second; nothing depends on a connection that stays up. While the last reading is too old
the feed is not fresh, and nobody may use the cache (invariant 5).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from responder.cache import Cache
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import get_logger
from responder.status.model import is_serial
from responder.status.store import Key, note_unanswered, read_changes

_log = get_logger("feed")

# Invariant 5 leaves two seconds. A reading begins every half second; after one and a half without, doubt begins.
_INTERVAL: Final = 0.5
_BOUND: Final = 1.5
# Changes seen above the horizon while some transaction stays open. Beyond this many, starting over is cheaper.
_MOST_SEEN: Final = 100_000
# Readings after which no look-up that began before them can still be under way: well above the request deadline.
_REMEMBERED_READINGS: Final = 240
# Unanswered certificates to remember between two readings; more than this is an attack, and counting it is enough.
_MOST_UNANSWERED: Final = 1000


class Feed:
    """Reads the change feed for one worker."""

    def __init__(self, database: Database, cache: Cache, *, reload: Callable[[int], Awaitable[None]]) -> None:
        """`reload` is awaited with the new number when issuers or signers have changed."""
        self._database = database
        self._cache = cache
        self._reload = reload
        self._horizon: int | None = None
        # Changes handed out at or above the horizon, with their transactions: empty but while some transaction is open.
        self._seen: dict[int, int] = {}
        self._generation: int | None = None
        self._read_at = float("-inf")
        self._unanswered: dict[Key, tuple[str, int]] = {}
        self._overflow = 0
        self._recent: deque[int] = deque(maxlen=_REMEMBERED_READINGS)
        self._failing = False

    @property
    def is_fresh(self) -> bool:
        """Whether the last reading is recent enough to vouch for what is cached."""
        return time.monotonic() - self._read_at <= _BOUND

    def note_unanswered(self, key: Key, answer: str) -> None:
        """Remember that a certificate was asked for and not known, to be written down with the next reading."""
        if not is_serial(key[1]):
            return
        _, times = self._unanswered.get(key, (answer, 0))
        if times == 0 and len(self._unanswered) >= _MOST_UNANSWERED:
            self._overflow += 1
            return
        self._unanswered[key] = (answer, times + 1)

    async def run(self) -> None:
        """Read for ever. A reading that fails is told once, and tried again."""
        while True:
            try:
                await self.read_once()
            except Exception:  # noqa: BLE001 - a feed that ends would leave the cache bypassed for good, and nobody told
                _log.exception("feed.fault")
            await asyncio.sleep(_INTERVAL)

    async def read_once(self) -> None:
        """Read the feed once, and write down what was not answered."""
        try:
            async with asyncio.timeout(_BOUND):
                generation = await self._read()
            await self._take_over(generation)
        except (DatabaseError, TimeoutError) as exc:
            if not self._failing:
                _log.error("feed.failing", detail=str(exc) or type(exc).__name__, meaning="the cache is bypassed")
            self._failing = True
            return
        if self._failing:
            _log.info("feed.recovered")
        self._failing = False
        await self._write_unanswered()

    async def _read(self) -> int:
        # The age of a reading counts from its beginning: what commits while it runs may not be in it.
        began = time.monotonic()
        async with self._database.connection() as connection:
            changes = await read_changes(connection, horizon=self._horizon, seen=self._seen)
        starting = self._horizon is None
        self._horizon = changes.horizon
        self._seen.update((change.change_id, change.transaction) for change in changes.changed)
        self._seen = {seen: made_by for seen, made_by in self._seen.items() if made_by >= changes.horizon}
        if starting or len(self._seen) > _MOST_SEEN:
            # Nothing before this reading is vouched for, so nothing from before it may stay.
            self._seen.clear()
            self._horizon = changes.horizon
            self._cache.empty()
        else:
            self._cache.changed(change.key for change in changes.changed)
        self._forget()
        self._read_at = began
        return changes.generation

    async def _take_over(self, generation: int) -> None:
        """Have changed issuers and signers loaded. Opening keys may take longer than a reading may."""
        if generation != self._generation:
            await self._reload(generation)
            self._generation = generation

    def _forget(self) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._cache.forget_changes(before=self._recent[0])
        self._recent.append(self._cache.readings)

    async def _write_unanswered(self) -> None:
        if not self._unanswered:
            return
        notes, self._unanswered = self._unanswered, {}
        if self._overflow:
            _log.warning("unanswered.overflow", not_written=self._overflow)
            self._overflow = 0
        try:
            async with self._database.connection() as connection:
                await note_unanswered(connection, [(key, answer, times) for key, (answer, times) in notes.items()])
        except DatabaseError as exc:
            _log.warning("unanswered.not_written", number=len(notes), detail=str(exc))
