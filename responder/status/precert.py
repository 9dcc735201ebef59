# SPDX-License-Identifier: Apache-2.0
"""From DER to Issued: what a certificate or precertificate says, proven to be signed by the key of an issuer of ours.

The only way to an Issued (invariant 2). Offsets are found by tag and length, so that an odd extension which a strict
parser refuses cannot keep a serial of ours unknown; signatures are the library's business.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from responder.status import der
from responder.status.issuers import CaCertificate, Issuer, IssuerSet
from responder.status.model import Issued, Kind, QuarantineReason, SerialError, serial_octets

# RFC 6962 section 3.1: the critical poison of a precertificate, and the key usage of a Precertificate Signing
# Certificate. Extension OIDs as DER content octets.
POISON: Final = bytes.fromhex("2b06010401d679020403")
PRECERTIFICATE_SIGNING: Final = bytes.fromhex("2b06010401d679020404")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_AUTHORITY_KEY_ID: Final = bytes.fromhex("551d23")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")

# How the library says that a certificate, a key or a signature is not what it should be. Anybody may have written the
# bytes, so none of these may end a pass over a source.
_REFUSALS: Final = (InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, ValueError, TypeError, OverflowError)

_VERSION: Final = 0xA0  # [0] EXPLICIT, RFC 5280 section 4.1
_EXTENSIONS: Final = 0xA3  # [3] EXPLICIT, RFC 5280 section 4.1


class NotProvenError(Exception):
    """The document earns no row: why, as a reason to quarantine it under, and in words."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Extension:
    """One Extension, RFC 5280 section 4.1: its OID content octets, its whole DER, and the octets inside extnValue."""

    oid: bytes
    der: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Outline:
    """The parts of a TBSCertificate that rows and comparisons need, as the bytes they came in."""

    before_issuer: bytes  # version, serialNumber, signature
    serial: int
    issuer: bytes  # Name, DER
    after_issuer: bytes  # validity, subject, subjectPublicKeyInfo, unique identifiers
    extensions: tuple[_Extension, ...]

    @property
    def is_precertificate(self) -> bool:
        """Whether it carries the poison (RFC 6962 section 3.1)."""
        return any(extension.oid == POISON for extension in self.extensions)

    @property
    def is_ca(self) -> bool:
        """Whether basicConstraints say cA TRUE (RFC 5280 section 4.2.1.9: SEQUENCE { BOOLEAN DEFAULT FALSE, … })."""
        return any(e.oid == _BASIC_CONSTRAINTS and e.value[2:5] == b"\x01\x01\xff" for e in self.extensions)


def outline(certificate: bytes) -> Outline:
    """Take a certificate apart. Raises DerError where it is not the structure of RFC 5280 section 4.1.

    Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, issuer, validity, subject,
                                  subjectPublicKeyInfo, issuerUniqueID [1], subjectUniqueID [2], extensions [3] }
    """
    outer = der.whole(certificate, der.SEQUENCE)
    tbs = der.expect(certificate, der.SEQUENCE, outer.value, outer.end)
    parts = list(der.inside(certificate, tbs))
    if parts and parts[0].tag == _VERSION:
        del parts[0]
    if len(parts) < 6 or parts[0].tag != der.INTEGER or parts[2].tag != der.SEQUENCE:
        raise der.DerError("not a TBSCertificate")
    serial, issuer, last = parts[0], parts[2], parts[-1]
    extensions: tuple[_Extension, ...] = ()
    rest_ends = tbs.end
    if last.tag == _EXTENSIONS:
        rest_ends = last.start
        listed = der.expect(certificate, der.SEQUENCE, last.value, last.end)
        extensions = tuple(_extension(certificate, each) for each in der.inside(certificate, listed))
    return Outline(
        certificate[tbs.value : issuer.start],
        int.from_bytes(certificate[serial.value : serial.end], signed=True),
        certificate[issuer.start : issuer.end],
        certificate[issuer.end : rest_ends],
        extensions,
    )


def _extension(data: bytes, element: der.Element) -> _Extension:
    # Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    parts = list(der.inside(data, element))
    if len(parts) not in {2, 3} or parts[0].tag != der.OID or parts[-1].tag != der.OCTET_STRING:
        raise der.DerError("not an Extension")
    oid, value = parts[0], parts[-1]
    return _Extension(data[oid.value : oid.end], data[element.start : element.end], data[value.value : value.end])


