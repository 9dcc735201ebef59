# SPDX-License-Identifier: Apache-2.0
"""The little DER that slices exact bytes, judged by asn1crypto."""

import pytest
from asn1crypto import parser
from hypothesis import given
from hypothesis import strategies as st

from responder.status import der

# Tags with a number below 31, of every class and both forms.
TAGS = st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F)


@given(st.binary(max_size=40), st.binary(max_size=3))
def test_what_is_read_is_what_another_parser_reads(data: bytes, rest: bytes) -> None:
    try:
        found = der.read(data + rest)
    except der.DerError:
        return
    class_, method, number, header, contents, trailer = parser.parse(data + rest)
    assert (class_ << 6 | method << 5 | number) == found.tag
    assert (len(header), trailer) == (found.value, b"")
    assert contents == (data + rest)[found.value : found.end]


@given(TAGS, st.integers(0, 70_000).flatmap(lambda size: st.just(bytes(size % 300) if size < 60_000 else bytes(size))))
def test_wrapping_is_undone_by_reading_and_by_another_parser(tag: int, contents: bytes) -> None:
    wrapped = der.wrap(tag, contents)
    found = der.whole(wrapped, tag)
    assert wrapped[found.value : found.end] == contents
    class_, method, number, header, inside, trailer = parser.parse(wrapped, strict=True)
    assert (class_ << 6 | method << 5 | number, inside, trailer) == (tag, contents, b"")
    assert header == wrapped[: found.value]


@given(st.lists(st.tuples(TAGS, st.binary(max_size=150)), max_size=6))
def test_the_children_of_an_element_are_found_in_order(parts: list[tuple[int, bytes]]) -> None:
    whole = der.wrap(der.SEQUENCE, *(der.wrap(tag, contents) for tag, contents in parts))
    children = list(der.inside(whole, der.whole(whole, der.SEQUENCE)))
    assert [(each.tag, whole[each.value : each.end]) for each in children] == parts


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_lengths_take_the_shortest_form(size: int) -> None:
    wrapped = der.wrap(der.OCTET_STRING, bytes(size))
    expected = 2 if size < 128 else 3 if size < 256 else 4 if size < 65536 else 5
    assert len(wrapped) - size == expected
    assert der.whole(wrapped, der.OCTET_STRING).value == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "cut off"), ("30", "cut off"), ("3001", "where 0 are left"), ("308000", "indefinite"), ("0000", None),
        ("30810100", "more octets than it needs"), ("30817f" + "00" * 127, "more octets"), ("3082008000", "more oct"),
        ("30850000000001", "a length of 5"), ("3082ff", "a length of 2"),
        ("1f8100", "multi-byte"), ("bf01", "multi-byte"),
    ],
)  # fmt: skip
def test_what_is_not_der_is_refused(data: str, why: str | None) -> None:
    if why is None:
        assert der.read(bytes.fromhex(data)).end == 2
        return
    with pytest.raises(der.DerError, match=why):
        der.read(bytes.fromhex(data))


def test_an_element_stays_inside_its_parent_and_alone() -> None:
    with pytest.raises(der.DerError, match="where 1 are left"):
        list(der.inside(b"\x30\x03\x04\x02\x00\x00", der.read(b"\x30\x03\x04\x02\x00\x00")))
    with pytest.raises(der.DerError, match="1 octets after the end"):
        der.whole(b"\x30\x00\x00", der.SEQUENCE)
    with pytest.raises(der.DerError, match="where 0x02 belongs"):
        der.expect(b"\x04\x00", der.INTEGER)
