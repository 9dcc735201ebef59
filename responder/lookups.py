# SPDX-License-Identifier: Apache-2.0
"""Look-ups gathered: all that requests ask in one turn of the event loop goes to the table in one query.

Knows the table's answers and how fresh the sources are when it has none; decides nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from responder.counting import Counts
from responder.errors import InternalError, Refusal, TryLater
from responder.replica import Copied, Replica
from responder.runtime.db import Database, DatabaseError
from responder.status.model import Freshness, Pending, Status, is_serial
from responder.status.store import Key, freshness, look_up, reserved

# Keys to a query: more would make one slow answer hold up many.
_MOST_KEYS: Final = 512


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says of a certificate; without a row, how fresh the sources are that might have known it."""

    status: Status | None
    freshness: Freshness | None
    # Of a row from a replica: the last of the feed's readings that it covers. The primary's rows cover all.
    read_in: int | None = None


class LookUps:
    """Asks the status table on behalf of many requests at once."""

    def __init__(self, database: Database, *, counts: Counts, replica: Replica | None = None) -> None:
        """Ask nothing yet. `database` is the primary, which has the last word on what a replica does not know."""
        self._database = database
        self._replica = replica
        self._counts = counts
        self._waiting: dict[Key, asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def find(self, keys: Sequence[Key]) -> list[Found]:
        """Return what is known of each of the certificates.

        Raises TryLater when the table cannot be asked, InternalError where a row contradicts itself.
        """
        if len(keys) == 1:
            return [await asyncio.shield(self._asked(keys[0]))]
        return list(await asyncio.gather(*(asyncio.shield(self._asked(key)) for key in keys)))

    def _asked(self, key: Key) -> "asyncio.Future[Found]":
        loop = asyncio.get_running_loop()
        future = self._waiting.get(key)
        if future is None:
            if not self._waiting:
                loop.call_soon(self._send)
            future = self._waiting[key] = loop.create_future()
        return future

    def _send(self) -> None:
        waiting, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(waiting), _MOST_KEYS):
            task = asyncio.ensure_future(self._ask(dict(waiting[start : start + _MOST_KEYS])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, asked: dict[Key, "asyncio.Future[Found]"]) -> None:
        try:
            began = time.perf_counter()
            answers = await self._query(list(asked))
            self._counts.looked_up(len(asked), time.perf_counter() - began)
        except DatabaseError as exc:
            self._counts.database_errors += 1
            trouble = TryLater(Refusal.DATABASE, f"the status table cannot be asked: {exc}")
            for future in asked.values():
                _fail(future, trouble)
        except ValueError as exc:
            # A row contradicts itself. Whoever asked about others in the same query is not to suffer for it.
            if len(asked) > 1:
                for key, future in asked.items():
                    await self._ask({key: future})
            else:
                for future in asked.values():
                    _fail(future, InternalError(Refusal.CONTRADICTION, str(exc)))
        except BaseException as exc:
            # Cancelled at shutdown, or a fault of ours: whoever waits must not wait for ever.
            for future in asked.values():
                _fail(future, TryLater(Refusal.BUG, f"the look-up was given up: {exc!r}"))
            raise
        else:
            for key, future in asked.items():
                if not future.done():
                    future.set_result(answers[key])

    async def _query(self, keys: list[Key]) -> dict[Key, Found]:
        # No certificate can have the other numbers: nothing has to be asked about them but how fresh the sources are.
        possible = [key for key in keys if is_serial(key[1])]
        copied = Copied() if self._replica is None or not possible else await self._replica.look_up(possible)
        found = {key: Found(status, None, copied.read_in) for key, status in copied.rows.items()}
        if len(found) == len(keys):
            return found
        possible = [key for key in possible if key not in found]
        async with self._database.connection() as connection:
            rows = await look_up(connection, possible) if possible else {}
            found.update({key: Found(status, None) for key, status in rows.items()})
            if len(found) < len(keys):
                missing = [key for key in possible if key not in rows]
                promised = await reserved(connection, missing)
                fresh = await freshness(connection)
                # Asked again after the freshness was: a row that came in between must not be called unknown.
                late = await look_up(connection, missing)
                for key in keys:
                    if key not in found:
                        status = late.get(key) or (Pending() if key in promised else None)
                        found[key] = Found(status, fresh)
        return found


def _fail(future: "asyncio.Future[Found]", exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
        # Every waiter may have been cancelled by then; an exception nobody fetches is no news.
        future.exception()
