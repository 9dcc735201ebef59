# SPDX-License-Identifier: Apache-2.0
"""Extensions of requests: every one that RFC 6960 names, and strangers, in each place, critical and not."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import MalformedRequest, Refusal, Unauthorized
from responder.ocsp.request import parse_request
from responder.status import der
from tests.responder.ocsp.test_request import CRITICAL, cert_id, explicit, extension, octets, request, seq

PLACES: Final = ("requestExtensions", "singleRequestExtensions")
OCSP: Final = bytes.fromhex("06092b06010505073001")

# The last octet of id-pkix-ocsp-…, where a critical one is understood, and a value that is right for it.
BASIC: Final = bytes.fromhex("06092b0601050507300101")
EXTENSIONS: Final[dict[str, tuple[int, str | None, bytes]]] = {
    "nonce": (2, "requestExtensions", octets(bytes(16))),
    "CRL references": (3, None, seq()),
    "acceptable responses": (4, "requestExtensions", seq(BASIC)),
    "nocheck": (5, None, bytes.fromhex("0500")),
    "archive cutoff": (6, None, bytes.fromhex("180f32303236303130313030303030305a")),
    "service locator": (7, "singleRequestExtensions", seq(seq())),
    "preferred signature algorithms": (8, "requestExtensions", seq(seq(bytes.fromhex("300a06082a8648ce3d040302")))),
    "extended revoke": (9, None, bytes.fromhex("0500")),
    "a stranger": (99, None, b"x"),
}


def asking(place: str, *listed: bytes) -> bytes:
    if place == "requestExtensions":
        return request(extensions=explicit(2, seq(*listed)))
    return request(seq(cert_id(), explicit(0, seq(*listed))))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_that_is_not_critical_is_never_a_reason_to_refuse(name: str, place: str) -> None:
    number, _, value = EXTENSIONS[name]
    for written in (b"", bytes.fromhex("010100")):
        parsed = parse_request(asking(place, extension(OCSP + bytes((number,)), value, flag=written)))
        assert [each.serial for each in parsed.cert_ids] == [5]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", EXTENSIONS)
def test_a_critical_extension_is_taken_only_where_it_belongs(name: str, place: str) -> None:
    number, belongs, value = EXTENSIONS[name]
    data = asking(place, extension(OCSP + bytes((number,)), value, flag=CRITICAL))
    if place == belongs:
        assert [each.serial for each in parse_request(data).cert_ids] == [5]
    else:
        with pytest.raises(Unauthorized) as refused:
            parse_request(data)
        assert refused.value.reason is Refusal.CRITICAL_EXTENSION


UNREAD: Final = [name for name, (_, belongs, _) in EXTENSIONS.items() if belongs is not None and name != "nonce"]


@pytest.mark.parametrize("flag", [b"", CRITICAL], ids=["not critical", "critical"])
@pytest.mark.parametrize("value", [b"", b"\x00", b"\x30\x80", b"\xff" * 40], ids=["empty", "zero", "endless", "noise"])
@pytest.mark.parametrize("name", [name for name in UNREAD if name != "preferred signature algorithms"])
def test_a_value_that_we_leave_aside_cannot_be_wrong(name: str, value: bytes, flag: bytes) -> None:
    number, belongs, _ = EXTENSIONS[name]
    assert belongs is not None
    assert len(parse_request(asking(belongs, extension(OCSP + bytes((number,)), value, flag=flag))).cert_ids) == 1


def test_acceptable_responses_without_basic_still_get_basic() -> None:
    """RFC 6960 section 4.2.1: every client SHALL be able to process it."""
    for flag in (b"", CRITICAL):
        only = seq(bytes.fromhex("06032a0304"))
        assert len(parse_request(asking(PLACES[0], extension(OCSP + b"\x04", only, flag=flag))).cert_ids) == 1


def test_a_nonce_beside_a_certificate_is_no_nonce_of_the_request() -> None:
    for value in (octets(bytes(16)), octets(b""), octets(bytes(200))):
        assert parse_request(asking(PLACES[1], extension(OCSP + b"\x02", value))).nonce is None


@pytest.mark.parametrize("place", PLACES)
def test_the_same_extension_twice_is_malformed_in_each_place(place: str) -> None:
    one = extension(OCSP + b"\x63", b"x")
    with pytest.raises(MalformedRequest):
        parse_request(asking(place, one, one))


@pytest.mark.parametrize("flag", [b"", CRITICAL], ids=["not critical", "critical"])
@pytest.mark.parametrize(
    ("value", "nonce"),
    [
        (octets(b"n"), b"n"),
        (octets(b"n" * 32), b"n" * 32),
        (octets(b"n" * 33), b"n" * 33),
        (octets(b"n" * 128), b"n" * 128),
        (b"raw octets of an old client", None),
        (b"\x04\x05four", None),
        (der.wrap(der.INTEGER, b"\x01"), None),
    ],
    ids=["1", "32", "33", "128", "raw", "cut off", "an INTEGER"],
)
def test_a_nonce_is_read_where_it_is_one(value: bytes, nonce: bytes | None, flag: bytes) -> None:
    assert parse_request(asking(PLACES[0], extension(OCSP + b"\x02", value, flag=flag))).nonce == nonce


@pytest.mark.parametrize("flag", [b"", CRITICAL], ids=["not critical", "critical"])
@pytest.mark.parametrize("length", [0, 129, 1000])
def test_a_nonce_of_no_octets_or_more_than_128_is_malformed(length: int, flag: bytes) -> None:
    with pytest.raises(MalformedRequest) as refused:
        parse_request(asking(PLACES[0], extension(OCSP + b"\x02", octets(bytes(length)), flag=flag)))
    assert refused.value.reason is Refusal.NONCE_LENGTH


@given(value=st.binary(max_size=160))
def test_whatever_stands_in_a_nonce_it_is_refused_by_length_or_read(value: bytes) -> None:
    data = asking(PLACES[0], extension(OCSP + b"\x02", value))
    inner = value[2:] if len(value) > 1 and len(value) < 130 and value[:2] == bytes((4, len(value) - 2)) else None
    if value == octets(b"") or len(value) == 0 or len(value) > 128 + 3:
        with pytest.raises(MalformedRequest):
            parse_request(data)
    elif len(value) <= 128:
        assert parse_request(data).nonce == inner
