# SPDX-License-Identifier: Apache-2.0
"""One pool of connections to PostgreSQL, and the translation of its errors into what callers can act on.

Knows no table. psycopg's errors do not leave this file and the store files: see `Database.connection`.
"""

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# A statement of ours takes milliseconds. What takes longer than this is a fault, and waiting for it would be another.
_STATEMENT_TIMEOUT_MS = 30_000
_SILENCE_MS = 10_000
# The pool doubles the pause between attempts until this is over, and begins anew when somebody asks for a connection.
# Its own five minutes would keep us away for another two after an outage of as many.
_RECONNECT_SECONDS = 2.0


class DatabaseError(Exception):
    """Anything that went wrong between us and the database."""


class DatabaseUnavailable(DatabaseError):  # noqa: N818 - named for what it means to the caller: try later
    """The database cannot be reached or did not answer in time: try later. What was sent may have been done."""


class DatabaseRefused(DatabaseError):  # noqa: N818 - named for what it means to the caller: do not repeat
    """The database refused the statement. `constraint` names the rule where PostgreSQL gave one."""

    def __init__(self, message: str, *, constraint: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint


def translate(exc: Exception) -> DatabaseError:
    """Return our error for one of psycopg's: unavailable where trying later can help, refused where it cannot."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    first_line = lines[0]
    if isinstance(exc, psycopg.Error):
        # Class 08 and 57: the connection or the server; 40: a lost race; 53: resources; 25006: a read-only primary.
        passing = exc.sqlstate is None or exc.sqlstate[:2] in {"08", "57", "40", "53", "55"} or exc.sqlstate == "25006"
        if not passing:
            return DatabaseRefused(first_line, constraint=exc.diag.constraint_name)
        if exc.sqlstate is None:
            # Where several addresses were tried, the first line only says that the reasons follow.
            return DatabaseUnavailable(" ".join(lines))
    return DatabaseUnavailable(first_line)


class Database:
    """A pool of connections under one name in pg_stat_activity. Use as `async with Database(…) as database`."""

    def __init__(self, dsn: str, *, application: str, most: int = 4, timeout: float = 10.0) -> None:
        """Prepare the pool; nothing is opened yet. `timeout` is in seconds, for a connection to become free."""
        self.dsn = dsn
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=most,
            timeout=timeout,
            reconnect_timeout=_RECONNECT_SECONDS,
            open=False,
            kwargs={
                "autocommit": True,
                "application_name": application,
                "connect_timeout": max(2, int(timeout)),
                # A line that a firewall drops without a word is given up in seconds, not in TCP's quarter of an hour.
                "tcp_user_timeout": _SILENCE_MS,
                "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS} -c timezone=UTC",
            },
        )
        self._most = most

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode. Raises DatabaseUnavailable or DatabaseRefused, never psycopg's."""
        try:
            connection = await self._living()
            try:
                async with connection:
                    yield connection
            finally:
                await self._pool.putconn(connection)
        except (psycopg.Error, PoolTimeout, PoolClosed, TooManyRequests) as exc:
            raise translate(exc) from exc

    async def _living(self) -> Connection:
        """Take a connection that nobody has closed meanwhile: after an outage no borrower must be handed a dead one.

        The pool's own check asks the server each time, and pauses for seconds when it has found two that are dead.
        """
        for _ in range(self._most):
            connection = await self._pool.getconn()
            if not _is_dead(connection):
                return connection
            await connection.close()
            await self._pool.putconn(connection)
        return await self._pool.getconn()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside one transaction, committed at the end of the block and rolled back on any error."""
        async with self.connection() as connection, connection.transaction():
            yield connection


def _is_dead(connection: Connection) -> bool:
    """Tell whether the server has something to say on a line that is idle: that it is closed, or about to be."""
    if connection.closed:
        return True
    line = select.poll()
    line.register(connection.fileno(), select.POLLIN)
    return bool(line.poll(0))


@asynccontextmanager
async def connect_once(dsn: str, *, application: str) -> AsyncIterator[Connection]:
    """Open a single connection in autocommit mode, for commands. Raises as `Database.connection` does."""
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name=application, connect_timeout=10
        ) as connection:
            yield connection
    except psycopg.Error as exc:
        raise translate(exc) from exc
