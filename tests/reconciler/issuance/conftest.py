# SPDX-License-Identifier: Apache-2.0
"""A CA that we serve, one that we do not, and a source followed into a real database, as the reconciler does it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from demo.ca import Authority
from reconciler import follow, store
from reconciler.model import Batch, Source, SourceSettings
from responder.runtime.db import Database
from responder.status.issuer_store import insert_issuer, insert_issuer_certificate, load_issuers
from responder.status.issuers import CaCertificate, Issuer, IssuerSet
from responder.status.model import Policy, UnassignedAnswer

POLICY = Policy(
    validity=timedelta(days=4),
    refresh=timedelta(days=2),
    max_age=timedelta(days=1),
    unassigned=UnassignedAnswer.UNKNOWN,
    unknown_validity=timedelta(minutes=5),
)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="session")
def root() -> Authority:
    """Return a root that we do not serve."""
    return Authority.create("Root")


@pytest.fixture(scope="session")
def ca(root: Authority) -> Authority:
    """Return the CA that we serve."""
    return Authority.create("Issuing CA", issuer=root)


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Return a CA that we do not serve."""
    return Authority.create("Somebody else's CA")


@pytest.fixture
def issuers(ca: Authority) -> IssuerSet:
    """Return the issuer set of the pure tests, without a database."""
    certificate = CaCertificate.load(ca.pem())
    return IssuerSet(
        [Issuer(7, "issuing", public=True, direct_signing=False, policy=POLICY, certificates=(certificate,))]
    )


@dataclass
class Reconciler:
    """Follows one source into a database, and looks up what came of it."""

    database: Database
    issuers: IssuerSet
    settings: SourceSettings
    source_id: int

    async def follow(self, source: Source) -> follow.Pass:
        return await follow.follow(source, self.database, self.issuers, source_id=self.source_id)

    def ledger(self) -> store.DatabaseLedger:
        return store.DatabaseLedger(self.database, self.source_id)

    async def batches(self, source: Source) -> list[Batch]:
        """Commit a pass batch by batch without telling the source, as if the process died after each commit."""
        found = []
        async for batch in source.read(self.ledger(), self.issuers):
            await follow._commit(batch, source, self.database, source_id=self.source_id)
            found.append(batch)
        return found

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.connection() as connection:
            return await (await connection.execute(query)).fetchall()

    async def renumber(self, inode: int, other: int) -> None:
        """Make a file that was read have been this other inode."""
        async with self.database.connection() as connection:
            await connection.execute("UPDATE ocsp.file_position SET inode = %s WHERE inode = %s", (other, inode))

    async def serials(self) -> set[int]:
        rows = await self.rows("SELECT serial FROM ocsp.certificate WHERE status = 'good'")
        return {int.from_bytes(serial) for (serial,) in rows}

    async def sightings(self) -> list[tuple[str, int]]:
        return await self.rows("SELECT file, file_offset FROM ocsp.sighting ORDER BY sighting_id")

    async def quarantined(self) -> list[tuple[str, str, bytes]]:
        return await self.rows("SELECT reason, detail, raw FROM ocsp.quarantine ORDER BY quarantine_id")

    async def findings(self) -> list[tuple[str, str, str]]:
        return await self.rows("SELECT kind, severity, detail FROM ocsp.finding ORDER BY finding_id")

    async def verified_at(self) -> datetime | None:
        rows = await self.rows(f"SELECT verified_at FROM ocsp.source WHERE source_id = {self.source_id}")  # noqa: S608 - our own number
        return None if rows[0][0] is None else rows[0][0]


@pytest.fixture
async def reconciler(database: Database, ca: Authority) -> Reconciler:
    """Return a reconciler of one source in a fresh database that knows our CA."""
    settings = SourceSettings(name="issuance", kind="spool", required=True, stale_after=timedelta(minutes=15))
    certificate = CaCertificate.load(ca.pem())
    async with database.transaction() as connection:
        number = await insert_issuer(
            connection, "issuing", certificate, public=True, direct_signing=False, policy=POLICY
        )
        await insert_issuer_certificate(connection, number, certificate)
        source_id = await store.enter_source(connection, settings)
    async with database.connection() as connection:
        issuers = await load_issuers(connection)
    return Reconciler(database, issuers, settings, source_id)
