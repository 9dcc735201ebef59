# SPDX-License-Identifier: Apache-2.0
"""A log followed over HTTP into PostgreSQL, by both protocols: where reading begins, how it goes on, whom it trusts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from cryptography import x509

from demo.ca import Authority
from demo.log import Log, serve
from reconciler import store, supervisor
from reconciler.ct.source import CtSource
from reconciler.errors import RetrySource
from responder.runtime.db import Database, DatabaseError
from responder.status.record import record_issued
from tests import served
from tests.reconciler.ct.followed import PROTOCOLS, QUICK, Followed, Protocol, source, watched


@cache
def authorities() -> tuple[Authority, Authority]:
    """Return the CA that we serve and somebody else's, with one root."""
    root = Authority.create("Root")
    return Authority.create("Issuing CA", issuer=root), Authority.create("Somebody else's", issuer=root)


@cache
def precertificates() -> tuple[x509.Certificate, ...]:
    """Return precertificates of ours; one key for all, to save time."""
    ca, _ = authorities()
    return tuple(ca.precertificate(f"host{number}.example", key=ca.key) for number in range(12))


@cache
def strangers() -> tuple[x509.Certificate, ...]:
    _, other = authorities()
    return tuple(other.precertificate(f"else{number}.example", key=other.key) for number in range(4))


def fill(log: Log, *, ours: range, noise: int = 0) -> set[int]:
    """Log some of our precertificates after `noise` leaves of somebody else's; return our serials."""
    ca, other = authorities()
    log.auto_publish = False
    for number in range(noise):
        # The same certificate under another timestamp is another leaf; a fresh signature each would take long.
        log._index_of_entry.clear()
        log.add_precertificate(strangers()[number % 4], other.chain, timestamp=log.now() + number)
    for number in ours:
        log.add_precertificate(precertificates()[number], ca.chain)
    log.publish()
    return {precertificates()[number].serial_number for number in ours}


@dataclass
class Ground:
    """A served log and a database that knows our CA."""

    log: Log
    url: str
    database: Database
    protocol: Protocol

    def follow(self, **options: Any) -> Followed:
        return Followed(self.database, source(self.log, self.url, self.protocol, **options), self.log)


@pytest.fixture(params=PROTOCOLS)
async def ground(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Ground]:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(authorities()[0]))
    async with serve(log) as url:
        yield Ground(log, url, database, request.param)


# ----------------------------------------------------------------------------------------------- beginning, going on


async def test_from_the_beginning_every_precertificate_of_ours_earns_its_row_and_no_other(ground: Ground) -> None:
    ours = fill(ground.log, ours=range(3), noise=5)
    followed = ground.follow()
    done = await followed.step()
    assert (done.rows, done.caught_up, done.counts["entries"]) == (3, True, 8)
    assert await followed.serials() == ours
    assert (await followed.row())["verified_size"] == 8
    again = await followed.step()
    assert (again.rows, again.sightings, again.caught_up) == (0, 0, True)


async def test_from_now_on_only_what_is_logged_later_is_read(ground: Ground) -> None:
    fill(ground.log, ours=range(2), noise=3)
    followed = ground.follow(start="now")
    assert (await followed.step()).caught_up
    assert await followed.serials() == set()
    later = fill(ground.log, ours=range(2, 4), noise=1)
    assert (await followed.step()).rows == 2
    assert await followed.serials() == later
    row = await followed.row()
    assert (row["verified_size"], row["position"]) == (8, 8)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
async def test_from_an_index_on_the_rest_is_read(start: int, ground: Ground) -> None:
    fill(ground.log, ours=range(5))
    followed = ground.follow(start=start)
    assert (await followed.step()).caught_up
    assert await followed.serials() == {precertificates()[number].serial_number for number in range(start, 5)}


