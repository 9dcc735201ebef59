# SPDX-License-Identifier: Apache-2.0
"""May this key, under this certificate, sign responses for this issuer now? Admitted signers come from here only.

Knows the profile of RFC 6960 section 4.2.2.2 and BR 7.1.2.8; never reads files or keys. Called at start-up, whenever
signers change, and by ocsp-admin before a signer is stored.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from responder.errors import Refusal, SignerRefused, TryLater
from responder.ocsp.response import ResponseParts
from responder.signing import Signer, algorithm_for, key_algorithm, spki, usable_key
from responder.status.issuers import Issuer
from responder.status.precert import outline
from responder.status.signers import KeyKind, key_kind

KEY_MATCH: Final = "the key of the certificate"
ALGORITHM: Final = "BR 7.1.3.2, signature algorithm"
NOT_YET: Final = "RFC 5280 4.1.2.5, not yet valid"
EXPIRED: Final = "RFC 5280 4.1.2.5, expired"
READABLE: Final = "RFC 5280 4.2, readable extensions"
CA_AS_SIGNER: Final = "BR 7.1.2.8, a responder is no CA"
DIRECT: Final = "RFC 6960 2.2, the issuer itself"
DIRECT_USAGE: Final = "BR 7.1.2.10.7, digitalSignature of a CA that signs responses"
ISSUED_BY: Final = "RFC 6960 4.2.2.2, issued directly by the CA"
EXTENDED_USAGE: Final = "RFC 6960 4.2.2.2 and BR 7.1.2.8.5, OCSPSigning alone"
NO_CHECK: Final = "RFC 6960 4.2.2.2.1 and BR 7.1.2.8.6, ocsp-nocheck"
USAGE: Final = "BR 7.1.2.8.7, keyUsage"
FORBIDDEN: Final = "BR 7.1.2.8.2, extension that must not be there"
MISSING: Final = "BR 7.1.2.8.2, extension that must be there"
DIGEST: Final = "BR 7.1.3.2, signed with SHA-2"

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)

_NO_CHECK_OID: Final = bytes.fromhex("2b0601050507300105")
_NULL: Final = bytes.fromhex("0500")
_DIGITAL_SIGNATURE_ALONE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_SHA2: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

# BR 7.1.2.8.2 by name, for public issuers.
_FORBIDDEN: Final[dict[str, ObjectIdentifier]] = {
    "nameConstraints": ExtensionOID.NAME_CONSTRAINTS,
    "subjectAltName": ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    "cRLDistributionPoints": ExtensionOID.CRL_DISTRIBUTION_POINTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedSigner:
    """A signer that was found entitled to sign for an issuer, with the parts of its responses made ready.

    `signer_id` is its number in ocsp.signer, 0 before it has one. `direct` says that the CA signs itself;
    `not_before` and `not_after` are the first and the last second for which it may vouch.
    """

    signer_id: int
    issuer_id: int
    kind: KeyKind
    signer: Signer
    certificate: x509.Certificate
    certificate_der: bytes
    not_before: datetime
    not_after: datetime
    direct: bool
    parts: ResponseParts
    #: The serial number of its certificate in hexadecimal, by which people tell signers apart.
    serial_hex: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "serial_hex", f"{self.certificate.serial_number:x}")

    @property
    def key_algorithm(self) -> bytes:
        """The AlgorithmIdentifier of its key, DER, by which a client may prefer it (RFC 6960 section 4.4.7.1)."""
        return key_algorithm(spki(self.signer.public_key))

    def check_begun(self, now: datetime) -> None:
        """Raise TryLater when its certificate has not begun: it had when it was admitted, so the clock was set back."""
        if now < self.not_before:
            raise TryLater(Refusal.SIGNER, f"it is {now} by this clock, and the signer begins at {self.not_before}")


def admit(signer: Signer, *, issuer: Issuer, now: datetime, signer_id: int = 0) -> AdmittedSigner:
    """Check that this signer, of this number in ocsp.signer, may sign for this issuer at this moment.

    Raises SignerRefused with the first rule that is broken, in one line for the operator.
    """
    certificate = signer.certificate
    own = spki(certificate.public_key())
    if spki(signer.public_key) != own:
        raise SignerRefused(KEY_MATCH, "the private key is not the one of the signer's certificate")
    _check_algorithm(signer, issuer)
    _check_dates(certificate, now)
    extensions = _extensions(certificate)
    direct = own == issuer.spki
    if direct:
        _check_direct(certificate, extensions, issuer)
    else:
        _check_delegate(certificate, extensions, issuer)
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    return AdmittedSigner(
        signer_id=signer_id,
        kind=key_kind(encoded),
        issuer_id=issuer.issuer_id,
        signer=signer,
        certificate=certificate,
        certificate_der=encoded,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        direct=direct,
        parts=ResponseParts.for_signer(encoded, algorithm=signer.algorithm, embed=not direct),
    )


def _check_algorithm(signer: Signer, issuer: Issuer) -> None:
    key = usable_key(signer.public_key)
    if signer.algorithm != algorithm_for(key):
        raise SignerRefused(ALGORITHM, f"AlgorithmIdentifier {signer.algorithm.hex()} does not fit the key")
    if issuer.public and isinstance(key, ed25519.Ed25519PublicKey):
        raise SignerRefused(ALGORITHM, f"an Ed25519 key cannot sign for {issuer.name}, which is public")


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise SignerRefused(NOT_YET, f"the signer's certificate begins at {certificate.not_valid_before_utc}")
    if now > certificate.not_valid_after_utc:
        raise SignerRefused(EXPIRED, f"the signer's certificate ended at {certificate.not_valid_after_utc}")


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        _check_no_check_value(certificate)
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise SignerRefused(READABLE, f"the extensions of the signer's certificate cannot be read: {exc}") from exc
    return extensions


def _check_no_check_value(certificate: x509.Certificate) -> None:
    # The library refuses another value than NULL as well, but cannot say what was wrong with what.
    for each in outline(certificate.public_bytes(serialization.Encoding.DER)).extensions:
        if each.oid == _NO_CHECK_OID and each.value != _NULL:
            raise SignerRefused(NO_CHECK, "the value of ocsp-nocheck is not NULL")


def _check_direct(certificate: x509.Certificate, extensions: x509.Extensions, issuer: Issuer) -> None:
    """BR 7.1.2.10.7: a CA signs responses only with digitalSignature in its keyUsage."""
    if not issuer.direct_signing:
        raise SignerRefused(
            DIRECT, f"the key of {issuer.name} itself may not sign responses here; configure a delegate"
        )
    if all(certificate != known.parsed for known in issuer.certificates):
        raise SignerRefused(DIRECT, f"the certificate has the key of {issuer.name}, but is not one known for it")
    usage = _value(extensions, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        raise SignerRefused(DIRECT_USAGE, f"the certificate of {issuer.name} does not assert digitalSignature")


def _check_delegate(certificate: x509.Certificate, extensions: x509.Extensions, issuer: Issuer) -> None:
    constraints = _value(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise SignerRefused(CA_AS_SIGNER, "the signer's certificate is a CA's, and not that of the issuer")
    # Before its signature is tried, because the library verifies no SHA-1 and could only say that it does not verify.
    _check_digest(certificate, public=issuer.public)
    _check_issued_by(certificate, issuer)
    usages = _value(extensions, x509.ExtendedKeyUsage)
    if usages is None or list(usages) != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        raise SignerRefused(EXTENDED_USAGE, "extKeyUsage of the signer's certificate is not exactly OCSPSigning")
    _check_no_check(extensions, public=issuer.public)
    _check_usage(extensions, public=issuer.public)
    if issuer.public:
        _check_profile(extensions)


def _check_issued_by(certificate: x509.Certificate, issuer: Issuer) -> None:
    """RFC 6960 section 4.2.2.2: by the CA's own key, whichever of its certificates names it."""
    for known in issuer.certificates:
        try:
            certificate.verify_directly_issued_by(known.parsed)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            continue
        return
    raise SignerRefused(ISSUED_BY, f"the signer's certificate was not issued by {issuer.name} with its own key")


