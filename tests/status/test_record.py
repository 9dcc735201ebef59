# SPDX-License-Identifier: Apache-2.0
"""The one routine that writes rows, and the feed that tells of them: replays, races, and transactions left open."""

import asyncio
from datetime import UTC, datetime
from functools import cache
from typing import Any

import psycopg
import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.ca import Authority
from responder.runtime.db import Database, DatabaseRefused
from responder.status import store
from responder.status.feed_store import Mark, read_changes
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace, Issued, Quarantined, QuarantineReason, Reason, Revoked, Sighting
from responder.status.record import record_issued
from tests import served
from tests.status.conftest import Owner


@cache
def certificates(ca: Authority) -> tuple[x509.Certificate, ...]:
    return tuple(ca.precertificate(f"{number}.example", key=ca.key) for number in range(20))


def issued_by(ca: Authority, issuers: IssuerSet) -> list[Issued]:
    return [served.proven(certificate, issuers) for certificate in certificates(ca)]


async def enter(database: Database, *names: str) -> list[int]:
    found = []
    for name in names:
        query = "INSERT INTO ocsp.source (name, kind, required) VALUES (%(name)s, 'spool', true) RETURNING source_id"
        found.append((await served.rows(database, query, {"name": name}))[0][0])
    return found


def junk(number: int) -> Quarantined:
    place = FilePlace(file="x", offset=number)
    return Quarantined(place=place, reason=QuarantineReason.UNPARSABLE, detail="a\0b", raw=b"junk %d" % number)


async def test_replaying_changes_nothing_at_all(
    database: Database, ca: Authority, issuers: IssuerSet, dsn: str
) -> None:
    (source,) = await enter(database, "a")
    sightings = [served.in_log(each, index) for index, each in enumerate(issued_by(ca, issuers))]
    async with database.transaction() as connection:
        first = await record_issued(connection, source, sightings, [junk(1), junk(2)])
    assert (len(first.rows), first.sightings, first.quarantined, first.reused) == (20, 20, 2, ())
    before = served.dump(dsn)
    for again in (sightings, sightings[::-1], sightings[3:5]):
        async with database.transaction() as connection:
            recorded = await record_issued(connection, source, again, [junk(2)])
        assert (recorded.rows, recorded.sightings, recorded.quarantined, recorded.reused) == ((), 0, 0, ())
    assert served.dump(dsn) == before


async def test_a_revoked_row_is_never_revived(database: Database, ca: Authority, issuers: IssuerSet) -> None:
    (first, second) = await enter(database, "a", "b")
    issued = issued_by(ca, issuers)[0]
    key = (issued.issuer_id, issued.serial)
    revoked = Revoked(datetime(2026, 3, 1, tzinfo=UTC), Reason.KEY_COMPROMISE)
    async with database.transaction() as connection:
        await record_issued(connection, first, [served.in_file(issued)])
        await store.set_revoked(connection, key, revoked)
    for source in (first, second):
        async with database.transaction() as connection:
            recorded = await record_issued(connection, source, [served.in_file(issued)])
            assert recorded.rows == ()
            assert await store.look_up(connection, [key]) == {key: revoked}


async def test_a_reserved_serial_turns_good_with_its_proof(
    database: Database, ca: Authority, issuers: IssuerSet
) -> None:
    (source,) = await enter(database, "a")
    issued = issued_by(ca, issuers)[0]
    key = (issued.issuer_id, issued.serial)
    async with database.transaction() as connection:
        await store.reserve(connection, key)
        assert (await record_issued(connection, source, [served.in_file(issued)])).rows == (issued,)
        assert [change["new_status"] for change in await store.show_changes(connection, key)] == ["pending", "good"]


async def test_a_failed_transaction_leaves_nothing(
    database: Database, ca: Authority, issuers: IssuerSet, dsn: str
) -> None:
    (source,) = await enter(database, "a")
    before = served.dump(dsn)
    with pytest.raises(DatabaseRefused):  # noqa: PT012 - the transaction around both is what is tried
        async with database.transaction() as connection:
            await record_issued(connection, source, [served.in_file(issued_by(ca, issuers)[0])], [junk(1)])
            await connection.execute("SELECT 1 / 0")
    assert served.dump(dsn) == before


