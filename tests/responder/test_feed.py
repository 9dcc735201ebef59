# SPDX-License-Identifier: Apache-2.0
"""The change feed on a real primary: bounded, never held up, and starting over where history is another."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
from structlog.testing import capture_logs

from demo.ca import Authority
from responder.answer import Answer
from responder.cache import Cache
from responder.counting import Counts
from responder.feed import Feed
from responder.ocsp.policy import DEFAULT_POLICY
from responder.runtime.db import Database
from responder.status import issuer_store
from responder.status.feed_store import read_changes
from responder.status.issuers import CaCertificate
from responder.status.model import serial_octets
from responder.status.store import Key
from tests.conftest import as_role
from tests.responder.test_cache import NOW, TIMES

INSERT = (
    "INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)"
    " SELECT %s, substring(int8send(n) FROM 5), 'good', now(), now(), false FROM generate_series(%s::bigint, %s) n"
)
# Four octets without a leading nought, so that minimal octets are just the last four of a bigint.
FIRST = 0x10000000


class Ground:
    """A database with an issuer, a cache with an answer in it, and the feed between them."""

    def __init__(self, database: Database, dsn: str, issuer_id: int) -> None:
        self.dsn = dsn
        self.issuer_id = issuer_id
        self.cache = Cache(most=100)
        self.loads: list[int] = []
        self.loading_takes = 0.0
        self.feed = Feed(database, self.cache, reload=self._load, counts=Counts())

    async def _load(self, generation: int) -> None:
        await asyncio.sleep(self.loading_takes)
        self.loads.append(generation)

    def key(self, number: int) -> Key:
        return self.issuer_id, FIRST + number

    def keep(self, number: int) -> bytes:
        """Keep an answer about this certificate, and return the request it answers."""
        request = f"request {number}".encode()
        good = Answer(request, "good", times=TIMES, max_age=DEFAULT_POLICY.max_age)
        self.cache.put(request, good, about=[self.key(number)], read_in=self.cache.readings)
        return request

    def kept(self, request: bytes) -> Answer | None:
        return self.cache.get(request, now=NOW)

    def execute(self, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            owner.execute(statement.encode(), parameters)

    def change(self, first: int, last: int) -> None:
        """Insert rows of these numbers, in one transaction."""
        self.execute(INSERT, self.issuer_id, FIRST + first, FIRST + last)


@pytest.fixture
async def ground(database: Database, dsn: str) -> AsyncIterator[Ground]:
    certificate = CaCertificate.load(Authority.create("CA").pem())
    async with database.connection() as connection:
        issuer_id = await issuer_store.insert_issuer(
            connection, "ca", certificate, public=True, direct_signing=False, policy=DEFAULT_POLICY
        )
    async with Database(as_role(dsn, "ocsp_responder"), application="tests", most=2, timeout=2.0) as reader:
        made = Ground(reader, dsn, issuer_id)
        await made.feed.read_once()
        yield made


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stays_fresh(feed: Feed, *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert feed.is_fresh
        await asyncio.sleep(0.05)


async def test_only_what_changed_leaves_the_cache(ground: Ground) -> None:
    changed, other = ground.keep(1), ground.keep(2)
    ground.change(1, 1)
    await ground.feed.read_once()
    assert ground.kept(changed) is None
    assert ground.kept(other) is not None


async def test_more_changes_than_are_worth_fetching_empty_the_cache_once(ground: Ground) -> None:
    """Also while a transaction stays open that is older than all of them: it is asked for by its number."""
    untouched = ground.keep(0)
    with psycopg.connect(ground.dsn) as older:
        older.execute(INSERT, (ground.issuer_id, FIRST - 5, FIRST - 5))
        await ground.feed.read_once()
        assert ground.kept(untouched) is not None
        ground.change(1, 10_001)
        await ground.feed.read_once()
        assert ground.kept(untouched) is None
        untouched, touched = ground.keep(0), ground.keep(-5)
        await ground.feed.read_once()
        assert ground.kept(untouched) is not None
        assert ground.kept(touched) is not None
    await ground.feed.read_once()
    assert ground.kept(touched) is None
    assert ground.kept(untouched) is not None


async def test_changes_that_go_on_and_on_are_not_remembered_without_end(ground: Ground) -> None:
    untouched = ground.keep(0)
    for batch in range(6):
        ground.change(1 + batch * 9_000, 9_000 + batch * 9_000)
        await ground.feed.read_once()
        assert (ground.kept(untouched) is not None) == (batch < 5), batch


async def test_keys_that_take_long_to_open_do_not_hold_up_the_feed(ground: Ground) -> None:
    """Meanwhile changes are told, and what changed again while they were opened is loaded again."""
    changed = ground.keep(1)
    ground.loading_takes = 2.0
    async with running(ground.feed):
        ground.execute("UPDATE ocsp.issuer SET name = 'renamed'")
        await stays_fresh(ground.feed, seconds=1.0)
        ground.execute("UPDATE ocsp.issuer SET name = 'again'")
        ground.change(1, 1)
        await stays_fresh(ground.feed, seconds=4.5)
    assert ground.kept(changed) is None
    assert ground.loads == [ground.loads[0], ground.loads[0] + 1, ground.loads[0] + 2]


async def test_a_note_that_has_to_wait_does_not_hold_up_the_feed(ground: Ground) -> None:
    key = ground.key(1)
    ground.feed.note_unanswered(key, "unknown")
    await ground.feed.read_once()
    with psycopg.connect(ground.dsn) as locking:
        locking.execute("SELECT * FROM ocsp.unanswered FOR UPDATE")
        async with running(ground.feed):
            ground.feed.note_unanswered(key, "unknown")
            await stays_fresh(ground.feed, seconds=2.5)
            locking.rollback()
            await asyncio.sleep(0.7)
    with psycopg.connect(ground.dsn) as owner:
        assert owner.execute("SELECT times FROM ocsp.unanswered").fetchall() == [(2,)]


async def test_connections_cut_again_and_again_leave_no_change_untold(ground: Ground) -> None:
    async with running(ground.feed):
        for number in range(1, 5):
            changed = ground.keep(number)
            ground.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ocsp_responder'")
            ground.change(number, number)
            committed = time.monotonic()
            ground.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ocsp_responder'")
            while ground.feed.is_fresh and ground.kept(changed) is not None:
                assert time.monotonic() - committed < 2.0
                await asyncio.sleep(0.02)
            await asyncio.sleep(max(0.0, committed + 2.0 - time.monotonic()))
            assert ground.feed.is_fresh
            assert ground.kept(changed) is None


class _Broken(Cache):
    """A cache with a fault of ours in it."""

    broken = False

    def changed(self, keys: Iterable[Key]) -> None:
        if self.broken:
            raise RuntimeError("a fault of ours")
        super().changed(keys)


async def test_a_fault_of_ours_is_told_and_the_feed_goes_on(database: Database, ground: Ground) -> None:
    cache = _Broken(most=10)
    feed = Feed(database, cache, reload=ground._load, counts=Counts())
    await feed.read_once()
    cache.broken = True
    with capture_logs() as lines:
        async with running(feed):
            await asyncio.sleep(2.2)
            vouched = [feed.is_fresh]
            cache.broken = False
            await asyncio.sleep(0.7)
            vouched.append(feed.is_fresh)
    assert vouched == [False, True]
    assert {(line["event"], line["exc_info"]) for line in lines} == {("feed.fault", True)}


async def test_a_history_that_became_shorter_empties_the_cache(ground: Ground) -> None:
    """As after a failover that lost changes, or a restore: what was kept may say what is not so any more."""
    ground.change(1, 1)
    ground.change(2, 2)
    await ground.feed.read_once()
    kept = ground.keep(3)
    ground.execute(
        "ALTER TABLE ocsp.status_change DISABLE TRIGGER keep;"
        "DELETE FROM ocsp.status_change WHERE change_id = (SELECT max(change_id) FROM ocsp.status_change);"
        "ALTER TABLE ocsp.status_change ENABLE TRIGGER keep"
    )
    await ground.feed.read_once()
    assert ground.kept(kept) is None


async def test_rows_that_a_dump_brought_from_another_cluster_hide_nothing_and_are_not_told(
    ground: Ground, database: Database
) -> None:
    """They carry transaction numbers that this cluster has not come to yet."""
    ground.execute(
        "INSERT INTO ocsp.status_change (xid, issuer_id, serial, new_status)"
        " SELECT '4000000000', %s, %s, 'good' FROM generate_series(1, 100)",
        ground.issuer_id,
        serial_octets(FIRST),
    )
    async with database.connection() as connection:
        began = await read_changes(connection, since=None, most=10)
        assert began.mark.newest < 4_000_000_000
        assert (await read_changes(connection, since=began.mark, most=10)).changed == ()
        ground.change(1, 1)
        told = await read_changes(connection, since=began.mark, most=10)
    assert told.changed == (ground.key(1),)
    assert not told.too_many


async def test_a_reading_takes_no_more_than_the_index_however_long_the_history(
    ground: Ground, database: Database
) -> None:
    """Also where one transaction made nearly all of it, and whether or not the planner has been told of that."""
    ground.execute("ALTER TABLE ocsp.certificate DISABLE TRIGGER guard")
    ground.change(1, 60_000)
    ground.change(60_001, 60_001)
    touched = (
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = 'status_change'"
    )
    for analysed in (False, True):
        if analysed:
            ground.execute("ANALYZE ocsp.status_change")
        async with database.connection() as connection:
            mark = (await read_changes(connection, since=None, most=10)).mark
            some_ran = replace(mark, running=(1, 2, 3))
            async with connection.transaction():
                for since in [mark, some_ran] * 6:  # past the number after which a statement is prepared
                    assert (await read_changes(connection, since=since, most=10)).changed == ()
                ((rows,),) = await (await connection.execute(touched)).fetchall()
                assert rows < 100, (analysed, rows)
