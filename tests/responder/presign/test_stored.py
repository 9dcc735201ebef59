# SPDX-License-Identifier: Apache-2.0
"""Stored answers before clients: sent where nobody can sign, and never where they would say something wrong."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from demo.ca import Authority
from responder.ocsp.policy import DEFAULT_POLICY
from responder.status.model import Good, Purged, Reason, Revoked
from responder.status.presigned import Stored
from responder.stored import WhyNot, times_of, why_not
from tests.conftest import as_role
from tests.responder.asking import cert_id, request_of
from tests.responder.presign.signing_ahead import add_issuer, fill, presign, stored
from tests.responder.running import Running, Served, World, revoked, running, until, with_policy
from tests.responder.signing.certificates import NOW

H = timedelta(hours=1)


def die(world: World) -> None:
    """Let every key be out of reach, for whoever opens it from here on."""
    world.execute("UPDATE ocsp.signer SET key_location = 'file:/nowhere' || substr(key_location, 6)")


def die_in(responder: Running, world: World) -> None:
    """Let every key be out of reach for a responder that has read them: its worker goes on, so it has to be another."""
    die(world)
    (worker,) = responder.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(responder.workers()) == 1 and responder.workers() != [worker])


def revive(world: World) -> None:
    world.execute("UPDATE ocsp.signer SET key_location = 'file:' || substr(key_location, 14)")


def serving(world: World, presigned: str = "") -> AbstractContextManager[Running]:
    more = f"[presigned]\n{presigned}\n"
    return running(world, dsn=as_role(world.dsn, "ocsp_responder"), workers=1, more=more)


def without_key(world: World, presigned: str = "") -> AbstractContextManager[Running]:
    """A responder that is started while its signer's key is out of reach."""
    die(world)
    return serving(world, presigned)


# --------------------------------------------------------------------------------------------- nobody can sign


def test_a_responder_without_its_key_lives_off_stored_answers(world: World) -> None:
    issuer = add_issuer(world)
    good, gone, later, *_ = fill(world, issuer, 10)
    world.revoke(issuer, gone, revoked(Reason.KEY_COMPROMISE, ca=issuer.ca))
    presign(world)
    added = world.issue(issuer)
    with without_key(world) as responder:
        for method in ("GET", "POST"):
            assert responder.status(issuer, good, method=method) == "good"
            assert responder.status(issuer, gone, method=method) == "revoked"
            # Of these nobody has signed what is true.
            assert responder.status(issuer, added, method=method) == "try_later"
            assert responder.status(issuer, 0x7E57, method=method) == "try_later"
            assert responder.status(issuer, good, method=method, hash_name="sha256") == "try_later"
        world.revoke(issuer, later, revoked(Reason.SUPERSEDED, ca=issuer.ca))
        assert responder.status(issuer, later) == "try_later"
        world.revoke(issuer, good, revoked(Reason.SUPERSEDED, ca=issuer.ca))
        until(lambda: responder.status(issuer, good) == "try_later", seconds=2)
        assert "stored.sent" in responder.events()


def test_a_signer_that_fails_and_comes_back_is_noticed_without_a_restart(world: World) -> None:
    issuer = add_issuer(world)
    serials = fill(world, issuer, 10)
    presign(world)
    kept = {serial: answer.this_update_utc for (serial, _), answer in stored(world, issuer).items()}
    time.sleep(1.1)  # whoever signs now says so by another thisUpdate
    with serving(world) as responder:
        assert signed_at(responder, issuer, serials[0]) > kept[serials[0]]
        die_in(responder, world)
        until(lambda: "signer.refused" in responder.events())
        assert signed_at(responder, issuer, serials[1]) == kept[serials[1]]
        revive(world)
        until(lambda: signed_at(responder, issuer, serials[2]) > kept[serials[2]])


def signed_at(responder: Running, issuer: Served, serial: int) -> datetime:
    return responder.ask(request_of(cert_id(issuer.certificate, serial))).parsed().this_update_utc


