# SPDX-License-Identifier: Apache-2.0
"""The values of answers signed ahead: one as it is stored, one that is due, a portion of work, what is to be kept.

No behaviour beyond their own sense. Imported by presigned_store.py, responder/stored.py and responder/presign/. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from responder.status.model import Good, Purged, Revoked

Form = tuple[int, int, str]  # issuer_id, serial, name of the CertID's hash

# The hashes under which answers can be stored: what clients send (RFC 5019), and what they are to send (RFC 9919).
HASHES: Final = ("sha1", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored answer, with what the table says of the certificate and of the signer in the same moment."""

    body: bytes
    signed: Good | Revoked
    this_update: datetime
    next_update: datetime
    refresh_at: datetime
    signer_id: int
    signer_certificate: bytes
    signer_is_retired: bool
    archive_cutoff: timedelta | None
    status: Good | Revoked | Purged


@dataclass(frozen=True, slots=True)
class Due:
    """One answer to sign: for which serial, under which hash, saying what."""

    serial: int
    hash_name: str
    status: Good | Revoked


@dataclass(frozen=True, slots=True)
class Job:
    """A portion of what is to be signed, all of one issuer. The queue lets go of it when the transaction commits."""

    issuer_id: int
    serials: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Answers of one issuer, signed in the same second by the same signer: what is common, then what is not."""

    issuer_id: int
    signer_id: int
    this_update: datetime
    next_update: datetime
    refresh_at: datetime
    archive_cutoff: timedelta | None
    answers: Sequence[tuple[Due, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is to be kept signed ahead: of which issuers, under which hashes, how early, for whom."""

    issuers: Sequence[int]
    hash_names: Sequence[str]
    lead: timedelta  # so long before its time an answer is signed anew, at most a quarter of the time it has
    asked_within: timedelta | None  # only certificates that were asked for in this time; None means all
