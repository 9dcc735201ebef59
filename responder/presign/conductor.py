# SPDX-License-Identifier: Apache-2.0
"""Signing ahead once, from start to end: plan what is due, let a crew sign it, show how far it is, clean up. The file
to read first.

Any number may run at the same time on any number of hosts, beside those that watch (watch.py): they share the queue.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from responder.presign.crew import Crew
from responder.presign.progress import Shown
from responder.presign.worker import Order, Report
from responder.runtime.db import Connection, connect_once
from responder.status.presigned import Scope
from responder.status.presigned_store import drop_asked, drop_stored, queue_due, queued

# Certificates in a portion: less than a tenth of a second with RSA-2048, and all that one who dies gives back.
PORTION: Final = 256
_TICK: Final = 0.2  # seconds
# It gives up when there was trouble and nothing was signed for so long (seconds).
_PATIENCE: Final = 15.0
# Notes of who was asked for are kept for so long at least, whatever is signed ahead today.
_ASKED_KEPT: Final = timedelta(days=90)


@dataclass(slots=True)
class Tally:
    """What this host has done."""

    signed: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    trouble: str | None = None
    signed_at: float = field(default_factory=time.monotonic)

    def add(self, reports: list[Report]) -> None:
        """Take in what the workers report."""
        for each in reports:
            self.signed += each.signed
            self.refused += each.refused
            self.cpu_seconds += each.cpu
            if each.signed > 0:
                self.signed_at = time.monotonic()
            if each.trouble is not None:
                self.trouble = each.trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How it ended: `refused` broke a rule, `left` are still due, `dropped` were of no more use."""

    signed: int
    refused: int
    left: int
    dropped: int
    seconds: float
    cpu_seconds: float
    workers: int
    trouble: str | None

    @property
    def is_complete(self) -> bool:
        """Whether everything that was due is signed, by whomever."""
        return self.left == 0 and self.refused == 0


async def sign_once(order: Order, scope: Scope, *, workers: int, shown: Shown, stop: asyncio.Event) -> Summary:
    """Sign what is due now and end; `stop` ends it after the portions under way. Raises DatabaseError."""
    began, tally, crew = time.monotonic(), Tally(), Crew(order, workers=workers)
    async with connect_once(order.dsn, application="ocsp-presign") as connection:
        await plan(connection, scope)
        left = await queued(connection, scope.issuers)
        if left > 0:
            crew.start()
            try:
                with shown:
                    await _until_done(connection, scope, crew=crew, tally=tally, shown=shown, stop=stop)
            finally:
                tally.add(crew.stop())
        left = await queued(connection, scope.issuers)
        dropped = await clean_up(connection, scope)
    return Summary(
        signed=tally.signed,
        refused=tally.refused,
        left=left,
        dropped=dropped,
        seconds=round(time.monotonic() - began, 3),
        cpu_seconds=round(tally.cpu_seconds, 3),
        workers=workers,
        trouble=tally.trouble if left > 0 else None,
    )


async def _until_done(
    connection: Connection, scope: Scope, *, crew: Crew, tally: Tally, shown: Shown, stop: asyncio.Event
) -> None:
    """Wait for an empty queue. What others take out of it is done as well, so it may end sooner than we could."""
    left = began_with = await queued(connection, scope.issuers)
    while left > 0 and not stop.is_set():
        if tally.trouble is not None and time.monotonic() - tally.signed_at > _PATIENCE:
            return
        await pause(stop, _TICK)
        tally.add(crew.reports())
        left = await queued(connection, scope.issuers)
        began_with = max(began_with, left)
        shown.update(done=began_with - left, left=left)


async def plan(connection: Connection, scope: Scope, *, changed_since: int | None = None) -> int:
    """Queue what is due, in one transaction, and return how many answers that is."""
    async with connection.transaction():
        return await queue_due(connection, scope, now=datetime.now(UTC), portion=PORTION, changed_since=changed_since)


async def clean_up(connection: Connection, scope: Scope) -> int:
    """Delete what is of no more use, some at a time, and return how many answers that were."""
    now, dropped = datetime.now(UTC), 0
    while (some := await drop_stored(connection, now=now)) > 0:
        dropped += some
    before = now - max(_ASKED_KEPT, scope.asked_within or timedelta(0))
    while await drop_asked(connection, before=before) > 0:
        pass
    return dropped


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, and no longer than until the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
