# SPDX-License-Identifier: Apache-2.0
"""Requests of known forms are read as `parse_request` reads them, and whatever is not of one is left to it."""

from asn1crypto import algos, core, ocsp
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import MalformedRequest, OcspError
from responder.ocsp.forms import Forms
from responder.ocsp.request import OcspRequest, parse_request

HASHES = {"sha1": 20, "sha256": 32}


def request(serial: int, *, hash_name: str = "sha1", null: bool = True, issuer: int = 1, times: int = 1) -> bytes:
    algorithm = algos.DigestAlgorithm({"algorithm": hash_name, "parameters": core.Null() if null else None})
    cert_id = {
        "hash_algorithm": algorithm,
        "issuer_name_hash": bytes([issuer]) * HASHES[hash_name],
        "issuer_key_hash": bytes([issuer + 1]) * HASHES[hash_name],
        "serial_number": serial,
    }
    return bytes(ocsp.OCSPRequest({"tbs_request": {"request_list": [{"req_cert": cert_id}] * times}}).dump())


def read(reader: Forms, data: bytes) -> OcspRequest | tuple[type[OcspError], str]:
    try:
        return reader.parse(data)
    except OcspError as error:
        return type(error), error.reason.value


def read_anew(data: bytes) -> OcspRequest | tuple[type[OcspError], str]:
    try:
        return parse_request(data)
    except OcspError as error:
        return type(error), error.reason.value


serials = st.one_of(
    st.integers(-(2**20), 2**20), st.integers(-(2**164), 2**164), st.sampled_from([0, 127, 128, 255, 256, -128, -129])
)
requests = st.builds(
    request,
    serials,
    hash_name=st.sampled_from(sorted(HASHES)),
    null=st.booleans(),
    issuer=st.integers(1, 3),
    times=st.integers(1, 2),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with an octet changed, added or taken away; near its end more often than elsewhere."""
    data = bytearray(draw(requests))
    at = draw(st.one_of(st.integers(0, len(data) - 1), st.integers(max(0, len(data) - 24), len(data) - 1)))
    match draw(st.sampled_from(["change", "add", "remove"])):
        case "change":
            data[at] = draw(st.integers(0, 255))
        case "add":
            data.insert(at, draw(st.integers(0, 255)))
        case _:
            del data[at]
    return bytes(data)


@given(st.lists(st.one_of(requests, damaged()), min_size=1, max_size=12))
def test_what_was_read_before_makes_no_difference(sent: list[bytes]) -> None:
    forms = Forms()
    for data in sent:
        assert read(forms, data) == read_anew(data)


def test_a_known_form_is_not_walked_through_again() -> None:
    forms = Forms()
    forms.parse(request(0x4F0B5E8D))
    known = dict(forms._known)
    assert forms.parse(request(0x4F0B5E8E)) == parse_request(request(0x4F0B5E8E))
    assert forms._known == known


def test_a_padded_number_of_a_known_form_is_echoed_without_its_padding() -> None:
    forms = Forms()
    sound = request(0x4F0B)
    forms.parse(sound)
    padded = sound[:-2] + b"\x00\x0b"
    assert forms.parse(padded) == parse_request(padded)
    assert forms.parse(padded).cert_ids[0].raw != padded[-len(forms.parse(sound).cert_ids[0].raw) :]


def test_no_more_forms_are_remembered_than_the_bound() -> None:
    forms = Forms()
    for issuer in range(1, 250):
        for length in range(1, 8):
            forms.parse(request(1 << (8 * length - 2), issuer=issuer))
    assert len(forms._known) <= 1024
    assert forms.parse(request(5)) == parse_request(request(5))


def test_a_number_of_another_length_than_its_form_says_is_no_request() -> None:
    """Two forms of different lengths whose numbers begin at the same octet; found by fuzzing."""
    short, long = request(0x13 << 8 * 18), request(0x13 << 8 * 19)
    forms = Forms()
    assert [forms.parse(each) for each in (short, long)] == [parse_request(each) for each in (short, long)]
    for wrong in (short + b"\r", long[:-1]):
        assert read(forms, wrong) == (MalformedRequest, "syntax")
