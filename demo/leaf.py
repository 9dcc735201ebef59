# SPDX-License-Identifier: Apache-2.0
"""The bytes of a log: leaves, extra data, data tiles, timestamps and tree heads (RFC 6962 §3, static-ct-api).

Knows encodings only; no keys, trees or HTTP. Called by demo/logbook.py and demo/log.py.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

X509_ENTRY = 0  # RFC 6962 §3.1, LogEntryType
PRECERT_ENTRY = 1
TIMESTAMP_OFFSET = 2  # in a MerkleTreeLeaf, after version and leaf type
TYPE_OFFSET = TIMESTAMP_OFFSET + 8
ENTRY_OFFSET = TYPE_OFFSET + 2


def opaque(data: bytes, *, width: int) -> bytes:
    """Encode a TLS vector with a length of `width` octets; raises OverflowError when the data do not fit."""
    return len(data).to_bytes(width, "big") + data


def b64(data: bytes) -> str:
    """Base64 as JSON and notes carry it."""
    return base64.b64encode(data).decode()


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a DER certificate: its name under /issuer/ in static-ct-api."""
    return sha256(certificate).digest()


def leaf_index_extension(index: int) -> bytes:
    """Encode the static-ct-api leaf_index extension: type 0, length 5, a 40-bit index."""
    return b"\x00" + opaque(index.to_bytes(5, "big"), width=2)


