# SPDX-License-Identifier: Apache-2.0
"""Orphans: certificates that CT shows and no record of the CA's own names. Answered at once, reported after a grace.

Knows when to look, not how: the store finds them. A CA that writes down what it issued only when all SCTs are in must
not be woken for every certificate; supervisor.py runs this beside the sources.
"""

import asyncio
from datetime import timedelta
from typing import Final

from reconciler import metrics, store
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import get_logger
from responder.status.model import serial_hex

_log = get_logger("orphans")

_INTERVAL: Final = 15.0  # seconds


async def watch_for_orphans(database: Database, *, after: timedelta) -> None:
    """Report orphans for ever, as they come of age."""
    while True:
        try:
            await report_orphans(database, after=after)
        except DatabaseError as exc:
            _log.warning("orphans.not_looked_for", detail=str(exc))
        await asyncio.sleep(_INTERVAL)


async def report_orphans(database: Database, *, after: timedelta) -> int:
    """Write down and tell every orphan that has come of age, once each; return how many. Raises DatabaseError."""
    async with database.transaction() as connection:
        orphans = await store.insert_orphans(connection, after=after)
    for issuer, serial, source in orphans:
        metrics.ORPHANS.labels(issuer=issuer).inc()
        _log.error("orphan", issuer=issuer, serial=serial_hex(serial), source=source)
    return len(orphans)
