# SPDX-License-Identifier: Apache-2.0
"""What may be said, and for how long: the rules on times and the table from status to answer.

Knows the Baseline Requirements' and root programs' bounds; no DER, no signer, no clock. Called by service.py for every
answer, and by ocsp-admin before a policy is stored.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never

from responder.errors import InternalError, PolicyError, Refusal, TryLater, Unauthorized
from responder.status.model import (
    CertStatus,
    Freshness,
    Good,
    NonceMode,
    Pending,
    Policy,
    Purged,
    Reason,
    Revoked,
    Status,
    UnassignedAnswer,
    Unknown,
    whole_second,
)

_SECOND: Final = timedelta(seconds=1)

# BR 4.9.9 and the Microsoft requirements 3.2.2 agree on the least; the BR allow 10 days, Microsoft 7. Both ends count.
LEAST_PUBLIC_VALIDITY: Final = timedelta(hours=8)
MOST_PUBLIC_VALIDITY: Final = timedelta(days=7)
# Microsoft 3.2.2, and BR 4.9.9 from 16 hours of validity on: the next answer exists this long before the old one ends.
LEAST_OVERLAP: Final = timedelta(hours=8)
# A signed unknown tells of no certificate, so the bounds above do not bind it. Below a minute clocks that differ make
# it useless; above an hour it outlives the doubt it was born of.
LEAST_UNKNOWN_VALIDITY: Final = timedelta(minutes=1)
MOST_UNKNOWN_VALIDITY: Final = timedelta(hours=1)
# BR 4.9.9: nobody may be told "unknown" later than this after a (pre)certificate was made available. An unknown signed
# just before that moment has to have ended by then, wherever it was cached.
MOST_PUBLIC_UNKNOWN_VALIDITY: Final = timedelta(minutes=15)
# An answer may come to a cache so much later than its headers were written: what waits longer has given up (seconds).
MOST_SECONDS_ON_ITS_WAY: Final = 10

# BR 4.10.1: an entry stays until after the Expiry Date of the certificate. A day more, and that date is over in every
# time zone and on every clock that is only a little wrong.
LEAST_PUBLIC_RETENTION: Final = timedelta(days=1)
# Nobody keeps records for longer, and a cutoff has to remain a date.
MOST_RETENTION: Final = timedelta(days=36525)
# RFC 9654 section 2.1: responders accept up to 32 octets, and may leave longer nonces unanswered.
MOST_ECHOED_NONCE: Final = 32

# RFC 6960 section 2.2: how "not issued" is said with the word "revoked". The response needs the extension of section
# 4.4.8 with it, which is the caller's to ask for where this value is among the answers.
EXTENDED_REVOKE: Final = Revoked(datetime(1970, 1, 1, tzinfo=UTC), Reason.CERTIFICATE_HOLD)

# 96 hours: twelve times the least allowed, so that a signer out of order over a weekend hurts nobody, and well below
# the most, so that no stale "good" lives longer than it must. Signed anew at 36 hours: twelve hours before Microsoft's
# half-way mark, time for people to mend what failed without a rule broken. An hour in shared caches bounds what a
# revocation waits for where nobody purges. Ten minutes of unknown end well inside the BR's fifteen.
DEFAULT_POLICY: Final = Policy(
    validity=timedelta(hours=96),
    refresh=timedelta(hours=36),
    max_age=timedelta(hours=1),
    unassigned=UnassignedAnswer.UNKNOWN,
    unknown_validity=timedelta(minutes=10),
)


def check_policy(policy: Policy, *, public: bool) -> None:
    """Check an issuer's policy. Raises PolicyError with the rule; `public` means bound by the Baseline Requirements."""
    for name in ("validity", "refresh", "max_age", "unknown_validity"):
        period: timedelta = getattr(policy, name)
        if period < _SECOND or period % _SECOND != timedelta(0):
            raise PolicyError("RFC 9919 3.2.4", f"{name} is {period}, and has to be whole seconds, at least one")
    if policy.refresh >= policy.validity:
        raise PolicyError("RFC 9919 7.1", f"refresh ({policy.refresh}) has to come before validity ({policy.validity})")
    if policy.max_age > policy.refresh:
        raise PolicyError("RFC 9919 7.2", f"max_age ({policy.max_age}) is longer than refresh ({policy.refresh})")
    _check_unknown(policy.unknown_validity, MOST_PUBLIC_UNKNOWN_VALIDITY if public else MOST_UNKNOWN_VALIDITY)
    _check_retention(policy)
    if public:
        _check_public(policy)


