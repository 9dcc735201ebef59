# SPDX-License-Identifier: Apache-2.0
"""Signing ahead as a service: passes over everything now and then, and what changes at once.

On every host its workers empty the queue; one host, whichever holds the lock, fills it. Called by command.py.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from responder.presign.conductor import Tally, clean_up, pause, plan
from responder.presign.crew import Crew
from responder.presign.progress import Lines
from responder.presign.worker import Order
from responder.runtime.db import Connection, DatabaseError, connect_once
from responder.runtime.logs import get_logger
from responder.runtime.systemd import notify
from responder.status.issuer_store import generation
from responder.status.presigned import Scope
from responder.status.presigned_store import horizon, may_watch, queued

_log = get_logger("presign")

# A revocation is planned for at most so long after its commit (seconds), and signed first.
_TICK: Final = 0.5
_RECONNECT: Final = 1.0  # seconds

# What is to be signed now, from what the database says of issuers now.
Ordered = Callable[[Connection], Awaitable[tuple[Order, Scope]]]


class Watch:
    """One host's service."""

    def __init__(self, dsn: str, ordered: Ordered, *, workers: int, every: timedelta, stop: asyncio.Event) -> None:
        """`every` is the time between two passes over everything; `stop` ends it after the portions under way."""
        self._dsn = dsn
        self._ordered = ordered
        self._workers = workers
        self._every = every.total_seconds()
        self._stop = stop
        self._crew: Crew | None = None
        self._tally = Tally()
        self._lines = Lines()
        self._failing = False

    async def run(self) -> Tally:
        """Work until told to stop. An outage of the database is told once and outlived."""
        tending = asyncio.create_task(self._tend())
        try:
            while not self._stop.is_set():
                if tending.done():
                    tending.result()
                await self._plan_while_connected()
        finally:
            notify("STOPPING=1")
            tending.cancel()
            with suppress(asyncio.CancelledError):
                await tending
            if self._crew is not None:
                self._tally.add(self._crew.stop())
        return self._tally

    async def _tend(self) -> None:
        """Listen to the workers, however long a plan takes: one that nobody listens to stops working."""
        while True:
            if self._crew is not None:
                self._tally.add(self._crew.reports())
            notify("WATCHDOG=1")
            await asyncio.sleep(_TICK)

    async def _plan_while_connected(self) -> None:
        try:
            async with connect_once(self._dsn, application="ocsp-presign") as connection:
                await self._follow(connection)
        except DatabaseError as exc:
            if not self._failing:
                _log.error("presign.database", detail=str(exc), meaning="nothing new is planned meanwhile")
            self._failing = True
            await pause(self._stop, _RECONNECT)

    async def _follow(self, connection: Connection) -> None:
        """Start the workers, and plan for everybody while this connection holds the lock."""
        leads, known, seen, planned_at = False, None, 0, float("-inf")
        order, scope = await self._ordered(connection)
        while not self._stop.is_set():
            current = await generation(connection)
            if current != known:
                order, scope = await self._ordered(connection)
                self._take_on(order)
                known, planned_at = current, float("-inf")
            leads = leads or await may_watch(connection)
            if leads:
                seen, planned_at = await self._plan(connection, scope, seen=seen, planned_at=planned_at)
            await self._tell(connection, scope)
            self._failing = False
            notify("READY=1")
            await pause(self._stop, _TICK)

    async def _plan(self, connection: Connection, scope: Scope, *, seen: int, planned_at: float) -> tuple[int, float]:
        """Plan a pass when it is time for one, else for what has changed; return how far we have seen, and when."""
        # Taken before the plan looks: what commits in between is looked at twice rather than never.
        ahead, now = await horizon(connection), time.monotonic()
        if now - planned_at < self._every:
            await plan(connection, scope, changed_since=seen)
            return ahead, planned_at
        answers = await plan(connection, scope)
        dropped = await clean_up(connection, scope)
        _log.info("presign.planned", answers=answers, dropped=dropped, seconds=round(time.monotonic() - now, 3))
        return ahead, now

    def _take_on(self, order: Order) -> None:
        if self._crew is None:
            self._crew = Crew(order, workers=self._workers)
            self._crew.start()
        else:
            self._tally.add(self._crew.order_anew(order))

    async def _tell(self, connection: Connection, scope: Scope) -> None:
        left = await queued(connection, scope.issuers)
        if left > 0:
            self._lines.update(done=self._tally.signed, left=left)
