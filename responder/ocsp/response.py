# SPDX-License-Identifier: Apache-2.0
"""The octets of an OCSPResponse, put together from parts prepared once per signer (RFC 6960 section 4.2).

Knows the encoding only: not whether the answer is right (policy.py decides, lint.py checks) nor how it is signed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Self, assert_never

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from responder.errors import ResponseStatus
from responder.ocsp.policy import Times
from responder.status import der
from responder.status.issuers import key_bits
from responder.status.model import CertStatus, Good, Reason, Revoked, Unknown, whole_second

_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1
_BY_KEY: Final = 0xA2
_REVOKED: Final = 0xA1  # [1] IMPLICIT RevokedInfo

_GOOD: Final = bytes.fromhex("8000")  # [0] IMPLICIT NULL
_UNKNOWN: Final = bytes.fromhex("8200")  # [2] IMPLICIT UnknownInfo, which is NULL
_SUCCESSFUL: Final = bytes.fromhex("0a0100")
_NO_UNUSED_BITS: Final = b"\x00"
_ID_PKIX_OCSP_BASIC: Final = bytes.fromhex("06092b0601050507300101")
# RFC 6960 section 4.4.8: id-pkix-ocsp-extended-revoke, value NULL, not critical; and Extensions with nothing else.
_EXTENDED_REVOKE: Final = bytes.fromhex("300f06092b060105050730010904020500")
_EXTENDED_REVOKE_ALONE: Final = bytes.fromhex("a1133011") + _EXTENDED_REVOKE
_ID_PKIX_OCSP_NONCE: Final = bytes.fromhex("06092b0601050507300102")
_ID_PKIX_OCSP_ARCHIVE_CUTOFF: Final = bytes.fromhex("06092b0601050507300106")


def error_response(status: ResponseStatus) -> bytes:
    """Return the unsigned response, all five octets of it. Raises ValueError for SUCCESSFUL, which needs an answer.

    OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, responseBytes [0] EXPLICIT ResponseBytes OPTIONAL }
    """
    if status is ResponseStatus.SUCCESSFUL:
        raise ValueError("a successful response has an answer in it (RFC 6960 4.2.1)")
    return bytes((der.SEQUENCE, 3, der.ENUMERATED, 1, status))


@dataclass(frozen=True, slots=True)
class SingleAnswer:
    """One SingleResponse to be: the CertID to echo, what is said, and its own nextUpdate where that is not the usual.

    A request may ask for a certificate of ours and for an unassigned serial; the latter's answer ends sooner.
    `archive_cutoff` is the date back to which statuses are kept past expiry (RFC 6960 section 4.4.4), where it is said.
    """

    cert_id: bytes
    status: CertStatus
    next_update: datetime | None = None
    archive_cutoff: datetime | None = None


@dataclass(frozen=True, slots=True)
class ResponseParts:
    """What is the same in every response of one signer."""

    responder_id: bytes  # byKey [2], DER
    algorithm: bytes  # AlgorithmIdentifier, DER
    certificates: bytes  # certs [0] with the signer's certificate, or nothing

    @classmethod
    def for_signer(cls, certificate: bytes, *, algorithm: bytes, embed: bool) -> Self:
        """Prepare the parts for the signer with this certificate (DER), embedded unless it is the CA's own.

        RFC 9919 section 3.2.2 asks for byKey and for the delegate's certificate; RFC 6960 section 4.2.1 for no certs at
        all rather than an empty list.
        """
        spki = (
            x509.load_der_x509_certificate(certificate)
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        # KeyHash is SHA-1 whatever else is agreed (RFC 6960 section 4.2.1): a name, not a safeguard.
        key_hash = hashlib.sha1(key_bits(spki), usedforsecurity=False).digest()
        certificates = der.wrap(_EXPLICIT_0, der.wrap(der.SEQUENCE, certificate)) if embed else b""
        return cls(der.wrap(_BY_KEY, der.wrap(der.OCTET_STRING, key_hash)), algorithm, certificates)

    def tbs(
        self,
        singles: Sequence[SingleAnswer],
        *,
        times: Times,
        extended_revoke: bool = False,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return the ResponseData to sign. producedAt is thisUpdate, so both readings of RFC 9919 section 7.2 hold.

        `nonce` is the one to repeat: the octets inside the request's Nonce, without tag and length.

        ResponseData ::= SEQUENCE { version [0] EXPLICIT Version DEFAULT v1, responderID ResponderID,
                                    producedAt GeneralizedTime, responses SEQUENCE OF SingleResponse,
                                    responseExtensions [1] EXPLICIT Extensions OPTIONAL }
        """
        this_update = _time(times.this_update)
        next_update = der.wrap(_EXPLICIT_0, _time(times.next_update))
        responses = [_single_response(each, this_update, next_update) for each in singles]
        return der.wrap(
            der.SEQUENCE,
            self.responder_id,
            this_update,
            der.wrap(der.SEQUENCE, *responses),
            _response_extensions(extended_revoke, nonce) if extended_revoke or nonce is not None else b"",
        )

    def assemble(self, tbs: bytes, signature: bytes) -> bytes:
        """Return the finished OCSPResponse around the ResponseData and its signature.

        BasicOCSPResponse ::= SEQUENCE { tbsResponseData, signatureAlgorithm, signature BIT STRING,
                                         certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
        ResponseBytes ::= SEQUENCE { responseType OBJECT IDENTIFIER, response OCTET STRING }
        """
        bits = der.wrap(der.BIT_STRING, _NO_UNUSED_BITS, signature)
        basic = der.wrap(der.SEQUENCE, tbs, self.algorithm, bits, self.certificates)
        response_bytes = der.wrap(der.SEQUENCE, _ID_PKIX_OCSP_BASIC, der.wrap(der.OCTET_STRING, basic))
        return der.wrap(der.SEQUENCE, _SUCCESSFUL, der.wrap(_EXPLICIT_0, response_bytes))