async def test_writers_of_the_same_things_in_opposite_orders_do_not_wait_for_each_other(
    database: Database, ca: Authority, issuers: IssuerSet, dsn: str
) -> None:
    """One source, so that rows, sightings and evidence all collide; rows that are there already take no lock."""
    (source, other) = await enter(database, "a", "b")
    issued = issued_by(ca, issuers)
    async with database.transaction() as connection:
        await record_issued(connection, other, [served.in_file(each) for each in issued[:10]])

    async def write(rounds: list[list[Sighting]]) -> int:
        written = 0
        async with await psycopg.AsyncConnection[tuple[Any, ...]].connect(dsn, autocommit=True) as connection:
            for sightings in rounds:
                async with connection.transaction():
                    evidence = [junk(sighting.issued.serial % 1000) for sighting in sightings]
                    written += (await record_issued(connection, source, sightings, evidence)).sightings
        return written

    for begin in range(0, 20, 4):
        sightings = [served.in_file(each) for each in issued[begin : begin + 4] + issued[:2]]
        async with asyncio.timeout(10):
            await asyncio.gather(*(write([sightings[::way], sightings[::-way]]) for way in (1, -1, 1, -1)))
    assert await served.rows(database, "SELECT count(*) FROM ocsp.sighting") == [(30,)]


async def test_rows_sightings_and_evidence_are_locked_in_one_order_whatever_order_they_come_in(
    database: Database, ca: Authority, issuers: IssuerSet, owner: Owner
) -> None:
    (source, other) = await enter(database, "a", "b")
    issued = sorted(issued_by(ca, issuers)[:6], key=lambda each: -each.serial)
    for way, place in ((1, source), (-1, other)):
        async with database.transaction() as connection:
            sightings = [served.in_file(each) for each in issued][::way]
            await record_issued(connection, place, sightings, [junk(number) for number in range(6)][::way])
    changes = owner.execute("SELECT serial FROM ocsp.status_change ORDER BY change_id").fetchall()
    assert [int.from_bytes(serial) for (serial,) in changes] == [each.serial for each in issued[::-1]]
    for table in ("sighting", "quarantine"):
        query = f"SELECT source_id, sha256 FROM ocsp.{table} ORDER BY {table}_id"  # noqa: S608 - our own names
        found = owner.execute(query.encode()).fetchall()
        orders = [[sha256 for number, sha256 in found if number == place] for place in (source, other)]
        assert orders[0] == orders[1]
        assert len(orders[0]) == 6


async def test_a_serial_used_twice_is_reported_once_whoever_sees_it(
    database: Database, ca: Authority, issuers: IssuerSet
) -> None:
    (first, second) = await enter(database, "a", "b")
    twins = [served.proven(ca.precertificate(f"{each}.example", serial=77, key=ca.key), issuers) for each in "xyz"]
    final = served.proven(ca.certificate_from(x509.load_der_x509_certificate(twins[0].der)), issuers)
    key = (twins[0].issuer_id, 77)
    async with database.transaction() as connection:
        # A precertificate and its certificate are one issuance.
        recorded = await record_issued(connection, first, [served.in_file(each) for each in (twins[0], final)])
        assert (len(recorded.rows), recorded.reused) == (1, ())
    reports = []
    for source, each in (
        (first, twins[1]),
        (first, twins[1]),
        (second, twins[0]),
        (second, twins[1]),
        (first, twins[2]),
    ):
        async with database.transaction() as connection:
            reports.append((await record_issued(connection, source, [served.in_file(each)])).reused)
    assert reports == [(key,), (), (), (), ()]
    findings = await served.rows(database, "SELECT kind, severity, serial FROM ocsp.finding")
    assert findings == [("serial_reused", "critical", b"\x4d")]
    assert await served.rows(database, "SELECT count(*) FROM ocsp.certificate") == [(1,)]
    assert await served.rows(database, "SELECT count(*) FROM ocsp.document") == [(4,)]


