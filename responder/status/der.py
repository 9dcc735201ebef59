# SPDX-License-Identifier: Apache-2.0
"""Tag, length, value: the little DER (X.690 section 10) that slicing and assembling exact bytes needs.

Knows no ASN.1 module and no meaning. Libraries decode values; this keeps the bytes they came in, because OCSP echoes
them, CT hashes them and signatures cover them.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
ENUMERATED: Final = 0x0A
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_MULTI_BYTE_TAG: Final = 0x1F
_LONG_FORM: Final = 0x80
# Four length octets address 4 GiB; nothing here is ever larger, and more would only be an attack.
_MOST_LENGTH_OCTETS: Final = 4


class DerError(ValueError):
    """The bytes are not DER: cut off, indefinite, padded, or with a tag nobody uses here."""


class Element(NamedTuple):
    """One element inside a larger buffer: its tag, and where header, value and end lie. Offsets are in octets."""

    tag: int
    start: int
    value: int
    end: int


def read(data: bytes, at: int = 0, end: int | None = None) -> Element:
    """Return the element that starts at `at` and lies wholly before `end`.

    Raises DerError for a header that is cut off, an indefinite or non-minimal length, or a multi-byte tag.
    """
    limit = len(data) if end is None else end
    if at + 2 > limit:
        raise DerError(f"an element is cut off at octet {at}")
    tag, length, value = data[at], data[at + 1], at + 2
    if tag & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
        raise DerError(f"a multi-byte tag at octet {at}")
    if length >= _LONG_FORM:
        length, value = _long_length(data, value, limit, count=length - _LONG_FORM)
    if value + length > limit:
        raise DerError(f"the element at octet {at} says {length} octets where {limit - value} are left")
    return Element(tag, at, value, value + length)


def _long_length(data: bytes, at: int, limit: int, *, count: int) -> tuple[int, int]:
    if count == 0:
        raise DerError(f"an indefinite length before octet {at}")
    if count > _MOST_LENGTH_OCTETS or at + count > limit:
        raise DerError(f"a length of {count} octets at octet {at}")
    length = int.from_bytes(data[at : at + count])
    # X.690 section 10.1: the shortest form. A length below 128 has a one-octet form; no leading zero octets.
    if length < _LONG_FORM or data[at] == 0:
        raise DerError(f"a length in more octets than it needs at octet {at}")
    return length, at + count


def expect(data: bytes, tag: int, at: int = 0, end: int | None = None) -> Element:
    """Return the element at `at`, which must carry `tag`. Raises DerError otherwise."""
    element = read(data, at, end)
    if element.tag != tag:
        raise DerError(f"tag {element.tag:#04x} at octet {at} where {tag:#04x} belongs")
    return element


def whole(data: bytes, tag: int) -> Element:
    """Return the one element that `data` consists of, with nothing after it. Raises DerError otherwise."""
    element = expect(data, tag)
    if element.end != len(data):
        raise DerError(f"{len(data) - element.end} octets after the end")
    return element


def inside(data: bytes, parent: Element) -> Iterator[Element]:
    """Yield the elements that the value of `parent` consists of. Raises DerError when they do not fill it."""
    at = parent.value
    while at < parent.end:
        element = read(data, at, parent.end)
        yield element
        at = element.end


def wrap(tag: int, *parts: bytes) -> bytes:
    """Return the element with this tag around the parts, one after another, under the shortest length."""
    body = b"".join(parts)
    length = len(body)
    if length < _LONG_FORM:
        return bytes((tag, length)) + body
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, _LONG_FORM | len(octets))) + octets + body
