# SPDX-License-Identifier: Apache-2.0
"""The pool of connections: what it lends is alive, at once, also when all that lay in it has died."""

import asyncio
import time
from contextlib import AsyncExitStack

import psycopg

from responder.runtime.db import Database


async def test_dead_connections_are_replaced_without_a_pause(dsn: str) -> None:
    async with Database(dsn, application="mortal", most=4) as database:
        async with AsyncExitStack() as borrowed:
            for _ in range(4):
                await borrowed.enter_async_context(database.connection())
        with psycopg.connect(dsn, autocommit=True) as killer:
            killed = killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mortal'"
            ).fetchall()
        assert len(killed) == 4
        await asyncio.sleep(0.2)
        began = time.monotonic()
        async with database.connection() as connection:
            rows = await connection.execute("SELECT 1")
            assert await rows.fetchall() == [(1,)]
        assert time.monotonic() - began < 0.9, "the pool's own check pauses for a second and more"
