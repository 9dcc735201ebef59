# SPDX-License-Identifier: Apache-2.0
"""What could be justified when: what was so in the table, what was wrong with the world, and what the clocks said.

Holds each answer, with the moments it was asked for and came, against all of that. Asks nobody and causes no fault;
watching.py records, the tests of faults say what they did. Moments are of the monotonic clock (seconds).
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf
from typing import Final, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from tests.responder.asking import ERRORS

# Invariant 5: how long an answer may say what has been until then (seconds).
VISIBLE: Final = 2.0
# No answer came: the connection broke, or nobody spoke for as long as a client waits.
BROKEN: Final = "broken"
TRY_LATER: Final = "try_later"
UNKNOWN: Final = "unknown"
# What the sources were.
FRESH: Final = "fresh"
STALE: Final = "stale"

_SECOND: Final = timedelta(seconds=1)
_T = TypeVar("_T")


class Timeline(Generic[_T]):
    """What was so and when. A change takes effect somewhere between two moments, as a commit does."""

    def __init__(self, first: _T) -> None:
        self._phases: list[tuple[_T, float, float]] = [(first, -inf, -inf)]

    @contextmanager
    def becoming(self, what: _T) -> Iterator[None]:
        """Note that it becomes so somewhere in this block, which must do it for certain or raise."""
        began = time.monotonic()
        yield
        self._phases.append((what, began, time.monotonic()))

    def during(self, since: float, until: float) -> set[_T]:
        """Return all that may have been so at some moment between these."""
        ends = [done for _, (_, _, done) in pairwise(self._phases)] + [inf]
        return {
            what for (what, began, _), end in zip(self._phases, ends, strict=True) if began <= until and end >= since
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and what came of it; `body` is None where nothing came."""

    serial: int
    method: str
    hash_name: str
    sent: float
    received: float
    sent_at: datetime
    received_at: datetime
    body: bytes | None


@dataclass
class Excuse:
    """Something is wrong, and for so long these words may be said though the table is silent on them."""

    words: frozenset[str]
    since: float
    until: float = inf


@dataclass
class Truth:
    """All that answers are held against; times of day are the test's own, which no fault sets."""

    ca: x509.Certificate
    signer: x509.Certificate
    statuses: dict[int, Timeline[str]] = field(default_factory=dict)
    sources: Timeline[str] = field(default_factory=lambda: Timeline(FRESH))
    # How far the responder's clock is ahead of ours.
    ahead: Timeline[timedelta] = field(default_factory=lambda: Timeline(timedelta()))
    excuses: list[Excuse] = field(default_factory=list)
    _read: dict[bytes, ocsp.OCSPResponse] = field(default_factory=dict)

    def judge(self, answers: list[Asked]) -> Counter[str]:
        """Hold every answer against what could be justified. Return how often each word was said."""
        said: Counter[str] = Counter()
        complaints = []
        for asked in answers:
            word, complaint = self._hear(asked)
            said[word] += 1
            allowed = self._allowed(asked)
            if complaint is None and word not in allowed:
                complaint = f"may be {sorted(allowed)}"
            if complaint is not None:
                complaints.append(f"{word}: {complaint}: {asked}")
        assert complaints == [], f"{len(complaints)} of {len(answers)}, first: " + "\n".join(complaints[:5])
        return said

    def _allowed(self, asked: Asked) -> set[str]:
        timeline = self.statuses[asked.serial]
        # Doubt is never cached (invariant 6): unknown has to be so while somebody asks, not within two seconds of it.
        words = timeline.during(asked.sent - VISIBLE, asked.received) - {UNKNOWN}
        if UNKNOWN in timeline.during(asked.sent, asked.received):
            sources = self.sources.during(asked.sent, asked.received)
            words |= {UNKNOWN} if FRESH in sources else set()
            words |= {TRY_LATER} if STALE in sources else set()
        for excuse in self.excuses:
            if excuse.since <= asked.received and asked.sent <= excuse.until:
                words |= excuse.words
        return words

    def _hear(self, asked: Asked) -> tuple[str, str | None]:
        """Return the word, and what is wrong with the answer whatever the table says."""
        word = self.word(asked)
        if asked.body is None or asked.body in ERRORS:
            return word, None
        return word, self._complaint(self._read[asked.body], asked)

    def word(self, asked: Asked) -> str:
        """Return the word that was said, signed by who has to sign or an error."""
        if asked.body is None:
            return BROKEN
        read = self._read.get(asked.body)
        if read is None:
            read = self._read[asked.body] = ocsp.load_der_ocsp_response(asked.body)
            if asked.body not in ERRORS:
                self._verify(read)
        return (read.response_status if asked.body in ERRORS else read.certificate_status).name.lower()

    def _verify(self, read: ocsp.OCSPResponse) -> None:
        assert read.certificates == [self.signer]
        key, digest = self.signer.public_key(), read.signature_hash_algorithm
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert digest is not None
        key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(digest))

    def _complaint(self, read: ocsp.OCSPResponse, asked: Asked) -> str | None:
        if read.serial_number != asked.serial or read.hash_algorithm.name != asked.hash_name:
            return "an answer to another question"
        clocks = self.ahead.during(asked.sent, asked.received)
        if read.this_update_utc > asked.received_at + max(clocks) or read.produced_at_utc != read.this_update_utc:
            return f"begins in the future, at {read.this_update_utc}"
        if read.next_update_utc is None or read.next_update_utc + _SECOND <= asked.sent_at + min(clocks):
            return f"has ended, at {read.next_update_utc}"
        if not self.signer.not_valid_before_utc <= read.this_update_utc <= self.signer.not_valid_after_utc:
            return f"signed out of the signer's time, at {read.this_update_utc}"
        return None


def now() -> datetime:
    return datetime.now(UTC)
