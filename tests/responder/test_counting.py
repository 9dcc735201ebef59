# SPDX-License-Identifier: Apache-2.0
"""What a worker counts: nothing is lost between the hot path's tallies and the totals, and memory stays bounded."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from responder.counting import AGES, SIZES, Counts, Histogram

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def test_a_kept_answer_is_counted_by_outcome_method_and_hash() -> None:
    counts = Counts()
    tally = counts.tally(outcome="good", hash_name="sha256", octets=111, this_update=NOW - timedelta(hours=30))
    tally.get += 3
    tally.post += 2
    counts.fold(now=NOW)
    assert dict(counts.answers) == {("good", "GET", True, "sha256"): 3, ("good", "POST", True, "sha256"): 2}
    assert dict(counts.statuses) == {0: 5}
    assert (counts.sizes.sum, sum(counts.sizes.counts)) == (555, 5)
    assert counts.ages.counts[AGES.index(36 * 3600.0)] == 5


def test_folding_twice_counts_nothing_twice() -> None:
    counts = Counts()
    tally = counts.tally(outcome="good", hash_name="sha1", octets=80, this_update=NOW)
    tally.get += 1
    counts.fold(now=NOW)
    counts.fold(now=NOW)
    tally.get += 1
    counts.fold(now=NOW)
    assert counts.answers["good", "GET", True, "sha1"] == 2


def test_answers_of_one_kind_share_a_tally_and_it_is_let_go_when_none_can_be_kept_any_more() -> None:
    counts = Counts()
    one = counts.tally(outcome="good", hash_name="sha1", octets=80, this_update=NOW)
    assert counts.tally(outcome="good", hash_name="sha1", octets=80, this_update=NOW + timedelta(minutes=29)) is one
    assert counts.tally(outcome="good", hash_name="sha1", octets=81, this_update=NOW) is not one
    one.get += 1
    counts.fold(now=NOW + timedelta(days=12))
    assert len(counts.tallies) == 1, "what was counted since the last time is counted first"
    counts.fold(now=NOW + timedelta(days=12))
    assert counts.tallies == {}
    assert counts.answers["good", "GET", True, "sha1"] == 1


def test_sizes_of_requests_make_few_tallies() -> None:
    counts = Counts()
    for octets in range(1, 20_001):
        counts.tally(outcome="good", hash_name="sha1", octets=octets, this_update=NOW)
    assert len(counts.tallies) == 1024 + 19


def test_what_had_to_be_worked_out_is_counted_with_its_time() -> None:
    counts = Counts()
    counts.answered("good", response_status=0, method="GET", octets=90, seconds=0.004, hash_name="sha1", age=0.0)
    counts.answered("too_large", response_status=1, method="POST", octets=10_001, seconds=0.0001)
    counts.answered("good", response_status=0, method="GET", octets=90, seconds=0.1, hash_name="sha1", age=9.0)
    assert dict(counts.answers) == {("good", "GET", False, "sha1"): 2, ("too_large", "POST", False, "none"): 1}
    assert dict(counts.statuses) == {0: 2, 1: 1}
    assert {key: sum(taken.counts) for key, taken in counts.seconds.items()} == {
        "GET": 2,
        "POST": 1,
    }
    assert counts.sizes.counts[len(SIZES)] == 1


@given(st.lists(st.floats(min_value=0, max_value=1e6)), st.integers(min_value=1, max_value=9))
def test_a_histogram_counts_every_value_below_the_first_bound_that_holds_it(values: list[float], times: int) -> None:
    histogram = Histogram(AGES)
    for value in values:
        histogram.observe(value, times)
    for number, bound in enumerate(AGES):
        assert sum(histogram.counts[: number + 1]) == times * sum(value <= bound for value in values)
    assert sum(histogram.counts) == times * len(values)