def merkle_tree_leaf(*, timestamp: int, entry_type: int, signed_entry: bytes, extensions: bytes) -> bytes:
    """Encode a MerkleTreeLeaf (RFC 6962 §3.4).

    version u8 = v1(0) | leaf_type u8 = timestamped_entry(0) | timestamp u64 ms | entry_type u16 | signed_entry |
    extensions<0..2^16-1>. `signed_entry` is ASN.1Cert, or issuer_key_hash[32] and TBSCertificate, with their lengths.
    The very same bytes are what an SCT signs (RFC 6962 §3.2): there the two zeros mean v1 and certificate_timestamp.
    """
    head = b"\x00\x00" + timestamp.to_bytes(8, "big") + entry_type.to_bytes(2, "big")
    return head + signed_entry + opaque(extensions, width=2)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. The tree covers `leaf_input` alone; the rest is what the log says beside it.

    `raw_tile_leaf` and `raw_extra_data` replace what would be encoded, for entries that are wrong on purpose.
    """

    leaf_input: bytes
    pre_certificate: bytes | None = None
    fingerprints: tuple[bytes, ...] = ()
    raw_tile_leaf: bytes | None = None
    raw_extra_data: bytes | None = None

    def tile_leaf(self) -> bytes:
        """Encode a static-ct-api TileLeaf: TimestampedEntry | pre_certificate<u24>, if any | fingerprints<u16>."""
        if self.raw_tile_leaf is not None:
            return self.raw_tile_leaf
        pre = b"" if self.pre_certificate is None else opaque(self.pre_certificate, width=3)
        return self.leaf_input[TIMESTAMP_OFFSET:] + pre + opaque(b"".join(self.fingerprints), width=2)

    def extra_data(self, issuers: Mapping[bytes, bytes]) -> bytes:
        """Encode extra_data (RFC 6962 §4.6): pre_certificate, if any, and the chain as far as `issuers` know it."""
        if self.raw_extra_data is not None:
            return self.raw_extra_data
        pre = b"" if self.pre_certificate is None else opaque(self.pre_certificate, width=3)
        known = (issuers[each] for each in self.fingerprints if each in issuers)
        return pre + opaque(b"".join(opaque(each, width=3) for each in known), width=3)


def read_tile(tile: bytes) -> Iterator[Entry]:
    """Cut a data tile into its entries: TileLeaf structures end to end, without count or outer length.

    Raises ValueError where the tile cannot be followed further, such as at an unknown entry type.
    """
    position = 0
    while position < len(tile):
        start, position = position, position + 8
        entry_type, position = _number(tile, position, 2), position + 2
        if entry_type == PRECERT_ENTRY:
            position += 32
        elif entry_type != X509_ENTRY:
            raise ValueError(f"entry type {entry_type} has no known length")
        _, position = _vector(tile, position, 3)
        _, position = _vector(tile, position, 2)
        leaf_input = b"\x00\x00" + tile[start:position]
        pre = None
        if entry_type == PRECERT_ENTRY:
            pre, position = _vector(tile, position, 3)
        packed, position = _vector(tile, position, 2)
        yield Entry(leaf_input, pre, tuple(packed[at : at + 32] for at in range(0, len(packed), 32)))


def _number(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise ValueError("the tile ends inside an entry")
    return int.from_bytes(data[position : position + width], "big")


def _vector(data: bytes, position: int, width: int) -> tuple[bytes, int]:
    """Read an opaque vector; returns it and where it ends."""
    start = position + width
    end = start + _number(data, position, width)
    if end > len(data):
        raise ValueError("the tile ends inside an entry")
    return data[start:end], end


@dataclass(frozen=True, slots=True)
class SignedCertificateTimestamp:
    """A log's promise (RFC 6962 §3.2). `timestamp` in milliseconds; `signature` is a whole DigitallySigned."""

    log_id: bytes
    timestamp: int
    extensions: bytes
    signature: bytes

    def encode(self) -> bytes:
        """version u8 = 0 | log_id[32] | timestamp u64 | extensions<0..2^16-1> | digitally-signed."""
        head = b"\x00" + self.log_id + self.timestamp.to_bytes(8, "big")
        return head + opaque(self.extensions, width=2) + self.signature

    def json(self) -> dict[str, object]:
        """The answer of add-chain and add-pre-chain (RFC 6962 §4.1)."""
        return {
            "sct_version": 0,
            "id": b64(self.log_id),
            "timestamp": self.timestamp,
            "extensions": b64(self.extensions),
            "signature": b64(self.signature),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """A signed tree head. `timestamp` in milliseconds; `signature` is a whole DigitallySigned."""

    size: int
    timestamp: int
    root: bytes
    signature: bytes

    def json(self) -> dict[str, object]:
        """The answer of get-sth (RFC 6962 §4.3)."""
        return {
            "tree_size": self.size,
            "timestamp": self.timestamp,
            "sha256_root_hash": b64(self.root),
            "tree_head_signature": b64(self.signature),
        }

    def checkpoint(self, *, origin: str, log_id: bytes) -> str:
        """The same head as a signed note (static-ct-api, C2SP signed-note).

        Key ID: the first four octets of SHA-256(name || 0x0A || 0x05 || LogID); then RFC6962NoteSignature, which is
        timestamp u64 and the DigitallySigned. The second line is grease, which readers must step over.
        """
        key_id = sha256(origin.encode() + b"\x0a\x05" + log_id).digest()[:4]
        ours = b64(key_id + self.timestamp.to_bytes(8, "big") + self.signature)
        grease = b64(sha256(self.root + b"grease").digest() + self.root)
        lines = f"— {origin} {ours}\n— grease.invalid {grease}\n"
        return f"{origin}\n{self.size}\n{b64(self.root)}\n\n{lines}"


def tree_head(*, size: int, timestamp: int, root: bytes) -> bytes:
    """Encode TreeHeadSignature (RFC 6962 §3.5): v1(0) | tree_hash(1) | timestamp u64 | tree_size u64 | root[32]."""
    return b"\x00\x01" + timestamp.to_bytes(8, "big") + size.to_bytes(8, "big") + root


def digitally_signed(signature: bytes) -> bytes:
    """Encode DigitallySigned (RFC 5246 §4.7): sha256(4) | ecdsa(3) | signature<0..2^16-1>."""
    return b"\x04\x03" + opaque(signature, width=2)


def tile_number(path: Sequence[str]) -> int:
    """Read a tile's index from its path elements, three digits each, all but the last marked with x.

    Raises ValueError for any other spelling, so that each tile has one address.
    """
    *front, last = path
    if not all(len(each) == 4 and each[0] == "x" and each[1:].isdecimal() for each in front):
        raise ValueError("not a tile index")
    if len(last) != 3 or not last.isdecimal() or (front and front[0] == "x000"):
        raise ValueError("not a tile index")
    return int("".join(each[1:] for each in front) + last)
