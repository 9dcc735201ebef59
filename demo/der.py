# SPDX-License-Identifier: Apache-2.0
"""DER surgery on certificates: cut a TBSCertificate apart, change one part, and put it together byte for byte.

Knows tags, lengths and the order of a TBSCertificate's fields; never keys, names or clocks. Called by demo/ca.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

POISON = bytes.fromhex("060a2b06010401d679020403")  # 1.3.6.1.4.1.11129.2.4.3, RFC 6962 §3.1
SCT_LIST = bytes.fromhex("060a2b06010401d679020402")  # 1.3.6.1.4.1.11129.2.4.2, RFC 6962 §3.3
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("0603551d23")  # 2.5.29.35, RFC 5280 §4.2.1.1

SEQUENCE = 0x30
BIT_STRING = 0x03
OCTET_STRING = 0x04
VERSION = 0xA0  # [0] EXPLICIT
EXTENSIONS = 0xA3  # [3] EXPLICIT


def wrap(tag: int, contents: bytes) -> bytes:
    """Give `contents` their tag and the shortest length DER allows (X.690 §10.1)."""
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + contents


def contents(element: bytes) -> bytes:
    """Return what lies inside one element; raises ValueError when the element is not exactly one."""
    start, end = _extent(element, 0)
    if end != len(element):
        raise ValueError("octets follow the element")
    return element[start:end]


def children(element: bytes) -> list[bytes]:
    """Cut a constructed element into the elements inside it, each with its own tag and length."""
    inside, parts, position = contents(element), [], 0
    while position < len(inside):
        _, end = _extent(inside, position)
        parts.append(inside[position:end])
        position = end
    return parts


def _extent(data: bytes, position: int) -> tuple[int, int]:
    """Find where the contents of the element at `position` start and end."""
    if position + 2 > len(data):
        raise ValueError("the element ends inside its header")
    length, start = data[position + 1], position + 2
    if length >= 0x80:
        width = length & 0x7F
        length, start = int.from_bytes(data[start : start + width], "big"), start + width
    if start + length > len(data):
        raise ValueError("the element is longer than the data")
    return start, start + length


@dataclass(frozen=True, slots=True)
class Tbs:
    """A TBSCertificate in parts, each kept as the bytes it came in.

    RFC 5280 §4.1: version [0], serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, and for v3
    extensions [3]. `front` is version and serial number, `middle` is validity, subject and public key.
    """

    front: bytes
    algorithm: bytes
    issuer: bytes
    middle: bytes
    extensions: tuple[bytes, ...]

    @classmethod
    def parse(cls, tbs: bytes) -> Tbs:
        """Cut a v3 TBSCertificate apart; raises ValueError for anything else."""
        parts = children(tbs)
        if len(parts) < 8 or parts[0][0] != VERSION or parts[-1][0] != EXTENSIONS:
            raise ValueError("not a v3 TBSCertificate with extensions")
        extensions = children(contents(parts[-1]))
        return cls(parts[0] + parts[1], parts[2], parts[3], b"".join(parts[4:-1]), tuple(extensions))

    def encode(self) -> bytes:
        """Put the parts together again. The extensions field itself goes away with the last extension."""
        tail = wrap(EXTENSIONS, wrap(SEQUENCE, b"".join(self.extensions))) if self.extensions else b""
        return wrap(SEQUENCE, self.front + self.algorithm + self.issuer + self.middle + tail)

    def find(self, oid: bytes) -> bytes | None:
        """Return the whole extension with this encoded object identifier, or None."""
        return next((each for each in self.extensions if contents(each).startswith(oid)), None)

    def swap(self, oid: bytes, new: bytes | None) -> Tbs:
        """Put `new` exactly where the extension `oid` stands, or take that one out; the others keep order and bytes."""
        if self.find(oid) is None:
            raise ValueError("the extension to replace is absent")
        kept: list[bytes] = []
        for each in self.extensions:
            if not contents(each).startswith(oid):
                kept.append(each)
            elif new is not None:
                kept.append(new)
        return replace(self, extensions=tuple(kept))


def extension(oid: bytes, value: bytes) -> bytes:
    """Encode one non-critical Extension around the DER of its value (RFC 5280 §4.1)."""
    return wrap(SEQUENCE, oid + wrap(OCTET_STRING, value))
