# SPDX-License-Identifier: Apache-2.0
"""Purging: bounded batches, never before what was promised, whoever writes; and the table's own word on policies."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from responder.runtime.db import connect_once
from responder.status import store
from responder.status.model import Good, Purged
from responder.status.purge import purge
from responder.status.purge_store import MOST_ROWS, count_due, database_time
from tests.conftest import as_role
from tests.status.conftest import Owner

DAY = timedelta(days=1)
# The application's clock is not asked: rows are made some days away from every bound.
LONG_AGO = datetime.now(UTC).replace(microsecond=0) - 100 * DAY


def fill(owner: Owner, issuer_id: int, rows: int, *, not_after: datetime = LONG_AGO, first: int = 1) -> None:
    """Insert this many rows, every third of them revoked."""
    owner.execute(
        "INSERT INTO ocsp.certificate (issuer_id, serial, status, revoked_at, reason, not_before, not_after, is_ca)"
        " SELECT %(issuer_id)s, decode(lpad(to_hex(n + 16777216), 8, '0'), 'hex'),"
        "        CASE WHEN n %% 3 = 0 THEN 'revoked' ELSE 'good' END::ocsp.status,"
        "        CASE WHEN n %% 3 = 0 THEN timestamptz '2026-01-01' END, CASE WHEN n %% 3 = 0 THEN 1 END,"
        "        '2025-01-01', %(not_after)s, false"
        " FROM generate_series(%(first)s::int, %(first)s::int + %(rows)s::int - 1) AS n",
        {"issuer_id": issuer_id, "rows": rows, "first": first, "not_after": not_after},
    )


def statuses(owner: Owner) -> dict[str, int]:
    return dict(owner.execute("SELECT status::text, count(*) FROM ocsp.certificate GROUP BY status").fetchall())


async def run(dsn: str, issuer_id: int, before: datetime) -> tuple[int, list[int]]:
    told: list[int] = []
    async with connect_once(as_role(dsn, "ocsp_admin"), application="tests") as connection:
        done = await purge(connection, issuer_id, before=before, actor="alice", told=told.append)
    return done, told


async def test_rows_are_purged_in_bounded_batches_each_a_transaction(dsn: str, owner: Owner, issuer_id: int) -> None:
    fill(owner, issuer_id, 2 * MOST_ROWS + 5)
    fill(owner, issuer_id, 3, not_after=datetime.now(UTC) + DAY, first=10_000)
    assert await run(dsn, issuer_id, LONG_AGO) == (0, [0]), "notAfter itself does not lie before it"
    assert await run(dsn, issuer_id, LONG_AGO + DAY) == (2 * MOST_ROWS + 5, [MOST_ROWS, MOST_ROWS, 5])
    assert statuses(owner) == {"purged": 2 * MOST_ROWS + 5, "good": 2, "revoked": 1}
    rows = owner.execute(
        "SELECT xid::text, count(*) FROM ocsp.status_change WHERE new_status = 'purged' AND actor = 'alice'"
        " AND old_status IN ('good', 'revoked') AND changed_by = 'ocsp_admin' GROUP BY xid ORDER BY min(change_id)"
    ).fetchall()
    assert [number for _, number in rows] == [MOST_ROWS, MOST_ROWS, 5]
    assert await run(dsn, issuer_id, LONG_AGO + DAY) == (0, [0])


async def test_what_is_due_is_counted_and_found_by_an_index_of_its_own(dsn: str, owner: Owner, issuer_id: int) -> None:
    fill(owner, issuer_id, 50)
    fill(owner, issuer_id, 5000, not_after=datetime.now(UTC) + DAY, first=1000)
    async with connect_once(dsn, application="tests") as connection:
        assert await count_due(connection, issuer_id, before=LONG_AGO + DAY) == 50
        assert await count_due(connection, issuer_id, before=LONG_AGO) == 0
        assert abs(await database_time(connection) - datetime.now(UTC)) < timedelta(minutes=5)
    owner.execute("ANALYZE ocsp.certificate")
    plan = owner.execute(
        "EXPLAIN SELECT issuer_id, serial FROM ocsp.certificate WHERE issuer_id = %s AND not_after < %s"
        " AND status <> 'purged' ORDER BY not_after, serial LIMIT 1000 FOR NO KEY UPDATE",
        (issuer_id, LONG_AGO + DAY),
    ).fetchall()
    assert any("certificate_to_purge" in line for (line,) in plan), plan


async def test_two_purges_at_once_do_the_work_once(dsn: str, owner: Owner, issuer_id: int) -> None:
    fill(owner, issuer_id, 1500)
    done = await asyncio.gather(*(run(dsn, issuer_id, LONG_AGO + DAY) for _ in range(3)))
    assert sum(rows for rows, _ in done) <= 1500
    await run(dsn, issuer_id, LONG_AGO + DAY)
    assert statuses(owner) == {"purged": 1500}
    changes = owner.execute("SELECT count(*) FROM ocsp.status_change WHERE new_status = 'purged'").fetchone()
    assert changes == (1500,), "no row was purged twice"


async def test_a_purge_that_is_cut_off_goes_on_where_it_stopped(dsn: str, owner: Owner, issuer_id: int) -> None:
    fill(owner, issuer_id, 2 * MOST_ROWS)

    def stop(rows: int) -> None:
        raise KeyboardInterrupt(rows)

    async with connect_once(dsn, application="tests") as connection:
        with pytest.raises(KeyboardInterrupt):
            await purge(connection, issuer_id, before=LONG_AGO + DAY, actor="alice", told=stop)
    assert statuses(owner)["purged"] == MOST_ROWS, "what was told of is committed"
    assert await run(dsn, issuer_id, LONG_AGO + DAY) == (MOST_ROWS, [MOST_ROWS, 0])


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ("retention_seconds = 86400 * 99", False),
        ("retention_seconds = 86400 * 101", True),
        ("archive_cutoff_seconds = 86400 * 99", False),
        ("archive_cutoff_seconds = 86400 * 101", True),
    ],
)
async def test_the_table_refuses_to_purge_before_what_the_issuer_promised(
    dsn: str, owner: Owner, issuer_id: int, policy: str, refused: bool
) -> None:
    fill(owner, issuer_id, 2)
    owner.execute(f"UPDATE ocsp.issuer SET {policy}".encode())  # noqa: S608 - our own words
    statement = "UPDATE ocsp.certificate SET status = 'purged'"
    if refused:
        with pytest.raises(psycopg.errors.RestrictViolation, match="before the issuer's retention is over"):
            owner.execute(statement)
    else:
        owner.execute(statement)
        async with connect_once(dsn, application="tests") as connection:
            found = await store.look_up(connection, [(issuer_id, 16777217), (issuer_id, 1)])
        assert found == {(issuer_id, 16777217): Purged()}


@pytest.mark.parametrize(("hours", "refused"), [(23, True), (25, False)])
def test_a_public_issuers_rows_stay_for_a_day_past_expiry_and_a_private_ones_do_not(
    owner: Owner, issuer_id: int, hours: int, refused: bool
) -> None:
    """BR 4.10.1: until after the Expiry Date."""
    fill(owner, issuer_id, 1, not_after=datetime.now(UTC) - timedelta(hours=hours))
    statement = "UPDATE ocsp.certificate SET status = 'purged'"
    if refused:
        with pytest.raises(psycopg.errors.RestrictViolation, match="before the issuer's retention is over"):
            owner.execute(statement)
        owner.execute("UPDATE ocsp.issuer SET public = false")
    owner.execute(statement)
    assert statuses(owner) == {"purged": 1}


@pytest.mark.parametrize(
    ("policy", "constraint"),
    [
        ("require_signed = true", "public_issuers_answer_everybody"),
        ("retention_seconds = 86399", "public_rows_outlive_expiry_by_a_day"),
        ("retention_seconds = 86400, archive_cutoff_seconds = 86401", "archive_cutoff_within_retention"),
        ("retention_seconds = 0", "issuer_retention_seconds_check"),
        ("archive_cutoff_seconds = 0", "issuer_archive_cutoff_seconds_check"),
        ("nonce = 'on'", "issuer_nonce_check"),
        ("unassigned = 'extended-revoke'", "issuer_check"),
    ],
)
def test_the_table_refuses_a_policy_that_the_rules_forbid_a_public_issuer(
    owner: Owner, issuer_id: int, policy: str, constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        owner.execute(f"UPDATE ocsp.issuer SET {policy} WHERE issuer_id = {issuer_id}".encode())  # noqa: S608 - our own words
    assert (refused.value.diag.constraint_name or "").startswith(constraint)


async def test_a_good_row_beside_a_purged_one_is_left_alone(dsn: str, owner: Owner, issuer_id: int) -> None:
    fill(owner, issuer_id, 1, not_after=datetime.now(UTC) - 30 * DAY)
    fill(owner, issuer_id, 1, first=2)
    assert await run(dsn, issuer_id, LONG_AGO + DAY) == (1, [1])
    async with connect_once(dsn, application="tests") as connection:
        found = await store.look_up(connection, [(issuer_id, 16777216 + serial) for serial in (1, 2)])
    assert list(found.values()) == [Good(), Purged()]