def leaf_tbs(precertificate: Outline, *, signing: bytes | None = None) -> bytes:
    """Return the TBSCertificate that a log hashes for this precertificate (RFC 6962 section 3.2).

    The poison is taken out. Where a Precertificate Signing Certificate signed, its own issuer and authority key
    identifier take the place of the precertificate's. Raises DerError where `signing` is not a certificate.
    """
    kept: list[bytes] = []
    issuer = precertificate.issuer
    key_id: bytes | None = None
    if signing is not None:
        signer = outline(signing)
        issuer = signer.issuer
        key_id = next((e.der for e in signer.extensions if e.oid == _AUTHORITY_KEY_ID), None)
    for extension in precertificate.extensions:
        if extension.oid == POISON:
            continue
        if signing is not None and extension.oid == _AUTHORITY_KEY_ID:
            if key_id is not None:
                kept.append(key_id)
            continue
        kept.append(extension.der)
    extensions = der.wrap(_EXTENSIONS, der.wrap(der.SEQUENCE, *kept)) if kept else b""
    return der.wrap(der.SEQUENCE, precertificate.before_issuer, issuer, precertificate.after_issuer, extensions)


@dataclass(frozen=True, slots=True)
class Proven:
    """A document with its proof: what was issued, its parts, and the Precertificate Signing Certificate, if any."""

    issued: Issued
    outline: Outline
    signing: bytes | None


def prove(document: bytes, issuers: IssuerSet, *, chain: Sequence[bytes] = ()) -> Proven:
    """Prove that an issuer of ours signed this certificate or precertificate (DER).

    `chain` holds what came along, next certificate first; it is only asked for a Precertificate Signing Certificate.
    Raises NotProvenError with the reason to quarantine it under; nothing else.
    """
    try:
        parts = outline(document)
    except der.DerError as exc:
        raise NotProvenError(QuarantineReason.UNPARSABLE, f"not a certificate: {exc}") from exc
    try:
        # Before the library sees it, which has opinions of its own about serials below one.
        serial_octets(parts.serial)
    except SerialError as exc:
        raise NotProvenError(QuarantineReason.SERIAL, str(exc)) from exc
    try:
        parsed = x509.load_der_x509_certificate(document)
        not_before, not_after = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    except _REFUSALS as exc:
        raise NotProvenError(QuarantineReason.UNPARSABLE, f"not a certificate: {exc}") from exc
    issuer, signing = _signed_by(parsed, parts, issuers, chain)
    return Proven(_issued(document, parts, issuer, not_before, not_after), parts, signing)


def _issued(document: bytes, parts: Outline, issuer: Issuer, not_before: datetime, not_after: datetime) -> Issued:
    return Issued(
        issuer_id=issuer.issuer_id,
        serial=parts.serial,
        kind=Kind.PRECERTIFICATE if parts.is_precertificate else Kind.CERTIFICATE,
        not_before=not_before,
        not_after=not_after,
        is_ca=parts.is_ca,
        der=document,
        sha256=hashlib.sha256(document).digest(),
    )


def _signed_by(
    parsed: x509.Certificate, parts: Outline, issuers: IssuerSet, chain: Sequence[bytes]
) -> tuple[Issuer, bytes | None]:
    """Return the issuer that signed it, and the Precertificate Signing Certificate in between, if there is one."""
    named = issuers.by_name(parts.issuer)
    found = _verified_by(parsed, named)
    if found is not None:
        return found, None
    if parts.is_precertificate and chain:
        found = _through_signing_certificate(parsed, chain[0], issuers)
        if found is not None:
            return found, chain[0]
    if named:
        names = ", ".join(issuer.name for issuer, _ in named)
        raise NotProvenError(QuarantineReason.SIGNATURE, f"names {names}, whose key did not sign it")
    raise NotProvenError(QuarantineReason.FOREIGN, f"issued by {_issuer_in_words(parsed)}, not an issuer here")


def _issuer_in_words(parsed: x509.Certificate) -> str:
    # The library reads names only when they are asked for, and refuses some then.
    try:
        return repr(parsed.issuer.rfc4514_string())
    except _REFUSALS:
        return "a name that cannot be read"


def _verified_by(parsed: x509.Certificate, named: Iterable[tuple[Issuer, CaCertificate]]) -> Issuer | None:
    for issuer, certificate in named:
        try:
            parsed.verify_directly_issued_by(certificate.parsed)
        except _REFUSALS:
            continue
        return issuer
    return None


def _through_signing_certificate(parsed: x509.Certificate, candidate: bytes, issuers: IssuerSet) -> Issuer | None:
    """RFC 6962 section 3.1: the signing certificate is so marked, and the final issuer certified it directly."""
    try:
        signing = x509.load_der_x509_certificate(candidate)
        parsed.verify_directly_issued_by(signing)
        marked = _is_signing_certificate(outline(candidate))
        named = issuers.by_name(signing.issuer.public_bytes())
    except _REFUSALS:
        return None
    return _verified_by(signing, named) if marked else None


def _is_signing_certificate(parts: Outline) -> bool:
    """Whether it is a CA with the mark of RFC 6962 section 3.1: a key usage, or as some CAs do, an extension."""
    mark = der.wrap(der.OID, PRECERTIFICATE_SIGNING)
    return parts.is_ca and any(
        e.oid == PRECERTIFICATE_SIGNING or (e.oid == _EXTENDED_KEY_USAGE and mark in e.value) for e in parts.extensions
    )
