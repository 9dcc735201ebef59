# SPDX-License-Identifier: Apache-2.0
"""The cache against a simple model, with look-ups and readings of the feed in every order."""

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from responder.answer import Answer
from responder.cache import Cache
from responder.ocsp.policy import Times

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TIMES = Times(NOW, NOW + timedelta(days=4), NOW + timedelta(hours=36))
MOST = 3
KEYS = [(1, 1), (1, 2), (2, 1)]
keys = st.sampled_from(KEYS)


class CacheAgainstTheTable(RuleBasedStateMachine):
    """A table of versions, look-ups that take their time, and a feed that reports changes some time after them."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(most=MOST)
        self.table = dict.fromkeys(KEYS, 0)
        self.not_reported: set[tuple[int, int]] = set()
        self.reported = dict.fromkeys(KEYS, 0)
        self.under_way: list[tuple[tuple[tuple[int, int], ...], int, tuple[int, ...]]] = []
        self.emptied_after = 0

    @rule(about=st.lists(keys, min_size=1, max_size=2, unique=True))
    def look_up(self, about: list[tuple[int, int]]) -> None:
        self.under_way.append((tuple(about), self.cache.readings, tuple(self.table[key] for key in about)))

    @rule(key=keys)
    def change(self, key: tuple[int, int]) -> None:
        self.table[key] += 1
        self.not_reported.add(key)

    @rule()
    def read_the_feed(self) -> None:
        self.cache.changed(self.not_reported)
        self._all_is_reported()

    @rule()
    def start_over(self) -> None:
        self.cache.empty()
        self._all_is_reported()
        assert len(self.cache) == 0

    def _all_is_reported(self) -> None:
        self.not_reported = set()
        self.reported = dict(self.table)

    @rule(data=st.data(), doubt=st.booleans())
    def answer(self, data: st.DataObject, doubt: bool) -> None:
        if not self.under_way:
            return
        about, read_in, versions = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        made = Answer(repr((about, versions)).encode(), "good", times=TIMES, max_age=timedelta(hours=1), doubt=doubt)
        request = repr(about).encode()
        before = self.cache.get(request, now=NOW)
        self.cache.put(request, made, about=about, read_in=read_in)
        assert not doubt or self.cache.get(request, now=NOW) is before
        self.cache.spell(b"/" + request, request)

    @rule(about=st.lists(keys, min_size=1, max_size=2, unique=True))
    def ask_when_it_is_due(self, about: list[tuple[int, int]]) -> None:
        assert self.cache.get(repr(tuple(about)).encode(), now=TIMES.refresh_at) is None

    @rule()
    def forget_what_no_look_up_needs(self) -> None:
        self.cache.forget_changes(
            before=min((read_in for _, read_in, _ in self.under_way), default=self.cache.readings)
        )

    @invariant()
    def the_octets_are_those_of_what_is_kept(self) -> None:
        kept = self.cache._kept.items()
        assert self.cache.octets == sum(len(request) + len(each.answer.body) for request, each in kept)

    @invariant()
    def no_answer_is_older_than_what_the_feed_has_reported(self) -> None:
        for request in list(self.cache._kept):
            for kept in (self.cache.get(request, now=NOW), self.cache.get_spelled(b"/" + request, now=NOW)):
                if kept is not None:
                    about, versions = eval(kept.body)  # noqa: S307 - our own repr, three lines above
                    assert all(version >= self.reported[key] for key, version in zip(about, versions, strict=True))
                    assert not kept.doubt

    @invariant()
    def it_stays_within_its_bound_and_leaves_nothing_behind(self) -> None:
        assert len(self.cache) <= MOST
        kept = self.cache._kept
        assert set(self.cache._spelled.values()) <= set(kept)
        assert {request for requests in self.cache._by_key.values() for request in requests} == set(kept)


TestCacheAgainstTheTable = CacheAgainstTheTable.TestCase
TestCacheAgainstTheTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def put(cache: Cache, request: bytes, *, key: tuple[int, int] = (1, 1), read_in: int = 0) -> None:
    answer = Answer(request, "good", times=TIMES, max_age=timedelta(hours=1))
    cache.put(request, answer, about=[key], read_in=read_in)


def test_an_answer_looked_up_before_a_change_was_reported_is_not_kept_after_it() -> None:
    cache = Cache(most=9)
    read_in = cache.readings
    cache.changed([(1, 1)])
    put(cache, b"late", read_in=read_in)
    put(cache, b"other", key=(1, 2), read_in=read_in)
    assert cache.get(b"late", now=NOW) is None
    assert cache.get(b"other", now=NOW) is not None


def test_an_answer_looked_up_before_the_cache_was_emptied_is_not_kept() -> None:
    cache = Cache(most=9)
    read_in = cache.readings
    cache.empty()
    put(cache, b"late", read_in=read_in)
    assert len(cache) == 0


def test_the_answer_asked_for_least_recently_leaves_first() -> None:
    cache = Cache(most=2)
    put(cache, b"a")
    put(cache, b"b")
    cache.get(b"a", now=NOW)
    put(cache, b"c")
    assert [cache.get(each, now=NOW) is not None for each in (b"a", b"b", b"c")] == [True, False, True]


def test_an_answer_that_begins_in_the_future_is_one_of_a_clock_that_was_set_back() -> None:
    cache = Cache(most=9)
    put(cache, b"a")
    assert cache.get(b"a", now=TIMES.this_update) is not None
    assert cache.get(b"a", now=TIMES.this_update - timedelta(seconds=1)) is None
    assert len(cache) == 0


def test_what_is_larger_than_common_answers_is_not_kept_and_long_spellings_are_not_remembered() -> None:
    cache = Cache(most=10)
    put(cache, b"r" * 2048)  # request and body are the same octets here
    put(cache, b"r" * 2049)
    assert cache.get(b"r" * 2048, now=NOW) is not None
    assert cache.get(b"r" * 2049, now=NOW) is None
    paths = [b"/" + bytes([n]) * 1023 for n in range(6)]
    for path in [b"/" + b"p" * 1024, *paths]:
        cache.spell(path, b"r" * 2048)
    assert [path for path in paths if cache.get_spelled(path, now=NOW) is not None] == paths[:4]
    assert len(cache._spelled) == 4