def test_openssl_verifies_a_stored_answer(world: World, program: Callable[[str], str], tmp_path: Path) -> None:
    issuer = add_issuer(world, kind="rsa2048")
    good, gone = fill(world, issuer, 2)
    world.revoke(issuer, gone, revoked(Reason.KEY_COMPROMISE, ca=issuer.ca))
    presign(world)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    with without_key(world) as responder:
        said = subprocess.run(
            [
                program("openssl"), "ocsp", "-issuer", ca, "-CAfile", ca, "-no_nonce",
                "-url", f"http://127.0.0.1:{responder.port}/", "-serial", hex(good),
            ],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert "Response verify OK" in said.stderr
        assert ": good" in said.stdout
        said = subprocess.run(
            [
                program("openssl"), "ocsp", "-issuer", ca, "-CAfile", ca, "-no_nonce",
                "-url", f"http://127.0.0.1:{responder.port}/", "-serial", hex(gone),
            ],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert "Response verify OK" in said.stderr
        assert "Reason: keyCompromise" in said.stdout


def test_stored_answers_end_with_their_next_update(world: World) -> None:
    ca = Authority.create("CA short")
    policy = with_policy(validity=timedelta(seconds=20), refresh=timedelta(seconds=9), max_age=timedelta(seconds=5))
    issuer = world.add_issuer("short", ca, signer=ca.issue_responder(), public=False, policy=policy)
    (serial,) = fill(world, issuer, 1)
    presign(world)
    (answer,) = stored(world, issuer).values()
    ends = answer.next_update_utc
    assert ends is not None
    with without_key(world) as responder:
        assert responder.status(issuer, serial) == "good"
        until(lambda: responder.status(issuer, serial) == "try_later", seconds=25)
        reply = responder.ask(request_of(cert_id(issuer.certificate, serial)))
        assert reply.status == 200
        assert reply.headers["cache-control"] == "no-store, max-age=0"


def test_an_answer_past_its_refresh_time_goes_out_for_a_minute_at_a_time() -> None:
    stored_then = stored_at(NOW, signed=Good())
    at = NOW + 40 * H
    assert why_not(stored_then, policy=DEFAULT_POLICY, now=at, when_due=False) is WhyNot.DUE
    assert why_not(stored_then, policy=DEFAULT_POLICY, now=at, when_due=True) is None
    assert times_of(stored_then, policy=DEFAULT_POLICY, now=at).refresh_at == at + timedelta(minutes=1)
    last = stored_then.next_update - timedelta(seconds=5)
    assert times_of(stored_then, policy=DEFAULT_POLICY, now=last).refresh_at == stored_then.next_update


def test_a_responder_with_neither_key_nor_answers_does_not_start(world: World) -> None:
    add_issuer(world)
    die(world)
    with pytest.raises(AssertionError, match="/nowhere"), serving(world):
        pass


def test_nothing_stored_is_sent_where_the_setting_says_never(world: World) -> None:
    issuer, other = add_issuer(world), add_issuer(world, "other")
    (serial,) = fill(world, issuer, 1)
    presign(world)
    world.execute("UPDATE ocsp.signer SET key_location = 'file:/nowhere' WHERE issuer_id = %s", issuer.issuer_id)
    with serving(world, 'use = "never"') as responder:
        assert responder.status(other, 0x7E57) == "unknown"
        assert responder.status(issuer, serial) == "try_later"


# ------------------------------------------------------------------------------------------------ wrong answers


def forge(world: World, change: str) -> None:
    world.execute(f"UPDATE ocsp.stored_answer SET {change}")  # noqa: S608 - our own words


FORGED = {
    "a signature with one bit changed": "body = set_bit(body, 8 * 250, 1 - get_bit(body, 8 * 250))",
    "no response": "body = ''",
    "an unsigned error": "body = '\\x30030a0103'",
    "another certificate's": "body = (SELECT body FROM ocsp.stored_answer ORDER BY serial DESC LIMIT 1)",
    "later times": (
        "next_update = next_update + interval '1 hour', this_update = this_update + interval '1 hour',"
        " refresh_at = refresh_at + interval '1 hour'"
    ),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_stored_answer_that_was_tampered_with_never_leaves(world: World, change: str) -> None:
    issuer = add_issuer(world)
    first, _ = fill(world, issuer, 2)
    presign(world)
    forge(world, change)
    with serving(world, 'use = "first"') as responder:
        # Somebody can sign, and what is stored is no reason not to.
        assert responder.status(issuer, first) == "good"
        die_in(responder, world)
        until(lambda: responder.status(issuer, first) == "try_later")
        assert "stored.refused" in responder.events()


def test_an_answer_that_says_good_never_leaves_for_a_revoked_row_whatever_its_columns_say(world: World) -> None:
    issuer = add_issuer(world)
    (serial,) = fill(world, issuer, 1)
    presign(world)
    world.revoke(issuer, serial, revoked(Reason.SUPERSEDED, ca=issuer.ca))
    world.execute(
        "UPDATE ocsp.stored_answer a SET status = c.status, revoked_at = c.revoked_at, reason = c.reason"
        " FROM ocsp.certificate c WHERE c.serial = a.serial"
    )
    with without_key(world) as responder:
        assert responder.status(issuer, serial) == "try_later"
        (line,) = [line for line in responder.lines() if line["event"] == "stored.refused"]
        assert line["reason"] == "RFC 6960 2.2, the status of the table"


@pytest.mark.parametrize("state", ["active", "replaced", "retired"])
def test_nothing_that_a_retired_signer_signed_is_sent(world: World, state: str) -> None:
    issuer, other = add_issuer(world), add_issuer(world, "other")
    (serial,) = fill(world, issuer, 1)
    presign(world)
    world.execute(
        "UPDATE ocsp.signer SET state = %s, key_location = 'file:/nowhere' WHERE issuer_id = %s",
        state, issuer.issuer_id,
    )  # fmt: skip
    if state != "active":
        certificate, _ = issuer.ca.issue_responder()
        world.insert_signer(issuer, certificate, "file:/nowhere")
        world.execute(
            "UPDATE ocsp.signer SET state = %s WHERE issuer_id = %s AND state <> 'active'", state, issuer.issuer_id
        )
    with serving(world) as responder:
        assert responder.status(other, 0x7E57) == "unknown"
        assert responder.status(issuer, serial) == ("try_later" if state == "retired" else "good")


def test_a_signer_past_its_end_is_lived_off_no_longer_than_it_lasts(world: World) -> None:
    """Its certificate ends in less than the eight hours that an answer must last, so it signs nothing any more."""
    issuer = add_issuer(world, days=10 / 24)
    fill(world, issuer, 1)
    presign(world)
    (answer,) = stored(world, issuer).values()
    assert isinstance(issuer.signer, x509.Certificate)
    assert answer.next_update_utc == issuer.signer.not_valid_after_utc


# ------------------------------------------------------------------------------------------- instead of signing


def test_first_sends_the_very_octets_that_are_stored_and_follows_the_table(world: World) -> None:
    issuer = add_issuer(world)
    serials = fill(world, issuer, 3)
    presign(world)
    bodies = {
        int.from_bytes(serial): body for serial, body in world.execute("SELECT serial, body FROM ocsp.stored_answer")
    }
    with serving(world, 'use = "first"') as responder:
        for serial in serials:
            reply = responder.ask(request_of(cert_id(issuer.certificate, serial)))
            assert reply.body == bodies[serial]
            assert "public" in reply.headers["cache-control"]
        # sha256WithRSAEncryption, which nobody here signs with: a client that prefers something gets no stored answer.
        preferred = [{"sig_identifier": {"algorithm": "sha256_rsa"}}]
        extension = {"extn_id": "preferred_signature_algorithms", "critical": False, "extn_value": preferred}
        reply = responder.ask(request_of(cert_id(issuer.certificate, serials[1]), extensions=[extension]))
        assert (reply.words, reply.body in bodies.values()) == ("good", False)
        world.revoke(issuer, serials[0], revoked(Reason.SUPERSEDED, ca=issuer.ca))
        until(lambda: responder.status(issuer, serials[0]) == "revoked", seconds=2)


@pytest.mark.parametrize("asked_with", ["null parameters", "absent parameters", "a nonce", "two certificates"])
def test_a_stored_answer_fits_the_request_or_is_not_sent(world: World, asked_with: str) -> None:
    issuer = add_issuer(world)
    one, two = fill(world, issuer, 2)
    world.execute("UPDATE ocsp.issuer SET nonce = 'echo'")
    presign(world)
    first = cert_id(issuer.certificate, one, parameters=asked_with != "absent parameters")
    nonce = [{"extn_id": "nonce", "critical": False, "extn_value": b"n" * 32}] if asked_with == "a nonce" else []
    asked = [first, cert_id(issuer.certificate, two)] if asked_with == "two certificates" else [first]
    with without_key(world) as responder:
        words = responder.ask(request_of(*asked, extensions=nonce)).words
        assert words == ("good" if asked_with == "null parameters" else "try_later")


def test_certificates_that_were_asked_for_are_noted_and_then_signed_ahead(world: World) -> None:
    issuer = add_issuer(world)
    asked, also, never = fill(world, issuer, 3)
    with serving(world, 'keep = "asked"') as responder:
        assert [responder.status(issuer, serial) for serial in (asked, also, asked)] == ["good"] * 3
        assert responder.status(issuer, 0x7E57) == "unknown"
        until(lambda: world.execute("SELECT count(*) FROM ocsp.asked") == [(2,)])
    assert presign(world, presigned='keep = "asked"').summary["signed"] == 2
    assert (never, "sha1") not in stored(world, issuer)


# ------------------------------------------------------------------------------------------------- the decision


def stored_at(moment: datetime, *, signed: Good | Revoked) -> Stored:
    return Stored(
        body=b"",
        signed=signed,
        this_update=moment,
        next_update=moment + 96 * H - timedelta(seconds=1),
        refresh_at=moment + 36 * H,
        signer_id=1,
        signer_certificate=b"",
        signer_is_retired=False,
        archive_cutoff=None,
        status=signed,
    )


GONE = Revoked(NOW - 24 * H, Reason.KEY_COMPROMISE)
MOVED: list[tuple[Good | Revoked, Good | Revoked | Purged]] = [
    (Good(), GONE),
    (GONE, replace(GONE, at=NOW)),
    (GONE, replace(GONE, reason=Reason.SUPERSEDED)),
    (Good(), Purged()),
    (GONE, Purged()),
]


@pytest.mark.parametrize(("signed", "status"), MOVED)
def test_an_answer_is_not_used_once_the_row_says_something_else(
    signed: Good | Revoked, status: Good | Revoked | Purged
) -> None:
    found = replace(stored_at(NOW, signed=signed), status=status)
    assert why_not(found, policy=DEFAULT_POLICY, now=NOW, when_due=True) is WhyNot.MOVED


def test_an_answer_is_used_to_the_last_second_before_its_end_and_by_the_policy_of_today() -> None:
    found = stored_at(NOW, signed=Good())
    second = timedelta(seconds=1)

    def said(after: timedelta, *, when_due: bool = True, **changes: timedelta) -> WhyNot | None:
        return why_not(found, policy=with_policy(**changes), now=NOW + after, when_due=when_due)

    assert said(96 * H - 2 * second) is None
    assert said(96 * H - second) is WhyNot.ENDED
    assert said(36 * H - second, when_due=False) is None
    assert said(36 * H, when_due=False) is WhyNot.DUE
    assert said(10 * H, when_due=False, refresh=10 * H) is WhyNot.DUE
    assert said(0 * H, validity=95 * H) is WhyNot.TOO_LONG
    assert said(0 * H, archive_cutoff=24 * H) is WhyNot.ANOTHER_CUTOFF
    assert why_not(replace(found, signer_is_retired=True), policy=DEFAULT_POLICY, now=NOW, when_due=True) is (
        WhyNot.SIGNER_RETIRED
    )
