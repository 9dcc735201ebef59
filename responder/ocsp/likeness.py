# SPDX-License-Identifier: Apache-2.0
"""The lint for many responses of one second: the first of a kind is linted whole, the others must be like it.

A response that equals a linted one in every octet but its serial number, revocation time and signature keeps the same
rules, if those three are right; so they are looked at, and the rest is compared. Whatever is not alike is linted whole.
Called by responder/presign/. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509 import ocsp

from responder.errors import LintError
from responder.ocsp.lint import ECHO, REVOKED_FUTURE, SIGNATURE, SYNTAX, lint
from responder.ocsp.policy import EXTENDED_REVOKE, Times
from responder.ocsp.request import CertId
from responder.status.issuers import Issuer
from responder.status.model import Good, Reason, Revoked

STATUS: Final = "RFC 6960 2.2, the status of the table"
TIMES: Final = "RFC 6960 4.2.2.1, the times as planned"
_MOST_KINDS: Final = 256
_PKCS1: Final = padding.PKCS1v15()
_SHA256: Final = hashes.SHA256()
_ECDSA: Final = {
    "secp256r1": ec.ECDSA(hashes.SHA256()),
    "secp384r1": ec.ECDSA(hashes.SHA384()),
    "secp521r1": ec.ECDSA(hashes.SHA512()),
}
# RevokedInfo begins with revocationTime, of fifteen octets as lint.py has found.
_TIME_HEADER: Final = bytes.fromhex("180f")

# Octets of the response, of the CertID, and what is said but for the revocation time.
_Kind = tuple[int, int, str | None, Reason | None]


def check_says(response: bytes, status: Good | Revoked, *, this_update: datetime, next_update: datetime) -> None:
    """Check that a finished response about one certificate says this status for this time. Raises LintError."""
    read = ocsp.load_der_ocsp_response(response)
    if (read.this_update_utc, read.next_update_utc) != (this_update, next_update):
        raise LintError(
            TIMES, f"from {read.this_update_utc} to {read.next_update_utc}, not {this_update} {next_update}"
        )
    if isinstance(status, Good):
        right = read.certificate_status is ocsp.OCSPCertStatus.GOOD
    else:
        reason = None if read.revocation_reason is None else Reason.from_words(read.revocation_reason.value)
        wanted = None if status.reason is Reason.UNSPECIFIED else status.reason
        right = (
            read.certificate_status is ocsp.OCSPCertStatus.REVOKED
            and read.revocation_time_utc == status.at
            and reason == wanted
        )
    if not right:
        raise LintError(STATUS, f"the response says {read.certificate_status.name}, the table {status}")


@dataclass(frozen=True, slots=True)
class _Like:
    """A linted response: its octets before, between and after what may differ, and where those parts begin and end."""

    head: bytes
    serial: slice
    between: bytes
    revoked: slice | None
    after: bytes
    signature: slice
    tail: bytes
    tbs: slice


class Alike:
    """Lints the responses of one signer for one issuer at one moment."""

    def __init__(self, *, issuer: Issuer, signer_certificate: x509.Certificate, times: Times) -> None:
        """Know none yet. All begin at `times.this_update`, and that is now."""
        self._issuer = issuer
        self._certificate = signer_certificate
        self._verify = _verifying(signer_certificate.public_key())
        self._times = times
        self._known: dict[_Kind, _Like] = {}

    def check(self, response: bytes, *, cert_id: CertId, status: Good | Revoked, verify: bool) -> None:
        """Check a finished response about this certificate that is to say this status; `verify` the signature too.

        Raises LintError with the rule that is broken.
        """
        reason = status.reason if isinstance(status, Revoked) else None
        kind = len(response), len(cert_id.raw), cert_id.hash_name, reason
        like = self._known.get(kind)
        if like is None or not _is_like(response, like):
            self._check_whole(response, cert_id=cert_id, status=status, verify=verify)
            found = _cut(response, cert_id=cert_id, status=status)
            if found is not None and len(self._known) < _MOST_KINDS:
                self._known[kind] = found
            return
        number = response[like.serial]
        if number != cert_id.serial.to_bytes(len(number), signed=True) or not _is_shortest(number):
            raise LintError(ECHO, "the serial number is not the one that is answered for")
        if like.revoked is not None and isinstance(status, Revoked):
            self._check_time(response[like.revoked], status.at)
        if verify:
            try:
                self._verify(response[like.signature], response[like.tbs])
            except InvalidSignature as exc:
                raise LintError(SIGNATURE, "the signature does not verify under the signer's key") from exc

    def _check_whole(self, response: bytes, *, cert_id: CertId, status: Good | Revoked, verify: bool) -> None:
        lint(
            response,
            asked=[cert_id],
            issuer=self._issuer,
            signer_certificate=self._certificate,
            now=self._times.this_update,
            verify=verify,
        )
        times = self._times
        check_says(response, status, this_update=times.this_update, next_update=times.next_update)

    def _check_time(self, octets: bytes, at: datetime) -> None:
        # GeneralizedTime in the one form allowed: YYYYMMDDHHMMSSZ (RFC 9919 section 3.2.4).
        digits = octets[:14]
        if not digits.isdigit() or octets[14:] != b"Z":
            raise LintError(SYNTAX, f"revocationTime is {octets!r}")
        number = int(digits)
        date, time = divmod(number, 1_000_000)
        try:
            said = datetime(
                date // 10_000, date // 100 % 100, date % 100, time // 10_000, time // 100 % 100, time % 100, tzinfo=UTC
            )
        except ValueError as exc:
            raise LintError(SYNTAX, f"revocationTime is {octets!r}") from exc
        if said != at:
            raise LintError(STATUS, f"revoked at {said}, and at {at} in the table")
        if said > self._times.this_update:
            raise LintError(REVOKED_FUTURE, f"revoked at {said}, now is {self._times.this_update}")


def _verifying(key: PublicKeyTypes) -> Callable[[bytes, bytes], None]:
    """Return what verifies a signature over octets: chosen once, because choosing takes as long as comparing."""
    match key:
        case rsa.RSAPublicKey():
            return lambda signature, tbs: key.verify(signature, tbs, _PKCS1, _SHA256)
        case ec.EllipticCurvePublicKey():
            algorithm = _ECDSA[key.curve.name]
            return lambda signature, tbs: key.verify(signature, tbs, algorithm)
        case ed25519.Ed25519PublicKey():
            return key.verify
        case _:
            raise LintError(SIGNATURE, "a key of a kind that signs no response here")


def _is_like(response: bytes, like: _Like) -> bool:
    """Tell whether it equals the linted one wherever it may not differ; their lengths are the same."""
    if not (response.startswith(like.head) and response.endswith(like.tail)):
        return False
    if like.revoked is None:
        return response[like.serial.stop : like.signature.start] == like.between
    return (
        response[like.serial.stop : like.revoked.start] == like.between
        and response[like.revoked.stop : like.signature.start] == like.after
    )


def _is_shortest(number: bytes) -> bool:
    """Tell whether a positive INTEGER has no octet too many (X.690 section 8.3.2)."""
    return number[0] != 0 or (len(number) > 1 and number[1] >= 0x80)


def _cut(response: bytes, *, cert_id: CertId, status: Good | Revoked) -> _Like | None:
    """Cut a linted response where others of its kind may differ; None where that is not plain to see.

    A reason may be given to the date that means "not issued" (RFC 6960 section 2.2): such a one is like no other.
    """
    read = ocsp.load_der_ocsp_response(response)
    if any(response.count(part) != 1 for part in (cert_id.raw, read.signature, read.tbs_response_bytes)):
        return None
    if isinstance(status, Revoked) and status.at == EXTENDED_REVOKE.at:
        return None
    ends = response.index(cert_id.raw) + len(cert_id.raw)
    serial = slice(ends - (cert_id.serial.bit_length() // 8 + 1), ends)
    signed = response.index(read.signature)
    signature = slice(signed, signed + len(read.signature))
    began = response.index(read.tbs_response_bytes)
    tbs = slice(began, began + len(read.tbs_response_bytes))
    head, tail = response[: serial.start], response[signature.stop :]
    if not isinstance(status, Revoked):
        return _Like(head, serial, response[ends:signed], None, b"", signature, tail, tbs)
    # [1] IMPLICIT RevokedInfo follows the CertID, and begins with revocationTime.
    starts = response.index(_TIME_HEADER, ends) + len(_TIME_HEADER)
    revoked = slice(starts, starts + 15)
    return _Like(head, serial, response[ends:starts], revoked, response[revoked.stop : signed], signature, tail, tbs)
