# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the answer is an OCSP status or an HTTP refusal: never a 5xx, never a traceback."""

import base64

from cryptography.x509 import ocsp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.responder import asking
from tests.responder.asking import ERRORS, MALFORMED, Line, cert_id, head, request_of, target_of
from tests.responder.conftest import Town

UNHURRIED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(UNHURRIED, max_examples=60)


def check(town: Town, octets: bytes, *, line: Line) -> None:
    """Send octets as a body and in a path over one line; both are answered, and in the same way."""
    line.send(head("POST", b"/", ("Content-Length", str(len(octets)))) + octets)
    by_post = line.reply()
    line.send(head("GET", target_of(octets)))
    by_get = line.reply()
    for reply in (by_post, by_get):
        assert reply.status == 200
        assert reply.body in ERRORS or reply.parsed().response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert (by_post.body in ERRORS) is (by_get.body in ERRORS)
    if by_post.body in ERRORS:
        assert by_post.body == by_get.body


def valid(town: Town) -> bytes:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    nonce = {"extn_id": "nonce", "critical": False, "extn_value": b"n" * 32}
    asked = [cert_id(issuer.certificate, rows.good, hash_name=name) for name in ("sha1", "sha256")]
    return request_of(*asked, extensions=[nonce])


@UNHURRIED
@given(octets=st.binary(max_size=300))
def test_random_octets_are_answered(town: Town, octets: bytes) -> None:
    with Line(town.port) as line:
        check(town, octets, line=line)


@UNHURRIED
@given(data=st.data())
def test_mutations_of_a_request_are_answered(town: Town, data: st.DataObject) -> None:
    octets = bytearray(valid(town))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with Line(town.port) as line:
        check(town, bytes(octets), line=line)


def test_every_truncation_and_every_trailing_octet_is_malformed(town: Town) -> None:
    whole = valid(town)
    with Line(town.port) as line:
        for broken in [whole[:end] for end in range(len(whole))] + [whole + bytes([last]) for last in (0, 5, 48, 255)]:
            line.send(head("POST", b"/", ("Content-Length", str(len(broken)))) + broken)
            assert line.reply().body == MALFORMED


def test_every_wrong_tag_is_answered_and_no_length_may_be_indefinite(town: Town) -> None:
    whole = valid(town)
    with Line(town.port) as line:
        for at in range(len(whole)):
            for octet in (0x00, 0x80, 0xFF):
                check(town, whole[:at] + bytes([octet]) + whole[at + 1 :], line=line)
    indefinite = b"\x30\x80" + whole[whole.index(b"\x30", 1) :] + b"\x00\x00"
    assert town.responder.ask(indefinite).body == MALFORMED


def test_deep_and_huge_requests_are_malformed(town: Town) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    deep = b""
    for _ in range(2000):
        deep = b"\x30\x82" + len(deep).to_bytes(2) + deep
    for octets in (deep, b"\x30" * 9000, b"\x30\x84\xff\xff\xff\xff" + b"\x00" * 9000, b"\x00" * 10_001):
        assert town.responder.ask(octets).body == MALFORMED
    huge_serial = asking.request_for(issuer.certificate, 2**60_000)
    assert town.responder.ask(huge_serial).words in {"unknown", "malformed_request"}
    assert town.responder.status(issuer, rows.good) == "good"


@FEW
@given(
    path=st.one_of(
        st.binary(max_size=200).filter(lambda each: not set(each) & set(b" \r\n\t\x0b\x0c\x00")),
        st.binary(max_size=100).map(lambda each: base64.b64encode(each) + b"%"),
        st.text("%2Fbd+/=M", max_size=100).map(str.encode),
    )
)
def test_any_path_is_answered_or_refused_by_http(town: Town, path: bytes) -> None:
    reply = asking.get(town.port, b"/" + path)
    assert reply.status in {200, 304, 400, 404}
    if reply.status == 200:
        assert reply.body in ERRORS or reply.words in {"good", "revoked", "unknown"}


@FEW
@given(octets=st.binary(min_size=1, max_size=400))
def test_any_octets_on_the_line_are_answered_or_refused_by_http(town: Town, octets: bytes) -> None:
    with Line(town.port) as line:
        line.send(octets + b"\r\n\r\n\r\n\r\n")
        line.finish_sending()
        answer = line._file.read()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 4"))


def test_after_all_of_it_the_service_answers_and_has_logged_no_fault(town: Town) -> None:
    assert town.responder.status(town.issuers["p256"], town.rows["p256"].good) == "good"
    assert not {"request.fault", "feed.fault", "answer.contradiction"} & set(town.responder.events())
    assert "Traceback" not in town.responder.log.read_text()
