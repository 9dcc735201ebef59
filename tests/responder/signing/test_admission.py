# SPDX-License-Identifier: Apache-2.0
"""Admission: a right signer is admitted, and each single thing wrong with one is refused under its own rule."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from responder.errors import SignerRefused, TryLater
from responder.ocsp.response import ResponseParts
from responder.signing import PublicKey, admission
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.file import FileSigner
from responder.status import der
from responder.status.issuers import Issuer
from responder.status.signers import KeyKind
from tests.responder.signing.certificates import DAY, NOW, Ca, Extensions, der_of, key_usage, make_ca

S = timedelta(seconds=1)
CA = make_ca(ec.generate_private_key(ec.SECP256R1()))
OTHER = make_ca(ec.generate_private_key(ec.SECP256R1()), common_name="Other CA")
NAMESAKE = make_ca(ec.generate_private_key(ec.SECP256R1()))
DIRECT = make_ca(ec.generate_private_key(ec.SECP256R1()), usage=key_usage("key_cert_sign", "digital_signature"))
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC, PRIVATE = CA.issuer(public=True), CA.issuer(public=False)

NO_CHECK = ExtensionOID.OCSP_NO_CHECK
DNS = x509.SubjectAlternativeName([x509.DNSName("ocsp.example")])
CRLDP = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example/")], None, None, None)]
)
CONSTRAINTS = x509.NameConstraints([x509.DNSName("example")], None)
SIGNING, SERVER = ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH


@pytest.mark.parametrize("issuer", [PUBLIC, PRIVATE], ids=["public", "private"])
def test_a_right_delegate_is_admitted(issuer: Issuer) -> None:
    certificate = CA.delegate(KEY)
    signer = FileSigner(KEY, certificate)
    assert admit(signer, issuer=issuer, now=NOW, signer_id=3) == AdmittedSigner(
        signer_id=3,
        kind=KeyKind.ECDSA,
        issuer_id=7,
        signer=signer,
        certificate=certificate,
        certificate_der=der_of(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=NOW + 30 * DAY,
        direct=False,
        parts=ResponseParts.for_signer(der_of(certificate), algorithm=signer.algorithm, embed=True),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": (x509.BasicConstraints(ca=False, path_length=None), True)},
        {"subject_key": (x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), False)},
    ],
    ids=["basicConstraints", "subjectKeyIdentifier"],
)
def test_a_delegate_with_an_extension_that_may_be_there_is_admitted(changes: Extensions) -> None:
    assert not admit(FileSigner(KEY, CA.delegate(KEY, changes)), issuer=PUBLIC, now=NOW).direct


def test_the_first_and_the_last_second_of_a_certificate_are_good() -> None:
    signer = FileSigner(KEY, CA.delegate(KEY, not_before=NOW, not_after=NOW + DAY))
    for now in (NOW, NOW + DAY):
        assert admit(signer, issuer=PUBLIC, now=now).not_after == NOW + DAY


WRONG_FOR_ALL: dict[str, tuple[Extensions, str]] = {
    "no extKeyUsage": ({"usages": None}, admission.EXTENDED_USAGE),
    "another extKeyUsage": ({"usages": (x509.ExtendedKeyUsage([SERVER]), False)}, admission.EXTENDED_USAGE),
    "one extKeyUsage too many": (
        {"usages": (x509.ExtendedKeyUsage([SIGNING, SERVER]), False)}, admission.EXTENDED_USAGE,
    ),
    "no ocsp-nocheck": ({"no_check": None}, admission.NO_CHECK),
    "ocsp-nocheck without its NULL": (
        {"no_check": (x509.UnrecognizedExtension(NO_CHECK, b""), False)}, admission.NO_CHECK,
    ),
    "ocsp-nocheck with another value": (
        {"no_check": (x509.UnrecognizedExtension(NO_CHECK, bytes.fromhex("0101ff")), False)}, admission.NO_CHECK,
    ),
    "no keyUsage": ({"usage": None}, admission.USAGE),
    "keyUsage without digitalSignature": ({"usage": (key_usage("content_commitment"), True)}, admission.USAGE),
    "a CA": ({"constraints": (x509.BasicConstraints(ca=True, path_length=None), True)}, admission.CA_AS_SIGNER),
    "extensions that cannot be read": (
        {"broken": (x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x05"), False)},
        admission.READABLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("issuer", [PUBLIC, PRIVATE], ids=["public", "private"])
@pytest.mark.parametrize(("changes", "rule"), WRONG_FOR_ALL.values(), ids=WRONG_FOR_ALL)
def test_one_wrong_extension_is_refused(changes: Extensions, rule: str, issuer: Issuer) -> None:
    refused(FileSigner(KEY, CA.delegate(KEY, changes)), issuer, rule)


WRONG_FOR_PUBLIC: dict[str, tuple[Extensions, str]] = {
    "keyUsage with more than digitalSignature": (
        {"usage": (key_usage("digital_signature", "content_commitment"), True)}, admission.USAGE,
    ),
    "keyUsage not critical": ({"usage": (key_usage("digital_signature"), False)}, admission.USAGE),
    "ocsp-nocheck critical": ({"no_check": (x509.OCSPNoCheck(), True)}, admission.NO_CHECK),
    "subjectAltName": ({"san": (DNS, False)}, admission.FORBIDDEN),
    "cRLDistributionPoints": ({"crldp": (CRLDP, False)}, admission.FORBIDDEN),
    "nameConstraints": ({"constraints": (CONSTRAINTS, True)}, admission.FORBIDDEN),
    "no authorityKeyIdentifier": ({"authority_key": None}, admission.MISSING),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "rule"), WRONG_FOR_PUBLIC.values(), ids=WRONG_FOR_PUBLIC)
def test_what_the_baseline_requirements_forbid_is_refused_for_public_issuers_alone(
    changes: Extensions, rule: str
) -> None:
    signer = FileSigner(KEY, CA.delegate(KEY, changes))
    assert admit(signer, issuer=PRIVATE, now=NOW).issuer_id == PRIVATE.issuer_id
    refused(signer, PUBLIC, rule)


def refused(signer: "FileSigner | Stubborn", issuer: Issuer, rule: str, *, now: datetime = NOW) -> None:
    with pytest.raises(SignerRefused) as caught:
        admit(signer, issuer=issuer, now=now)
    assert caught.value.rule == rule
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_of_another_certificate_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    refused(FileSigner(other, CA.delegate(KEY)), PUBLIC, admission.KEY_MATCH)


def test_a_certificate_out_of_date_is_refused() -> None:
    signer = FileSigner(KEY, CA.delegate(KEY))
    refused(signer, PUBLIC, admission.NOT_YET, now=NOW - DAY - S)
    refused(signer, PUBLIC, admission.EXPIRED, now=NOW + 30 * DAY + S)


@pytest.mark.parametrize("other", [OTHER, NAMESAKE], ids=["another CA", "another key of the same name"])
def test_a_delegate_of_another_ca_is_refused(other: Ca) -> None:
    refused(FileSigner(KEY, other.delegate(KEY)), PUBLIC, admission.ISSUED_BY)


def test_a_delegate_that_another_key_signed_in_the_cas_name_is_refused() -> None:
    refused(FileSigner(KEY, CA.delegate(KEY, signed_by=OTHER.key)), PUBLIC, admission.ISSUED_BY)


def test_a_delegate_that_names_another_certificate_of_the_same_key_is_admitted() -> None:
    cross = make_ca(CA.key, common_name="Test CA under its old name")
    signer = FileSigner(KEY, cross.delegate(KEY))
    refused(signer, PUBLIC, admission.ISSUED_BY)
    assert not admit(signer, issuer=CA.issuer(others=[cross.certificate]), now=NOW).direct


def test_a_sub_ca_with_the_right_extended_key_usage_is_refused() -> None:
    changes: Extensions = {
        "constraints": (x509.BasicConstraints(ca=True, path_length=0), True),
        "usage": (key_usage("digital_signature", "key_cert_sign"), True),
    }
    refused(FileSigner(KEY, CA.delegate(KEY, changes)), PRIVATE, admission.CA_AS_SIGNER)


def test_the_certificate_of_another_ca_is_refused() -> None:
    refused(FileSigner(DIRECT.key, DIRECT.certificate), CA.issuer(direct=True), admission.CA_AS_SIGNER)


@pytest.mark.parametrize("public", [True, False])
def test_the_ca_itself_is_admitted_where_its_certificate_and_the_operator_say_so(public: bool) -> None:
    signer = FileSigner(DIRECT.key, DIRECT.certificate)
    admitted = admit(signer, issuer=DIRECT.issuer(public=public, direct=True), now=NOW)
    assert admitted.direct
    assert admitted.parts.certificates == b""
    refused(signer, DIRECT.issuer(public=public, direct=False), admission.DIRECT)


def test_the_ca_itself_is_refused_without_digital_signature() -> None:
    refused(FileSigner(CA.key, CA.certificate), CA.issuer(direct=True), admission.DIRECT_USAGE)


def test_the_ca_itself_is_refused_under_a_certificate_nobody_knows() -> None:
    unknown = make_ca(DIRECT.key, usage=key_usage("digital_signature"), serial=2, not_after=NOW + 9999 * DAY)
    refused(FileSigner(DIRECT.key, unknown.certificate), DIRECT.issuer(direct=True), admission.DIRECT)


def test_an_expired_ca_signs_nothing() -> None:
    refused(
        FileSigner(DIRECT.key, DIRECT.certificate),
        DIRECT.issuer(direct=True),
        admission.EXPIRED,
        now=NOW + 3650 * DAY + S,
    )


def test_an_ed25519_delegate_is_for_private_issuers_alone() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    signer = FileSigner(key, CA.delegate(key))
    assert admit(signer, issuer=PRIVATE, now=NOW).parts.algorithm.hex() == "300506032b6570"
    refused(signer, PUBLIC, admission.ALGORITHM)


def test_a_delegate_certified_by_an_ed25519_ca_is_for_private_issuers_alone() -> None:
    ca = make_ca(ed25519.Ed25519PrivateKey.generate())
    signer = FileSigner(KEY, ca.delegate(KEY))
    assert admit(signer, issuer=ca.issuer(public=False), now=NOW).issuer_id == PRIVATE.issuer_id
    refused(signer, ca.issuer(public=True), admission.DIGEST)


def test_an_rsa_delegate_is_admitted() -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert admit(FileSigner(key, CA.delegate(key)), issuer=PUBLIC, now=NOW).parts.algorithm.hex().startswith("300d0609")


def test_a_delegate_signed_with_sha_1_is_refused() -> None:
    right = CA.delegate(KEY)
    sha256, sha1 = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300906072a8648ce3d0401")
    outer = der.whole(der_of(right), der.SEQUENCE)
    tbs = next(der.inside(der_of(right), outer))
    old = der_of(right)[tbs.value : tbs.end]
    body = der.wrap(der.SEQUENCE, old.replace(sha256, sha1))
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    signature = CA.key.sign(body, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - wrong on purpose
    weak = x509.load_der_x509_certificate(
        der.wrap(der.SEQUENCE, body, sha1, der.wrap(der.BIT_STRING, b"\x00", signature))
    )
    for issuer in (PUBLIC, PRIVATE):
        refused(FileSigner(KEY, weak), issuer, admission.DIGEST)


@dataclass(frozen=True)
class Stubborn:
    """A signer that announces an algorithm of its own, as a badly configured token would."""

    certificate: x509.Certificate
    algorithm: bytes
    public_key: PublicKey
    verify_always: bool = True

    async def sign(self, tbs: bytes) -> bytes:
        raise AssertionError(f"nobody may ask this signer to sign {len(tbs)} octets")


@pytest.mark.parametrize("algorithm", ["300a06082a8648ce3d040303", "300d06092a864886f70d01010b0500", ""])
def test_an_algorithm_that_does_not_fit_the_key_is_refused(algorithm: str) -> None:
    signer = Stubborn(CA.delegate(KEY), bytes.fromhex(algorithm), KEY.public_key())
    refused(signer, PUBLIC, admission.ALGORITHM)


def test_a_signer_that_has_not_begun_by_a_clock_set_back_signs_nothing() -> None:
    signer = admit(FileSigner(KEY, CA.delegate(KEY)), issuer=PUBLIC, now=NOW)
    signer.check_begun(signer.not_before)
    with pytest.raises(TryLater):
        signer.check_begun(signer.not_before - timedelta(seconds=1))
