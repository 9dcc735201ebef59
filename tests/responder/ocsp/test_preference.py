# SPDX-License-Identifier: Apache-2.0
"""Preferred signature algorithms (RFC 6960 section 4.4.7): read as others read them, and what suits whom."""

import pytest
from asn1crypto import ocsp as asn1_ocsp
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import MalformedRequest, Refusal
from responder.ocsp.preference import PreferredAlgorithm, read_preferred
from responder.ocsp.request import parse_request
from responder.status import der
from tests.responder.ocsp.test_request import CRITICAL, cert_id, explicit, extension, request, seq

PREFERRED = bytes.fromhex("06092b0601050507300108")
SHA256_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
P256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
P384 = bytes.fromhex("301006072a8648ce3d020106052b81040022")


def asking(value: bytes, *, flag: bytes = b"") -> bytes:
    return request(extensions=explicit(2, seq(extension(PREFERRED, value, flag=flag))))


@pytest.mark.parametrize("flag", [b"", CRITICAL], ids=["not critical", "critical"])
def test_the_list_is_read_in_its_order(flag: bytes) -> None:
    value = seq(seq(ECDSA_SHA256, P256), seq(SHA256_RSA))
    assert parse_request(asking(value, flag=flag)).preferred == (
        PreferredAlgorithm(ECDSA_SHA256, P256),
        PreferredAlgorithm(SHA256_RSA, None),
    )
    assert parse_request(asking(seq())).preferred == ()
    assert parse_request(request()).preferred == ()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        seq()[:-1],
        seq() + b"\x00",
        seq(seq()),
        seq(SHA256_RSA[2:]),
        seq(SHA256_RSA),
        seq(seq(b"\x30\x00")),
        seq(seq(bytes.fromhex("30030601ff"))),
        seq(seq(SHA256_RSA, P256, P256)),
        seq(seq(SHA256_RSA, b"\x05\x00")),
        seq(seq(seq(bytes.fromhex("06012a0500"), b"\x05\x00"))),
        der.wrap(der.OCTET_STRING, seq()),
    ],
    ids=lambda value: value.hex() or "empty",
)
def test_another_syntax_is_malformed(value: bytes) -> None:
    with pytest.raises(MalformedRequest) as refused:
        parse_request(asking(value))
    assert refused.value.reason is Refusal.SYNTAX


def test_beside_a_certificate_it_means_nothing() -> None:
    value = seq(seq(SHA256_RSA))
    single = seq(cert_id(), explicit(0, seq(extension(PREFERRED, value))))
    assert parse_request(request(single)).preferred == ()


ALGORITHMS = st.sampled_from(["sha256_rsa", "sha384_rsa", "sha1_rsa", "sha256_ecdsa", "sha384_ecdsa", "ed25519"])
KEYS = st.none() | st.sampled_from(["rsa", "ed25519"])


@given(st.lists(st.tuples(ALGORITHMS, KEYS), max_size=6))
def test_asn1crypto_writes_what_we_read(wanted: list[tuple[str, str | None]]) -> None:
    written = asn1_ocsp.PreferredSignatureAlgorithms(
        [
            {"sig_identifier": {"algorithm": name}} | ({} if key is None else {"cert_identifier": {"algorithm": key}})
            for name, key in wanted
        ]
    )
    read = read_preferred(written.dump(force=True))
    assert [(each.signature, each.key) for each in read] == [
        (one["sig_identifier"].dump(), None if key is None else one["cert_identifier"].dump())
        for one, (_, key) in zip(written, wanted, strict=True)
    ]


@given(st.binary(max_size=60) | st.binary(max_size=40).map(seq) | st.binary(max_size=30).map(lambda x: seq(seq(x))))
def test_octets_are_read_or_refused_and_what_is_read_asn1crypto_reads_too(value: bytes) -> None:
    try:
        read = read_preferred(value)
    except der.DerError:
        return
    others = asn1_ocsp.PreferredSignatureAlgorithms.load(value, strict=True)
    assert [each["sig_identifier"].dump() for each in others] == [each.signature for each in read]


@pytest.mark.parametrize(
    ("wanted", "signature", "key", "suits"),
    [
        (PreferredAlgorithm(ECDSA_SHA256, None), ECDSA_SHA256, P256, True),
        (PreferredAlgorithm(ECDSA_SHA256, P256), ECDSA_SHA256, P256, True),
        (PreferredAlgorithm(ECDSA_SHA256, P384), ECDSA_SHA256, P256, False),
        (PreferredAlgorithm(ECDSA_SHA256 + b"", None), SHA256_RSA, P256, False),
        # A NULL left out where it belongs, and written where it does not.
        (PreferredAlgorithm(bytes.fromhex("300b06092a864886f70d01010b"), None), SHA256_RSA, P256, True),
        (PreferredAlgorithm(bytes.fromhex("300c06082a8648ce3d0403020500"), None), ECDSA_SHA256, P256, True),
    ],
)
def test_what_suits_is_what_means_the_same(
    wanted: PreferredAlgorithm, signature: bytes, key: bytes, suits: bool
) -> None:
    assert wanted.suits(signature=signature, key=key) == suits
