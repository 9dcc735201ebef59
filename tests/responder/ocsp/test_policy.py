# SPDX-License-Identifier: Apache-2.0
"""Times and decisions: the bounds at their last second, and the answer table line by line."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import InternalError, OcspError, PolicyError, Refusal, TryLater, Unauthorized
from responder.ocsp.policy import (
    DEFAULT_POLICY,
    EXTENDED_REVOKE,
    MOST_SECONDS_ON_ITS_WAY,
    Times,
    cache_seconds,
    check_policy,
    decide,
    plan_times,
    purge_before,
    stale_seconds,
)
from responder.status.model import (
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
)

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
S, M, H, D = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FAR = NOW + 365 * D


def changed(**changes: Any) -> Policy:
    return replace(DEFAULT_POLICY, **changes)


@pytest.mark.parametrize("public", [True, False])
def test_the_default_policy_is_lawful_for_everybody(public: bool) -> None:
    check_policy(DEFAULT_POLICY, public=public)


LAWFUL_PUBLIC: dict[str, Policy] = {
    "seven days": changed(validity=7 * D, refresh=84 * H),
    "one second of refresh just above eight hours": changed(validity=8 * H + 2 * S, refresh=S, max_age=S),
    "refresh at half": changed(refresh=48 * H),
    "sixteen hours": changed(validity=16 * H, refresh=8 * H - S),
    "a minute of unknown": changed(unknown_validity=M),
    "fifteen minutes of unknown": changed(unknown_validity=15 * M),
    "unauthorized for unassigned serials": changed(unassigned=UnassignedAnswer.UNAUTHORIZED),
    "nonces echoed": changed(nonce=NonceMode.ECHO),
    "rows kept for a day": changed(retention=D),
    "an archive cutoff as long as rows are kept": changed(retention=30 * D, archive_cutoff=30 * D),
    "an archive cutoff and rows kept for ever": changed(archive_cutoff=36525 * D),
}


@pytest.mark.parametrize("policy", LAWFUL_PUBLIC.values(), ids=LAWFUL_PUBLIC)
def test_a_lawful_public_policy_is_accepted(policy: Policy) -> None:
    check_policy(policy, public=True)


REFUSED_FOR_ALL: dict[str, tuple[Policy, str]] = {
    "a fraction of a second": (changed(validity=96 * H + timedelta(milliseconds=500)), "RFC 9919 3.2.4"),
    "no validity": (changed(validity=timedelta(0)), "RFC 9919 3.2.4"),
    "refresh before it begins": (changed(refresh=-H), "RFC 9919 3.2.4"),
    "no max_age": (changed(max_age=timedelta(0)), "RFC 9919 3.2.4"),
    "refresh at the end": (changed(refresh=96 * H), "RFC 9919 7.1"),
    "max_age beyond refresh": (changed(refresh=H, max_age=H + S), "RFC 9919 7.2"),
    "unknown for 59 seconds": (changed(unknown_validity=59 * S), "BR 4.9.9, fifteen minutes"),
    "unknown for an hour and a second": (changed(unknown_validity=H + S), "BR 4.9.9, fifteen minutes"),
    "no retention at all": (changed(retention=timedelta(0)), "RFC 6960 4.4.4"),
    "an archive cutoff in the future": (changed(archive_cutoff=-D), "RFC 6960 4.4.4"),
    "an archive cutoff of half a second": (changed(archive_cutoff=S / 2), "RFC 6960 4.4.4"),
    "an archive cutoff before there were computers": (changed(archive_cutoff=36525 * D + S), "RFC 6960 4.4.4"),
    "an archive cutoff that reaches past retention": (
        changed(retention=30 * D, archive_cutoff=30 * D + S),
        "RFC 6960 4.4.4",
    ),
}


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize(("policy", "rule"), REFUSED_FOR_ALL.values(), ids=REFUSED_FOR_ALL)
def test_an_impossible_policy_is_refused_for_everybody(policy: Policy, rule: str, public: bool) -> None:
    with pytest.raises(PolicyError) as caught:
        check_policy(policy, public=public)
    assert caught.value.rule == rule
    assert "\n" not in str(caught.value)


REFUSED_FOR_PUBLIC: dict[str, tuple[Policy, str]] = {
    "a second below eight hours": (changed(validity=8 * H - S, refresh=H), "BR 4.9.9 and Microsoft 3.2.2"),
    "a second above seven days": (changed(validity=7 * D + S, refresh=H), "BR 4.9.9 and Microsoft 3.2.2"),
    "thirty days": (changed(validity=30 * D, refresh=H), "BR 4.9.9 and Microsoft 3.2.2"),
    "too little overlap": (changed(validity=12 * H, refresh=4 * H), "BR 4.9.9 and Microsoft 3.2.2, overlap"),
    "later than half": (changed(refresh=48 * H + S), "Microsoft 3.2.2, half"),
    "unknown for longer than the fifteen minutes": (changed(unknown_validity=15 * M + S), "BR 4.9.9, fifteen minutes"),
    "extended revoke": (changed(unassigned=UnassignedAnswer.EXTENDED_REVOKE), "BR 7.2.2 and RFC 6960 5"),
}


@pytest.mark.parametrize(("policy", "rule"), REFUSED_FOR_PUBLIC.values(), ids=REFUSED_FOR_PUBLIC)
def test_what_the_rules_forbid_is_refused_for_public_issuers_alone(policy: Policy, rule: str) -> None:
    check_policy(policy, public=False)
    with pytest.raises(PolicyError) as caught:
        check_policy(policy, public=True)
    assert caught.value.rule == rule


@given(validity=st.integers(1, 11 * 86_400), refresh=st.integers(1, 11 * 86_400), unknown=st.integers(1, 4000))
def test_an_accepted_public_policy_keeps_every_rule_as_the_documents_word_it(
    validity: int, refresh: int, unknown: int
) -> None:
    policy = changed(validity=validity * S, refresh=refresh * S, max_age=S, unknown_validity=unknown * S)
    try:
        check_policy(policy, public=True)
    except PolicyError:
        return
    times = plan_times(policy, now=NOW, signer_not_after=FAR, public=True, unknown=False)
    interval = times.next_update - times.this_update + S  # inclusive, as BR 4.9.9 says
    assert 8 * H <= interval <= 10 * D
    assert interval <= 7 * D
    if interval < 16 * H:
        assert times.next_update - times.refresh_at >= (times.next_update - times.this_update) / 2
    else:
        assert times.next_update - times.refresh_at >= 8 * H
        assert times.refresh_at - times.this_update <= 4 * D
        assert times.refresh_at - times.this_update <= interval / 2


def test_times_are_whole_seconds_and_next_update_is_the_last_second_of_the_period() -> None:
    late = NOW.replace(microsecond=999_999)
    times = plan_times(DEFAULT_POLICY, now=late, signer_not_after=FAR, public=True, unknown=False)
    assert times == Times(NOW, NOW + 96 * H - S, NOW + 36 * H)
    times = plan_times(DEFAULT_POLICY, now=late, signer_not_after=FAR, public=True, unknown=True)
    assert times == Times(NOW, NOW + 10 * M - S, NOW + 299 * S)


@pytest.mark.parametrize(("left", "refresh"), [(90 * H, 36 * H), (20 * H, 10 * H), (8 * H - S, 4 * H - S)])
def test_next_update_never_passes_the_signer(left: timedelta, refresh: timedelta) -> None:
    times = plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=NOW + left, public=True, unknown=False)
    assert times == Times(NOW, NOW + left, NOW + refresh)


def test_a_signer_that_ends_within_the_least_period_signs_no_more_for_a_public_issuer() -> None:
    ending = NOW + 8 * H - 2 * S
    with pytest.raises(TryLater) as caught:
        plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=ending, public=True, unknown=False)
    assert caught.value.reason is Refusal.SIGNER_EXPIRING
    private = plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=ending, public=False, unknown=False)
    assert private.next_update == ending
    unknown = plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=ending, public=True, unknown=True)
    assert unknown.next_update == NOW + 10 * M - S


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("left", [timedelta(0), -S, -30 * D])
def test_a_signer_with_nothing_left_signs_nothing(left: timedelta, unknown: bool) -> None:
    with pytest.raises(TryLater):
        plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=NOW + left, public=False, unknown=unknown)
    last = plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=NOW + S, public=False, unknown=unknown)
    assert last == Times(NOW, NOW + S, NOW)


FRESH = Freshness(required=2, stale=())
STALE = Freshness(required=2, stale=("wyvern2026h1",))
REVOKED = Revoked(NOW - D, Reason.KEY_COMPROMISE)
HELD = Revoked(NOW - D, Reason.CERTIFICATE_HOLD)
UNAUTHORIZED = changed(unassigned=UnassignedAnswer.UNAUTHORIZED)
EXTENDED = changed(unassigned=UnassignedAnswer.EXTENDED_REVOKE)

SAID: dict[str, tuple[Status | None, Freshness | None, Policy, object]] = {
    "good": (Good(), None, DEFAULT_POLICY, Good()),
    "good, whatever is stale": (Good(), STALE, DEFAULT_POLICY, Good()),
    "revoked": (REVOKED, FRESH, DEFAULT_POLICY, REVOKED),
    "revoked, whatever is stale": (REVOKED, STALE, DEFAULT_POLICY, REVOKED),
    "held, which the lint stops for public issuers": (HELD, FRESH, DEFAULT_POLICY, HELD),
    "unknown": (None, FRESH, DEFAULT_POLICY, Unknown()),
    "unknown where nothing is required": (None, Freshness(required=0, stale=()), DEFAULT_POLICY, Unknown()),
    "extended revoke": (None, FRESH, EXTENDED, EXTENDED_REVOKE),
}


@pytest.mark.parametrize(("status", "freshness", "policy", "answer"), SAID.values(), ids=SAID)
def test_what_is_said(status: Status | None, freshness: Freshness | None, policy: Policy, answer: object) -> None:
    assert decide(status, freshness=freshness, policy=policy) == answer


NOT_SAID: dict[str, tuple[Status | None, Freshness | None, Policy, type[OcspError], Refusal]] = {
    "pending": (Pending(), FRESH, DEFAULT_POLICY, TryLater, Refusal.PENDING),
    "purged": (Purged(), FRESH, DEFAULT_POLICY, Unauthorized, Refusal.PURGED),
    "no row and no word on freshness": (None, None, DEFAULT_POLICY, TryLater, Refusal.STALE_SOURCE),
    "no row and a stale source": (None, STALE, DEFAULT_POLICY, TryLater, Refusal.STALE_SOURCE),
    "the same where unassigned is unauthorized": (None, STALE, UNAUTHORIZED, TryLater, Refusal.STALE_SOURCE),
    "the same where unassigned is revoked": (None, STALE, EXTENDED, TryLater, Refusal.STALE_SOURCE),
    "unassigned is unauthorized": (None, FRESH, UNAUTHORIZED, Unauthorized, Refusal.UNASSIGNED),
    "removed from the CRL": (
        Revoked(NOW, Reason.REMOVE_FROM_CRL), FRESH, DEFAULT_POLICY, InternalError, Refusal.CONTRADICTION,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("status", "freshness", "policy", "error", "refusal"), NOT_SAID.values(), ids=NOT_SAID)
def test_what_is_not_said(
    status: Status | None, freshness: Freshness | None, policy: Policy, error: type[OcspError], refusal: Refusal
) -> None:
    with pytest.raises(error) as caught:
        decide(status, freshness=freshness, policy=policy)
    assert caught.value.reason is refusal


def test_extended_revoke_is_what_rfc_6960_says_it_is() -> None:
    assert Revoked(datetime(1970, 1, 1, tzinfo=UTC), Reason.CERTIFICATE_HOLD) == EXTENDED_REVOKE


def test_a_shared_cache_keeps_an_answer_until_max_age_refresh_or_the_last_second_whichever_is_first() -> None:
    times = Times(NOW, NOW + 10 * H, NOW + 5 * H)
    assert cache_seconds(times, now=NOW, max_age=H) == 3600
    assert cache_seconds(times, now=NOW + 4 * H + 30 * M, max_age=H) == 1800
    assert cache_seconds(times, now=NOW + 5 * H - S + timedelta(microseconds=1), max_age=H) == 0
    assert cache_seconds(times, now=NOW + 6 * H, max_age=H) == 0
    assert cache_seconds(times, now=NOW + 11 * H, max_age=H) == 0
    assert cache_seconds(times, now=NOW, max_age=timedelta(0)) == 0
    to_the_end = Times(NOW, NOW + H, NOW + H)
    assert cache_seconds(to_the_end, now=NOW, max_age=D) == 3599
    assert cache_seconds(to_the_end, now=NOW + timedelta(microseconds=1), max_age=D) == 3599


@given(
    refresh=st.integers(0, 10_000),
    rest=st.integers(0, 10_000),
    now=st.integers(-1_000_000_000, 30_000_000_000),
    max_age=st.integers(0, 20_000),
)
def test_max_age_lands_before_next_update_and_not_after_the_refresh(
    refresh: int, rest: int, now: int, max_age: int
) -> None:
    times = Times(NOW, NOW + (refresh + rest) * S, NOW + refresh * S)
    at = NOW + timedelta(microseconds=now)
    seconds = cache_seconds(times, now=at, max_age=max_age * S)
    assert 0 <= seconds <= max_age
    if seconds > 0:
        assert at + seconds * S < times.next_update
        assert at + seconds * S <= times.refresh_at


@given(validity=st.integers(0, 20_000), now=st.integers(-1_000_000_000, 30_000_000_000), max_age=st.integers(0, 20_000))
def test_stale_answers_end_before_next_update_however_late_they_came_to_the_cache(
    validity: int, now: int, max_age: int
) -> None:
    times = Times(NOW, NOW + validity * S, NOW + validity * S)
    at = NOW + timedelta(microseconds=now)
    seconds = stale_seconds(times, now=at, max_age=max_age)
    assert seconds >= 0
    if seconds > 0:
        last = at + (max_age + seconds + MOST_SECONDS_ON_ITS_WAY) * S
        assert times.next_update - S < last <= times.next_update


# ---------------------------------------------------------------------------------------- what a public issuer may not


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (changed(require_signed=True), "BR 4.9.9"),
        (changed(retention=D - S), "BR 4.10.1"),
        (changed(unassigned=UnassignedAnswer.EXTENDED_REVOKE), "BR 7.2.2 and RFC 6960 5"),
    ],
    ids=["signed requests", "rows kept for less than a day", "extended revoke"],
)
def test_what_a_private_issuer_may_is_refused_for_a_public_one_with_the_rule(policy: Policy, rule: str) -> None:
    check_policy(policy, public=False)
    with pytest.raises(PolicyError) as refused:
        check_policy(policy, public=True)
    assert refused.value.rule == rule


# ----------------------------------------------------------------------------------------------------------- purging


@pytest.mark.parametrize(
    ("policy", "public", "before", "until"),
    [
        (changed(), True, None, None),
        (changed(archive_cutoff=D), False, None, None),
        (changed(retention=30 * D), True, None, NOW - 30 * D),
        (changed(retention=H), False, None, NOW - H),
        (changed(), False, NOW - H, NOW - H),
        (changed(), False, NOW + H, NOW),
        (changed(), True, NOW, NOW - D),
        (changed(archive_cutoff=9 * D), True, NOW - 8 * D, NOW - 9 * D),
        (changed(retention=30 * D), True, NOW - D, NOW - 30 * D),
        (changed(retention=30 * D), True, NOW - 40 * D, NOW - 40 * D),
    ],
    ids=[
        "kept for ever",
        "an archive cutoff is no retention",
        "after retention",
        "after an hour",
        "as asked",
        "never before expiry",
        "a public issuer's not within a day",
        "not what the archive cutoff vouches for",
        "not sooner than retention",
        "narrower than retention",
    ],
)
def test_rows_may_be_purged_up_to_the_moment_that_every_promise_leaves(
    policy: Policy, public: bool, before: datetime | None, until: datetime | None
) -> None:
    assert purge_before(policy, public=public, now=NOW.replace(microsecond=7), before=before) == until
