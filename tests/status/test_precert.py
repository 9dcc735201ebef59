# SPDX-License-Identifier: Apache-2.0
"""From DER to Issued: only what a key of ours signed, and for precertificates the very bytes that a log hashes."""

import random
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

import demo.ca
from demo.ca import Authority
from responder.status import der
from responder.status.issuers import CaCertificate, IssuerSet
from responder.status.model import Kind, QuarantineReason
from responder.status.precert import NotProvenError, leaf_tbs, outline, prove
from tests import served

KINDS = ("p256", "p384", "rsa2048", "ed25519")


def authority(kind: str = "p256") -> Authority:
    return _made(kind)


@cache
def _made(kind: str) -> Authority:
    return Authority.create(f"CA {kind}", key=kind, issuer=Authority.create("Root"))


@cache
def issuers() -> IssuerSet:
    return IssuerSet(
        served.issuer_of(number, kind, served.ca_certificate(authority(kind))) for number, kind in enumerate(KINDS, 1)
    )


@cache
def precertificate() -> bytes:
    return served.der(authority().precertificate("a.example", key=authority().key, ocsp_url="http://ocsp.example"))


@pytest.mark.parametrize("kind", KINDS)
def test_precertificate_and_certificate_prove_the_same_serial(kind: str) -> None:
    ca = authority(kind)
    precert = ca.precertificate("a.example")
    final = ca.certificate_from(precert, [b"an SCT"])
    for certificate, expected in ((precert, Kind.PRECERTIFICATE), (final, Kind.CERTIFICATE)):
        issued = prove(served.der(certificate), issuers()).issued
        assert issued.issuer_id == KINDS.index(kind) + 1
        assert (issued.serial, issued.kind, issued.is_ca) == (precert.serial_number, expected, False)
        assert (issued.not_before, issued.not_after) == (precert.not_valid_before_utc, precert.not_valid_after_utc)
    # RFC 6962 section 3.2: what the log hashes is the certificate without the SCT list, by cryptography's account.
    assert leaf_tbs(outline(served.der(precert))) == final.tbs_precertificate_bytes == demo.ca.leaf_tbs(precert)


def test_a_certificate_authority_below_ours_is_marked_as_one() -> None:
    below = Authority.create("Below", issuer=authority())
    assert prove(served.der(below.certificate), issuers()).issued.is_ca


def test_a_precertificate_signing_certificate_stands_in_for_our_key() -> None:
    ca = authority()
    signing = ca.precertificate_signing_ca()
    precert = ca.precertificate("a.example", signer=signing)
    chain = [served.der(signing.certificate)]
    proven = prove(served.der(precert), issuers(), chain=chain)
    assert (proven.issued.issuer_id, proven.signing) == (1, chain[0])
    expected = demo.ca.leaf_tbs(precert, signing_certificate=signing.certificate)
    assert leaf_tbs(proven.outline, signing=proven.signing) == expected
    final = ca.certificate_from(precert, [b"an SCT"], signer=signing)
    assert expected == final.tbs_precertificate_bytes


def test_a_signing_certificate_must_be_marked_and_must_be_ours() -> None:
    ca, stranger = authority(), Authority.create("Stranger")
    unmarked = Authority.create("Unmarked", issuer=ca)
    foreign = stranger.precertificate_signing_ca()
    signing = ca.precertificate_signing_ca()
    for signer, chain in [
        (unmarked, unmarked),
        (foreign, foreign),
        (signing, foreign),
        (signing, ca),
        (foreign, signing),
    ]:
        precert = served.der(ca.precertificate("a.example", signer=signer, key=ca.key))
        with pytest.raises(NotProvenError) as refused:
            prove(precert, issuers(), chain=[served.der(chain.certificate)])
        assert refused.value.reason is QuarantineReason.FOREIGN
    with pytest.raises(NotProvenError):
        prove(served.der(ca.precertificate("a.example", signer=signing, key=ca.key)), issuers(), chain=[b"junk"])
    # A final certificate is never signed that way.
    poisonless = signing.issue("a.example")
    with pytest.raises(NotProvenError):
        prove(served.der(poisonless), issuers(), chain=[served.der(signing.certificate)])


def test_the_right_one_of_two_keys_under_one_name_is_found() -> None:
    first = Authority.create("Twice")
    second = Authority.create("Twice")
    both = IssuerSet(
        served.issuer_of(number, str(number), served.ca_certificate(each)) for number, each in ((1, first), (2, second))
    )
    for number, each in ((1, first), (2, second)):
        assert prove(served.der(each.precertificate("a.example")), both).issued.issuer_id == number
    third = Authority.create("Twice")
    with pytest.raises(NotProvenError, match="whose key did not sign it") as refused:
        prove(served.der(third.precertificate("a.example")), both)
    assert refused.value.reason is QuarantineReason.SIGNATURE


def test_somebody_elses_certificate_is_foreign() -> None:
    with pytest.raises(NotProvenError, match="CN=Stranger") as refused:
        prove(served.der(Authority.create("Stranger").precertificate("a.example")), issuers())
    assert refused.value.reason is QuarantineReason.FOREIGN


