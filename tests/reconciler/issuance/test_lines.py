# SPDX-License-Identifier: Apache-2.0
"""Lines are the same however the file is cut into chunks, and endless ones need no endless memory."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from reconciler.issuance.lines import TAIL_OCTETS, Line, LineSplitter

_contents = st.lists(st.one_of(st.sampled_from([b"\n", b"\r\n", b"{}"]), st.binary(max_size=90))).map(b"".join)


def split(chunks: list[bytes], *, longest: int = 50, offset: int = 0, tail: bytes = b"") -> list[Line]:
    splitter = LineSplitter(offset=offset, tail=tail, longest=longest, prefix=min(longest, 20))
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    rest = splitter.rest()
    return lines if rest is None else [*lines, rest]


@given(_contents, st.lists(st.integers(min_value=0, max_value=400)))
def test_any_content_cut_in_any_way_yields_the_same_lines(content: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    chunks = [content[a:b] for a, b in itertools.pairwise(edges)]
    assert split(chunks) == split([content])


@given(_contents)
def test_lines_are_what_stands_between_newlines(content: bytes) -> None:
    lines = split([content], longest=10_000)
    expected = content.split(b"\n")
    if expected[-1] == b"":
        del expected[-1]
    assert [line.data for line in lines] == expected
    assert all(content[line.offset :].startswith(line.data) for line in lines)
    assert all(line.tail == content[: line.end][-TAIL_OCTETS:] for line in lines)


@given(_contents, st.integers(min_value=0, max_value=400))
def test_going_on_from_a_position_yields_the_lines_behind_it(content: bytes, number: int) -> None:
    lines = split([content])
    if not lines:
        return
    at = lines[number % len(lines)]
    assert split([content[at.end :]], offset=at.end, tail=at.tail) == [line for line in lines if line.offset >= at.end]


def test_a_line_that_is_too_long_keeps_its_beginning_and_hides_no_other() -> None:
    lines = split([b"a" * 30, b"a" * 30 + b"\nshort\n"], longest=50)
    assert [(line.data, line.octets, line.is_whole) for line in lines] == [
        (b"a" * 20, 60, False),
        (b"short", 5, True),
    ]
    assert lines[0].end == lines[1].offset == 61


def test_an_endless_line_is_not_kept_in_memory() -> None:
    splitter = LineSplitter(offset=0, tail=b"", longest=1000, prefix=100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
    assert len(splitter._kept) == 1000