def _check_unknown(validity: timedelta, most: timedelta) -> None:
    if not LEAST_UNKNOWN_VALIDITY <= validity <= most:
        raise PolicyError(
            "BR 4.9.9, fifteen minutes", f"unknown_validity is {validity}, not {LEAST_UNKNOWN_VALIDITY} to {most}"
        )


def _check_retention(policy: Policy) -> None:
    for name in ("archive_cutoff", "retention"):
        period: timedelta | None = getattr(policy, name)
        if period is not None and not (_SECOND <= period <= MOST_RETENTION and period % _SECOND == timedelta(0)):
            raise PolicyError(
                "RFC 6960 4.4.4", f"{name} is {period}, and has to be whole seconds, at most {MOST_RETENTION.days} days"
            )
    kept, claimed = policy.retention, policy.archive_cutoff
    if kept is not None and claimed is not None and claimed > kept:
        # The cutoff tells clients how far back our records reach; a record let go sooner would make it untrue.
        raise PolicyError("RFC 6960 4.4.4", f"archive_cutoff ({claimed}) is longer than retention ({kept})")


def _check_public(policy: Policy) -> None:
    # BR 4.9.9 also asks for a new answer before half of a short interval remains, and within four days. The two rules
    # on refresh below leave less room than either, which a test shows.
    if not LEAST_PUBLIC_VALIDITY <= policy.validity <= MOST_PUBLIC_VALIDITY:
        raise PolicyError(
            "BR 4.9.9 and Microsoft 3.2.2",
            f"validity is {policy.validity}, not {LEAST_PUBLIC_VALIDITY} to {MOST_PUBLIC_VALIDITY}",
        )
    if policy.validity - _SECOND - policy.refresh < LEAST_OVERLAP:
        raise PolicyError(
            "BR 4.9.9 and Microsoft 3.2.2, overlap",
            f"refresh at {policy.refresh} is less than {LEAST_OVERLAP} before nextUpdate (validity {policy.validity})",
        )
    if policy.refresh * 2 > policy.validity:
        raise PolicyError(
            "Microsoft 3.2.2, half", f"refresh ({policy.refresh}) is later than half of validity ({policy.validity})"
        )
    if policy.unassigned is UnassignedAnswer.EXTENDED_REVOKE:
        # The hold it needs is what BR 7.2.2 forbids, and with guessable serials it marks certificates yet to come.
        raise PolicyError("BR 7.2.2 and RFC 6960 5", "extended-revoke is not for a public issuer; use unknown")
    if policy.require_signed:
        # Whoever relies on a certificate has to get an authoritative answer, and browsers sign nothing.
        raise PolicyError("BR 4.9.9", "a public issuer answers everybody, so it cannot ask for signed requests")
    if policy.retention is not None and policy.retention < LEAST_PUBLIC_RETENTION:
        raise PolicyError(
            "BR 4.10.1", f"retention is {policy.retention}, at least {LEAST_PUBLIC_RETENTION} for a public issuer"
        )


@dataclass(frozen=True, slots=True)
class Times:
    """When an answer begins, when it ends, and when it is to be signed anew. Whole seconds, UTC."""

    this_update: datetime
    next_update: datetime
    refresh_at: datetime


