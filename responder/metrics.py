# SPDX-License-Identifier: Apache-2.0
"""The responder's metrics: their names, what they mean, and how those of several workers become one.

Knows what counting.py counts and prometheus-client's format; no file and no clock. Never a serial in a label. The names
without our prefix are those of Boulder's responder, where the meaning is the same.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from responder.counting import AGES, BATCHES, SECONDS, SIZES, Counts, Histogram
from responder.errors import ResponseStatus

# The name of a metric and the values of its labels, in their order.
Series = tuple[str, ...]


class Fold(enum.Enum):
    """How the workers' numbers become one."""

    TOTAL = enum.auto()  # a counter: the sum over all workers there ever were
    SPREAD = enum.auto()  # a histogram: the same, bucket by bucket
    SUM = enum.auto()  # a gauge: the sum over the living
    HIGHEST = enum.auto()  # a gauge: the worst of the living is the highest
    LOWEST = enum.auto()  # a gauge: the worst of the living is the lowest


@dataclass(frozen=True, slots=True)
class Told:
    """One metric as /metrics tells it; `bounds` are a histogram's."""

    name: str
    fold: Fold
    means: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


class Spread(msgspec.Struct):
    """A histogram's counts below each bound and beyond, and the sum of all values."""

    counts: list[int]
    sum: float


class Numbers(msgspec.Struct):
    """Every number of one worker, or of several together."""

    totals: dict[Series, float] = msgspec.field(default_factory=dict)
    spreads: dict[Series, Spread] = msgspec.field(default_factory=dict)
    gauges: dict[Series, float] = msgspec.field(default_factory=dict)


_OURS: Final = "foundling_responder_"

CATALOGUE: Final = (
    Told("ocsp_responses", Fold.TOTAL, "OCSP responses sent, by OCSPResponseStatus.", ("type",)),
    Told("ocsp_response_ages", Fold.SPREAD, "Seconds since thisUpdate of signed responses sent.", bounds=AGES),
    Told("ocsp_request_sizes", Fold.SPREAD, "Octets of the OCSP requests answered.", bounds=SIZES),
    Told(
        "response_time", Fold.SPREAD, "Seconds that answers took which were not in memory.",
        ("endpoint", "method", "code"), SECONDS,
    ),
    Told("in_flight_requests", Fold.SUM, "Requests being worked on that were not in memory.", ("endpoint",)),
    Told(
        _OURS + "answers", Fold.TOTAL,
        "Answers by what they say or why they refuse, by method, from memory or not, by the CertID's hash.",
        ("outcome", "method", "kept", "hash"),
    ),
    Told(_OURS + "not_modified", Fold.TOTAL, "Answers sent as 304, being what the client has already."),
    Told(_OURS + "http_errors", Fold.TOTAL, "Requests that never became an OCSP question, by HTTP status.", ("code",)),
    Told(_OURS + "signing_seconds", Fold.SPREAD, "Seconds a signature took, waiting included.", ("issuer",), SECONDS),
    Told(_OURS + "signing_errors", Fold.TOTAL, "Signatures that could not be made."),
    Told(_OURS + "lookup_seconds", Fold.SPREAD, "Seconds that look-ups in the status table took.", bounds=SECONDS),
    Told(_OURS + "lookup_batch_size", Fold.SPREAD, "Certificates asked for in one look-up.", bounds=BATCHES),
    Told(_OURS + "database_errors", Fold.TOTAL, "Look-ups that failed."),
    Told(_OURS + "log_lines_dropped", Fold.TOTAL, "Log lines held back because they repeat."),
    Told(_OURS + "unanswered_dropped", Fold.TOTAL, "Unanswered requests that were too many to be written down."),
    Told(_OURS + "audit_entries", Fold.TOTAL, "Signed responses written to the audit log."),
    Told(_OURS + "audit_failures", Fold.TOTAL, "Bundles that could not be written to the audit log at once."),
    Told(_OURS + "audit_entries_lost", Fold.TOTAL, "Signed responses that the audit log will never show."),
    Told(_OURS + "kept_answers", Fold.SUM, "Signed answers in memory."),
    Told(_OURS + "kept_octets", Fold.SUM, "Octets of those answers and of the requests to them."),
    Told(_OURS + "feed_age_seconds", Fold.HIGHEST, "Age of the change feed's last reading, in the worst worker."),
    Told(
        _OURS + "signer_remaining_seconds", Fold.LOWEST, "Seconds until a signer's certificate ends.",
        ("issuer", "key", "state"),
    ),
    Told(_OURS + "sources_required", Fold.HIGHEST, "Sources that an `unknown` waits for."),
    Told(_OURS + "sources_stale", Fold.HIGHEST, "Those of them that do not vouch for now: `unknown` is withheld."),
    Told(
        _OURS + "check", Fold.HIGHEST, "What /readyz says of each check: 0 ok, 1 degraded, 2 failing, worst worker.",
        ("check",),
    ),
    Told(_OURS + "workers", Fold.SUM, "Worker processes that are up."),
    Told(_OURS + "workers_ended", Fold.TOTAL, "Worker processes that ended, by reloads too."),
    Told(_OURS + "worker_silence_seconds", Fold.HIGHEST, "Age of the oldest numbers: a worker that hangs tells none."),
    Told(_OURS + "loop_delay_seconds", Fold.HIGHEST, "How late the event loop last was, in the worst worker."),
    Told(_OURS + "resident_memory_bytes", Fold.SUM, "Memory of all workers, shared pages counted in each."),
    Told(_OURS + "cpu_seconds", Fold.TOTAL, "Processor time of all workers."),
)  # fmt: skip
_BY_NAME: Final = {told.name: told for told in CATALOGUE}
_GAUGES: Final = frozenset({Fold.SUM, Fold.HIGHEST, Fold.LOWEST})