def _check_no_check(extensions: x509.Extensions, *, public: bool) -> None:
    found = _find(extensions, ExtensionOID.OCSP_NO_CHECK)
    if found is None:
        raise SignerRefused(NO_CHECK, "the signer's certificate lacks ocsp-nocheck")
    if public and found.critical:
        raise SignerRefused(NO_CHECK, "ocsp-nocheck of the signer's certificate is critical")


def _check_usage(extensions: x509.Extensions, *, public: bool) -> None:
    found = _find(extensions, ExtensionOID.KEY_USAGE)
    usage = _value(extensions, x509.KeyUsage)
    if found is None or usage is None or not usage.digital_signature:
        raise SignerRefused(USAGE, "keyUsage of the signer's certificate lacks digitalSignature")
    if public and (not found.critical or usage != _DIGITAL_SIGNATURE_ALONE):
        raise SignerRefused(USAGE, "keyUsage of the signer's certificate is not critical with digitalSignature alone")


def _check_profile(extensions: x509.Extensions) -> None:
    """What BR 7.1.2.8.2 forbids and demands of a public issuer's delegate beyond the rest."""
    for name, oid in _FORBIDDEN.items():
        if _find(extensions, oid) is not None:
            raise SignerRefused(FORBIDDEN, f"the signer's certificate has {name}")
    if _find(extensions, ExtensionOID.AUTHORITY_KEY_IDENTIFIER) is None:
        raise SignerRefused(MISSING, "the signer's certificate lacks authorityKeyIdentifier")


def _check_digest(certificate: x509.Certificate, *, public: bool) -> None:
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm as exc:
        raise SignerRefused(DIGEST, f"the signer's certificate is signed with an unknown algorithm: {exc}") from exc
    # None is Ed25519 and its like, whose digest is part of the algorithm; the BR know no such CA keys.
    if digest is None:
        if public:
            raise SignerRefused(DIGEST, "the signer's certificate is signed with neither RSA nor ECDSA")
    elif not isinstance(digest, _SHA2):
        raise SignerRefused(DIGEST, f"the signer's certificate is signed with {digest.name}")


def _find(extensions: x509.Extensions, oid: ObjectIdentifier) -> x509.Extension[x509.ExtensionType] | None:
    return next((each for each in extensions if each.oid == oid), None)


def _value(extensions: x509.Extensions, kind: type[_Kind]) -> _Kind | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
