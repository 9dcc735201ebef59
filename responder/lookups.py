# SPDX-License-Identifier: Apache-2.0
"""Look-ups gathered: what requests ask while a query is under way goes to the table in the next one.

Knows the table's answers and how fresh the sources are when it has none; decides nothing.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from responder.counting import Counts
from responder.errors import InternalError, Refusal, TryLater
from responder.replica import Copied, Replica
from responder.runtime.db import Database, DatabaseError
from responder.runtime.patience import within
from responder.status.model import Freshness, Pending, Status, is_serial
from responder.status.store import Key, freshness, look_up, reserved

# Keys to a query: more would make one slow answer hold up many.
_MOST_KEYS: Final = 512
# Queries under way at the same time. A query costs far more than a certificate in it, so few large ones are best; with
# a second one the table is never idle while the answers of the first are signed.
_MOST_QUERIES: Final = 2


@dataclass(frozen=True, slots=True)
class Found:
    """What the table says of a certificate; without a row, how fresh the sources are that might have known it."""

    status: Status | None
    freshness: Freshness | None
    # Of a row from a replica: the last of the feed's readings that it covers. The primary's rows cover all.
    read_in: int | None = None


class LookUps:
    """Asks the status table on behalf of many requests at once."""

    def __init__(self, database: Database, *, deadline: float, counts: Counts, replica: Replica | None = None) -> None:
        """Ask nothing yet. `database` is the primary, which has the last word on what a replica does not know.

        Nobody waits longer than `deadline` (seconds): half of it for a query's turn, and half for its end.
        """
        self._deadline = deadline
        self._database = database
        self._replica = replica
        self._counts = counts
        self._waiting: dict[Key, asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def find_one(self, key: Key) -> Found:
        """Return what is known of the certificate.

        Raises TryLater when the table cannot be asked, InternalError where its row contradicts itself.
        """
        return await self._asked(key)

    async def find(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """Return what is known of each of the certificates, or raise as `find_one` does."""
        asked = list(keys)
        return dict(zip(asked, await asyncio.gather(*map(self._asked, asked)), strict=True))

    def _asked(self, key: Key) -> "asyncio.Future[Found]":
        future = self._waiting.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._send)
            future = self._waiting[key] = loop.create_future()
        return future

    def _send(self) -> None:
        """Ask for what is waiting; what finds no free place is asked for when one becomes free."""
        while self._waiting and len(self._tasks) < _MOST_QUERIES:
            asked, self._waiting = self._waiting, {}
            for key in list(asked)[_MOST_KEYS:]:
                self._waiting[key] = asked.pop(key)
            task = asyncio.ensure_future(self._ask(asked))
            self._tasks.add(task)
            task.add_done_callback(self._free)

    def _free(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._send()

    async def _ask(self, asked: dict[Key, "asyncio.Future[Found]"]) -> None:
        try:
            began = time.perf_counter()
            answers = await within(self._deadline / 2, self._query(list(asked)))
            self._counts.looked_up(len(asked), time.perf_counter() - began)
        except DatabaseError as exc:
            self._counts.database_errors += 1
            _fail(asked, TryLater(Refusal.DATABASE, f"the status table cannot be asked: {exc}"))
        except TimeoutError as exc:
            self._counts.database_errors += 1
            _fail(asked, TryLater(Refusal.DEADLINE, f"the status table takes too long: {exc}"))
        except ValueError as exc:
            # A row contradicts itself. Whoever asked about others in the same query is not to suffer for it.
            if len(asked) > 1:
                for key, future in asked.items():
                    await self._ask({key: future})
            else:
                _fail(asked, InternalError(Refusal.CONTRADICTION, str(exc)))
        except BaseException as exc:
            # Cancelled at shutdown, or a fault of ours: whoever waits must not wait for ever.
            _fail(asked, TryLater(Refusal.BUG, f"the look-up was given up: {exc!r}"))
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
        if len(found) < len(keys):
            found |= await self._query_primary([key for key in keys if key not in found])
        return found

    async def _query_primary(self, keys: list[Key]) -> dict[Key, Found]:
        possible = [key for key in keys if is_serial(key[1])]
        async with self._database.connection() as connection:
            rows = await look_up(connection, possible) if possible else {}
            found = {key: Found(status, None) for key, status in rows.items()}
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


def _fail(asked: dict[Key, "asyncio.Future[Found]"], exc: Exception) -> None:
    for future in asked.values():
        if not future.done():
            future.set_exception(exc)
            # Every waiter may have been cancelled by then; an exception nobody fetches is no news.
            future.exception()