def with_serial(octets: bytes) -> bytes:
    """Return a precertificate with other octets for a serial; nothing signs that any more."""
    parts = outline(precertificate())
    inside = der.whole(precertificate(), der.SEQUENCE)
    tbs = der.expect(precertificate(), der.SEQUENCE, inside.value, inside.end)
    version, _, *rest = list(der.inside(precertificate(), tbs))
    assert parts.serial > 0
    pieces = [precertificate()[version.start : version.end], der.wrap(der.INTEGER, octets)]
    body = der.wrap(der.SEQUENCE, *pieces, *(precertificate()[each.start : each.end] for each in rest))
    return der.wrap(der.SEQUENCE, body, precertificate()[tbs.end :])


@pytest.mark.parametrize("octets", [b"\0", b"\xff", b"\x80", b"\x01" * 65], ids=["zero", "-1", "-128", "too long"])
def test_a_serial_that_no_table_holds_is_told_apart(octets: bytes) -> None:
    with pytest.raises(NotProvenError) as refused:
        prove(with_serial(octets), issuers())
    assert refused.value.reason is QuarantineReason.SERIAL


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x00", b"junk", b"\x30\x80\x00\x00", b"\x30\x03\x30\x01\x00"])
def test_what_is_no_certificate_is_unparsable(data: bytes) -> None:
    with pytest.raises(NotProvenError) as refused:
        prove(data, issuers())
    assert refused.value.reason is QuarantineReason.UNPARSABLE


def test_a_version_that_nobody_has_defined_is_refused_like_any_other_bytes() -> None:
    at = precertificate().index(b"\xa0\x03\x02\x01\x02")
    with pytest.raises(NotProvenError) as refused:
        prove(precertificate()[: at + 4] + b"\x05" + precertificate()[at + 5 :], issuers())
    assert refused.value.reason is QuarantineReason.UNPARSABLE


def test_no_precertificate_with_a_flipped_bit_proves_anything() -> None:
    """Every octet, one bit each, drawn from a fixed seed: the whole of it is covered by the signature or by DER."""
    draw = random.Random(6962)  # noqa: S311 - which bit is no secret
    whole = precertificate()
    for at in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << draw.randrange(8)
        with pytest.raises(NotProvenError):
            prove(bytes(spoilt), issuers())
    prove(whole, issuers())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_make_the_proof_fail_in_another_way(data: st.DataObject) -> None:
    whole = bytearray(precertificate())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not whole:
            break
    if bytes(whole) == precertificate():
        return
    with pytest.raises(NotProvenError):
        prove(bytes(whole), issuers(), chain=[bytes(whole), served.der(authority().certificate)])


# ------------------------------------------------------------------------- bytes that nobody on this project wrote


def pem(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "preissuer" / f"{name}.pem").read_bytes())


def test_a_foreign_precertificate_signed_by_a_pre_intermediate_proves_for_the_root(ct_corpus: Path) -> None:
    root = pem(ct_corpus, "test_root_ca_cert")
    served_root = IssuerSet([served.issuer_of(1, "root", CaCertificate.load(served.der(root)))])
    signing = pem(ct_corpus, "test_pre_intermediate_ca_cert")
    precert = pem(ct_corpus, "test_leaf_pre_cert_signed_by_pre_intermediate")
    proven = prove(served.der(precert), served_root, chain=[served.der(signing)])
    assert (proven.issued.serial, proven.issued.kind) == (precert.serial_number, Kind.PRECERTIFICATE)
    assert proven.signing == served.der(signing)
    tbs = leaf_tbs(proven.outline, signing=proven.signing)
    # RFC 6962 section 3.2: poison gone, issuer and authority key identifier those of the signing certificate itself.
    assert tbs == demo.ca.leaf_tbs(precert, signing_certificate=signing)
    assert root.subject.public_bytes() in tbs
    assert bytes.fromhex("060a2b06010401d679020403") not in tbs
    with pytest.raises(NotProvenError):
        prove(served.der(precert), served_root)


@pytest.mark.parametrize(
    ("issuer", "leaf"),
    [
        ("test_root_ca_cert", "signed_by_root"),
        ("test_intermediate_ca_cert", "signed_by_intermediate"),
    ],
)
def test_foreign_precertificates_and_certificates_prove_for_their_own_issuer(
    issuer: str, leaf: str, ct_corpus: Path
) -> None:
    known = IssuerSet([served.issuer_of(1, "known", CaCertificate.load(served.der(pem(ct_corpus, issuer))))])
    precert = prove(served.der(pem(ct_corpus, f"test_leaf_pre_cert_{leaf}")), known).issued
    final = prove(served.der(pem(ct_corpus, f"test_leaf_cert_{leaf}")), known).issued
    assert (precert.kind, final.kind) == (Kind.PRECERTIFICATE, Kind.CERTIFICATE)
