# SPDX-License-Identifier: Apache-2.0
"""The throwaway CA, judged by `cryptography`, asn1crypto and the openssl command; it never judges itself."""

import os
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1
from asn1crypto.core import OctetString
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from demo import der
from demo.ca import (
    PRECERTIFICATE_SIGNING,
    Authority,
    PrivateKey,
    key_usage,
    leaf_tbs,
    make_key,
    tbs_without_poison,
    write_certificates,
    write_key,
)

SCT = bytes(range(200))
# BR 7.1.3.2: the AlgorithmIdentifier each key must use, byte for byte.
ALGORITHMS = {
    "p256": "300a06082a8648ce3d040302",
    "p384": "300a06082a8648ce3d040303",
    "p521": "300a06082a8648ce3d040304",
    "rsa2048": "300d06092a864886f70d01010b0500",
    "ed25519": "300506032b6570",
}


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority.create("Test CA")


def extensions_of(tbs: bytes) -> list[tuple[str, bool, bytes]]:
    found = asn1.TbsCertificate.load(tbs)["extensions"]
    return [(each["extn_id"].dotted, each["critical"].native, each["extn_value"].contents) for each in found]


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_kind_of_key_makes_a_root_with_the_signature_algorithm_tied_to_it(kind: str) -> None:
    root = Authority.create("Root", key=kind)
    root.certificate.verify_directly_issued_by(root.certificate)
    assert der.children(root.certificate.public_bytes(serialization.Encoding.DER))[1].hex() == ALGORITHMS[kind]
    final = root.certificate_from(root.precertificate("a.example"), [SCT])
    final.verify_directly_issued_by(root.certificate)


@pytest.mark.parametrize(("kind", "bits"), [("rsa3072", 3072), ("rsa4096", 4096)])
def test_larger_rsa_keys_have_the_size_asked_for(kind: str, bits: int) -> None:
    assert make_key(kind).public_key().key_size == bits  # type: ignore[union-attr]  # it is RSA


def test_an_unknown_kind_of_key_is_refused() -> None:
    with pytest.raises(ValueError, match="no such kind"):
        make_key("dsa")


def test_spki_sha256_is_over_the_whole_subject_public_key_info(ca: Authority) -> None:
    spki = asn1.Certificate.load(ca.certificate.public_bytes(serialization.Encoding.DER)).public_key
    assert ca.spki_sha256 == sha256(spki.dump()).digest()


