# SPDX-License-Identifier: Apache-2.0
"""The last look at a finished response, before it is stored or sent: does every octet of it keep the rules?

Reads the bytes again with another parser than the one they were made with, and believes nothing of what the assembler
or the signer meant. Called by service.py for every signed response, and by presign.py.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import ocsp

from responder.errors import LintError
from responder.ocsp.octets import NotAnsweredError, ResponseOctets, SingleOctets, read_response
from responder.ocsp.policy import (
    EXTENDED_REVOKE,
    LEAST_PUBLIC_VALIDITY,
    MOST_PUBLIC_UNKNOWN_VALIDITY,
    MOST_PUBLIC_VALIDITY,
    MOST_UNKNOWN_VALIDITY,
)
from responder.ocsp.request import CertId
from responder.status import der
from responder.status.issuers import Hashes, Issuer, key_bits

SYNTAX: Final = "RFC 6960 4.2.1, syntax"
SUCCESSFUL: Final = "RFC 6960 4.2.1, successful and basic"
BY_KEY: Final = "RFC 9919 3.2.2, byKey of the signer"
SIGNER_CERTIFICATE: Final = "RFC 9919 3.2.2, the signer's certificate"
SIGNER_WINDOW: Final = "RFC 6960 4.2.2.2, signer in date"
ONE_EACH: Final = "RFC 6960 4.2.2.3, one answer for each certificate"
ECHO: Final = "RFC 6960 3.2, CertID as asked"
ISSUER: Final = "RFC 6960 4.1.1, CertID of this issuer"
TIME_FORM: Final = "RFC 9919 3.2.4, whole seconds and Z"
NEXT_UPDATE: Final = "RFC 9919 3.2.4, nextUpdate present"
PRODUCED_AT: Final = "RFC 9919 7.2, producedAt is thisUpdate"
FUTURE: Final = "RFC 6960 4.2.2.1, thisUpdate not in the future"
EXPIRED: Final = "RFC 6960 4.2.2.1, nextUpdate in the future"
INTERVAL: Final = "BR 4.9.9 and Microsoft 3.2.2, validity"
UNKNOWN_INTERVAL: Final = "BR 4.9.9, unknown is short-lived"
PAST_SIGNER: Final = "Mozilla 6, nextUpdate within the signer's certificate"
REVOKED_FUTURE: Final = "RFC 6960 2.4, revocationTime not in the future"
REASON: Final = "BR 7.2.2, reason"
REASON_EXTENSION: Final = "BR 7.3.2, no reasonCode extension"
EXTENDED: Final = "RFC 6960 2.2, extended revoke"
EXTENSIONS: Final = "RFC 9919 3.2.1, no response extensions"
NONCE: Final = "RFC 9654 2.1, the nonce of the request"
ARCHIVE_CUTOFF: Final = "RFC 6960 4.4.4, archive cutoff as the policy has it"
ALGORITHM: Final = "BR 7.1.3.2, signature algorithm"
SIGNATURE: Final = "RFC 6960 3.2, signature"

_SECOND: Final = timedelta(seconds=1)

# GeneralizedTime of fifteen octets: YYYYMMDDHHMMSSZ.
_TIME: Final = re.compile(rb"\x18\x0f[0-9]{14}Z")
_REASON_CODE: Final = bytes.fromhex("551d15")
_EXTENDED_OID: Final = bytes.fromhex("2b0601050507300109")
# id-pkix-ocsp-extended-revoke, not critical, value NULL (RFC 6960 section 4.4.8).
_EXTENDED: Final = bytes.fromhex("300f06092b060105050730010904020500")
_NONCE_OID: Final = bytes.fromhex("06092b0601050507300102")
# Extensions with id-pkix-ocsp-archive-cutoff alone, not critical, up to the digits of its GeneralizedTime.
_ARCHIVE_CUTOFF: Final = bytes.fromhex("3020301e06092b06010505073001060411180f")

# BR 7.1.3.2 gives these octets. RSA takes its three digests, ECDSA the one of its curve. The three PSS forms that the
# BR allow as well are not made here. Ed25519 (RFC 8410) is for issuers that the BR do not bind.
_RSA: Final[dict[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("300d06092a864886f70d01010b0500"): hashes.SHA256(),
    bytes.fromhex("300d06092a864886f70d01010c0500"): hashes.SHA384(),
    bytes.fromhex("300d06092a864886f70d01010d0500"): hashes.SHA512(),
}
_ECDSA: Final[dict[str, tuple[bytes, hashes.HashAlgorithm]]] = {
    "secp256r1": (bytes.fromhex("300a06082a8648ce3d040302"), hashes.SHA256()),
    "secp384r1": (bytes.fromhex("300a06082a8648ce3d040303"), hashes.SHA384()),
    "secp521r1": (bytes.fromhex("300a06082a8648ce3d040304"), hashes.SHA512()),
}
_ED25519: Final = bytes.fromhex("300506032b6570")

# BR 7.2.2 leaves a public issuer these; cACompromise is for the certificates of its sub-CAs. RFC 5280 section 5.3.1
# keeps 0 unsaid and 8 for delta CRLs, whoever answers.
_NEVER_REASONS: Final = frozenset({x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl})
_PUBLIC_REASONS: Final = frozenset(
    {
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    }
)


@dataclass(frozen=True, slots=True)
class _Signer:
    """What a signer's certificate says, taken apart once."""

    der: bytes
    spki: bytes
    responder_id: bytes
    not_before: datetime
    not_after: datetime
    key: PublicKeyTypes


