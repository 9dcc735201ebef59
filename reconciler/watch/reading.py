# SPDX-License-Identifier: Apache-2.0
"""What an OCSP answer says, read by other libraries than those that made it, and who signed it. Pure.

Knows RFC 6960's response and who may sign for an issuer; nothing of HTTP or of what should have been said. Called by
judging.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

#: RFC 6960 section 4.2.1, by the library's names.
_ERRORS: Final = {
    ocsp.OCSPResponseStatus.MALFORMED_REQUEST: "malformedRequest",
    ocsp.OCSPResponseStatus.INTERNAL_ERROR: "internalError",
    ocsp.OCSPResponseStatus.TRY_LATER: "tryLater",
    ocsp.OCSPResponseStatus.SIG_REQUIRED: "sigRequired",
    ocsp.OCSPResponseStatus.UNAUTHORIZED: "unauthorized",
}


class UnreadableAnswer(ValueError):  # noqa: N818 - it says what the octets are
    """Not an OCSPResponse about one certificate: why."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a successful response says about its only certificate, and what it says of itself."""

    cert_id: bytes
    serial: int
    produced_at: datetime
    this_update: datetime
    next_update: datetime | None
    revoked_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Read:
    """An answer in a word (good, revoked, unknown, or the error), and where it is signed, what it says."""

    word: str
    signed: Signed | None


def read(body: bytes) -> tuple[Read, ocsp.OCSPResponse]:
    """Read an OCSPResponse; return it with the library's own reading. Raises UnreadableAnswer."""
    try:
        response = ocsp.load_der_ocsp_response(body)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return Read(_ERRORS[response.response_status], None), response
        signed = Signed(
            cert_id=_cert_id(body),
            serial=response.serial_number,
            produced_at=response.produced_at_utc,
            this_update=response.this_update_utc,
            next_update=response.next_update_utc,
            revoked_at=response.revocation_time_utc,
            reason=None if response.revocation_reason is None else response.revocation_reason.value,
        )
        return Read(response.certificate_status.name.lower(), signed), response
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise UnreadableAnswer(f"not an OCSPResponse about one certificate: {exc}") from exc


def _cert_id(body: bytes) -> bytes:
    """Return the octets of the CertID: the other library knows only what they mean."""
    basic = asn1_ocsp.OCSPResponse.load(body)["response_bytes"]["response"].parsed
    octets: bytes = basic["tbs_response_data"]["responses"][0]["cert_id"].dump()
    return octets


def signer_faults(
    response: ocsp.OCSPResponse, issuers: Sequence[x509.Certificate], *, now: datetime
) -> tuple[str, ...]:
    """Return what is wrong with the signature and with who made it (RFC 6960 section 4.2.2.2).

    `issuers` are the CA certificates of the one issuer, any of which may have certified the signer.
    """
    named = [each for each in (*response.certificates, *issuers) if _is_named(each, response)]
    if not named:
        return ("the responderID names neither a certificate in the answer nor the issuer",)
    signer = next((each for each in named if _verifies(each, response)), None)
    if signer is None:
        return ("the signature does not verify under the key that the responderID names",)
    found = list(_entitlement_faults(signer, issuers, now=now))
    end = response.next_update_utc
    if end is not None and end > signer.not_valid_after_utc:
        found.append(f"nextUpdate is after the end of the signer's certificate, {signer.not_valid_after_utc:%F %T}Z")
    return tuple(found)


def _is_named(certificate: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    if response.responder_key_hash is not None:
        digest = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
        return digest == response.responder_key_hash
    return certificate.subject == response.responder_name


def _verifies(certificate: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    key, digest = certificate.public_key(), response.signature_hash_algorithm
    try:
        match key:
            case rsa.RSAPublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey() if digest is not None:
                key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
            case ed25519.Ed25519PublicKey():
                key.verify(response.signature, response.tbs_response_bytes)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _entitlement_faults(
    signer: x509.Certificate, issuers: Sequence[x509.Certificate], *, now: datetime
) -> Iterable[str]:
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        yield "the signer's certificate is not valid now"
    if any(signer.public_key() == issuer.public_key() for issuer in issuers):
        return
    if not any(_issued(signer, issuer) for issuer in issuers):
        yield "the signer's certificate was not issued by the issuer's own key"
    try:
        values = [each.value for each in signer.extensions]
    except (ValueError, x509.DuplicateExtension) as exc:
        yield f"the extensions of the signer's certificate cannot be read: {exc}"
        return
    usages = [usage for value in values if isinstance(value, x509.ExtendedKeyUsage) for usage in value]
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        yield "the signer's certificate is not for OCSPSigning"
    if not any(isinstance(value, x509.OCSPNoCheck) for value in values):
        yield "the signer's certificate lacks ocsp-nocheck"


def _issued(signer: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        signer.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
