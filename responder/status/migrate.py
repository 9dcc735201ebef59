# SPDX-License-Identifier: Apache-2.0
"""Brings a database to the schema this code expects, and refuses to run on any other.

Migrations are numbered SQL files, forward only, one transaction each, under an advisory lock so that two migrations
started at once do the work once. Called by `ocsp-admin migrate`; `check_schema` by every process at its start.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from responder.runtime.db import Connection

# Any number, as long as nobody else on this database locks it: "foundlin" in ASCII.
_LOCK: Final = int.from_bytes(b"foundlin")
_OLDEST_SERVER: Final = 140000
_FILE_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")


class SchemaError(Exception):
    """The database's schema and this code do not belong together, in one line for an operator."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file: its number, its name, and the statements in it."""

    version: int
    name: str
    statements: bytes

    @property
    def sha256(self) -> bytes:
        """What is remembered of the file, so that a changed one is noticed."""
        return hashlib.sha256(self.statements).digest()


def sql_directory() -> Path:
    """Return where the SQL files are: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "sql"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sql"


def migrations() -> tuple[Migration, ...]:
    """Return all migrations in order. Raises SchemaError when their numbers have a gap."""
    found = []
    for path in sorted((sql_directory() / "migrations").glob("*.sql")):
        named = _FILE_NAME.fullmatch(path.name)
        if named is None:
            raise SchemaError(f"{path}: a migration is called NNNN_name.sql")
        found.append(Migration(int(named[1]), named[2], path.read_bytes()))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise SchemaError(f"the migrations in {sql_directory()} are not numbered 1, 2, 3 … without gap")
    return tuple(found)


async def migrate(connection: Connection) -> tuple[Migration, ...]:
    """Apply what is missing and return it. Harmless to repeat, and to start twice at once.

    Raises SchemaError for a database newer than this code, a changed migration, or a server that is too old.
    """
    if connection.info.server_version < _OLDEST_SERVER:
        raise SchemaError(f"PostgreSQL 14 or later is needed, not {connection.info.server_version / 10000:.0f}")
    await connection.execute("SELECT pg_advisory_lock(%(lock)s)", {"lock": _LOCK})
    try:
        await _make_ledger(connection)
        missing = _missing(await _applied(connection))
        for migration in missing:
            await _apply(connection, migration)
        return missing
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%(lock)s)", {"lock": _LOCK})


async def grant_roles(connection: Connection) -> None:
    """Create the three roles where they are missing and give each the least it needs (sql/roles.sql)."""
    async with connection.transaction():
        # Grants on one object at once from two sessions fail; the lock ends with the transaction.
        await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
        await connection.execute((sql_directory() / "roles.sql").read_bytes())


async def check_schema(connection: Connection) -> None:
    """Raise SchemaError unless the database has exactly the schema this code was written for."""
    found = await connection.execute("SELECT to_regclass('ocsp.migration') IS NOT NULL")
    row = await found.fetchone()
    missing = _missing(await _applied(connection)) if row is not None and row[0] else migrations()
    if missing:
        raise SchemaError(
            f"the database lacks migration {missing[0].version:04}_{missing[0].name}: run `ocsp-admin migrate`"
        )


async def _make_ledger(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("CREATE SCHEMA IF NOT EXISTS ocsp")
        await connection.execute("""
            CREATE TABLE IF NOT EXISTS ocsp.migration (
                version    integer     PRIMARY KEY,
                name       text        NOT NULL,
                sha256     bytea       NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
            )""")


async def _applied(connection: Connection) -> dict[int, tuple[str, bytes]]:
    rows = await connection.execute("SELECT version, name, sha256 FROM ocsp.migration ORDER BY version")
    return {version: (name, sha256) async for version, name, sha256 in rows}


def _missing(applied: dict[int, tuple[str, bytes]]) -> tuple[Migration, ...]:
    """Return the migrations that are not applied. Raises SchemaError where the database knows what we do not."""
    known = {migration.version: migration for migration in migrations()}
    for version, (name, sha256) in applied.items():
        migration = known.get(version)
        if migration is None:
            raise SchemaError(
                f"the database has migration {version:04}_{name}, which this version of foundling does not know: "
                "it is newer than the code; upgrade foundling, the database does not go back"
            )
        if migration.sha256 != sha256:
            raise SchemaError(f"migration {version:04}_{name} was applied with other contents than this version has")
    return tuple(migration for version, migration in known.items() if version not in applied)


async def _apply(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.statements)
        await connection.execute(
            "INSERT INTO ocsp.migration (version, name, sha256) VALUES (%(version)s, %(name)s, %(sha256)s)",
            {"version": migration.version, "name": migration.name, "sha256": migration.sha256},
        )
