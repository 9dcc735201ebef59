# SPDX-License-Identifier: Apache-2.0
"""Look-ups of certificates, many to a query: on a replica where there is one, and on the primary.

Knows the table's answers and how fresh the sources are when it has none; decides nothing.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from responder.counting import Counts
from responder.errors import InternalError, Refusal, TryLater
from responder.gathering import Gathering
from responder.replica import Copied, Replica
from responder.runtime.db import Database, DatabaseError
from responder.runtime.patience import within
from responder.status.model import Freshness, Pending, Status, is_serial
from responder.status.store import Key, freshness, look_up, reserved


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
        self._gathering = Gathering(self._ask)

    async def find_one(self, key: Key) -> Found:
        """Return what is known of the certificate.

        Raises TryLater when the table cannot be asked, InternalError where its row contradicts itself.
        """
        try:
            return await self._gathering.ask(key)
        except ValueError as exc:
            raise InternalError(Refusal.CONTRADICTION, str(exc)) from exc

    async def find(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """Return what is known of each of the certificates, or raise as `find_one` does."""
        asked = list(keys)
        return dict(zip(asked, await asyncio.gather(*map(self.find_one, asked)), strict=True))

    async def _ask(self, keys: list[Key]) -> dict[Key, Found]:
        began = time.perf_counter()
        try:
            found = await within(self._deadline / 2, self._query(keys))
        except DatabaseError as exc:
            self._counts.database_errors += 1
            raise TryLater(Refusal.DATABASE, f"the status table cannot be asked: {exc}") from exc
        except TimeoutError as exc:
            self._counts.database_errors += 1
            raise TryLater(Refusal.DEADLINE, f"the status table takes too long: {exc}") from exc
        self._counts.looked_up(len(keys), time.perf_counter() - began)
        return found

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
