# SPDX-License-Identifier: Apache-2.0
"""Which certificates are asked for: noted about once an hour for each, so that those can be signed ahead.

Hears only of what no memory could answer, keeps a bounded number, and costs the primary a statement every few seconds.
Called by service.py; written by a task of server.py's.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import Sparingly, get_logger
from responder.status.presigned_store import note_asked
from responder.status.store import Key

_log = get_logger("demand")

_INTERVAL: Final = 5.0  # seconds
_HOUR: Final = 3600.0
# Certificates remembered as noted, about 200 octets each. What is forgotten sooner is noted more often, and no worse.
_MOST: Final = 50_000
# To be written at once; more than this in a few seconds will be asked for again.
_MOST_WAITING: Final = 5_000
_BETWEEN_LINES: Final = 60.0


class Demand:
    """What one worker was asked for."""

    def __init__(self, database: Database) -> None:
        """Have heard of nothing."""
        self._database = database
        self._noted: OrderedDict[Key, float] = OrderedDict()
        self._waiting: set[Key] = set()
        self._told = Sparingly(seconds=_BETWEEN_LINES)

    def note(self, keys: Iterable[Key]) -> None:
        """Hear that these certificates were asked for and answered."""
        now = time.monotonic()
        for key in keys:
            if now - self._noted.get(key, float("-inf")) < _HOUR or len(self._waiting) >= _MOST_WAITING:
                continue
            self._noted[key] = now
            self._noted.move_to_end(key)
            self._waiting.add(key)
        while len(self._noted) > _MOST:
            self._noted.popitem(last=False)

    async def run(self) -> None:
        """Write for ever, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.write()

    async def write(self) -> None:
        """Write what was heard of since the last time; what cannot be written is let go."""
        if not self._waiting:
            return
        keys, self._waiting = self._waiting, set()
        try:
            async with self._database.connection() as connection:
                await note_asked(connection, keys)
        except DatabaseError as exc:
            for key in keys:
                self._noted.pop(key, None)
            if self._told.unsaid("database") is not None:
                _log.warning("asked.not_written", number=len(keys), detail=str(exc))
