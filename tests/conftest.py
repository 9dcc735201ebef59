# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use: a throwaway PostgreSQL, a migrated database per test, components by name."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo, sql

from demo.postgres import throwaway_server
from responder.runtime.db import Database, connect_once
from responder.status.migrate import grant_roles, migrate

_IN_CI = os.environ.get("CI", "") not in {"", "0", "false"}
_missing: set[str] = set()
_numbers = count(1)


def missing_component(what: str) -> None:
    """Say that a test cannot run without this: in CI that is a failure, elsewhere a skip named loudly at the end."""
    if _IN_CI:
        pytest.fail(f"in CI every component must be there, and this one is not: {what}")
    _missing.add(what)
    pytest.skip(f"needs {what}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = sorted({str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)})
    if reasons:
        terminalreporter.section("NOT TESTED HERE", sep="!", red=True, bold=True)
        for reason in reasons:
            terminalreporter.line(reason)


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Return a function that finds a program by name, or says that the test cannot run without it."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            missing_component(f"the program {name} (tests/debian-packages.txt)")
        assert path is not None
        return path

    return find


@pytest.fixture(scope="session")
def ct_corpus() -> Path:
    """Return the folder of real CT data that the environment variable CT_CORPUS names."""
    given = os.environ.get("CT_CORPUS", "")
    if not given or not Path(given).is_dir():
        missing_component("real CT data: set CT_CORPUS to its folder")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """Yield the DSN of a PostgreSQL server of this test process's own, as its superuser."""
    with throwaway_server() as dsn:
        yield dsn


def database_on(server_dsn: str, name: str) -> str:
    """Return the DSN of another database on the same server."""
    return conninfo.make_conninfo(server_dsn, dbname=name)


def create_database(server_dsn: str, name: str, *, template: str = "template0") -> str:
    """Create a database and return its DSN."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return database_on(server_dsn, name)


def drop_database(server_dsn: str, name: str) -> None:
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def unused_name(what: str) -> str:
    return f"{what}_{os.getpid()}_{next(_numbers)}"


@pytest.fixture(scope="session")
def template(server_dsn: str) -> str:
    """Return the name of a database that `ocsp-admin migrate` would make, to be copied."""
    name = unused_name("template")
    dsn = create_database(server_dsn, name)

    async def prepare() -> None:
        async with connect_once(dsn, application="tests") as connection:
            await migrate(connection)
            await grant_roles(connection)

    asyncio.run(prepare())
    return name


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    """Yield the DSN of a database with nothing in it."""
    name = unused_name("empty")
    yield create_database(server_dsn, name)
    drop_database(server_dsn, name)


@pytest.fixture
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    """Yield the DSN of a migrated database of this test's own."""
    name = unused_name("test")
    yield create_database(server_dsn, name, template=template)
    drop_database(server_dsn, name)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """Yield a pool on a migrated database of this test's own, as its owner."""
    async with Database(dsn, application="tests") as opened:
        yield opened


def as_role(dsn: str, role: str) -> str:
    """Return the DSN with which a role of ours connects."""
    return conninfo.make_conninfo(dsn, user=role)