@lru_cache(maxsize=256)
def _signer(certificate: x509.Certificate) -> _Signer:
    key = certificate.public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    key_hash = hashlib.sha1(key_bits(spki), usedforsecurity=False).digest()
    return _Signer(
        certificate.public_bytes(serialization.Encoding.DER),
        spki,
        # ResponderID ::= CHOICE { byName [1] Name, byKey [2] KeyHash }, tags explicit
        bytes.fromhex("a2160414") + key_hash,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        key,
    )


@lru_cache(maxsize=4096)
def _names_of(subject: bytes, spki: bytes) -> frozenset[tuple[str, bytes, bytes]]:
    """Return (hash name, issuerNameHash, issuerKeyHash) of a CA under every hash."""
    names, keys = Hashes.of(subject).items(), Hashes.of(key_bits(spki)).items()
    return frozenset((hash_name, name, key) for (hash_name, name), (_, key) in zip(names, keys, strict=True))


def lint(
    response: bytes,
    *,
    asked: Sequence[CertId],
    issuer: Issuer,
    signer_certificate: x509.Certificate,
    now: datetime,
    verify: bool,
    nonce: bytes | None = None,
) -> None:
    """Check a finished response to these CertIDs, all of this issuer; `verify` checks the signature too.

    `nonce` is what the response has to repeat; without one it may repeat none.
    Raises LintError with the rule that is broken; nothing else.
    """
    signer = _signer(signer_certificate)
    try:
        octets = read_response(response)
        _check_forms(octets)
        digest = _check_algorithm(octets.algorithm, signer=signer, issuer=issuer)
        read = ocsp.load_der_ocsp_response(response)
        singles = list(read.responses)
        _check_envelope(octets, signer=signer, issuer=issuer, now=now)
        announced = _check_extensions(octets.extensions, issuer=issuer, nonce=nonce)
        _check_asked(octets, singles, asked=asked, issuer=issuer)
        extended = False
        for raw, single in zip(octets.singles, singles, strict=True):
            period = _check_times(single, raw=raw, octets=octets, now=now, not_after=signer.not_after)
            extended |= _check_status(single, raw=raw, announced=announced, issuer=issuer, now=now, period=period)
        if announced and not extended:
            raise LintError(EXTENSIONS, "extended revoke among the responseExtensions, and nothing is so revoked")
        if verify:
            _check_signature(read, octets, signer=signer, digest=digest)
    except NotAnsweredError as exc:
        raise LintError(SUCCESSFUL, str(exc)) from exc
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as exc:
        # DerError and the library's complaints alike: what cannot be read back must not be sent.
        raise LintError(SYNTAX, f"the response cannot be read back: {exc}") from exc


def _check_forms(octets: ResponseOctets) -> None:
    """Check every time in the one form allowed, before a decoder that is more generous reads it."""
    times = {"producedAt": octets.produced_at}
    for each in octets.singles:
        if each.next_update is None:
            raise LintError(NEXT_UPDATE, "a response without nextUpdate")
        times |= {"thisUpdate": each.this_update, "nextUpdate": each.next_update}
        if each.revocation_time is not None:
            times["revocationTime"] = each.revocation_time
        for name, element in times.items():
            if _TIME.fullmatch(element) is None:
                raise LintError(TIME_FORM, f"{name} is {element!r}")