def plan_times(policy: Policy, *, now: datetime, signer_not_after: datetime, public: bool, unknown: bool) -> Times:
    """Plan the times of an answer signed now; `unknown` for whatever is said of an unassigned serial.

    nextUpdate is the last second of the period, since BR 4.9.9 counts it, and never past the end of the signer's
    certificate (Mozilla 6). Raises TryLater when what is left of that is no lawful period.
    """
    this_update = whole_second(now)
    wanted = policy.unknown_validity if unknown else policy.validity
    next_update = min(this_update + wanted - _SECOND, whole_second(signer_not_after))
    period = next_update - this_update + _SECOND
    least = LEAST_PUBLIC_VALIDITY if public and not unknown else 2 * _SECOND
    if period < least:
        raise TryLater(Refusal.SIGNER_EXPIRING, f"the signer's certificate ends at {signer_not_after}")
    refresh = policy.refresh
    if period < policy.validity:
        # Shorter than configured: anew before half of it remains, as BR 4.9.9 asks below 16 hours.
        refresh = min(refresh, (period - _SECOND) // (2 * _SECOND) * _SECOND)
    return Times(this_update, next_update, this_update + refresh)


def decide(status: Status | None, *, freshness: Freshness | None, policy: Policy) -> CertStatus:
    """Turn what the table says into what the answer says; `freshness` is None where nobody could tell.

    Raises TryLater, Unauthorized or InternalError where there is nothing to sign. A reason that a public issuer must
    not give, such as a hold, is the lint's to stop, which knows the issuer.
    """
    match status:
        case Good():
            return status
        case Revoked():
            if status.reason is Reason.REMOVE_FROM_CRL:
                raise InternalError(Refusal.CONTRADICTION, "a row is revoked for removeFromCRL, which is no status")
            return status
        case Pending():
            raise TryLater(Refusal.PENDING, "the serial is registered, and nothing signed has been seen yet")
        case Purged():
            raise Unauthorized(Refusal.PURGED, "the record was let go after the certificate expired")
        case None:
            return _unassigned(freshness, policy.unassigned)
        case _:
            assert_never(status)


def _unassigned(freshness: Freshness | None, answer: UnassignedAnswer) -> CertStatus:
    # "Unknown" means foreign: with one required source behind, it would only mean that we have not looked.
    if freshness is None:
        raise TryLater(Refusal.STALE_SOURCE, "no row, and how fresh the sources are is not known")
    if len(freshness.stale) > 0:
        raise TryLater(Refusal.STALE_SOURCE, f"no row, and stale: {', '.join(freshness.stale)}")
    match answer:
        case UnassignedAnswer.UNKNOWN:
            return Unknown()
        case UnassignedAnswer.UNAUTHORIZED:
            raise Unauthorized(Refusal.UNASSIGNED, "no source knows the serial, and the policy is not to sign that")
        case UnassignedAnswer.EXTENDED_REVOKE:
            return EXTENDED_REVOKE
        case _:
            assert_never(answer)


def nonce_to_echo(nonce: bytes | None, policy: Policy) -> bytes | None:
    """Return the nonce that the answer has to repeat: none while that is off, nor one too long to be worth repeating.

    RFC 9654 section 2.1: nonces of 1 to 15 and of 33 to 128 octets may be answered without. Short ones are in use, and
    repeating them costs nothing.
    """
    if nonce is None or policy.nonce is NonceMode.OFF or len(nonce) > MOST_ECHOED_NONCE:
        return None
    return nonce


def archive_cutoff(status: CertStatus, policy: Policy, *, produced_at: datetime) -> datetime | None:
    """Return the archive cutoff of an answer, producedAt minus the interval (RFC 6960 section 4.4.4).

    The RFC asks for it in every response of a responder that keeps statuses past expiry, not only for certificates that
    have expired. Of serials that were never issued nothing is kept, so their answers go without.
    """
    if policy.archive_cutoff is None or isinstance(status, Unknown) or status is EXTENDED_REVOKE:
        return None
    return whole_second(produced_at) - policy.archive_cutoff


def purge_before(policy: Policy, *, public: bool, now: datetime, before: datetime | None) -> datetime | None:
    """Return the moment such that rows whose notAfter lies before it may be purged; None where nothing may.

    `before` is an operator's word for an issuer that keeps its rows for ever, and can only narrow what the policy of
    any other allows. The archive cutoff and BR 4.10.1 hold whoever asks.
    """
    if policy.retention is None and before is None:
        return None
    promised = [policy.retention, policy.archive_cutoff, LEAST_PUBLIC_RETENTION if public else timedelta(0)]
    latest = whole_second(now) - max(period for period in promised if period is not None)
    return latest if before is None else min(latest, whole_second(before))


def cache_seconds(times: Times, *, now: datetime, max_age: timedelta) -> int:
    """Return max-age for a shared cache: until the refresh at most, and strictly inside nextUpdate (RFC 9919 7.2)."""
    until_refresh = math.floor((times.refresh_at - now).total_seconds())
    before_the_end = math.ceil((times.next_update - now).total_seconds()) - 1
    return max(0, min(int(max_age.total_seconds()), until_refresh, before_the_end))


def stale_seconds(times: Times, *, now: datetime, max_age: int) -> int:
    """Return stale-if-error for a shared cache (RFC 5861 section 4): how long after those `max_age` seconds it may use
    the answer while we are out of reach. That ends before nextUpdate, however late the answer came to the cache.
    """
    until_the_end = math.floor((times.next_update - now).total_seconds())
    return max(0, until_the_end - max_age - MOST_SECONDS_ON_ITS_WAY)
