# SPDX-License-Identifier: Apache-2.0
"""Signing ahead: everything that is due once, whoever is killed, and nothing that is not due."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from responder.status.model import Reason, Revoked
from tests.responder.presign.signing_ahead import (
    add_issuer,
    count,
    ended,
    fill,
    octets,
    presign,
    revoke_all,
    start,
    statuses,
    stored,
    watching,
)
from tests.responder.running import World, revoked, until


def test_everything_is_signed_once_and_then_nothing_is_due(world: World) -> None:
    issuer = add_issuer(world)
    serials = fill(world, issuer, 700)
    world.revoke(issuer, serials[5], revoked(Reason.SUPERSEDED, ca=issuer.ca))
    first = presign(world, "--workers", "2")
    assert (first.code, first.summary["signed"], first.summary["left"]) == (0, 700, 0)
    found = stored(world, issuer)
    assert sorted(found) == [(serial, "sha1") for serial in serials]
    assert found[serials[5], "sha1"].certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert statuses(found, serials[:5] + serials[6:]) == {"GOOD"}
    again = presign(world, "--workers", "2")
    assert (again.code, again.summary["signed"], again.summary["left"]) == (0, 0, 0)


def test_both_hashes_are_signed_where_that_is_wanted(world: World) -> None:
    issuer = add_issuer(world, kind="rsa2048")
    serials = fill(world, issuer, 20)
    assert presign(world, presigned='hashes = ["sha1", "sha256"]').summary["signed"] == 40
    found = stored(world, issuer)
    assert sorted(found) == [(serial, name) for serial in serials for name in ("sha1", "sha256")]
    for (serial, name), answer in found.items():
        assert (answer.serial_number, answer.hash_algorithm.name) == (serial, name)


def test_a_run_killed_in_the_middle_is_gone_on_with_and_loses_nothing(world: World) -> None:
    issuer = add_issuer(world, kind="rsa4096")
    fill(world, issuer, 1500)
    process = start(world, "--json", "--workers", "2")
    until(lambda: count(world) > 0)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.communicate()
    # Workers end by themselves: nobody told them to, and nobody is left who could.
    until(lambda: not any(_is_running(pid) for pid in workers))
    before = count(world)
    assert 0 < before < 1500
    assert before % 256 == 0, "a portion is stored whole or not at all"
    rest = presign(world, "--workers", "2")
    assert (rest.code, rest.summary["signed"], count(world)) == (0, 1500 - before, 1500)


def test_a_worker_that_is_killed_is_replaced_and_its_portion_signed_by_another(world: World) -> None:
    issuer = add_issuer(world, kind="rsa4096")
    fill(world, issuer, 1200)
    process = start(world, "--json", "--workers", "2")
    until(lambda: count(world) > 0)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    run = ended(process)
    assert (run.code, run.summary["left"], count(world)) == (0, 0, 1200)
    assert "presign.worker_died" in [line["event"] for line in run.lines]


def test_two_presigners_at_once_sign_each_answer_once(world: World) -> None:
    issuer = add_issuer(world)
    fill(world, issuer, 4000)
    runs = [ended(each) for each in [start(world, "--json", "--workers", "1") for _ in range(2)]]
    assert [run.code for run in runs] == [0, 0]
    assert sum(run.summary["signed"] for run in runs) == 4000
    assert count(world) == 4000


def test_what_was_revoked_since_is_signed_anew_and_first(world: World) -> None:
    issuer = add_issuer(world)
    serials = fill(world, issuer, 600)
    presign(world)
    world.revoke(issuer, serials[7], revoked(Reason.SUPERSEDED, ca=issuer.ca))
    more = fill(world, issuer, 600, first=0x52 << 64)
    # The queue as the plan leaves it, with nobody there to empty it: the signer's key is away.
    world.execute("UPDATE ocsp.signer SET key_location = 'file:/nowhere'")
    assert presign(world).code == 1
    queue = world.execute("SELECT urgent, serials FROM ocsp.presign_job ORDER BY urgent DESC, job_id")
    assert queue[0] == (True, [octets(serials[7])])
    assert [urgent for urgent, _ in queue[1:]] == [False] * 3
    assert sum(len(portion) for _, portion in queue[1:]) == len(more)


def test_an_answer_is_signed_anew_ahead_of_its_refresh_time_and_not_before(world: World) -> None:
    issuer = add_issuer(world)
    fill(world, issuer, 10)
    presign(world)
    for age, due in ((timedelta(hours=33), 0), (timedelta(hours=34, minutes=5), 10)):
        world.execute(
            """
            UPDATE ocsp.stored_answer SET this_update = now() - %s, refresh_at = now() - %s + interval '36 hours',
                   next_update = now() - %s + interval '96 hours' - interval '1 second'
            """,
            age, age, age,
        )  # fmt: skip
        assert presign(world).summary["signed"] == due


def test_a_shorter_policy_has_everything_signed_anew(world: World) -> None:
    issuer = add_issuer(world)
    fill(world, issuer, 10)
    presign(world)
    world.execute("UPDATE ocsp.issuer SET validity_seconds = 86400, refresh_seconds = 36000, max_age_seconds = 3600")
    assert presign(world).summary["signed"] == 10
    assert presign(world).summary["signed"] == 0
    (answer, *_) = stored(world, issuer).values()
    assert answer.next_update_utc is not None
    assert answer.next_update_utc - answer.this_update_utc == timedelta(days=1, seconds=-1)


def test_a_new_signer_signs_everything_anew(world: World) -> None:
    issuer = add_issuer(world)
    fill(world, issuer, 10)
    presign(world)
    certificate, key = issuer.ca.issue_responder()
    world.add_signer(issuer, certificate, key)
    assert presign(world).summary["signed"] == 10
    assert {answer.certificates[0] for answer in stored(world, issuer).values()} == {certificate}


def test_expired_and_purged_certificates_are_not_signed_and_their_answers_are_deleted(world: World) -> None:
    issuer = add_issuer(world)
    gone = [world.issue(issuer, ago=timedelta(days=2)), world.issue(issuer, ago=timedelta(days=3))]
    world.purge(issuer, gone[1])
    (kept, ended_) = fill(world, issuer, 2)
    presign(world)
    assert sorted(serial for serial, _ in stored(world, issuer)) == [kept, ended_]
    world.execute(
        "INSERT INTO ocsp.stored_answer SELECT issuer_id, %s, hash, status, revoked_at, reason, this_update,"
        " next_update, refresh_at, signer_id, archive_cutoff_seconds, body FROM ocsp.stored_answer WHERE serial = %s",
        octets(gone[0]), octets(kept),
    )  # fmt: skip
    assert presign(world).summary["dropped"] == 1
    assert count(world) == 2


def test_only_what_was_asked_for_lately_is_signed_where_that_is_wanted(world: World) -> None:
    issuer = add_issuer(world)
    lately, long_ago, _never = fill(world, issuer, 3)
    for serial, days in ((lately, 1), (long_ago, 30)):
        world.execute(
            "INSERT INTO ocsp.asked VALUES (%s, %s, now() - make_interval(days => %s))",
            issuer.issuer_id, octets(serial), days,
        )  # fmt: skip
    assert presign(world, presigned='keep = "asked"').summary["signed"] == 1
    assert list(stored(world, issuer)) == [(lately, "sha1")]
    assert presign(world, "--asked", "60").summary["signed"] == 1
    assert presign(world, "--all", presigned='keep = "asked"').summary["signed"] == 1


def test_issuers_are_named_and_an_unknown_name_is_refused_with_those_there_are(world: World) -> None:
    first, second = add_issuer(world, "first"), add_issuer(world, "second")
    fill(world, first, 3)
    fill(world, second, 3)
    assert presign(world, "--issuer", "first").summary["signed"] == 3
    assert len(stored(world, first)) == 3
    assert stored(world, second) == {}
    process = start(world, "--issuer", "third")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.rstrip().endswith("no issuer 'third' with an active signer; those that have one: first, second")


def test_a_signer_that_cannot_sign_leaves_the_rest_to_others_and_says_so(world: World) -> None:
    dead, alive = add_issuer(world, "dead"), add_issuer(world, "alive")
    fill(world, dead, 300)
    fill(world, alive, 300)
    world.execute("UPDATE ocsp.signer SET key_location = 'file:/nowhere' WHERE issuer_id = %s", dead.issuer_id)
    run = presign(world, "--workers", "1")
    assert (run.code, run.summary["signed"], run.summary["left"]) == (1, 300, 300)
    assert "dead" in run.summary["trouble"]
    assert len(stored(world, alive)) == 300


def test_a_reason_that_must_not_be_given_is_refused_alone(world: World) -> None:
    """The table would not take it for a public issuer, so the issuer turns public behind its back."""
    issuer = add_issuer(world)
    serials = fill(world, issuer, 5)
    world.execute("ALTER TABLE ocsp.issuer DISABLE TRIGGER guard")
    world.execute("UPDATE ocsp.issuer SET public = false")
    world.revoke(issuer, serials[2], Revoked(revoked(Reason.SUPERSEDED, ca=issuer.ca).at, Reason.CERTIFICATE_HOLD))
    world.execute("UPDATE ocsp.issuer SET public = true")
    run = presign(world)
    assert (run.code, run.summary["signed"], run.summary["refused"]) == (1, 4, 1)
    (refused,) = [line for line in run.lines if line["event"] == "presign.refused"]
    assert (refused["serial"], refused["rule"]) == (octets(serials[2]).hex(), "BR 7.2.2, reason")


def test_the_service_follows_what_changes_and_stops_kindly(world: World) -> None:
    issuer = add_issuer(world)
    serials = fill(world, issuer, 300)
    with watching(world, "--workers", "1"):
        until(lambda: count(world) == 300)
        began = time.monotonic()
        world.revoke(issuer, serials[3], revoked(Reason.KEY_COMPROMISE, ca=issuer.ca))
        until(lambda: count(world, "status = 'revoked'") == 1)
        assert time.monotonic() - began < 5
        added = world.issue(issuer)
        until(lambda: (added, "sha1") in stored(world, issuer))
        revoke_all(world, issuer)
        until(lambda: count(world, "status = 'revoked'") == 301)
        late = add_issuer(world, "late")
        fill(world, late, 3)
        until(lambda: len(stored(world, late)) == 3)


def test_one_of_two_services_plans_and_the_other_takes_over(world: World) -> None:
    issuer = add_issuer(world)
    fill(world, issuer, 10)
    with watching(world, "--workers", "1") as first:
        until(lambda: count(world) == 10)
        (leader,) = world.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database <> 0")
        process = start(world, "--watch", "--workers", "1")
        time.sleep(2)
        world.execute("SELECT pg_terminate_backend(%s)", leader[0])
        fill(world, issuer, 10, first=0x53 << 64)
        until(lambda: count(world) == 20)
        assert first.poll() is None
        process.terminate()
        assert ended(process).code == 0


@pytest.mark.parametrize(
    "argument", [["--asked", "0"], ["--workers", "0"], ["--once", "--watch"], ["--all", "--asked", "3"]]
)
def test_arguments_that_make_no_sense_are_refused(world: World, argument: list[str]) -> None:
    process = start(world, *argument)
    process.communicate(timeout=60)
    assert process.returncode == 2


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
