# SPDX-License-Identifier: Apache-2.0
"""Look-ups on a streaming replica, each of which proves how new its rows are; whatever it cannot prove goes unused.

Knows the marks that the feed left behind on the primary. Called by lookups.py, which asks the primary for what was not
found here: a row that is missing on a replica may be on its way.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import Sparingly, get_logger
from responder.runtime.patience import within
from responder.status.feed_store import Lineage, Mark, Place, read_place
from responder.status.model import Status
from responder.status.store import Key, look_up

_log = get_logger("replica")

#: Invariant 5 leaves two seconds. What was read from the primary longer ago than this (seconds) vouches for nothing.
BOUND: Final = 1.5
#: Readings after which no look-up that began before them can still be under way: well above the request deadline.
REMEMBERED_READINGS: Final = 240

# A look-up takes a millisecond or two. A replica that does not answer within this is passed over (seconds).
_PATIENCE: Final = 0.3
# After a failure the replica is left alone for so long, after being behind only until it may have caught up (seconds).
_AFTER_FAILURE: Final = 2.0
_AFTER_LAG: Final = 0.2
# A replica that comes and goes is told of once in so many seconds.
_BETWEEN_LINES: Final = 5.0
# An answer that was looked up in this reading is never kept: there was no reading before the first.
_NOT_KEPT: Final = -1


@dataclass(frozen=True, slots=True)
class _Noted:
    """A mark, the moment before it was asked for, and the feed's readings that it covers."""

    mark: Mark
    at: float
    reading: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Rows from a replica, and the last of the feed's readings whose changes are in them for sure."""

    rows: dict[Key, Status] = field(default_factory=dict)
    read_in: int = _NOT_KEPT


class Replica:
    """One streaming replica, and what the feed has learnt from the primary."""

    def __init__(self, database: Database) -> None:
        """Trust nothing until the feed has read the primary."""
        self._database = database
        self._noted: deque[_Noted] = deque(maxlen=REMEMBERED_READINGS)
        self._leave_until = float("-inf")
        self._trouble: str | None = "not asked yet"
        self._lines = Sparingly(seconds=_BETWEEN_LINES)

    def note(self, mark: Mark, *, at: float, reading: int) -> None:
        """Hear of a reading of the primary: the moment before it began, and its number in the cache's counting."""
        if self._noted and self._noted[-1].mark.lineage != mark.lineage:
            self._noted.clear()
        self._noted.append(_Noted(mark, at, reading))

    async def look_up(self, keys: Sequence[Key]) -> Copied:
        """Return the rows of these certificates, no older than BOUND; none where the replica cannot prove that.

        Raises ValueError where a row contradicts itself.
        """
        now = time.monotonic()
        if now < self._leave_until or not self._noted or now - self._noted[-1].at > BOUND:
            return Copied()
        try:
            place, rows = await within(_PATIENCE, self._ask(keys))
        except (DatabaseError, TimeoutError) as exc:
            self._leave(f"cannot be asked: {exc}", seconds=_AFTER_FAILURE)
            return Copied()
        # From here on it is what the replica held when it named its place, and perhaps more.
        trouble = self._doubt(place, now=time.monotonic())
        if trouble is not None:
            self._leave(trouble, seconds=_AFTER_LAG)
            return Copied()
        self._tell(None)
        return Copied(rows, self._reading_covered(place))

    async def _ask(self, keys: Sequence[Key]) -> tuple[Place, dict[Key, Status]]:
        async with self._database.connection() as connection:
            # In this order, each with a snapshot of its own: the rows are at least as new as the place.
            place = await read_place(connection)
            return place, await look_up(connection, keys)

    def _doubt(self, place: Place, *, now: float) -> str | None:
        """Return why rows from there prove nothing, or nothing where they are new enough."""
        lineage = self._noted[-1].mark.lineage
        if not place.is_replica:
            return "is no replica any more: it was promoted"
        if place.lineage != lineage:
            return f"is {_named(place.lineage)}, and the primary {_named(lineage)}"
        # Whatever is visible on the primary was flushed before, unless somebody switched synchronous_commit off. While
        # a transaction has written much and idles, the flushed end may lie inside a record, which no replica can
        # replay: that looks like lag until the primary's next commit or background write, and costs nothing but speed.
        proven = max((noted.at for noted in self._noted if noted.mark.flushed <= place.replayed), default=float("-inf"))
        return None if now - proven <= BOUND else f"is more than {BOUND} seconds behind the primary"

    def _reading_covered(self, place: Place) -> int:
        """Return the last reading of the feed all of whose changes the replica has replayed, flushed or not.

        A change the feed has told of and the replica lacks would never be told again, so an answer that may lack it
        must not be kept.
        """
        return max((noted.reading for noted in self._noted if noted.mark.inserted <= place.replayed), default=_NOT_KEPT)

    def _leave(self, trouble: str, *, seconds: float) -> None:
        self._leave_until = time.monotonic() + seconds
        self._tell(trouble)

    def _tell(self, trouble: str | None) -> None:
        if (trouble is None) == (self._trouble is None) and self._trouble != "not asked yet":
            return
        self._trouble = trouble
        more = self._lines.unsaid("in use" if trouble is None else "left")
        if more is None:
            return
        if trouble is None:
            _log.info("replica.in_use", more_since=more)
        else:
            _log.warning("replica.left", detail=trouble, meaning="the primary is asked instead", more_since=more)


def _named(lineage: Lineage) -> str:
    return f"system {lineage.system}, timeline {lineage.timeline}"
