# SPDX-License-Identifier: Apache-2.0
"""Orphans: reported when they come of age, once, and only where the CA's own records could have named them."""

from datetime import UTC, datetime, timedelta

import pytest

from demo.ca import Authority
from reconciler.model import SourceSettings
from reconciler.orphans import report_orphans
from reconciler.store import enter_source
from responder.runtime.db import Database
from responder.status.model import Issued, LogPlace, Sighting
from responder.status.record import record_issued
from tests import served

GRACE = timedelta(minutes=5)
NOW = timedelta(0)


class Ground:
    """An issuer, a log and a spool, and a certificate to be seen in either."""

    def __init__(self, database: Database, issued: Issued) -> None:
        self.database = database
        self.issued = issued

    async def source(self, name: str, kind: str) -> int:
        async with self.database.transaction() as connection:
            settings = SourceSettings(name=name, kind=kind, required=True, stale_after=GRACE)
            return await enter_source(connection, settings)

    async def see_in_log(self, *, logged_at: datetime | None = None, name: str = "log") -> None:
        place = LogPlace(index=0, logged_at=logged_at or datetime.now(UTC))
        await self._see(await self.source(name, "static"), Sighting(issued=self.issued, place=place))

    async def see_in_spool(self) -> None:
        await self._see(await self.source("spool", "spool"), served.in_file(self.issued))

    async def _see(self, source_id: int, sighting: Sighting) -> None:
        async with self.database.transaction() as connection:
            await record_issued(connection, source_id, [sighting])

    async def findings(self) -> list[tuple[object, ...]]:
        return await served.rows(
            self.database, "SELECT f.kind, severity, name FROM ocsp.finding f JOIN ocsp.source USING (source_id)"
        )


@pytest.fixture
async def ground(database: Database) -> Ground:
    ca = Authority.create("Orphanage CA")
    await served.serve(database, "ca", served.ca_certificate(ca))
    issued = served.proven(ca.precertificate("orphan.example"), await served.served(database))
    return Ground(database, issued)


async def test_an_orphan_is_reported_once_when_it_comes_of_age(ground: Ground) -> None:
    await ground.source("spool", "spool")
    await ground.see_in_log()
    assert await report_orphans(ground.database, after=GRACE) == 0
    assert await report_orphans(ground.database, after=NOW) == 1
    assert await report_orphans(ground.database, after=NOW) == 0
    assert await ground.findings() == [("orphan", "critical", "log")]


async def test_one_orphan_in_two_logs_is_one_orphan(ground: Ground) -> None:
    await ground.source("spool", "spool")
    await ground.see_in_log()
    await ground.see_in_log(name="other-log")
    assert await report_orphans(ground.database, after=NOW) == 1
    assert await report_orphans(ground.database, after=NOW) == 0


async def test_what_the_ca_has_written_down_meanwhile_is_no_orphan(ground: Ground) -> None:
    await ground.source("spool", "spool")
    await ground.see_in_log()
    await ground.see_in_spool()
    assert await report_orphans(ground.database, after=NOW) == 0


async def test_what_was_logged_before_records_were_read_is_no_orphan(ground: Ground) -> None:
    await ground.source("spool", "spool")
    await ground.see_in_log(logged_at=datetime.now(UTC) - timedelta(days=30))
    assert await report_orphans(ground.database, after=NOW) == 0


async def test_where_no_record_is_read_nothing_can_be_missing_from_it(ground: Ground) -> None:
    await ground.see_in_log()
    assert await report_orphans(ground.database, after=NOW) == 0
