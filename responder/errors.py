# SPDX-License-Identifier: Apache-2.0
"""What can keep an answer from being given, by what the client is to be told, and what keeps the process from starting.

    Exception
    ├── OcspError                 one of these becomes an unsigned OCSPResponse with its status
    │   ├── MalformedRequest      the client sent something that is no OCSP request
    │   ├── InternalError         we contradict ourselves; somebody must look
    │   │   └── LintError         a finished answer breaks a rule and stays inside
    │   ├── TryLater              nothing is wrong with the request, we just cannot vouch for an answer now
    │   ├── SigRequired           the operator wants signed requests
    │   └── Unauthorized          we are not the one to answer this
    ├── PolicyError (ValueError)  an issuer's configured times break a rule
    └── SignerRefused             a key or certificate may not sign for an issuer
        └── SignerUnavailable     its key cannot be reached now, and may be later

Knows no HTTP, no SQL and no ASN.1. Raised all over the responder; service.py turns OcspErrors into answers.
"""

import enum
from typing import ClassVar


class ResponseStatus(enum.IntEnum):
    """OCSPResponseStatus, RFC 6960 section 4.2.1."""

    SUCCESSFUL = 0  # the response has valid confirmations
    MALFORMED_REQUEST = 1  # illegal confirmation request
    INTERNAL_ERROR = 2  # internal error in the issuer
    TRY_LATER = 3  # try again later
    # 4 is not used.
    SIG_REQUIRED = 5  # the request must be signed
    UNAUTHORIZED = 6  # request unauthorized


class Refusal(enum.StrEnum):
    """Why there was no signed answer, as one short word for a metric's label."""

    TOO_LARGE = "too_large"  # more octets than a request may have
    ENCODING = "encoding"  # the path of a GET is not base64
    SYNTAX = "syntax"  # not the DER of an OCSPRequest
    VERSION = "version"  # a version other than v1
    EMPTY = "empty"  # a request for no certificate
    HASH_LENGTH = "hash_length"  # a hash of a length that its algorithm never gives
    NONCE_LENGTH = "nonce_length"  # a nonce of 0 or of more than 128 octets
    TOO_MANY = "too_many"  # more certificates than one request may ask for
    CRITICAL_EXTENSION = "critical_extension"  # an extension that must not be ignored and is not known here
    HASH_ALGORITHM = "hash_algorithm"  # a CertID under a hash we do not serve
    FOREIGN_ISSUER = "foreign_issuer"  # an issuer we do not serve
    MIXED_ISSUERS = "mixed_issuers"  # certificates of several issuers, which no one signer may answer
    NO_SIGNER = "no_signer"  # an issuer of ours for which nobody here may sign
    UNSIGNED = "unsigned"  # an unsigned request where the operator wants signed ones
    REQUESTER = "requester"  # a signature that proves nothing about who asks, where the operator wants to know
    PURGED = "purged"  # let go after the certificate expired
    UNASSIGNED = "unassigned"  # no such serial, and the issuer's policy is to say so unsigned
    PENDING = "pending"  # registered, and not yet signed as far as we know
    STALE_SOURCE = "stale_source"  # a required source is behind, so "unknown" would be a guess
    DATABASE = "database"  # the status table cannot be asked
    SIGNER = "signer"  # the key cannot be used now
    SIGNER_EXPIRING = "signer_expiring"  # the signer's certificate ends too soon for a lawful answer
    AUDIT = "audit"  # the signature could not be written down, which the operator insists on
    OVERLOADED = "overloaded"  # too much work in hand
    DEADLINE = "deadline"  # the answer would come too late
    CONTRADICTION = "contradiction"  # the table says something that cannot be
    LINT = "lint"  # the finished answer breaks a rule
    BUG = "bug"  # an exception nobody foresaw


class OcspError(Exception):
    """An answer without a signature: its OCSPResponseStatus, a word for the metrics, and a line for the log."""

    status: ClassVar[ResponseStatus]

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


# The subclasses are named for the status they become, which is what RFC 6960 section 2.3 calls them.
class MalformedRequest(OcspError):  # noqa: N818 - RFC 6960's word
    """The request does not conform to the syntax (RFC 6960 section 2.3)."""

    status = ResponseStatus.MALFORMED_REQUEST


class InternalError(OcspError):
    """We are in an inconsistent state; the client may retry elsewhere (RFC 6960 section 2.3)."""

    status = ResponseStatus.INTERNAL_ERROR


class TryLater(OcspError):  # noqa: N818 - RFC 6960's word
    """The service is up and cannot give the status now (RFC 6960 section 2.3)."""

    status = ResponseStatus.TRY_LATER


class SigRequired(OcspError):  # noqa: N818 - RFC 6960's word
    """The operator answers signed requests only (RFC 6960 section 2.3)."""

    status = ResponseStatus.SIG_REQUIRED


class Unauthorized(OcspError):  # noqa: N818 - RFC 6960's word
    """We cannot answer authoritatively (RFC 6960 section 2.3, RFC 9919 section 3.2.3)."""

    status = ResponseStatus.UNAUTHORIZED


class LintError(InternalError):
    """A finished response breaks a rule: which one, by section, and how."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(Refusal.LINT, f"{detail} ({rule})")
        self.rule = rule


class PolicyError(ValueError):
    """An issuer's times break a rule: which one, by section, and how, in one line for the operator."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{detail} ({rule})")
        self.rule = rule


class SignerRefused(Exception):  # noqa: N818 - an operator reads it as it stands
    """A key or certificate may not sign: which rule says so, and why, in one line for the operator."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{detail} ({rule})")
        self.rule = rule


class SignerUnavailable(SignerRefused):
    """Nothing is wrong with the signer as far as we know, but its key cannot be reached; it is worth trying again."""
