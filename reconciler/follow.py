# SPDX-License-Identifier: Apache-2.0
"""The straight line for one source, batch by batch. The file to read first.

    source → batch → evidence judged → one transaction: rows + position + findings → the source hears of it

Knows no protocol and no schedule: supervisor.py decides when, the sources know where.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reconciler import store
from reconciler.errors import DistrustLog, RetrySource
from reconciler.model import Batch, Ledger, Source
from responder.runtime.db import Database
from responder.runtime.logs import get_logger
from responder.status.issuers import IssuerSet
from responder.status.model import serial_hex
from responder.status.record import Recorded, record_issued
from responder.status.store import insert_finding

_log = get_logger("follow")


@dataclass(slots=True)
class Pass:
    """What one pass over a source did, for the log line, the metrics, and the supervisor."""

    source: str
    rows: int = 0
    sightings: int = 0
    quarantined: int = 0
    caught_up: bool = False
    distrusted: str | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, batch: Batch, recorded: Recorded) -> None:
        """Count a committed batch."""
        self.rows += len(recorded.rows)
        self.sightings += recorded.sightings
        self.quarantined += recorded.quarantined
        self.caught_up = self.caught_up or batch.caught_up_at is not None
        for name, number in batch.counts.items():
            self.counts[name] = self.counts.get(name, 0) + number


async def follow(source: Source, database: Database, issuers: IssuerSet, *, source_id: int) -> Pass:
    """Read a source from where it stands to where it ends now, and record what that proves.

    Raises RetrySource when it cannot be read now, and DatabaseError when nothing can be recorded. A source that
    contradicts itself loses its coverage, not its rows: that is in the Pass, and reading goes on next time.
    """
    done = Pass(source.settings.name)
    try:
        async with _batches(source, store.DatabaseLedger(database, source_id), issuers) as batches:
            async for batch in batches:
                done.add(batch, await _commit(batch, source, database, source_id=source_id))
                # Rows and position are in the database, both or neither. A crash from here on repeats nothing.
                await source.committed(batch)
    except store.Overtaken:
        _log.info("source.overtaken", source=done.source)
    except DistrustLog as distrusted:
        await _distrust(distrusted, database, done, source_id=source_id)
    except RetrySource as trouble:
        await _note(database, source_id, trouble=str(trouble))
        raise
    await _note(database, source_id, trouble=done.distrusted)
    return done


@asynccontextmanager
async def _batches(source: Source, ledger: Ledger, issuers: IssuerSet) -> AsyncIterator[AsyncIterator[Batch]]:
    """Read a source; when a commit fails, no request that it still has under way outlives the pass."""
    batches = source.read(ledger, issuers)
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


async def _commit(batch: Batch, source: Source, database: Database, *, source_id: int) -> Recorded:
    """One transaction: evidence, rows, findings, position. Raises Overtaken when the position has moved meanwhile."""
    async with database.transaction() as connection:
        if batch.move is not None:
            await store.move(connection, source_id, batch.move)
        recorded = await record_issued(connection, source_id, batch.sightings, batch.quarantined)
        for finding in batch.findings:
            await insert_finding(
                connection,
                source_id,
                kind=finding.kind,
                severity=finding.severity,
                key=None,
                subject=finding.subject,
                detail=finding.detail,
            )
        if batch.caught_up_at is not None:
            await store.vouch(connection, source_id, age=datetime.now(UTC) - batch.caught_up_at)
    _tell(batch, recorded, source.settings.name)
    return recorded


async def _distrust(distrusted: DistrustLog, database: Database, done: Pass, *, source_id: int) -> None:
    done.distrusted = f"{distrusted.kind}: {distrusted}"
    async with database.transaction() as connection:
        first_time = await store.distrust(connection, source_id, distrusted)
        # Another kind of contradiction, found later, is evidence in its own right.
        if first_time or not await store.has_proof(connection, source_id, kind=distrusted.kind):
            await store.keep_proof(connection, source_id, distrusted)
        if first_time:
            await insert_finding(
                connection,
                source_id,
                kind="distrusted",
                severity="critical",
                key=None,
                subject=f"{distrusted.kind} at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                detail=str(distrusted),
            )
    if first_time:
        _log.error("source.distrusted", source=done.source, kind=distrusted.kind.value, detail=str(distrusted))


async def _note(database: Database, source_id: int, *, trouble: str | None) -> None:
    async with database.connection() as connection:
        await store.note_attempt(connection, source_id, trouble=trouble)


def _tell(batch: Batch, recorded: Recorded, source: str) -> None:
    """Say once per batch what it brought; a batch that brought nothing is not worth a line."""
    for entry in batch.quarantined if recorded.quarantined else ():
        _log.warning("entry.quarantined", source=source, reason=entry.reason.value, detail=entry.detail)
    for finding in batch.findings:
        _log.warning("finding", source=source, kind=finding.kind, severity=finding.severity, detail=finding.detail)
    for issuer_id, serial in recorded.reused:
        _log.error("serial.reused", source=source, issuer_id=issuer_id, serial=serial_hex(serial))
    if recorded.rows or recorded.sightings:
        _log.info("recorded", source=source, rows=len(recorded.rows), sightings=recorded.sightings, **batch.counts)
