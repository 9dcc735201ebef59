# SPDX-License-Identifier: Apache-2.0
"""Every fault that is found in an answer from outside: each on an answer that was right but for it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from demo.ca import Authority, PrivateKey, make_key
from reconciler.watch.judging import Expected, Judged, Received, compare, judge, kept_doubt
from reconciler.watch.questions import Question, Way, plain_questions
from tests.served import ca_certificate

CA = Authority.create("Judged from outside")
SIGNER, KEY = CA.issue_responder()
OTHER = Authority.create("Somebody else")
SERIAL = 0x7E57
QUESTION = next(iter(plain_questions(SERIAL, ca_certificate(CA))))
# The library writes its own clock's producedAt, which is not to lie ahead of this however slowly the tests run.
NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=20)
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
TRY_LATER = bytes.fromhex("30030a0103")


def made(
    status: ocsp.OCSPCertStatus = GOOD,
    *,
    serial: int = SERIAL,
    ca: Authority = CA,
    this_update: datetime = NOW - timedelta(minutes=5),
    next_update: datetime | None = NOW + timedelta(hours=90),
    signer: tuple[x509.Certificate, PrivateKey] = (SIGNER, KEY),
    embed: bool = True,
    revoked_at: datetime | None = None,
    algorithm: hashes.HashAlgorithm = hashes.SHA1(),  # noqa: S303, B008 - how RFC 9919 names issuers, no safeguard
) -> bytes:
    """An answer, made by another library than ours."""
    subject = ca.certificate
    name, key = hashes.Hash(algorithm), x509.SubjectKeyIdentifier.from_public_key(subject.public_key()).digest
    name.update(subject.subject.public_bytes())
    revoked = status is REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
        issuer_name_hash=name.finalize(), issuer_key_hash=key if algorithm.name == "sha1" else bytes(32),
        serial_number=serial, algorithm=algorithm, cert_status=status, this_update=this_update,
        next_update=next_update, revocation_time=(revoked_at or NOW - timedelta(days=1)) if revoked else None,
        revocation_reason=None,
    )  # fmt: skip
    certificate, private = signer
    if embed:
        builder = builder.certificates([certificate])
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    built = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate).sign(private, digest)
    return built.public_bytes(Encoding.DER)


def tampered(body: bytes) -> bytes:
    signature = bytearray(ocsp.load_der_ocsp_response(body).signature)
    at = body.index(signature)
    signature[-1] ^= 1
    return body[:at] + signature + body[at + len(signature) :]


def http(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def received(body: bytes, headers: Mapping[str, str | None] = {}, **more: Any) -> Received:
    """An answer with the headers it should have, but for these; None takes one away."""
    usual = {
        "content-type": "application/ocsp-response",
        "date": http(NOW),
        "last-modified": http(NOW - timedelta(minutes=5)),
        "expires": http(NOW + timedelta(hours=90)),
        "etag": '"abc"',
        "cache-control": "max-age=3600, public, no-transform, must-revalidate",
    }
    merged = {name: value for name, value in {**usual, **headers}.items() if value is not None}
    return replace(Received(200, merged, body, NOW), **more)


def doubtful(body: bytes, headers: Mapping[str, str | None] = {}) -> Received:
    return received(body, {"cache-control": "no-store, max-age=0", "etag": None, **headers})


def judged(answer: Received, question: Question = QUESTION, *, public: bool = True) -> Judged:
    return judge(question, answer, issuers=[CA.certificate], public=public)


def test_a_right_answer_has_no_fault() -> None:
    direct = made(signer=(CA.certificate, CA.key), embed=False)
    for body in (made(), made(REVOKED), direct):
        assert judged(received(body)).faults == ()
    assert judged(doubtful(made(UNKNOWN, next_update=NOW + timedelta(minutes=9)))).faults == ()
    assert judged(doubtful(TRY_LATER)).faults == ()
    for kind in ("rsa2048", "p384", "ed25519"):
        assert judged(received(made(signer=CA.issue_responder(key=make_key(kind))))).faults == ()
    # One that holds for a year is right for an issuer whose certificates are CAs', and not bound by the BR.
    year = received(made(next_update=NOW + timedelta(days=365), signer=CA.issue_responder(days=400)))
    assert judged(year, public=False).faults == ()


END = NOW + timedelta(hours=90)
SAID = [
    (made(serial=SERIAL + 1), "about serial 7e58"),
    (made(ca=OTHER), "CertID is not the one that was asked about"),
    (made(algorithm=hashes.SHA256()), "CertID is not the one that was asked about"),
    (made(this_update=NOW + timedelta(minutes=2)), "signed in the future"),
    (made(next_update=None), "nextUpdate is missing"),
    (made(next_update=NOW - timedelta(seconds=1)), "it ended at"),
    (made(next_update=NOW + timedelta(days=11)), "more than ten days"),
    (tampered(made()), "signature does not verify"),
    (made(signer=OTHER.issue_responder()), "not issued by the issuer's own key"),
    (made(embed=False), "responderID names neither"),
    (made(signer=CA.issue_responder(no_check=False)), "lacks ocsp-nocheck"),
    (made()[:-1], "not an OCSPResponse"),
    (b"<html>", "not an OCSPResponse"),
    (b"", "not an OCSPResponse"),
]


@pytest.mark.parametrize(("body", "fault"), SAID, ids=[fault for _, fault in SAID])
def test_what_is_wrong_in_an_answer_is_found(body: bytes, fault: str) -> None:
    assert any(fault in each for each in judged(received(body)).faults), judged(received(body)).faults


HEADERS: list[tuple[dict[str, str | None], str]] = [
    ({"content-type": "text/html"}, "Content-Type is text/html"),
    ({"content-type": None}, "Content-Type is None"),
    ({"set-cookie": "a=b"}, "there is a header set-cookie"),
    ({"content-encoding": "gzip"}, "there is a header content-encoding"),
    ({"cache-control": None}, "no max-age"),
    ({"cache-control": "no-store, max-age=3600"}, "says no-store of a definite answer"),
    ({"cache-control": "max-age=324000, public"}, "to nextUpdate or past it"),
    ({"cache-control": "max-age=soon"}, "no max-age"),
    ({"expires": http(END + timedelta(seconds=1))}, "Expires is after nextUpdate"),
    ({"age": "3700"}, "kept for 3700 seconds, and max-age is 3600"),
    ({"age": "old"}, "Age is old"),
    ({"date": None}, "Date is None"),
    ({"date": "yesterday"}, "Date is yesterday"),
    ({"date": http(NOW + timedelta(minutes=2))}, "Date is in the future"),
    ({"date": http(NOW - timedelta(seconds=3700))}, "kept for 3700 seconds"),
    ({"etag": None}, "ETag is missing"),
    ({"etag": 'W/"abc"'}, "ETag is weak"),
    ({"last-modified": http(NOW)}, "Last-Modified is not thisUpdate"),
]


@pytest.mark.parametrize(("headers", "fault"), HEADERS, ids=[fault for _, fault in HEADERS])
def test_what_is_wrong_in_headers_is_found(headers: dict[str, str | None], fault: str) -> None:
    found = judged(received(made(), headers)).faults
    assert len(found) == 1
    assert fault in found[0]


def test_a_status_other_than_200_is_a_fault_and_a_redirect_says_so() -> None:
    assert judged(received(made(), status=503)).faults == ("HTTP status 503",)
    moved = judged(received(b"", {"location": "http://elsewhere.example/"}, status=301))
    assert moved.faults == ("redirected to http://elsewhere.example/: clients do not follow",)


@pytest.mark.parametrize("body", [TRY_LATER, made(UNKNOWN), made(REVOKED, revoked_at=datetime(1970, 1, 1, tzinfo=UTC))])
@pytest.mark.parametrize(
    ("control", "right"),
    [
        ("no-store, max-age=0", True),
        ("max-age=0, private, must-revalidate", True),
        ("max-age=0", True),
        ("max-age=0, s-maxage=60", False),
        ("max-age=600, public", False),
        ("no-cache", False),
        (None, False),
    ],
)
def test_doubt_that_may_be_kept_is_a_fault(body: bytes, control: str | None, right: bool) -> None:
    found = judged(doubtful(body, {"cache-control": control})).faults
    assert (found == ()) == right, found


def test_doubt_that_was_kept_is_a_fault() -> None:
    assert judged(doubtful(TRY_LATER, {"age": "1"})).faults == ("somebody kept it for 1 seconds, and nobody may",)
    unknown = judged(doubtful(made(UNKNOWN)))
    anew = judged(doubtful(made(UNKNOWN, this_update=NOW)))
    assert kept_doubt(unknown, anew) is None
    assert "the same unknown twice" in str(kept_doubt(unknown, unknown))
    first = judged(doubtful(TRY_LATER))
    later = judged(doubtful(TRY_LATER, {"date": http(NOW + timedelta(seconds=2))}))
    assert kept_doubt(first, later) is None
    assert "tryLater twice with one Date" in str(kept_doubt(first, first))
    # A definite answer is there to be kept.
    good = judged(received(made()))
    assert kept_doubt(good, good) is None


def test_answers_are_compared_with_each_other_and_with_the_table() -> None:
    good, revoked = judged(received(made())), judged(received(made(REVOKED), {"etag": '"def"'}))
    assert list(compare([good, good], Expected("good"))) == []
    (differ,) = compare([good, good, revoked], None)
    assert differ.startswith("the answers differ: good mostly, but revoked at ")
    assert differ.endswith("to POST sha1")
    (table,) = compare([good], Expected("revoked", NOW, "keyCompromise"))
    assert (
        table
        == f"the table says revoked at {NOW:%Y-%m-%dT%H:%M:%SZ} for keyCompromise, and the answer is good (1 times)"
    )
    (time,) = compare([revoked], Expected("revoked", NOW - timedelta(days=2), None))
    assert "the table says revoked at" in time
    assert list(compare([revoked], Expected("revoked", NOW - timedelta(days=1), None))) == []


def test_an_etag_stands_for_one_answer() -> None:
    one, same = judged(received(made())), judged(received(made(this_update=NOW - timedelta(minutes=6))))
    assert "one ETag for 2 different answers" in next(compare([one, same], None))
    body = made()
    two = [judged(received(body, {"etag": tag})) for tag in ('"a"', '"b"')]
    assert list(compare(two, None)) == ["different ETags for the same answer"]


def test_an_answer_that_did_not_come_is_no_statement() -> None:
    lost = Judged(QUESTION, None, None, ("no answer within 10 seconds (BR 4.10.2)",))
    assert lost.digest is None
    assert list(compare([lost, judged(received(made()))], Expected("good"))) == []
    assert kept_doubt(lost, lost) is None
    assert Way.POST is QUESTION.way