def _check_envelope(octets: ResponseOctets, *, signer: _Signer, issuer: Issuer, now: datetime) -> None:
    if octets.responder_id != signer.responder_id:
        raise LintError(BY_KEY, "responderID is not byKey with the SHA-1 of the signer's key")
    if not signer.not_before <= now <= signer.not_after:
        raise LintError(SIGNER_WINDOW, f"the signer is valid {signer.not_before} to {signer.not_after}, not at {now}")
    if signer.spki == issuer.spki:
        if octets.certificates is not None:
            raise LintError(SIGNER_CERTIFICATE, "the CA signs itself, and yet certificates are embedded")
    elif octets.certificates != der.wrap(der.SEQUENCE, signer.der):
        raise LintError(SIGNER_CERTIFICATE, "the embedded certificate is not the signer's, or not alone, or missing")


def _check_extensions(extensions: bytes | None, *, issuer: Issuer, nonce: bytes | None) -> bool:
    """Check the responseExtensions octet for octet; return whether extended revoke is among them."""
    said, alone = b"", None
    if nonce is not None:
        said = der.wrap(der.SEQUENCE, _NONCE_OID, der.wrap(der.OCTET_STRING, der.wrap(der.OCTET_STRING, nonce)))
        alone = der.wrap(der.SEQUENCE, said)
    if extensions == alone:
        return False
    if extensions != der.wrap(der.SEQUENCE, said, _EXTENDED):
        rule = EXTENSIONS if nonce is None else NONCE
        raise LintError(rule, "responseExtensions are not the nonce that was asked for and extended revoke alone")
    if issuer.public:
        raise LintError(EXTENDED, "a public issuer answers with extended revoke")
    return True


def _check_asked(
    octets: ResponseOctets, singles: Sequence[ocsp.OCSPSingleResponse], *, asked: Sequence[CertId], issuer: Issuer
) -> None:
    if not len(octets.singles) == len(singles) == len(asked):
        raise LintError(ONE_EACH, f"{len(singles)} answers where {len(asked)} certificates were asked for")
    for raw, single, wanted in zip(octets.singles, singles, asked, strict=True):
        if raw.cert_id != wanted.raw:
            raise LintError(ECHO, "a CertID is not the one that was asked for, octet for octet")
        # The request's parser is on trial as well: both have to see the same hashes and serial in these octets.
        seen = (single.hash_algorithm.name, single.issuer_name_hash, single.issuer_key_hash)
        if (*seen, single.serial_number) != (wanted.hash_name, wanted.name_hash, wanted.key_hash, wanted.serial):
            raise LintError(ECHO, "a CertID reads differently from what was looked up")
        if not any(seen in _names_of(each.subject, each.spki) for each in issuer.certificates):
            raise LintError(ISSUER, f"a CertID does not name {issuer.name}")


def _check_times(
    single: ocsp.OCSPSingleResponse, *, raw: SingleOctets, octets: ResponseOctets, now: datetime, not_after: datetime
) -> timedelta:
    """Check the order of all times, and return the period as BR 4.9.9 counts it: with both its end seconds."""
    this_update, next_update = single.this_update_utc, single.next_update_utc
    if next_update is None:
        raise LintError(NEXT_UPDATE, "a response without nextUpdate")
    if raw.this_update != octets.produced_at:
        raise LintError(PRODUCED_AT, f"producedAt is {octets.produced_at!r}, thisUpdate {raw.this_update!r}")
    if this_update > now:
        raise LintError(FUTURE, f"thisUpdate is {this_update}, now is {now}")
    if next_update <= now:
        raise LintError(EXPIRED, f"nextUpdate is {next_update}, now is {now}")
    if next_update > not_after:
        raise LintError(PAST_SIGNER, f"nextUpdate is {next_update}, the signer's certificate ends {not_after}")
    return next_update - this_update + _SECOND