# ---------------------------------------------------------------------------------------------------- the change feed


def change(connection: psycopg.Connection[Any], serial: int) -> None:
    connection.execute(
        "INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)"
        " VALUES (1, %s, 'good', now(), now(), false)",
        (serial.to_bytes(3).lstrip(b"\0"),),
    )


class Reader:
    """A reader of the feed that keeps what the interface asks it to keep."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.found: list[int] = []

    async def read(self, database: Database) -> None:
        async with database.connection() as connection:
            reading = await read_changes(connection, since=self.mark, most=1000)
        assert self.mark is None or reading.mark.newest >= self.mark.newest
        self.mark = reading.mark
        self.found.extend(serial for _, serial in reading.changed)


async def test_a_change_that_commits_after_later_ones_is_not_skipped(
    database: Database, owner: Owner, dsn: str
) -> None:
    reader = Reader()
    await reader.read(database)
    with psycopg.connect(dsn) as a, psycopg.connect(dsn) as b:
        change(a, 1)
        change(b, 2)
        b.commit()
        await reader.read(database)
        assert reader.found == [2]
        a.commit()
        await reader.read(database)
        await reader.read(database)
    assert reader.found == [2, 1]


async def test_a_transaction_that_began_before_the_first_reading_is_not_skipped(
    database: Database, owner: Owner, dsn: str
) -> None:
    reader = Reader()
    with psycopg.connect(dsn) as a:
        change(a, 1)
        await reader.read(database)
        a.commit()
        await reader.read(database)
    assert reader.found == [1]


async def test_corrections_and_reservations_are_told_and_rolled_back_work_is_not(
    database: Database, owner: Owner, dsn: str
) -> None:
    reader = Reader()
    await reader.read(database)
    with psycopg.connect(dsn) as a:
        change(a, 3)
        a.rollback()
    change(owner, 1)
    owner.execute("UPDATE ocsp.certificate SET status = 'revoked', revoked_at = '2026-03-01', reason = 1")
    owner.execute("INSERT INTO ocsp.reservation (issuer_id, serial) VALUES (1, '\\x09')")
    await reader.read(database)
    assert reader.found == [1, 1, 9]


# Weighted so that transactions overlap, end in another order than they began, and are read in between.
WHAT = st.sampled_from(["insert", "insert", "commit", "commit", "read", "read", "rollback"])
STEPS = st.lists(st.tuples(st.integers(0, 2), WHAT), min_size=10, max_size=40)


async def test_no_interleaving_of_transactions_makes_a_reader_skip_or_repeat_a_change(
    database: Database, owner: Owner, dsn: str
) -> None:
    serials = iter(range(1, 2**24))
    loop = asyncio.get_running_loop()

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(STEPS)
    def interleave(steps: list[tuple[int, str]]) -> None:
        asyncio.run_coroutine_threadsafe(play(steps), loop).result(timeout=30)

    connections = [psycopg.connect(dsn) for _ in range(3)]

    async def play(steps: list[tuple[int, str]]) -> None:
        reader = Reader()
        await reader.read(database)
        open_changes: list[list[int]] = [[], [], []]
        committed = set[int]()
        for number, what in [*steps, *((number, "commit") for number in range(3)), (0, "read")]:
            match what:
                case "insert":
                    open_changes[number].append(serial := next(serials))
                    change(connections[number], serial)
                case "commit":
                    connections[number].commit()
                    committed.update(open_changes[number])
                    open_changes[number] = []
                case "rollback":
                    connections[number].rollback()
                    open_changes[number] = []
                case _:
                    await reader.read(database)
                    assert set(reader.found) >= committed
        assert sorted(reader.found) == sorted(set(reader.found) & committed)

    try:
        await asyncio.to_thread(interleave)
    finally:
        for connection in connections:
            connection.close()