def _response_extensions(extended_revoke: bool, nonce: bytes | None) -> bytes:
    # Extensions ::= SEQUENCE OF Extension
    # Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    # Nonce ::= OCTET STRING (SIZE(1..128)), RFC 9654 section 2.1
    if nonce is None:
        return _EXTENDED_REVOKE_ALONE
    value = der.wrap(der.OCTET_STRING, der.wrap(der.OCTET_STRING, nonce))
    extension = der.wrap(der.SEQUENCE, _ID_PKIX_OCSP_NONCE, value)
    return der.wrap(_EXPLICIT_1, der.wrap(der.SEQUENCE, extension, _EXTENDED_REVOKE if extended_revoke else b""))


def _single_response(answer: SingleAnswer, this_update: bytes, next_update: bytes) -> bytes:
    # SingleResponse ::= SEQUENCE { certID CertID, certStatus CertStatus, thisUpdate GeneralizedTime,
    #                               nextUpdate [0] EXPLICIT GeneralizedTime OPTIONAL,
    #                               singleExtensions [1] EXPLICIT Extensions OPTIONAL }
    if answer.next_update is not None:
        next_update = der.wrap(_EXPLICIT_0, _time(answer.next_update))
    extensions = b"" if answer.archive_cutoff is None else _single_extensions(answer.archive_cutoff)
    return der.wrap(der.SEQUENCE, answer.cert_id, _cert_status(answer.status), this_update, next_update, extensions)


@lru_cache(maxsize=1024)
def _single_extensions(archive_cutoff: datetime) -> bytes:
    # ArchiveCutoff ::= GeneralizedTime, RFC 6960 section 4.4.4. All answers of a second have the same one.
    value = der.wrap(der.OCTET_STRING, _time(archive_cutoff))
    extension = der.wrap(der.SEQUENCE, _ID_PKIX_OCSP_ARCHIVE_CUTOFF, value)
    return der.wrap(_EXPLICIT_1, der.wrap(der.SEQUENCE, extension))


def _cert_status(status: CertStatus) -> bytes:
    # CertStatus ::= CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo,
    #                         unknown [2] IMPLICIT UnknownInfo }
    # RevokedInfo ::= SEQUENCE { revocationTime GeneralizedTime, revocationReason [0] EXPLICIT CRLReason OPTIONAL }
    match status:
        case Good():
            return _GOOD
        case Revoked(at=at, reason=Reason.UNSPECIFIED):
            # BR 7.3: unspecified is said by leaving the reason out.
            return der.wrap(_REVOKED, _time(at))
        case Revoked(at=at, reason=reason):
            return der.wrap(_REVOKED, _time(at), bytes((_EXPLICIT_0, 3, der.ENUMERATED, 1, reason)))
        case Unknown():
            return _UNKNOWN
        case _:
            assert_never(status)


@lru_cache(maxsize=1024)
def _time(moment: datetime) -> bytes:
    """Return a GeneralizedTime as RFC 9919 section 3.2.4 wants it: YYYYMMDDHHMMSSZ, no fractions."""
    t = whole_second(moment)
    # strftime("%Y") leaves out leading zeros on some platforms, and takes twice as long.
    text = f"{t.year:04}{t.month:02}{t.day:02}{t.hour:02}{t.minute:02}{t.second:02}Z"
    return der.wrap(der.GENERALIZED_TIME, text.encode("ascii"))
