# SPDX-License-Identifier: Apache-2.0
"""Issuers entered into a database as `ocsp-admin issuer add` would, and what the demonstration's CA issued, proven."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from demo.ca import Authority
from responder.runtime.db import Database
from responder.status.issuer_store import insert_issuer, insert_issuer_certificate, load_issuers
from responder.status.issuers import CaCertificate, Issuer, IssuerSet
from responder.status.model import FilePlace, Issued, LogPlace, Policy, Sighting, UnassignedAnswer
from responder.status.precert import prove

POLICY = Policy(
    validity=timedelta(days=4),
    refresh=timedelta(days=2),
    max_age=timedelta(days=1),
    unassigned=UnassignedAnswer.UNKNOWN,
    unknown_validity=timedelta(minutes=5),
)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def ca_certificate(authority: Authority) -> CaCertificate:
    return CaCertificate.load(authority.pem())


def issuer_of(number: int, name: str, *certificates: CaCertificate) -> Issuer:
    """Return an issuer for tests without a database."""
    return Issuer(number, name, public=True, direct_signing=False, policy=POLICY, certificates=certificates)


async def serve(database: Database, name: str, *certificates: CaCertificate, public: bool = True) -> int:
    """Enter an issuer with its certificates, and return its row number."""
    async with database.transaction() as connection:
        number = await insert_issuer(
            connection, name, certificates[0], public=public, direct_signing=False, policy=POLICY
        )
        for certificate in certificates:
            await insert_issuer_certificate(connection, number, certificate)
    return number


async def served(database: Database) -> IssuerSet:
    async with database.connection() as connection:
        return await load_issuers(connection)


def proven(certificate: x509.Certificate, issuers: IssuerSet) -> Issued:
    return prove(der(certificate), issuers).issued


def in_log(issued: Issued, index: int) -> Sighting:
    return Sighting(issued=issued, place=LogPlace(index=index, logged_at=datetime(2026, 3, 1, tzinfo=UTC)))


def in_file(issued: Issued, file: str = "issued.jsonl", offset: int = 0) -> Sighting:
    return Sighting(issued=issued, place=FilePlace(file=file, offset=offset))


async def rows(database: Database, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    async with database.connection() as connection:
        return await (await connection.execute(query.encode(), parameters)).fetchall()


_TABLES = (
    "certificate", "reservation", "status_change", "source_change", "document", "sighting", "quarantine", "finding",
    "ct_position", "ct_head", "ct_proof",
)  # fmt: skip


def dump(dsn: str) -> dict[str, list[str]]:
    """Return every row of the tables that say what is known, as text."""
    with psycopg.connect(dsn) as connection:
        return {
            table: sorted(row[0] for row in connection.execute(f"SELECT t::text FROM ocsp.{table} t".encode()))  # noqa: S608 - our own names
            for table in _TABLES
        }
