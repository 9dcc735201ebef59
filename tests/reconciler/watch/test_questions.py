# SPDX-License-Identifier: Apache-2.0
"""The questions asked from outside, read by another library, and where they are sent."""

import base64
from contextlib import suppress
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from demo.ca import Authority
from reconciler.watch.asking import Address, AddressError
from reconciler.watch.questions import FOREIGN, Way, foreign_questions, plain_questions, questions_about
from tests.served import ca_certificate

ISSUER = ca_certificate(Authority.create("Asked from outside"))
NULL_AND_HASH = bytes.fromhex("050004")


def test_every_hash_is_asked_for_with_null_and_without_by_both_methods() -> None:
    asked = list(questions_about(0x7E57, ISSUER))
    read = [(ocsp.load_der_ocsp_request(each.request), each) for each in asked]
    assert {request.serial_number for request, _ in read} == {0x7E57}
    names = {request.hash_algorithm.name for request, _ in read}
    assert names == {"sha1", "sha256", "sha384", "sha512"}
    for name in names:
        for way in (Way.POST, Way.ESCAPED):
            plain = {
                each.what
                for request, each in read
                if request.hash_algorithm.name == name and each.way is way and each.what != "awkward path"
            }
            assert plain == {name, f"{name}, no NULL"}
    for request, each in read:
        digest = hashes.Hash(request.hash_algorithm)
        digest.update(ISSUER.subject)
        assert request.issuer_name_hash == digest.finalize()
        assert each.cert_id in each.request
        # NULL, or at once the octet string of the first hash.
        assert (NULL_AND_HASH in each.cert_id[:22]) == ("no NULL" not in each.what)


@given(serial=st.integers(1, 2**159 - 1))
def test_the_awkward_request_has_every_awkward_sign_whatever_the_serial(serial: int) -> None:
    awkward = [each for each in questions_about(serial, ISSUER) if each.what == "awkward path"]
    assert [each.way for each in awkward] == list(Way)
    (request,) = {each.request for each in awkward}
    assert ocsp.load_der_ocsp_request(request).serial_number == serial
    text = base64.b64encode(request)
    assert b"//" in text
    assert b"+" in text
    assert text.endswith(b"=")


@pytest.mark.parametrize("prefix", ["", "/", "/r1", "/r1/", "/a/b"])
def test_every_spelling_of_a_path_stands_for_the_same_request(prefix: str) -> None:
    awkward = {each.way: each for each in questions_about(1, ISSUER) if each.what == "awkward path"}
    request = awkward[Way.POST].request
    paths = {way: each.path(prefix) for way, each in awkward.items()}
    below = prefix.rstrip("/") + "/"
    assert paths[Way.POST] == (prefix or "/")
    for way in (Way.ESCAPED, Way.LOWER, Way.RAW):
        assert base64.b64decode(unquote(paths[way].removeprefix(below)), validate=True) == request
    assert paths[Way.DOUBLED] == paths[Way.RAW].replace(below, below + "/", 1)
    assert not set("/+=") & set(paths[Way.ESCAPED].removeprefix(below))
    assert paths[Way.LOWER] != paths[Way.ESCAPED]
    assert paths[Way.LOWER].lower() == paths[Way.ESCAPED].lower()


def test_a_foreign_issuer_has_the_hashes_drawn_for_it() -> None:
    for each in foreign_questions(7, bytes(range(40))):
        request = ocsp.load_der_ocsp_request(each.request)
        assert (request.issuer_name_hash, request.issuer_key_hash) == (bytes(range(20)), bytes(range(20, 40)))
        assert each.what == FOREIGN
    assert [each.way for each in plain_questions(7, ISSUER)] == [Way.POST, Way.ESCAPED]


@pytest.mark.parametrize(
    ("text", "origin", "prefix"),
    [
        ("http://ocsp.example", "http://ocsp.example", ""),
        ("http://ocsp.example/", "http://ocsp.example", "/"),
        ("https://ocsp.example:8443/r1/", "https://ocsp.example:8443", "/r1/"),
        ("http://[2001:db8::1]:8080/a/b", "http://[2001:db8::1]:8080", "/a/b"),
        ("http://192.0.2.1/r1", "http://192.0.2.1", "/r1"),
    ],
)
def test_an_address_is_read_as_it_stands(text: str, origin: str, prefix: str) -> None:
    assert Address.parse(text) == Address(origin, prefix)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ocsp.example", "neither http"),
        ("ldap://ocsp.example", "neither http"),
        ("http://", "names no host"),
        ("http:///r1", "names no host"),
        ("http://me@ocsp.example/", "a user's name"),
        ("http://ocsp.example/?x", "a query or a fragment"),
        ("http://ocsp.example/#x", "a query or a fragment"),
        ("http://ocsp.example:port/", "is no URL"),
        ("http://ocsp.example:99999/", "is no URL"),
        ("http://[::1/", "is no URL"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        Address.parse(text)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for each in (text, f"http://{text}", f"http://ocsp.example/{text}"):
        with suppress(AddressError):
            Address.parse(each)