# Boulder's words for OCSPResponseStatus.
_TYPES: Final = {
    ResponseStatus.SUCCESSFUL: "Success",
    ResponseStatus.MALFORMED_REQUEST: "Malformed",
    ResponseStatus.INTERNAL_ERROR: "InternalError",
    ResponseStatus.TRY_LATER: "TryLater",
    ResponseStatus.SIG_REQUIRED: "SignatureRequired",
    ResponseStatus.UNAUTHORIZED: "Unauthorized",
}
ENDPOINT: Final = "/"


def gauge(name: str, *labels: str) -> Series:
    """Return the series of a gauge. Raises KeyError where the catalogue has none of that name with so many labels."""
    return _series(name, labels, _GAUGES)


def counter(name: str, *labels: str) -> Series:
    """Return the series of a counter. Raises KeyError likewise."""
    return _series(name, labels, frozenset({Fold.TOTAL}))


def _series(name: str, labels: tuple[str, ...], folds: frozenset[Fold]) -> Series:
    told = _BY_NAME[name if name in _BY_NAME else _OURS + name]
    if told.fold not in folds or len(labels) != len(told.labels):
        raise KeyError(name)
    return (told.name, *labels)


def numbers_of(counts: Counts) -> Numbers:
    """Return what a worker has counted, series by series."""
    numbers = Numbers()
    totals, spreads = numbers.totals, numbers.spreads
    for (outcome, method, kept, hash_name), times in counts.answers.items():
        totals[_OURS + "answers", outcome, method, "yes" if kept else "no", hash_name] = times
    for status, times in counts.statuses.items():
        totals["ocsp_responses", _TYPES[ResponseStatus(status)]] = times
    for code, times in counts.http_errors.items():
        totals[_OURS + "http_errors", str(code)] = times
    for name in (
        "not_modified", "signing_errors", "database_errors", "log_lines_dropped", "unanswered_dropped",
        "audit_entries", "audit_failures", "audit_entries_lost",
    ):  # fmt: skip
        totals[counter(name)] = getattr(counts, name)
    for method, taken in counts.seconds.items():
        # Every OCSP answer is a 200; what is not has no part in these.
        spreads["response_time", ENDPOINT, method, "200"] = _spread(taken)
    for issuer, taken in counts.signing.items():
        spreads[_OURS + "signing_seconds", issuer] = _spread(taken)
    spreads[("ocsp_response_ages",)] = _spread(counts.ages)
    spreads[("ocsp_request_sizes",)] = _spread(counts.sizes)
    spreads[(_OURS + "lookup_seconds",)] = _spread(counts.lookups)
    spreads[(_OURS + "lookup_batch_size",)] = _spread(counts.batches)
    numbers.gauges[gauge("in_flight_requests", ENDPOINT)] = counts.in_flight
    return numbers


def _spread(histogram: Histogram) -> Spread:
    return Spread(list(histogram.counts), histogram.sum)


def add_counters(into: Numbers, other: Numbers) -> None:
    """Add the counters and histograms, which is all that stays of a worker that has ended."""
    for series, value in other.totals.items():
        into.totals[series] = into.totals.get(series, 0.0) + value
    for series, spread in other.spreads.items():
        former = into.spreads.get(series)
        if former is None or len(former.counts) != len(spread.counts):
            into.spreads[series] = Spread(list(spread.counts), spread.sum)
        else:
            former.counts = [one + more for one, more in zip(former.counts, spread.counts, strict=True)]
            former.sum += spread.sum


def together(living: Iterable[Numbers], ended: Numbers) -> Numbers:
    """Return the numbers of a whole host: counters of all workers there were, gauges of the living."""
    whole = Numbers()
    add_counters(whole, ended)
    for numbers in living:
        add_counters(whole, numbers)
        for series, value in numbers.gauges.items():
            former = whole.gauges.get(series)
            whole.gauges[series] = value if former is None else _one(_BY_NAME[series[0]].fold, former, value)
    return whole


def _one(fold: Fold, one: float, other: float) -> float:
    match fold:
        case Fold.HIGHEST:
            return max(one, other)
        case Fold.LOWEST:
            return min(one, other)
        case _:
            return one + other


def exposition(numbers: Numbers, *, accept: str) -> tuple[bytes, str]:
    """Return the numbers in the format that a scraper's Accept header prefers, and the format's media type."""
    encoder, media_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(numbers))
    return encoder(registry), media_type


class _Collector(Collector):
    """Hands numbers to prometheus-client."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the catalogue, also one that has no number yet."""
        for told in CATALOGUE:
            match told.fold:
                case Fold.TOTAL:
                    family = CounterMetricFamily(told.name, told.means, labels=told.labels)
                    yield _of(family, told, self._numbers.totals)
                case Fold.SPREAD:
                    yield _histogram(told, self._numbers.spreads)
                case _:
                    gauge = GaugeMetricFamily(told.name, told.means, labels=told.labels)
                    yield _of(gauge, told, self._numbers.gauges)


def _of(family: CounterMetricFamily | GaugeMetricFamily, told: Told, values: Mapping[Series, float]) -> Metric:
    for series, value in values.items():
        if series[0] == told.name:
            family.add_metric(series[1:], value)
    return family


def _histogram(told: Told, spreads: Mapping[Series, Spread]) -> Metric:
    family = HistogramMetricFamily(told.name, told.means, labels=told.labels)
    for series, spread in spreads.items():
        if series[0] == told.name:
            below, buckets = 0, list[tuple[str, float]]()
            for bound, count in zip((*map(str, told.bounds), "+Inf"), spread.counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric(series[1:], buckets, spread.sum)
    return family