async def test_an_index_beyond_the_log_waits_until_it_gets_there(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow(start=4)
    with pytest.raises(RetrySource, match="start = 4 lies beyond the log's 2 entries"):
        await followed.step()
    fill(ground.log, ours=range(2, 6))
    assert (await followed.step()).rows == 2


async def test_an_empty_log_is_verified_and_then_followed(ground: Ground) -> None:
    followed = ground.follow()
    assert (await followed.step()).caught_up
    ours = fill(ground.log, ours=range(1))
    await followed.step()
    assert await followed.serials() == ours


async def test_another_process_goes_on_where_the_last_one_stood(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    await ground.follow().step()
    ground.log.requests.clear()
    fill(ground.log, ours=range(2, 4))
    followed = ground.follow()
    done = await followed.step()
    assert (done.rows, done.counts["entries"]) == (2, 2)
    assert (await followed.row())["verified_size"] == 4


async def test_a_name_given_to_a_log_with_another_key_is_refused(ground: Ground, database: Database) -> None:
    fill(ground.log, ours=range(1))
    await ground.follow().step()
    other = Log()
    async with serve(other) as url:
        followed = Followed(database, source(other, url, ground.protocol), ground.log)
        with pytest.raises(RetrySource, match="give the new log a new name"):
            await followed.step()


async def test_long_passes_are_committed_in_batches_and_end_exactly_at_the_head(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes at which the last batch is full, one short, and one over."""
    fill(ground.log, ours=range(4), noise=508)
    followed = ground.follow(batch_entries=64)
    ground.log.max_batch = 64
    done = await followed.step()
    assert (done.rows, done.caught_up, done.counts["entries"]) == (4, True, 512)
    for more in (1, 255):
        fill(ground.log, ours=range(0), noise=more)
        assert (await followed.step()).caught_up
        assert (await followed.row())["verified_size"] == ground.log.published
    # Nobody else is here: a batch committed twice would look as if somebody were.
    said = "".join(capsys.readouterr())
    assert "recorded" in said
    assert "overtaken" not in said


@pytest.mark.parametrize("gzip", [False, True])
async def test_partial_tiles_short_answers_and_compression_make_no_difference(gzip: bool, ground: Ground) -> None:
    ground.log.gzip, ground.log.max_batch, ground.log.align = gzip, 7, True
    followed = ground.follow()
    ours = set[int]()
    for step in range(3):
        ours |= fill(ground.log, ours=range(step * 2, step * 2 + 2), noise=100)
        assert (await followed.step()).caught_up
    assert await followed.serials() == ours


async def test_a_partial_tile_that_is_gone_is_read_from_the_full_one(database: Database) -> None:
    log = Log()
    log.drop_partials = True
    await served.serve(database, "issuing", served.ca_certificate(authorities()[0]))
    async with serve(log) as url:
        ours = fill(log, ours=range(2), noise=100)
        followed = Followed(database, source(log, url, "static"), log)
        # The head that is shown still ends inside a tile that the log has filled meanwhile.
        log.faults.set("frozen")
        ours |= fill(log, ours=range(2, 4), noise=200)
        assert (await followed.step()).caught_up
        assert len(await followed.serials()) == 2
        log.faults.clear()
        assert (await followed.step()).caught_up
        assert await followed.serials() == ours


async def test_one_entry_at_a_time_is_enough(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(authorities()[0]))
    async with serve(log) as url:
        ours = fill(log, ours=range(3), noise=5)
        log.faults.set("short_answer", size=1)
        followed = Followed(database, source(log, url, "rfc6962"), log)
        assert (await followed.step()).caught_up
        assert await followed.serials() == ours


@pytest.mark.parametrize("fault", ["wrong_root", "bad_signature"])
async def test_a_beginning_that_meets_no_root_is_not_kept(fault: str, ground: Ground) -> None:
    fill(ground.log, ours=range(3))
    followed = ground.follow(start="now")
    ground.log.faults.set(fault, endpoint="head")
    done = await followed.step()
    assert done.distrusted is not None
    assert (await followed.row())["position"] is None
    ground.log.faults.clear()
    assert (await followed.step()).caught_up
    fill(ground.log, ours=range(3, 4))
    assert (await followed.step()).rows == 1


async def test_a_right_edge_spoilt_on_the_way_is_asked_for_again(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(authorities()[0]))
    async with serve(log) as url:
        fill(log, ours=range(3))
        followed = Followed(database, source(log, url, "static", start="now"), log)
        log.faults.set("fork", endpoint="tile", times=1)
        done = await followed.step()
        assert (done.distrusted, done.caught_up) == (None, True)


# --------------------------------------------------------------------------------------------- what a log may do to us


TRANSIENT = [
    "status_429", "status_429_date", "status_429_bare", "status_500", "status_503", "hang", "drop", "redirect", "html",
    "gzip_bomb", "truncated", "wrong_length", "slow",
]  # fmt: skip


SETTINGS: dict[str, dict[str, Any]] = {"slow": {"size": 1, "seconds": 0.05}, "gzip_bomb": {"size": 65 << 20}}


@pytest.mark.parametrize("endpoint", ["head", "entries"])
@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_log_that_cannot_answer_is_asked_again_and_nothing_is_lost(
    fault: str, endpoint: str, ground: Ground
) -> None:
    fill(ground.log, ours=range(1), noise=2)
    followed = ground.follow()
    await followed.step()
    ours = fill(ground.log, ours=range(1, 3), noise=2)
    verified_at = (await followed.row())["verified_at"]
    patience = {"seconds": 7} if fault in ("status_429", "status_429_date") else {}
    ground.log.faults.set(fault, endpoint=endpoint, **SETTINGS.get(fault, patience))
    with pytest.raises(RetrySource) as trouble:
        await followed.step()
    if fault in ("status_429", "status_429_date"):
        assert trouble.value.retry_after == pytest.approx(7, abs=1.5)
    else:
        assert trouble.value.retry_after is None
    row = await followed.row()
    assert (row["verified_size"], row["verified_at"], row["distrust_reason"]) == (3, verified_at, None)
    assert row["trouble"]
    ground.log.faults.clear()
    assert (await followed.step()).caught_up
    row = await followed.row()
    assert (row["verified_size"], row["trouble"], row["distrust_reason"]) == (7, None, None)
    assert ours <= await followed.serials()


@pytest.mark.parametrize("fault", ["flip_bit", "bad_length", "unknown_type", "wrong_root", "bad_signature", "fork"])
async def test_an_answer_spoilt_once_costs_no_trust(fault: str, ground: Ground) -> None:
    """It may have been the way to the log; but what the log itself signed is proof as it stands."""
    ours = fill(ground.log, ours=range(3), noise=2)
    endpoint = "head" if fault in ("wrong_root", "bad_signature") else "entries"
    ground.log.faults.set(fault, endpoint=endpoint, times=1, entry=3)
    followed = ground.follow()
    for _ in range(3):
        try:
            done = await followed.step()
        except RetrySource:
            continue
        if done.caught_up:
            break
    assert await followed.serials() == ours
    # A signed head with a wrong root is a lie for ever, whenever the next head tells another root for the same size.
    assert await followed.distrusted() == (None if fault != "wrong_root" else await followed.distrusted())
    assert (await followed.row())["verified_size"] == 5


@pytest.mark.parametrize("entry", [0, 3, 4])
@pytest.mark.parametrize(
    ("fault", "static", "rfc6962"),
    [
        ("flip_bit", "root", "root"),
        ("bad_length", "unreadable_tile", "root"),
        ("unknown_type", "unreadable_tile", "root"),
    ],
)
async def test_a_leaf_that_is_not_what_was_signed_costs_the_log_our_trust(
    fault: str, static: str, rfc6962: str, entry: int, ground: Ground
) -> None:
    ours = fill(ground.log, ours=range(2), noise=3)
    followed = ground.follow()
    ground.log.faults.set(fault, entry=entry)
    for _ in range(3):
        try:
            await followed.step()
        except RetrySource:
            continue
    assert await followed.distrusted() == (static if ground.protocol == "static" else rfc6962)
    assert await followed.proofs()
    # It is read on meanwhile, and once it shows the truth nothing is missing.
    more = fill(ground.log, ours=range(2, 4), noise=300)
    for _ in range(4):
        try:
            await followed.step()
        except RetrySource:
            continue
    assert more <= await followed.serials()
    ground.log.faults.clear()
    followed = ground.follow()
    await followed.step()
    assert ours | more == await followed.serials()
    assert (await followed.row())["verified_size"] == 307
    assert await followed.distrusted() is not None


async def test_two_roots_for_one_size_are_kept_as_proof_and_reading_goes_on(ground: Ground) -> None:
    fill(ground.log, ours=range(2), noise=1)
    followed = ground.follow()
    await followed.step()
    ground.log.faults.set("wrong_root", endpoint="head")
    assert (await followed.step()).distrusted is not None
    assert await followed.distrusted() == "fork"
    proofs = await followed.proofs()
    assert set(proofs) == {"fork/previous", "fork/current"}
    assert proofs["fork/previous"] != proofs["fork/current"]
    ground.log.faults.clear()
    ours = fill(ground.log, ours=range(2, 4))
    await followed.step()
    assert ours <= await followed.serials()
    assert await followed.distrusted() == "fork"


async def test_a_fork_that_grows_is_found_by_its_root_and_its_rows_are_kept(ground: Ground) -> None:
    fill(ground.log, ours=range(2), noise=2)
    followed = ground.follow()
    await followed.step()
    ours = fill(ground.log, ours=range(2, 4))
    ground.log.faults.set("fork", entry=1)
    done = await followed.step()
    assert done.distrusted is not None
    assert await followed.distrusted() == "root"
    assert ours <= await followed.serials()
    assert (await followed.row())["verified_size"] == 4


async def test_a_log_that_shrinks_is_distrusted_and_read_on(ground: Ground) -> None:
    fill(ground.log, ours=range(3))
    followed = ground.follow()
    await followed.step()
    ground.log.faults.set("rollback", size=2)
    assert (await followed.step()).distrusted is not None
    assert await followed.distrusted() == "rollback"
    assert (await followed.row())["verified_size"] == 3
    ground.log.faults.clear()
    ours = fill(ground.log, ours=range(3, 5))
    await followed.step()
    assert ours <= await followed.serials()
    assert set(await followed.proofs()) == {"rollback/previous", "rollback/current"}


async def test_an_old_head_proves_nothing_and_vouches_for_nothing(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow()
    fill(ground.log, ours=range(2, 3))
    await followed.step()
    verified_at = (await followed.row())["verified_at"]
    ground.log.faults.set("replay", size=2)
    with pytest.raises(RetrySource, match="old head"):
        await followed.step()
    row = await followed.row()
    assert (row["distrust_reason"], row["verified_at"], row["verified_size"]) == (None, verified_at, 3)
    ground.log.faults.clear()
    assert (await followed.step()).caught_up


async def test_a_log_that_goes_on_showing_a_smaller_head_is_distrusted(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow(most_head_lag=timedelta(milliseconds=50))
    fill(ground.log, ours=range(2, 3))
    await followed.step()
    ground.log.faults.set("replay", size=2)
    with pytest.raises(RetrySource, match="old head"):
        await followed.step()
    await asyncio.sleep(0.06)
    assert str((await followed.step()).distrusted).startswith("stale_head")
    assert set(await followed.proofs()) == {"stale_head/previous", "stale_head/current"}


async def test_a_replica_that_lags_once_is_not_even_noticed(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow()
    fill(ground.log, ours=range(2, 3))
    await followed.step()
    ground.log.faults.set("replay", size=2, times=2)
    assert (await followed.step()).caught_up


async def test_a_head_older_than_the_merge_delay_no_longer_vouches(ground: Ground) -> None:
    ours = fill(ground.log, ours=range(2))
    ground.log.faults.set("frozen")
    await asyncio.sleep(0.02)
    followed = ground.follow(merge_delay=timedelta(milliseconds=10))
    done = await followed.step()
    assert (done.caught_up, done.distrusted) == (False, None)
    row = await followed.row()
    assert (row["verified_size"], row["verified_at"], row["stale"]) == (2, None, True)
    assert await followed.serials() == ours


async def test_a_head_from_the_future_does_not_vouch_and_shows_its_rows(ground: Ground) -> None:
    ours = fill(ground.log, ours=range(2))
    ground.log.faults.set("future")
    followed = ground.follow()
    done = await followed.step()
    assert (done.caught_up, done.distrusted) == (False, None)
    assert await followed.serials() == ours
    # A larger tree under an earlier time contradicts it: that is for the log to explain. Its rows are read.
    ground.log.faults.clear()
    more = fill(ground.log, ours=range(2, 3))
    assert (await followed.step()).distrusted is not None
    assert await followed.distrusted() == "rollback"
    assert await followed.serials() == ours | more


@pytest.mark.parametrize("size", [1 << 40, 1 << 60, (1 << 64) - 1])
async def test_an_absurd_size_leads_nowhere_and_costs_no_row(size: int, ground: Ground) -> None:
    fill(ground.log, ours=range(1), noise=600)
    followed = ground.follow(batch_entries=256)
    ground.log.max_batch = 256
    ground.log.faults.set("absurd_size", size=size)
    with pytest.raises(RetrySource):
        await followed.step()
    ground.log.faults.clear()
    ours = fill(ground.log, ours=range(1, 3))
    done = await followed.step()
    assert ours <= await followed.serials()
    assert (await followed.row())["verified_size"] == 603
    # Where the head got as far as the table, the next honest one contradicts it.
    assert done.distrusted is None or done.distrusted.startswith("rollback")


async def test_a_later_contradiction_of_another_kind_is_kept_as_well(ground: Ground) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow()
    await followed.step()
    for fault in ("rollback", "wrong_root", "bad_signature"):
        ground.log.faults.set(fault, endpoint="head", size=1)
        for _ in range(2):
            assert (await followed.step()).distrusted is not None
        ground.log.faults.clear()
        await followed.step()
    kinds = {name.partition("/")[0] for name in await followed.proofs()}
    assert kinds == {"rollback", "fork", "head_signature"}
    findings = await served.rows(ground.database, "SELECT kind, severity FROM ocsp.finding")
    assert findings == [("distrusted", "critical")]


async def test_a_distrusted_log_is_not_hammered(ground: Ground) -> None:
    fill(ground.log, ours=range(2), noise=30)
    followed = ground.follow()
    ground.log.faults.set("flip_bit", entry=3)
    await followed.step()
    asked = ground.log.requests["entries"]
    for _ in range(5):
        assert (await followed.step()).distrusted is not None
    assert ground.log.requests["entries"] == asked


async def test_a_log_trusted_again_is_read_again_from_what_was_verified(ground: Ground) -> None:
    ours = fill(ground.log, ours=range(2), noise=2)
    followed = ground.follow()
    ground.log.faults.set("flip_bit", entry=2, byte=20)
    await followed.step()
    assert await followed.distrusted() == "root"
    ground.log.faults.clear()
    async with ground.database.transaction() as connection:
        assert await store.trust_again(connection, ground.protocol)
        await store.rewind_log(connection, ground.protocol)
    assert (await ground.follow().step()).caught_up
    assert await followed.distrusted() is None
    assert await followed.serials() == ours


# ------------------------------------------------------------------------------------------------- more than one


async def test_one_bad_log_holds_up_no_other(ground: Ground, database: Database) -> None:
    ours = fill(ground.log, ours=range(2))
    bad, hanging, faulty = Log(), Log(), Log()
    for log in (bad, hanging, faulty):
        fill(log, ours=range(2, 3))
    async with serve(bad) as bad_url, serve(hanging) as hanging_url, serve(faulty) as faulty_url:
        bad.faults.set("bad_signature")
        hanging.faults.set("hang")
        faulty.faults.set("status_503")
        all_of_them = [
            watched(bad, bad_url, ground.protocol, name="bad"),
            watched(ground.log, ground.url, ground.protocol),
            watched(hanging, hanging_url, ground.protocol, name="hanging"),
            watched(faulty, faulty_url, ground.protocol, name="faulty"),
        ]
        behind = await supervisor.once(database, all_of_them, patience=QUICK)
    assert sorted(behind) == ["bad", "faulty", "hanging"]
    rows = await served.rows(database, "SELECT serial FROM ocsp.certificate")
    assert {int.from_bytes(row[0]) for row in rows} == ours
    async with database.connection() as connection:
        states = {row["name"]: row for row in await store.source_states(connection)}
    assert [name for name, row in states.items() if row["distrust_reason"] is not None] == ["bad"]
    assert [name for name, row in states.items() if row["stale"]] == ["bad", "faulty", "hanging"]


async def test_what_the_database_refuses_for_one_source_holds_up_no_other(ground: Ground, database: Database) -> None:
    ours = fill(ground.log, ours=range(2))
    refused = source(ground.log, ground.url, ground.protocol, name="refused")
    refused._log_id = b"too short for the table"
    both = [supervisor.Watched(refused, timedelta(seconds=1)), watched(ground.log, ground.url, ground.protocol)]
    with pytest.raises(DatabaseError, match="ct_position"):
        await supervisor.once(database, both, patience=QUICK)
    rows = await served.rows(database, "SELECT serial FROM ocsp.certificate")
    assert {int.from_bytes(row[0]) for row in rows} == ours


async def test_two_reconcilers_on_one_database_do_no_harm(ground: Ground) -> None:
    ours = set[int]()
    first, second = (ground.follow(batch_entries=16) for _ in range(2))
    ground.log.max_batch = 16
    for step in range(3):
        ours |= fill(ground.log, ours=range(step * 2, step * 2 + 2), noise=60)
        await asyncio.gather(first.step(), second.step())
        await first.step()
        assert (await first.row())["verified_size"] == ground.log.published
    assert await first.serials() == ours
    assert await served.rows(ground.database, "SELECT count(*) FROM ocsp.sighting") == [(6,)]
    assert await first.distrusted() is None


async def test_both_protocols_of_one_log_give_one_row_and_two_sightings(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(authorities()[0]))
    async with serve(log) as url:
        ours = fill(log, ours=range(3))
        assert await supervisor.once(database, [watched(log, url, each) for each in PROTOCOLS]) == []
    rows = await served.rows(
        database,
        "SELECT serial, count(*), count(DISTINCT sha256) FROM ocsp.sighting GROUP BY serial",
    )
    assert {int.from_bytes(serial) for serial, _, _ in rows} == ours
    assert {(number, documents) for _, number, documents in rows} == {(2, 1)}


async def test_run_follows_a_growing_log_until_it_is_told_to_stop(ground: Ground, database: Database) -> None:
    running = asyncio.create_task(
        supervisor.run(
            database,
            [watched(ground.log, ground.url, ground.protocol)],
            orphan_after=timedelta(minutes=5),
            patience=QUICK,
        )
    )
    ours = set[int]()
    for step in range(3):
        ours |= fill(ground.log, ours=range(step, step + 1))
        if step == 1:
            ground.log.faults.set("status_500", times=2)
        async with asyncio.timeout(10):
            while len(await served.rows(database, "SELECT 1 FROM ocsp.certificate")) < len(ours):  # noqa: ASYNC110 - another task's work
                await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_revoked_row_stays_revoked_however_often_its_log_is_read(ground: Ground, database: Database) -> None:
    ours = fill(ground.log, ours=range(1))
    followed = ground.follow()
    await followed.step()
    async with database.transaction() as connection:
        await connection.execute(
            "UPDATE ocsp.certificate SET status = 'revoked', revoked_at = '2026-03-01', reason = 1"
        )
    await followed.check_invariants()
    again = ground.follow(name="another name for the same log")
    again.seen = followed.seen
    assert (await again.step()).sightings == 1
    assert await again.serials() == ours
    assert await served.rows(database, "SELECT status FROM ocsp.certificate") == [("revoked",)]


async def test_a_source_without_an_ending_leaves_no_request_behind(ground: Ground, database: Database) -> None:
    """A commit that fails ends the pass, and the tiles asked for ahead with it."""
    fill(ground.log, ours=range(1), noise=600)
    followed = ground.follow(batch_entries=16)
    ground.log.max_batch = 16
    original = CtSource.committed

    async def fail(self: CtSource, batch: object) -> None:
        raise RuntimeError("on purpose")

    CtSource.committed = fail  # type: ignore[method-assign]  # put back below
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            await followed.step()
    finally:
        CtSource.committed = original  # type: ignore[method-assign]  # what it was
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [task for task in others if "_tile" in repr(task)] == []
    assert (await followed.step()).caught_up


async def test_recording_twice_what_a_log_showed_changes_nothing(ground: Ground, database: Database, dsn: str) -> None:
    fill(ground.log, ours=range(2))
    followed = ground.follow()
    await followed.step()
    before = served.dump(dsn)
    issuers = await served.served(database)
    async with database.transaction() as connection:
        sightings = [served.in_log(served.proven(precertificates()[number], issuers), number) for number in range(2)]
        recorded = await record_issued(connection, followed.source_id, sightings)
    assert (recorded.rows, recorded.sightings, recorded.reused) == ((), 0, ())
    assert served.dump(dsn) == before
