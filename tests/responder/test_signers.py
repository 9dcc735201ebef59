# SPDX-License-Identifier: Apache-2.0
"""Several signers for an issuer in the running responder: who answers whom, and how one takes over from another."""

import asyncio
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from responder.runtime.db import connect_once
from responder.signing.keyring import Keyring, load_keyring
from responder.signing.keys import Keys
from responder.status.signers import SignerState
from tests.responder import asking
from tests.responder.asking import cert_id
from tests.responder.ocsp.test_preference import ECDSA_SHA256, P256, P384, PREFERRED, SHA256_RSA
from tests.responder.ocsp.test_request import explicit, extension, seq
from tests.responder.running import Served, World, running, until
from tests.responder.test_tokens import Load, verified

SHA1_RSA = bytes.fromhex("300d06092a864886f70d0101050500")
SHA384_RSA = bytes.fromhex("300d06092a864886f70d01010c0500")


def preferring(issuer: Served, serial: int, *wanted: bytes) -> bytes:
    """An OCSPRequest with a list of preferred algorithms, each the content of a PreferredSignatureAlgorithm."""
    listed = seq(seq(cert_id(issuer.certificate, serial).dump()))
    extensions = explicit(2, seq(extension(PREFERRED, seq(*(seq(each) for each in wanted)))))
    return seq(seq(listed, extensions if wanted else b""))


def kind_of(read: ocsp.OCSPResponse) -> str:
    return read.signature_algorithm_oid._name


def said(read: ocsp.OCSPResponse) -> tuple[object, ...]:
    """Everything that an answer says, but for who signed it and when it was asked for."""
    assert read.next_update_utc is not None
    return read.certificate_status, read.serial_number, read.next_update_utc - read.this_update_utc


@pytest.mark.parametrize("ca_kind", ["rsa2048", "p256"])
def test_a_client_chooses_between_signatures_and_nothing_else(world: World, ca_kind: str) -> None:
    ca = Authority.create("Choosing CA", key=make_key(ca_kind))
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder(key=make_key("p256")))
    world.add_signer(issuer, *ca.issue_responder(key=make_key("rsa2048"), days=200))
    serial = world.issue(issuer)
    usual = "sha256WithRSAEncryption" if ca_kind == "rsa2048" else "ecdsa-with-SHA256"
    expected = {
        (): usual,
        (SHA256_RSA,): "sha256WithRSAEncryption",
        (ECDSA_SHA256,): "ecdsa-with-SHA256",
        (ECDSA_SHA256, SHA256_RSA): "ecdsa-with-SHA256",
        (SHA1_RSA, SHA384_RSA, SHA256_RSA): "sha256WithRSAEncryption",
        (ECDSA_SHA256 + P384, SHA256_RSA): "sha256WithRSAEncryption",
        (SHA1_RSA, ECDSA_SHA256 + P256): "ecdsa-with-SHA256",
        # Nobody here signs like this, and nothing weak is signed however much it is preferred.
        (SHA1_RSA,): usual,
        (ECDSA_SHA256 + P384,): usual,
    }
    with running(world) as responder:
        answers = {
            wanted: responder.ask(preferring(issuer, serial, *wanted), method).parsed()
            for method in ("POST", "GET")
            for wanted in expected
        }
        assert {wanted: kind_of(read) for wanted, read in answers.items()} == expected
        assert len({said(read) for read in answers.values()}) == 1


def test_a_signer_about_to_end_is_passed_over_whatever_the_client_prefers(world: World) -> None:
    ca = Authority.create("Ending CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder(key=make_key("p256"), days=2))
    world.add_signer(issuer, *ca.issue_responder(key=make_key("rsa2048")))
    serial = world.issue(issuer)
    with running(world) as responder:
        for wanted in ((), (ECDSA_SHA256,), (SHA256_RSA,)):
            assert kind_of(responder.ask(preferring(issuer, serial, *wanted)).parsed()) == "sha256WithRSAEncryption"


def signers(world: World) -> dict[int, str]:
    return dict(world.execute("SELECT signer_id, state FROM ocsp.signer ORDER BY signer_id"))


def test_a_staged_signer_is_tried_and_never_signs(world: World) -> None:
    ca = Authority.create("Staging CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    world.insert_signer(issuer, ca.issue_responder()[0], "file:/nowhere/at/all", state=SignerState.STAGED)
    with running(world) as responder:
        assert {responder.ask(request).parsed().certificates[0] for _ in range(10)} == {issuer.signer}
        told = [line for line in responder.lines() if line["event"] == "signer.refused"]
        assert {line["meaning"] for line in told} == {"it would answer nothing here if it were activated"}


def test_a_replaced_signer_answers_until_it_is_retired_and_then_never_again(world: World) -> None:
    ca = Authority.create("Retiring CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    world.insert_signer(issuer, ca.issue_responder()[0], "file:/nowhere/at/all")
    assert signers(world) == {1: "replaced", 2: "active"}
    with running(world) as responder:
        assert {responder.ask(request).words for _ in range(10)} == {"good"}
        world.execute("UPDATE ocsp.signer SET state = 'retired' WHERE signer_id = 1")
        until(lambda: {responder.ask(request).words for _ in range(10)} == {"try_later"})


def test_only_the_last_one_that_was_replaced_may_stand_in(world: World) -> None:
    ca = Authority.create("Rolling CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    for _ in range(2):
        world.add_signer(issuer, *ca.issue_responder())
    world.add_signer(issuer, *ca.issue_responder(key=make_key("rsa2048")))
    assert signers(world) == {1: "retired", 2: "replaced", 3: "active", 4: "active"}


def test_a_signer_takes_over_under_load_without_a_wrong_answer(world: World) -> None:
    """Every answer is good, carries the certificate of whoever signed it, and verifies."""
    ca = Authority.create("Busy CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    with running(world, more="[cache]\nmost_answers = 0\n") as responder, Load(responder, [request]) as load:
        until(lambda: load.words["good"] > 100)
        for _ in range(3):
            certificate, key = ca.issue_responder()
            world.add_signer(issuer, certificate, key)
            until(lambda: {verified(issuer, responder.ask(request).parsed()) for _ in range(10)} == {certificate})  # noqa: B023 - called right here
        good = load.words["good"]
        until(lambda: load.words["good"] > good + 100)
    assert set(load.words) == {"good"}


def loaded(world: World) -> Keyring:
    async def load() -> Keyring:
        async with connect_once(world.dsn, application="tests") as connection:
            return await load_keyring(connection, Keys(), now=datetime.now(UTC))

    return asyncio.run(load())


def test_the_keyring_tells_when_every_certificate_ends(world: World) -> None:
    ca = Authority.create("Telling CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    world.add_signer(issuer, *ca.issue_responder(key=make_key("rsa2048"), days=9))
    world.insert_signer(issuer, ca.issue_responder(days=5)[0], "file:/nowhere/at/all", state=SignerState.STAGED)
    keyring = loaded(world)
    told = {(each.issuer, each.kind.value, each.state.value) for each in keyring.expiries}
    assert told == {("ca", "ecdsa", "active"), ("ca", "rsa", "active"), ("ca", "ecdsa", "staged")}
    ends = {each.not_after for each in keyring.expiries}
    written = {x509.load_der_x509_certificate(row[0]) for row in world.execute("SELECT certificate FROM ocsp.signer")}
    assert ends == {each.not_valid_after_utc for each in written}
    assert set(keyring.by_signer_id) == {1, 2}
    assert [each.record.signer_id for each in keyring.refused] == [3]
