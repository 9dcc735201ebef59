# SPDX-License-Identifier: Apache-2.0
"""The queue and the table of stored answers, between the steps that a worker takes: nothing twice, nothing untrue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from responder.ocsp.policy import DEFAULT_POLICY
from responder.presign.portion import Portion, sign_portion
from responder.runtime.db import Connection, connect_once
from responder.signing.keyring import load_keyring
from responder.signing.keys import Keys
from responder.status.model import Good, Reason, Revoked
from responder.status.presigned import Due, Scope, Stored
from responder.status.presigned_store import (
    horizon,
    look_up_stored,
    queue_due,
    queued,
    still_due,
    store_answers,
    take_job,
)
from responder.status.store import set_revoked
from responder.stored import WhyNot, why_not
from tests.responder.presign.signing_ahead import FIRST, add_issuer, fill
from tests.responder.running import World

REVOKED = Revoked(datetime(2026, 2, 1, tzinfo=UTC), Reason.KEY_COMPROMISE)


def scope(issuer_id: int) -> Scope:
    return Scope(issuers=(issuer_id,), hash_names=("sha1",), lead=timedelta(hours=2), asked_within=None)


async def plan(connection: Connection, issuer_id: int, *, since: int | None = None) -> int:
    async with connection.transaction():
        now = datetime.now(UTC)
        return await queue_due(connection, scope(issuer_id), now=now, portion=256, changed_since=since)


async def sign(connection: Connection, due: list[Due]) -> Portion:
    now = datetime.now(UTC)
    keyring = await load_keyring(connection, Keys(), now=now)
    (issuer_id,) = keyring.admitted
    issuer, signer = keyring.who_signs(issuer_id, now=now)
    return await sign_portion(due, issuer=issuer, signer=signer, now=now)


@asynccontextmanager
async def two_connections(world: World) -> AsyncIterator[tuple[Connection, Connection]]:
    async with (
        connect_once(world.dsn, application="tests") as one,
        connect_once(world.dsn, application="tests") as other,
    ):
        yield one, other


async def stored_now(connection: Connection, issuer_id: int) -> Stored:
    (found,) = (await look_up_stored(connection, [(issuer_id, FIRST, "sha1")])).values()
    return found


def enter(world: World) -> int:
    issuer = add_issuer(world)
    fill(world, issuer, 1)
    return issuer.issuer_id


def test_a_row_revoked_between_reading_and_storing_leaves_no_answer_that_is_used(world: World) -> None:
    issuer_id = enter(world)

    async def play() -> None:
        async with two_connections(world) as (worker, person):
            seen = await horizon(person)
            assert await plan(worker, issuer_id) == 1
            async with worker.transaction():
                job = await take_job(worker, [issuer_id])
                assert job is not None
                due = await still_due(worker, job, scope(issuer_id), now=datetime.now(UTC))
                assert [each.status for each in due] == [Good()]
                await set_revoked(person, (issuer_id, FIRST), REVOKED)
                assert await store_answers(worker, (await sign(worker, due)).made) == 1
            found = await stored_now(person, issuer_id)
            assert (found.signed, found.status) == (Good(), REVOKED)
            now = datetime.now(UTC)
            assert why_not(found, policy=DEFAULT_POLICY, now=now, when_due=True) is WhyNot.MOVED
            # Whoever follows the feed queues it at once, and as urgent.
            assert await plan(worker, issuer_id, since=seen) == 1
            rows = await person.execute("SELECT urgent FROM ocsp.presign_job")
            assert await rows.fetchall() == [(True,)]

    asyncio.run(play())


def test_what_somebody_is_signing_is_not_planned_again_and_nobody_else_gets_it(world: World) -> None:
    issuer_id = enter(world)

    async def play() -> None:
        async with two_connections(world) as (worker, other):
            assert await plan(other, issuer_id) == 1
            async with worker.transaction():
                job = await take_job(worker, [issuer_id])
                assert job is not None
                assert await take_job(other, [issuer_id]) is None
                assert await plan(other, issuer_id) == 0
                due = await still_due(worker, job, scope(issuer_id), now=datetime.now(UTC))
                await store_answers(worker, (await sign(worker, due)).made)
            assert await plan(other, issuer_id) == 0
            assert await queued(other, [issuer_id]) == 0

    asyncio.run(play())


def test_whoever_fails_gives_the_portion_back(world: World) -> None:
    issuer_id = enter(world)

    async def play() -> None:
        async with two_connections(world) as (worker, other):
            await plan(other, issuer_id)
            async with worker.transaction(force_rollback=True):
                assert await take_job(worker, [issuer_id]) is not None
            assert await take_job(other, [issuer_id]) is not None

    asyncio.run(play())


def test_an_older_answer_does_not_replace_a_newer_one(world: World) -> None:
    issuer_id = enter(world)

    async def play() -> None:
        async with two_connections(world) as (worker, other):
            portion = await sign(worker, [Due(FIRST, "sha1", Good())])
            newer = replace(portion.made, this_update=portion.made.this_update + timedelta(seconds=1))
            assert await store_answers(worker, newer) == 1
            assert await store_answers(other, portion.made) == 0
            assert (await stored_now(other, issuer_id)).this_update == newer.this_update

    asyncio.run(play())


def test_a_revocation_is_queued_again_though_the_certificate_waits_already(world: World) -> None:
    """What waits as ordinary work must not hold up a revocation; whichever comes second finds nothing left to do."""
    issuer_id = enter(world)

    async def play() -> None:
        async with two_connections(world) as (worker, person):
            assert await plan(person, issuer_id) == 1
            await set_revoked(person, (issuer_id, FIRST), REVOKED)
            assert await plan(person, issuer_id) == 1
            assert await plan(person, issuer_id) == 0
            first, second = await take_job(worker, [issuer_id]), await take_job(worker, [issuer_id])
            assert first is not None
            assert second is not None
            due = await still_due(worker, first, scope(issuer_id), now=datetime.now(UTC))
            assert [each.status for each in due] == [REVOKED]
            await store_answers(worker, (await sign(worker, due)).made)
            assert await still_due(worker, second, scope(issuer_id), now=datetime.now(UTC)) == []

    asyncio.run(play())
