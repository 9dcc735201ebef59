# SPDX-License-Identifier: Apache-2.0
"""The values of the status table: serials, statuses, reasons, sightings, policies. No behaviour beyond their own sense.

Imported by everything; imports nothing of ours.
"""

import enum
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

# RFC 5280 section 4.1.2.2 allows a CA 20 octets and asks everybody else to be ready for more. A certificate of ours
# that breaks the rule must not become "unknown" for it.
MOST_SERIAL_OCTETS: Final = 64

_HEXADECIMAL: Final = re.compile(r"[0-9a-f]+")


class SerialError(ValueError):
    """Not a serial number this table can hold: zero, negative, too long, or not hexadecimal."""


def is_serial(number: int) -> bool:
    """Tell whether a certificate can have this number; requests may ask for any."""
    return number > 0 and number.bit_length() <= 8 * MOST_SERIAL_OCTETS


def serial_octets(serial: int) -> bytes:
    """Return the serial as the table holds it: the minimal big-endian positive integer.

    Raises SerialError for zero, negative numbers and more than MOST_SERIAL_OCTETS octets.
    """
    if not is_serial(serial):
        raise SerialError(f"a serial number is positive and at most {MOST_SERIAL_OCTETS} octets long, not {serial:#x}")
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def serial_from_hex(text: str) -> int:
    """Read a serial as people write it: hexadecimal in any case, with or without 0x, colons, blanks, leading zeros.

    Raises SerialError naming what was given.
    """
    digits = text.strip().lower().removeprefix("0x").replace(":", "").replace(" ", "")
    # int() would also take underscores, signs, a second 0x and the digits of other scripts: nobody means those here.
    serial = int(digits, 16) if _HEXADECIMAL.fullmatch(digits) is not None else 0
    if serial == 0:
        raise SerialError(f"{text!r} is not a serial number in hexadecimal")
    serial_octets(serial)
    return serial


def serial_hex(serial: int) -> str:
    """Return the serial in lower-case hexadecimal with whole octets, as the commands print it."""
    return serial_octets(serial).hex()


def whole_second(moment: datetime) -> datetime:
    """Return the moment in UTC, cut to the whole second: the one place where fractions are dropped (RFC 9919 3.2.4).

    Raises ValueError for a datetime without a time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).replace(microsecond=0)


class Reason(enum.IntEnum):
    """CRLReason, RFC 5280 section 5.3.1."""

    UNSPECIFIED = 0  # never sent: expressed by leaving the reason out
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2  # of a CA certificate's key
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6  # suspension; BR 7.2.2 forbids it
    REMOVE_FROM_CRL = 8  # delta CRLs only; never a status
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10  # of an attribute authority's key

    @property
    def words(self) -> str:
        """The name as RFC 5280 writes it: keyCompromise."""
        return _REASON_WORDS[self]

    @classmethod
    def from_words(cls, text: str) -> "Reason":
        """Return the reason of that RFC 5280 name, in any case. Raises ValueError listing what is allowed."""
        for reason, words in _REASON_WORDS.items():
            if words.lower() == text.lower():
                return reason
        raise ValueError(f"{text!r} is not a revocation reason; one of: {', '.join(_REASON_WORDS.values())}")


_REASON_WORDS: Final = {
    Reason.UNSPECIFIED: "unspecified",
    Reason.KEY_COMPROMISE: "keyCompromise",
    Reason.CA_COMPROMISE: "cACompromise",
    Reason.AFFILIATION_CHANGED: "affiliationChanged",
    Reason.SUPERSEDED: "superseded",
    Reason.CESSATION_OF_OPERATION: "cessationOfOperation",
    Reason.CERTIFICATE_HOLD: "certificateHold",
    Reason.REMOVE_FROM_CRL: "removeFromCRL",
    Reason.PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
    Reason.AA_COMPROMISE: "aACompromise",
}


@dataclass(frozen=True, slots=True)
class Good:
    """A certificate or precertificate with this serial was proven to be signed by the issuer, and is not revoked."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Revoked at that moment, for that reason. There is no way back from here."""

    at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class Pending:
    """The serial is reserved and nothing signed has been seen yet: neither good nor unknown may be said."""