def test_openssl_verifies_the_chain(ca: Authority, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        assert "CI" not in os.environ, "openssl is missing"
        pytest.skip("openssl is not installed")
    middle = Authority.create("Issuing CA", key="p384", issuer=ca)
    root, between = write_certificates(tmp_path / "root.pem", ca.certificate), tmp_path / "middle.pem"
    write_certificates(between, middle.certificate)
    final = middle.certificate_from(middle.precertificate("a.example"), [SCT, SCT[:50]])
    leaf = write_certificates(tmp_path / "leaf.pem", final)
    command: list[str | Path] = [openssl, "verify", "-x509_strict", "-CAfile", root, "-untrusted", between, leaf]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("leaf.pem: OK")


def test_cross_signs_share_a_key_under_two_names_and_a_name_over_two_keys(ca: Authority) -> None:
    other = Authority.create("Other root")
    crossed = Authority.create("Test CA", key=ca.key, issuer=other)
    renamed = Authority.create("Renamed CA", key=ca.key)
    rekeyed = Authority.create("Test CA")
    assert crossed.spki_sha256 == renamed.spki_sha256 == ca.spki_sha256 != rekeyed.spki_sha256
    assert crossed.certificate.subject == rekeyed.certificate.subject != renamed.certificate.subject
    crossed.certificate.verify_directly_issued_by(other.certificate)
    ca.issue("a.example").verify_directly_issued_by(crossed.certificate)
    assert crossed.chain == [crossed.certificate, other.certificate]


def test_key_usages_of_an_authority_are_those_asked_for() -> None:
    signer = Authority.create("Signing CA", usages=["keyCertSign", "digitalSignature"])
    assert signer.certificate.extensions.get_extension_for_class(x509.KeyUsage).value == key_usage(
        ["keyCertSign", "digitalSignature"]
    )


def test_a_responder_certificate_follows_its_profile(ca: Authority) -> None:
    """BR 7.1.2.8."""
    certificate, key = ca.issue_responder()
    certificate.verify_directly_issued_by(ca.certificate)
    assert certificate.public_key() == key.public_key()
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == key_usage(["digitalSignature"])
    extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    nocheck = next(each for each in extensions_of(certificate.tbs_certificate_bytes) if "48.1.5" in each[0])
    assert nocheck == ("1.3.6.1.5.5.7.48.1.5", False, b"\x05\x00")
    subject = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    assert {each.oid for each in certificate.extensions} == {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.OCSP_NO_CHECK,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }


def test_each_rule_of_the_responder_profile_can_be_broken_alone(ca: Authority) -> None:
    def oids(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
        return {each.oid for each in certificate.extensions}

    now = datetime.now(UTC)
    whole = oids(ca.issue_responder()[0])
    assert whole - oids(ca.issue_responder(no_check=False)[0]) == {ExtensionOID.OCSP_NO_CHECK}
    assert whole - oids(ca.issue_responder(extended=None)[0]) == {ExtensionOID.EXTENDED_KEY_USAGE}
    assert whole - oids(ca.issue_responder(usages=None)[0]) == {ExtensionOID.KEY_USAGE}
    assert len(whole - oids(ca.issue_responder(key_identifiers=False)[0])) == 2
    assert oids(ca.issue_responder(ca=True)[0]) - whole == {ExtensionOID.BASIC_CONSTRAINTS}
    assert ca.issue_responder(days=0.01)[0].not_valid_after_utc < now
    assert ca.issue_responder(not_before=now + timedelta(days=1))[0].not_valid_before_utc > now
    two = [ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH]
    assert (
        list(ca.issue_responder(extended=two)[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == two
    )
    stranger, _ = ca.issue_responder(signed_by=make_key())
    with pytest.raises(InvalidSignature):
        stranger.verify_directly_issued_by(ca.certificate)
    renamed, _ = ca.issue_responder(issuer_name=Authority.create("Other").certificate.subject)
    with pytest.raises(ValueError, match="Issuer"):
        renamed.verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 2**158, 2**159 - 1])
def test_precertificate_and_certificate_agree_in_all_but_poison_and_scts(ca: Authority, serial: int) -> None:
    """RFC 6962 §3.1 and §3.3, BR 7.1.2.9."""
    precert = ca.precertificate("a.example", serial=serial, ocsp_url="http://ocsp.example/")
    final = ca.certificate_from(precert, [SCT, SCT[:7]])
    precert.verify_directly_issued_by(ca.certificate)
    final.verify_directly_issued_by(ca.certificate)
    assert precert.serial_number == final.serial_number == serial
    # `cryptography` takes the SCT list out by its own means; what remains must be what the log hashed.
    assert final.tbs_precertificate_bytes == tbs_without_poison(precert)
    poison = precert.extensions.get_extension_for_class(x509.PrecertPoison)
    assert poison.critical
    before, after = extensions_of(precert.tbs_certificate_bytes), extensions_of(final.tbs_certificate_bytes)
    assert before[-1] == ("1.3.6.1.4.1.11129.2.4.3", True, b"\x05\x00")
    assert before[:-1] == after[:-1]
    scts = after[-1]
    assert scts[:2] == ("1.3.6.1.4.1.11129.2.4.2", False)
    packed = b"\x00\xc8" + SCT + b"\x00\x07" + SCT[:7]
    assert der.contents(scts[2]) == len(packed).to_bytes(2, "big") + packed


def test_a_certificate_without_scts_has_the_poison_taken_out_only(ca: Authority) -> None:
    precert = ca.precertificate("a.example")
    assert ca.certificate_from(precert).tbs_certificate_bytes == tbs_without_poison(precert)


def test_a_certificate_may_be_issued_without_a_precertificate(ca: Authority) -> None:
    certificate = ca.issue("a.example", serial=5, ocsp_url="http://ocsp.example/")
    certificate.verify_directly_issued_by(ca.certificate)
    with pytest.raises(ValueError, match="absent"):
        tbs_without_poison(certificate)


@pytest.mark.parametrize("kind", ["p384", "rsa2048"])
def test_a_precertificate_signing_ca_is_rewritten_to_the_final_issuer(kind: str) -> None:
    """RFC 6962 §3.2: issuer and authority key identifier of the leaf are those of the final issuer."""
    issuing = Authority.create("Issuing CA", key=kind)
    signing = issuing.precertificate_signing_ca()
    usages = signing.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [PRECERTIFICATE_SIGNING]
    precert = issuing.precertificate("a.example", signer=signing)
    precert.verify_directly_issued_by(signing.certificate)
    final = issuing.certificate_from(precert, [SCT], signer=signing)
    final.verify_directly_issued_by(issuing.certificate)
    assert final.tbs_precertificate_bytes == leaf_tbs(precert, signing_certificate=signing.certificate)
    assert final.tbs_precertificate_bytes != tbs_without_poison(precert)
    bare = issuing.certificate_from(precert, signer=signing)
    authority = bare.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = issuing.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == subject.digest


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=70_000))
def test_every_element_wrapped_is_unwrapped_alike_by_us_and_by_asn1crypto(first: int, tail: bytes) -> None:
    body = bytes((first,)) + tail
    encoded = der.wrap(der.OCTET_STRING, body)
    assert OctetString.load(encoded, strict=True).native == body
    assert der.contents(encoded) == body


@pytest.mark.parametrize("wrong", [b"", b"\x30", b"\x30\x03\x02\x01", b"\x30\x82\x01", b"\x30\x00\x00"])
def test_cut_off_elements_are_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="element"):
        der.contents(wrong)


@pytest.mark.parametrize("name", ["key.pem", "key.der"])
@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_keys_are_written_for_their_owner_alone(tmp_path: Path, name: str, passphrase: bytes | None) -> None:
    key: PrivateKey = make_key()
    path = tmp_path / name
    path.touch(mode=0o644)
    write_key(path, key, passphrase=passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    form = serialization.load_der_private_key if name.endswith("der") else serialization.load_pem_private_key
    assert form(path.read_bytes(), passphrase).public_key() == key.public_key()


def test_certificates_are_written_in_the_form_their_name_says(ca: Authority, tmp_path: Path) -> None:
    pem = write_certificates(tmp_path / "two.pem", ca.certificate, ca.certificate).read_bytes()
    assert pem == ca.pem() * 2
    encoded = write_certificates(tmp_path / "one.der", ca.certificate).read_bytes()
    subject = x509.load_der_x509_certificate(encoded).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "Test CA"
