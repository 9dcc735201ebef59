# SPDX-License-Identifier: Apache-2.0
"""What one worker counts, in plain integers, so that counting costs the hot path one addition. Pure.

Knows no metric's name, no file and no clock; metrics.py names what is counted here. All calls come from the
event loop. No serial ever comes here, and every label has few values.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

# Sizes up to here are counted to the octet, larger ones by the kibioctet they begin: so there are few tallies.
_EXACT_OCTETS: Final = 1024
_HOUR: Final = 3600
# No answer of ours is valid for longer (BR 4.9.10 allows ten days), so no cache hands it out for longer.
_LONGEST_KEPT: Final = timedelta(days=11)

NO_HASH: Final = "none"


class Tally:
    """How often kept answers of one kind were sent: `tally.post += 1` is all that a cached answer costs.

    `Counts.tally` gives one to each answer that may be kept.
    """

    __slots__ = ("get", "post")

    def __init__(self) -> None:
        """Begin at nought."""
        self.get = 0
        self.post = 0


class Histogram:
    """How many values fell below each bound, as Prometheus counts them, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` ascend; what exceeds the last one is counted beyond it."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or one value several times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(frozen=True, slots=True)
class Kind:
    """What all answers under one tally have in common."""

    outcome: str
    hash_name: str
    octets: int
    signed_in_hour: int


AGES: Final = tuple(float(hours * _HOUR) for hours in (1, 6, 12, 24, 36, 48, 60, 72, 84, 96, 120, 144, 168, 240))
SIZES: Final = (60.0, 80.0, 100.0, 120.0, 150.0, 200.0, 400.0, 800.0, 1200.0, 2000.0, 5000.0, 10000.0)
SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(slots=True)
class Counts:
    """Everything that one worker has counted since it started. Numbers only grow, but for those in `in_flight`."""

    # By outcome, method, kept or not, and the CertID's hash algorithm.
    answers: defaultdict[tuple[str, str, bool, str], int] = field(default_factory=lambda: defaultdict(int))
    # By OCSPResponseStatus.
    statuses: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    # By HTTP status: what never became an OCSP answer, such as 405 and 431.
    http_errors: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    # By method: answers that had to be worked out.
    seconds: dict[str, Histogram] = field(default_factory=dict)
    # By issuer.
    signing: dict[str, Histogram] = field(default_factory=dict)
    ages: Histogram = field(default_factory=lambda: Histogram(AGES))
    sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    batches: Histogram = field(default_factory=lambda: Histogram(BATCHES))
    lookups: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    in_flight: int = 0
    not_modified: int = 0
    database_errors: int = 0
    signing_errors: int = 0
    log_lines_dropped: int = 0
    unanswered_dropped: int = 0
    audit_entries: int = 0
    audit_failures: int = 0
    audit_entries_lost: int = 0
    tallies: dict[Kind, Tally] = field(default_factory=dict)

    def tally(self, *, outcome: str, hash_name: str, octets: int, this_update: datetime) -> Tally:
        """Return the tally for kept answers of this kind, to be kept beside the answer.

        `hash_name` is the CertID's hash, `octets` the length of the request.
        """
        size = octets if octets <= _EXACT_OCTETS else -(-octets // _EXACT_OCTETS) * _EXACT_OCTETS
        kind = Kind(outcome, hash_name, size, int(this_update.timestamp()) // _HOUR)
        tally = self.tallies.get(kind)
        if tally is None:
            tally = self.tallies[kind] = Tally()
        return tally

    def answered(
        self,
        outcome: str,
        *,
        response_status: int,
        method: str,
        octets: int,
        seconds: float,
        hash_name: str = NO_HASH,
        age: float | None = None,
    ) -> None:
        """Count an answer that was worked out: once for each request, refusals included.

        `response_status` is the OCSPResponseStatus, `octets` the length of the request, `seconds` the time it took,
        `age` the seconds since thisUpdate of a signed answer.
        """
        self.answers[outcome, method, False, hash_name] += 1
        self.statuses[response_status] += 1
        self.sizes.observe(octets)
        taken = self.seconds.get(method)
        if taken is None:
            taken = self.seconds[method] = Histogram(SECONDS)
        taken.observe(seconds)
        if age is not None:
            self.ages.observe(age)

    def refused_http(self, http_status: int) -> None:
        """Count a request that never became an OCSP question: 400, 405, 408, 413, 431."""
        self.http_errors[http_status] += 1

    def signed(self, issuer: str, seconds: float) -> None:
        """Count a signature of an issuer's signer, and how long it took, waiting included."""
        taken = self.signing.get(issuer)
        if taken is None:
            taken = self.signing[issuer] = Histogram(SECONDS)
        taken.observe(seconds)

    def looked_up(self, keys: int, seconds: float) -> None:
        """Count a query for so many certificates."""
        self.batches.observe(keys)
        self.lookups.observe(seconds)

    def fold(self, *, now: datetime) -> None:
        """Move what the tallies have into the totals, and let go of tallies that no kept answer can have any more."""
        epoch = now.timestamp()
        for kind, tally in list(self.tallies.items()):
            get, post, tally.get, tally.post = tally.get, tally.post, 0, 0
            if get or post:
                self._fold(kind, get=get, post=post, epoch=epoch)
            elif epoch - kind.signed_in_hour * _HOUR > _LONGEST_KEPT.total_seconds():
                del self.tallies[kind]

    def _fold(self, kind: Kind, *, get: int, post: int, epoch: float) -> None:
        both = get + post
        if get:
            self.answers[kind.outcome, "GET", True, kind.hash_name] += get
        if post:
            self.answers[kind.outcome, "POST", True, kind.hash_name] += post
        self.statuses[0] += both  # only signed answers are kept: successful
        self.sizes.observe(kind.octets, both)
        # Within the hour of the signature nobody needs it more exactly.
        self.ages.observe(max(0.0, epoch - kind.signed_in_hour * _HOUR), both)


#: For answers that are never kept, such as refusals: nobody adds it up.
UNCOUNTED: Final = Tally()