def _check_status(
    single: ocsp.OCSPSingleResponse,
    *,
    raw: SingleOctets,
    announced: bool,
    issuer: Issuer,
    now: datetime,
    period: timedelta,
) -> bool:
    """Check status, reason, extensions and period, which hang together; return whether it is an extended revoke."""
    for oid in raw.extensions:
        if oid == _REASON_CODE:
            raise LintError(REASON_EXTENSION, "reasonCode among the singleExtensions")
        if oid == _EXTENDED_OID:
            raise LintError(EXTENDED, "extended revoke among the singleExtensions")
    status = single.certificate_status
    extended = False
    if status is ocsp.OCSPCertStatus.REVOKED:
        extended = _check_revoked(single, raw=raw, announced=announced, issuer=issuer, now=now)
    if extended or status is ocsp.OCSPCertStatus.UNKNOWN:
        most = MOST_PUBLIC_UNKNOWN_VALIDITY if issuer.public else MOST_UNKNOWN_VALIDITY
        if raw.raw_extensions is not None:
            raise LintError(ARCHIVE_CUTOFF, "an unassigned serial is answered with singleExtensions")
        if period > most:
            raise LintError(UNKNOWN_INTERVAL, f"an unassigned serial is answered for {period}, at most {most}")
    elif issuer.public and not LEAST_PUBLIC_VALIDITY <= period <= MOST_PUBLIC_VALIDITY:
        raise LintError(INTERVAL, f"valid for {period}, not {LEAST_PUBLIC_VALIDITY} to {MOST_PUBLIC_VALIDITY}")
    if not extended and status is not ocsp.OCSPCertStatus.UNKNOWN:
        _check_archive_cutoff(raw.raw_extensions, single.this_update_utc, interval=issuer.policy.archive_cutoff)
    return extended


def _check_archive_cutoff(found: bytes | None, produced_at: datetime, *, interval: timedelta | None) -> None:
    """Check that the singleExtensions are the archive cutoff of the policy alone, or absent where it has none."""
    wanted = None
    if interval is not None:
        wanted = _ARCHIVE_CUTOFF + f"{produced_at - interval:%Y%m%d%H%M%SZ}".encode()
    if found != wanted:
        raise LintError(ARCHIVE_CUTOFF, f"the singleExtensions are {found!r}, the policy wants {wanted!r}")


def _check_revoked(
    single: ocsp.OCSPSingleResponse, *, raw: SingleOctets, announced: bool, issuer: Issuer, now: datetime
) -> bool:
    """Check time and reason; return whether this is how RFC 6960 section 2.2 says "not issued"."""
    at, reason = single.revocation_time_utc, single.revocation_reason
    if at is None or at > now:
        raise LintError(REVOKED_FUTURE, f"revoked at {at}, now is {now}")
    if reason in _NEVER_REASONS or (issuer.public and reason is not None and reason not in _PUBLIC_REASONS):
        raise LintError(REASON, f"the reason is {reason}")
    if at != EXTENDED_REVOKE.at or reason is not x509.ReasonFlags.certificate_hold:
        return False
    if not announced or len(raw.extensions) > 0:
        raise LintError(EXTENDED, "a hold since 1970 without the response extension, or with extensions of its own")
    return True


def _check_algorithm(algorithm: bytes, *, signer: _Signer, issuer: Issuer) -> hashes.HashAlgorithm | None:
    """Return the digest that the signature is made over; None for Ed25519, which has none."""
    match signer.key:
        case rsa.RSAPublicKey() if algorithm in _RSA:
            return _RSA[algorithm]
        case ec.EllipticCurvePublicKey(curve=curve) if _ECDSA.get(curve.name, (b"",))[0] == algorithm:
            return _ECDSA[curve.name][1]
        case ed25519.Ed25519PublicKey() if algorithm == _ED25519 and not issuer.public:
            return None
        case _:
            raise LintError(ALGORITHM, f"AlgorithmIdentifier {algorithm.hex()} does not fit the signer's key")


def _check_signature(
    read: ocsp.OCSPResponse, octets: ResponseOctets, *, signer: _Signer, digest: hashes.HashAlgorithm | None
) -> None:
    if read.tbs_response_bytes != octets.tbs:
        raise LintError(SYNTAX, "two readers see two ResponseData")
    try:
        match signer.key:
            case rsa.RSAPublicKey() as key if digest is not None:
                key.verify(read.signature, octets.tbs, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey() as key if digest is not None:
                key.verify(read.signature, octets.tbs, ec.ECDSA(digest))
            case ed25519.Ed25519PublicKey() as key:
                key.verify(read.signature, octets.tbs)
            case _:
                raise LintError(ALGORITHM, "a key of a kind that signs no response here")
    except InvalidSignature as exc:
        raise LintError(SIGNATURE, "the signature does not verify under the signer's key") from exc
