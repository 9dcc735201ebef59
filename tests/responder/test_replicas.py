# SPDX-License-Identifier: Apache-2.0
"""A responder beside a streaming replica: never an older answer than the primary's of two seconds ago (invariant 5)."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from demo.ca import Authority
from responder.cache import Cache
from responder.counting import Counts
from responder.feed import Feed
from responder.replica import Replica
from responder.runtime.db import Database, connect_once
from responder.status.feed_store import Mark, read_changes, read_place
from responder.status.migrate import grant_roles, migrate
from responder.status.model import Good, Reason, serial_octets
from tests.conftest import as_role, unused_name
from tests.replicas import Pair, streaming
from tests.responder.proxy import Proxy
from tests.responder.running import Running, Served, World, revoked, running, until
from tests.responder.test_answers import seen_by_all

ROLE = "ocsp_responder"


@dataclass
class Ground:
    """A pair of servers, a database of ours on both, and an issuer."""

    pair: Pair
    world: World
    issuer: Served

    @property
    def replica_dsn(self) -> str:
        """How to reach the database on the replica."""
        name = conninfo.conninfo_to_dict(self.world.dsn)["dbname"]
        return self.pair.replica.dsn(str(name), user=ROLE)

    def revoke(self, serial: int) -> float:
        """Revoke, and return the moment after."""
        self.world.revoke(self.issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=self.issuer.ca))
        return time.monotonic()


def prepare(pair: Pair, folder: Path) -> Ground:
    dsn = pair.create_database(unused_name("pair"))

    async def fill() -> None:
        async with connect_once(dsn, application="tests") as connection:
            await migrate(connection)
            await grant_roles(connection)

    asyncio.run(fill())
    world = World(dsn, folder)
    ca = Authority.create("CA")
    ground = Ground(pair, world, world.add_issuer("ca", ca, signer=ca.issue_responder()))
    pair.catch_up()
    return ground


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with streaming() as made:
        yield made


@pytest.fixture
def ground(pair: Pair, tmp_path: Path) -> Iterator[Ground]:
    made = prepare(pair, tmp_path)
    yield made
    pair.replica.go_on()


@pytest.fixture
def responder(ground: Ground) -> Iterator[Running]:
    dsn = as_role(ground.world.dsn, ROLE)
    with running(ground.world, dsn=dsn, replica_dsn=ground.replica_dsn) as started:
        yield started


def looked_up_on_replica(ground: Ground) -> int:
    """How often the replica was asked for certificates by now."""
    name = conninfo.conninfo_to_dict(ground.world.dsn)["dbname"]
    statement = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'certificate'"
    ((scans,),) = ground.pair.replica.execute(statement, database=str(name))
    return int(scans)


# ----------------------------------------------------------------------------------------------------- over HTTP


def test_a_revocation_is_visible_in_every_worker_beside_a_replica(ground: Ground, responder: Running) -> None:
    serial = ground.world.issue(ground.issuer)
    ground.pair.catch_up()
    assert {responder.status(ground.issuer, serial) for _ in range(30)} == {"good"}
    until(lambda: looked_up_on_replica(ground) > 0)
    seen_by_all(responder, ground.issuer, serial, "revoked", since=ground.revoke(serial))
    assert "replica.in_use" in responder.events()


def test_a_replica_that_stands_still_is_never_believed_for_longer_than_two_seconds(
    ground: Ground, responder: Running
) -> None:
    """A serial that it has not heard of is never called unknown, not for a moment."""
    kept, asked_late = ground.world.issue(ground.issuer), ground.world.issue(ground.issuer)
    ground.pair.catch_up()
    assert {responder.status(ground.issuer, kept) for _ in range(30)} == {"good"}
    ground.pair.replica.hold()
    since = ground.revoke(kept)
    ground.revoke(asked_late)
    fresh = ground.world.issue(ground.issuer)
    assert {responder.status(ground.issuer, fresh) for _ in range(10)} == {"good"}
    seen_by_all(responder, ground.issuer, kept, "revoked", since=since)
    assert {responder.status(ground.issuer, asked_late) for _ in range(30)} == {"revoked"}
    promised = fresh + 1
    ground.world.reserve(ground.issuer, promised)
    assert {responder.status(ground.issuer, promised) for _ in range(10)} == {"try_later"}
    until(lambda: "replica.left" in responder.events())
    ground.pair.replica.go_on()
    ground.pair.catch_up()
    time.sleep(1.0)
    before = looked_up_on_replica(ground)
    assert {responder.status(ground.issuer, serial) for serial in (kept, asked_late) for _ in range(10)} == {"revoked"}
    for _ in range(20):
        assert responder.status(ground.issuer, ground.world.issue(ground.issuer)) == "good"
        ground.pair.catch_up()
    until(lambda: looked_up_on_replica(ground) > before)


def test_what_was_looked_up_on_a_laggard_does_not_stay(ground: Ground, responder: Running) -> None:
    """Asked all through the lag and after it, no worker keeps what the replica said too late."""
    serials = [ground.world.issue(ground.issuer) for _ in range(10)]
    ground.pair.catch_up()
    responder.status(ground.issuer, serials[0])
    ground.pair.replica.hold()
    moments = {}
    for serial in serials:
        moments[serial] = ground.revoke(serial)
        for _ in range(4):
            responder.status(ground.issuer, serial)
            time.sleep(0.05)
    time.sleep(max(moments.values()) + 2.0 - time.monotonic())
    for _ in range(10):
        assert {responder.status(ground.issuer, serial) for serial in serials} == {"revoked"}
    ground.pair.replica.go_on()
    for _ in range(10):
        assert {responder.status(ground.issuer, serial) for serial in serials} == {"revoked"}


def test_connections_that_are_cut_again_and_again_delay_nothing_past_two_seconds(
    ground: Ground, responder: Running
) -> None:
    for _ in range(4):
        serial = ground.world.issue(ground.issuer)
        ground.pair.catch_up()
        until(lambda: responder.status(ground.issuer, serial) == "good", seconds=2)  # noqa: B023 - called at once
        assert ground.pair.primary.cut(ROLE) > 0
        ground.pair.replica.cut(ROLE)
        since = ground.revoke(serial)
        ground.pair.primary.cut(ROLE)
        seen_by_all(responder, ground.issuer, serial, "revoked", since=since)


def test_a_transaction_that_stays_open_long_hides_nothing_beside_a_replica(ground: Ground, responder: Running) -> None:
    slow, quick = ground.world.issue(ground.issuer), ground.world.issue(ground.issuer)
    ground.pair.catch_up()
    assert {responder.status(ground.issuer, serial) for serial in (slow, quick) for _ in range(10)} == {"good"}
    with psycopg.connect(ground.world.dsn) as open_for_long:
        open_for_long.execute(
            "UPDATE ocsp.certificate SET status = 'revoked', revoked_at = '2026-01-01', reason = 4 WHERE serial = %s",
            (serial_octets(slow),),
        )
        seen_by_all(responder, ground.issuer, quick, "revoked", since=ground.revoke(quick))
        assert {responder.status(ground.issuer, slow) for _ in range(10)} == {"good"}
        open_for_long.commit()
        since = time.monotonic()
    seen_by_all(responder, ground.issuer, slow, "revoked", since=since)


def test_a_replica_that_does_not_move_costs_moments_and_no_answer(ground: Ground) -> None:
    proxy = Proxy(ground.replica_dsn)
    serials = [ground.world.issue(ground.issuer) for _ in range(6)]
    ground.pair.catch_up()
    with running(ground.world, dsn=as_role(ground.world.dsn, ROLE), replica_dsn=proxy.dsn) as responder:
        until(lambda: responder.status(ground.issuer, serials[0]) == "good")
        until(lambda: "replica.in_use" in responder.events())
        proxy.freeze()
        for serial in serials[1:]:
            began = time.monotonic()
            assert responder.status(ground.issuer, serial) == "good"
            assert time.monotonic() - began < 2.0
        proxy.cut()
        proxy.thaw()
        seen_by_all(responder, ground.issuer, serials[1], "revoked", since=ground.revoke(serials[1]))
        proxy.mend()
    proxy.close()


def test_without_the_primary_a_replica_vouches_for_nothing(ground: Ground, responder: Running) -> None:
    known = ground.world.issue(ground.issuer)
    ground.pair.catch_up()
    assert {responder.status(ground.issuer, known) for _ in range(10)} == {"good"}
    ground.pair.primary.stop("immediate")
    try:
        time.sleep(2.0)
        for _ in range(5):
            assert responder.status(ground.issuer, known) == "try_later"
            assert responder.status(ground.issuer, 0x7E57) == "try_later"
    finally:
        ground.pair.primary.start()
    until(lambda: {responder.status(ground.issuer, known) for _ in range(10)} == {"good"}, seconds=10)
    seen_by_all(responder, ground.issuer, known, "revoked", since=ground.revoke(known))


def test_a_responder_whose_dsn_leads_to_a_replica_does_not_start(ground: Ground) -> None:
    with pytest.raises(AssertionError, match="hot standby"), running(ground.world, dsn=ground.replica_dsn):
        pass


def test_a_promoted_replica_is_the_primary_and_what_was_lost_is_not_kept(tmp_path: Path) -> None:
    """The changes that the failover lost were told of and kept; the history that goes on does not have them."""
    with streaming() as pair:
        ground = prepare(pair, tmp_path)
        name = str(conninfo.conninfo_to_dict(ground.world.dsn)["dbname"])
        lost, known = ground.world.issue(ground.issuer), ground.world.issue(ground.issuer)
        pair.catch_up()
        either = conninfo.make_conninfo(
            host="127.0.0.1,127.0.0.1", port=f"{pair.primary.port},{pair.replica.port}", dbname=name, user=ROLE
        )
        with running(ground.world, dsn=either, replica_dsn=ground.replica_dsn) as responder:
            # Nothing of this leaves the primary: neither its replica nor anybody else ever gets it.
            pair.replica.execute("ALTER SYSTEM SET primary_conninfo = ''")
            pair.replica.execute("SELECT pg_reload_conf()")
            until(lambda: pair.replica.execute("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])
            seen_by_all(responder, ground.issuer, lost, "revoked", since=ground.revoke(lost))
            pair.primary.stop("immediate")
            pair.replica.promote()
            until(lambda: responder.status(ground.issuer, known) == "good", seconds=10)
            until(lambda: responder.events().count("feed.other_history") == 2, seconds=10)
            assert {responder.status(ground.issuer, lost) for _ in range(20)} == {"good"}
            ground.world.dsn = pair.replica.dsn(name)
            seen_by_all(responder, ground.issuer, known, "revoked", since=ground.revoke(known))


# ------------------------------------------------------------------------------------------------- closer to the parts


async def unchanged(_: int) -> None: ...


@dataclass
class Parts:
    """What a worker has: its cache and feed on the primary, and the replica."""

    cache: Cache
    feed: Feed
    replica: Replica


@pytest.fixture
async def parts(pair: Pair, tmp_path: Path) -> AsyncIterator[tuple[Ground, Parts]]:
    ground = await asyncio.to_thread(prepare, pair, tmp_path)
    async with (
        Database(as_role(ground.world.dsn, ROLE), application="tests") as primary,
        Database(ground.replica_dsn, application="tests") as copy,
    ):
        cache, replica = Cache(most=100), Replica(copy)
        yield ground, Parts(cache, Feed(primary, cache, reload=unchanged, counts=Counts(), replica=replica), replica)
    pair.replica.go_on()


async def test_a_row_from_a_replica_says_which_changes_it_covers(parts: tuple[Ground, Parts]) -> None:
    """What the feed told of and the replica lacks would never be told again: such an answer is not to be kept."""
    ground, worker = parts
    serial = await asyncio.to_thread(ground.world.issue, ground.issuer)
    key = (ground.issuer.issuer_id, serial)
    assert (await worker.replica.look_up([key])).rows == {}, "nothing vouches before the first reading"
    await worker.feed.read_once()
    ground.pair.catch_up()
    await asyncio.sleep(0.3)
    current = await worker.replica.look_up([key])
    assert current.rows == {key: Good()}
    assert current.read_in == worker.cache.readings
    ground.pair.replica.hold()
    await asyncio.to_thread(ground.revoke, serial)
    await worker.feed.read_once()
    late = await worker.replica.look_up([key])
    assert late.rows == {key: Good()}, "no more than a second and a half old"
    assert late.read_in < worker.cache.readings
    await asyncio.sleep(1.6)
    await worker.feed.read_once()
    assert (await worker.replica.look_up([key])).rows == {}
    ground.pair.replica.go_on()
    ground.pair.catch_up()
    await asyncio.sleep(0.3)
    assert set((await worker.replica.look_up([key])).rows) == {key}


async def test_the_feed_hears_of_prepared_transactions_and_savepoints(parts: tuple[Ground, Parts]) -> None:
    ground, _ = parts

    async def read(since: Mark | None) -> tuple[Mark, list[int]]:
        async with connect_once(as_role(ground.world.dsn, ROLE), application="tests") as connection:
            reading = await read_changes(connection, since=since, most=10)
            return reading.mark, [serial for _, serial in reading.changed]

    def change(serial: int, *more: str) -> None:
        with psycopg.connect(ground.world.dsn, autocommit=True) as connection:
            connection.execute("BEGIN")
            for _ in range(100):  # more than a snapshot lists of one transaction's parts
                connection.execute("SAVEPOINT a")
                connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS t (x integer)" if not more else "SELECT 1")
            connection.execute(
                "INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)"
                " VALUES (%s, %s, 'good', now(), now(), false)",
                (ground.issuer.issuer_id, serial_octets(serial)),
            )
            connection.execute((more[0] if more else "COMMIT").encode())

    mark, _ = await read(None)
    await asyncio.to_thread(change, 1, "PREPARE TRANSACTION 'p'")
    await asyncio.to_thread(change, 2)
    mark, told = await read(mark)
    assert told == [2]
    await asyncio.to_thread(ground.world.execute, "COMMIT PREPARED 'p'")
    mark, told = await read(mark)
    assert told == [1]
    mark, told = await read(mark)
    assert told == []


async def test_a_place_is_named_on_either_server(parts: tuple[Ground, Parts]) -> None:
    ground, _ = parts
    async with connect_once(as_role(ground.world.dsn, ROLE), application="tests") as primary:
        mark = (await read_changes(primary, since=None, most=1)).mark
        assert not (await read_place(primary)).is_replica
    ground.pair.catch_up()
    async with connect_once(ground.replica_dsn, application="tests") as replica:
        place = await read_place(replica)
        with pytest.raises(psycopg.Error, match="recovery is in progress"):
            await read_changes(replica, since=None, most=1)
    assert place.is_replica
    assert place.lineage == mark.lineage
    assert place.replayed >= mark.flushed