@dataclass(frozen=True, slots=True)
class Purged:
    """The record was let go after the certificate expired (RFC 9919 section 3.2.3)."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No source that we read knows the serial. Never stored; only ever concluded."""


# What a row, or the absence of one but a reservation, can say.
Status = Good | Revoked | Pending | Purged
# What an OCSP response can say, RFC 6960 section 2.2.
CertStatus = Good | Revoked | Unknown


class Kind(enum.StrEnum):
    """Which of the two documents a sighting shows (RFC 6962 section 3.1)."""

    PRECERTIFICATE = "precertificate"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate or precertificate proven to be signed by the key of an issuer of ours. Made by precert.py only."""

    issuer_id: int
    serial: int
    kind: Kind
    not_before: datetime
    not_after: datetime
    is_ca: bool
    der: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """Where in a CT log: the entry's index, counted from 0, and the time the log gave it."""

    index: int
    logged_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlace:
    """Where in a file: its name, and the octet at which the record begins."""

    file: str
    offset: int


Place = LogPlace | FilePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One fact about a certificate: which source showed which document, where. When is the database's clock."""

    issued: Issued
    place: Place


class QuarantineReason(enum.StrEnum):
    """Why a document earned no row. Each is evidence and a low alert."""

    UNPARSABLE = "unparsable"  # the entry or file could not be read as what it says it is
    SIGNATURE = "signature"  # it names our issuer, and no key of that issuer signed it
    CONTENTS = "contents"  # validly signed, but not what the log's leaf says
    ISSUER_NAME = "issuer_name"  # signed by our key under an issuer name we do not know
    SERIAL = "serial"  # zero, negative, or too long to be a serial
    FOREIGN = "foreign"  # an issuance log of ours showed a certificate of an issuer we do not serve
    MISSING = "missing"  # a chain certificate that the proof needs could not be had


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Evidence without a row: the raw bytes, where they stood, and why they prove nothing."""

    place: Place
    reason: QuarantineReason
    detail: str
    raw: bytes


class UnassignedAnswer(enum.StrEnum):
    """What an issuer answers for a serial that no source knows, while every required source is fresh."""

    UNKNOWN = "unknown"  # a signed unknown, short-lived
    UNAUTHORIZED = "unauthorized"  # the unsigned error (RFC 9919 section 3.2.3)
    EXTENDED_REVOKE = "extended-revoke"  # RFC 6960 section 2.2; refused for public issuers


class NonceMode(enum.StrEnum):
    """What an issuer does with a nonce in a request (RFC 9654)."""

    OFF = "off"  # answers without it, from memory where it can (RFC 9919 section 3.2.1)
    ECHO = "echo"  # repeats it, in an answer signed for this one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How an issuer's answers are made. Periods count whole seconds, the last one included (BR 4.9.9)."""

    validity: timedelta  # thisUpdate to nextUpdate, both seconds included
    refresh: timedelta  # age at which an answer is signed anew
    max_age: timedelta  # the most a shared cache may keep an answer
    unassigned: UnassignedAnswer
    unknown_validity: timedelta  # validity of a signed unknown
    nonce: NonceMode = NonceMode.OFF
    archive_cutoff: timedelta | None = (
        None  # how long past expiry statuses are vouched for; None: nothing is said of it
    )
    retention: timedelta | None = None  # how long past expiry rows are kept before `cert purge`; None: for ever
    require_signed: bool = False  # answer only requests signed under a CA that the operator named for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What backs an `unknown`: how many required sources there are, and which of them are stale, by name."""

    required: int
    stale: tuple[str, ...]
