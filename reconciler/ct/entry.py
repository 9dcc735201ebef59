# SPDX-License-Identifier: Apache-2.0
"""Log entries as they come, by data tile or by get-entries: every leaf is hashed, few become an Entry.

Knows the framing of RFC 6962 and of static-ct-api and just enough DER to find an issuer's name; never whether a
certificate is really ours, nor whether the log is honest. Called by the readers of both protocols.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from reconciler.ct.merkle import TILE_WIDTH
from reconciler.ct.merkle import leaf_hash as hash_leaf
from reconciler.errors import Contradiction, DistrustLog, UnreadableAnswer

X509_ENTRY: Final = 0  # RFC 6962 section 3.1, LogEntryType
PRECERT_ENTRY: Final = 1

# RFC 6962 section 3.4: Version v1(0) and MerkleLeafType timestamped_entry(0) precede every TimestampedEntry.
_LEAF_PREFIX: Final = b"\x00\x00"
# What leaf_hash would put in front of a TimestampedEntry: its own zero octet and the two above.
_HASHED_PREFIX: Final = b"\x00" + _LEAF_PREFIX
_HEAD: Final = struct.Struct(">QH")  # timestamp, entry_type
_FINGERPRINT_SIZE: Final = 32
# static-ct-api, "SCT Extension": leaf_index(0), a uint40.
_LEAF_INDEX: Final = 0
_LEAF_INDEX_SIZE: Final = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log, whichever protocol it came by.

    Only `leaf` is covered by the log's tree, and so is what was read from it: `timestamp_ms` (since 1970),
    `entry_type`, for a precertificate `issuer_key_hash` (SHA-256 of the issuer's SubjectPublicKeyInfo) and `tbs`, for
    a certificate its DER. `precertificate`, `chain` (RFC 6962) and `chain_fingerprints` (static) are hearsay; they are
    None or empty where the log sent none that can be read.
    """

    index: int
    timestamp_ms: int
    entry_type: int
    leaf: bytes
    issuer_key_hash: bytes | None
    tbs: bytes | None
    certificate: bytes | None
    precertificate: bytes | None
    chain: tuple[bytes, ...]
    chain_fingerprints: tuple[bytes, ...]

    @property
    def leaf_hash(self) -> bytes:
        """Return the hash under which the log's tree covers this entry."""
        return hash_leaf(self.leaf)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Evidence of something in the entry at `index` that could not be read: why, and the bytes in question."""

    index: int
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose entries to look at: SHA-256 hashes of issuers' SubjectPublicKeyInfo, and issuers' Names in DER.

    Anybody may log a certificate that bears a name of ours, so a hit is a candidate and no more.
    """

    issuer_key_hashes: frozenset[bytes] = frozenset()
    issuer_names: frozenset[bytes] = frozenset()
    everything: bool = False


EVERYTHING: Final = Wanted(everything=True)


@dataclass(frozen=True, slots=True)
class Scan:
    """A run of entries as read: all leaf hashes in order, the wanted entries, and what nobody could read.

    `last_timestamp_ms` is that of the last entry whose frame could be read, None if there was none. A wanted entry
    whose unauthenticated part is broken appears among the hits, without that part, and among the unreadable.
    """

    hashes: list[bytes] = field(default_factory=list)
    hits: list[Entry] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    last_timestamp_ms: int | None = None

    def in_order(self) -> list[Entry | Unreadable]:
        """Return hits and unreadable parts by index."""
        found: list[Entry | Unreadable] = [*self.hits, *self.unreadable]
        return sorted(found, key=lambda item: item.index)


class UnreadableTile(UnreadableAnswer):
    """A data tile stops making sense at entry `index`, and as entries have no outer length nothing after it can be
    found. `scan` holds all that came before. Ask again; if it stays so, the log is at fault.
    """

    def __init__(self, reason: str, *, index: int, scan: Scan) -> None:
        super().__init__(f"the data tile cannot be read from entry {index} on: {reason}")
        self.index = index
        self.scan = scan


class MisplacedLeaf(DistrustLog):
    """A leaf of the tile names an index where it does not stand. `scan` holds the whole tile as read."""

    def __init__(self, *, index: int, leaf: bytes, scan: Scan) -> None:
        super().__init__(
            f"the leaf at index {index} says that it belongs elsewhere",
            kind=Contradiction.LEAF_INDEX,
            proof={"leaf": leaf, "index": str(index)},
        )
        self.scan = scan


class _BrokenError(Exception):
    """Bytes that do not add up; the message says which. Never leaves this module."""


class _Frame(NamedTuple):
    """Where the parts of one TimestampedEntry lie inside a buffer. Nothing is copied for it.

    RFC 6962 section 3.4:  struct {
        uint64 timestamp;
        LogEntryType entry_type;                      // uint16
        select (entry_type) {
            case x509_entry: ASN.1Cert;               // opaque <1..2^24-1>
            case precert_entry: PreCert;              // opaque issuer_key_hash[32]; opaque TBSCertificate<1..2^24-1>
        } signed_entry;
        CtExtensions extensions;                      // opaque <0..2^16-1>
    } TimestampedEntry;
    """

    timestamp_ms: int
    entry_type: int
    start: int
    body: int
    extensions: int
    end: int


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3])


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2])


def _frame(data: bytes, start: int) -> _Frame:
    """Measure the TimestampedEntry at `start`. Raises _BrokenError unless all of it lies within the data."""
    try:
        timestamp, entry_type = _HEAD.unpack_from(data, start)
    except struct.error:
        raise _BrokenError("its head is cut off") from None
    if entry_type == PRECERT_ENTRY:
        length_at = start + 42
    elif entry_type == X509_ENTRY:
        length_at = start + 10
    else:
        raise _BrokenError(f"its entry type is {entry_type}, which nobody has defined")
    # Slices past the end come back short and count as smaller numbers, which the last test catches in every case.
    extensions = length_at + 3 + _u24(data, length_at)
    end = extensions + 2 + _u16(data, extensions)
    if end > len(data):
        raise _BrokenError("it is cut off")
    return _Frame(timestamp, entry_type, start, length_at + 3, extensions, end)


def scan_data_tile(tile: bytes, *, first_index: int, count: int, wanted: Wanted) -> Scan:
    """Read the first `count` entries of a data tile whose first one has index `first_index`.

    A wider tile may stand in for a partial one, so bytes may follow unless `count` is a full tile's. Raises
    UnreadableTile where entries can no longer be told apart, and MisplacedLeaf, after the last entry, when a leaf
    names another index; both carry what was read.
    """
    scan = Scan()
    at, last, misplaced = 0, None, None
    for index in range(first_index, first_index + count):
        try:
            frame = _frame(tile, at)
            chain, at = _beside_the_leaf(tile, frame)
        except _BrokenError as broken:
            raise UnreadableTile(str(broken), index=index, scan=_dated(scan, last)) from None
        last = frame.timestamp_ms
        scan.hashes.append(sha256(_HASHED_PREFIX + tile[frame.start : frame.end]).digest())
        if misplaced is None and _is_misplaced(tile, frame, index=index, unreadable=scan.unreadable):
            misplaced = index, _leaf(tile, frame)
        try:
            if _is_wanted(tile, frame, wanted):
                scan.hits.append(_tile_entry(tile, frame, index=index, chain=chain, end=at, unreadable=scan.unreadable))
        except _BrokenError as broken:
            scan.unreadable.append(Unreadable(index, str(broken), _leaf(tile, frame)))
    if count == TILE_WIDTH and at != len(tile):
        reason = f"{len(tile) - at} octets follow the last one"
        raise UnreadableTile(reason, index=first_index + count, scan=_dated(scan, last))
    if misplaced is not None:
        raise MisplacedLeaf(index=misplaced[0], leaf=misplaced[1], scan=_dated(scan, last))
    return _dated(scan, last)


def parse_data_tile(tile: bytes, *, first_index: int, count: int) -> list[Entry | Unreadable]:
    """Return every entry of a data tile, by index. Raises as scan_data_tile does."""
    return scan_data_tile(tile, first_index=first_index, count=count, wanted=EVERYTHING).in_order()


def scan_get_entries(body: bytes, *, first_index: int, limit: int, wanted: Wanted) -> Scan:
    """Read a get-entries answer (RFC 6962 section 4.6) that was asked to start at `first_index`.

    A log may send fewer entries than asked: go on after those that came. Entries beyond `limit` are left alone.
    Leaf and entry types we do not know are hashed and reported, as the section demands. Raises UnreadableAnswer when
    the body is not such an answer or holds no entry.
    """
    scan = Scan()
    last = None
    for index, row in enumerate(_rows(body)[:limit], first_index):
        leaf = row.leaf_input
        scan.hashes.append(sha256(b"\x00" + leaf).digest())
        try:
            frame = _leaf_frame(leaf)
            last = frame.timestamp_ms
            if _is_wanted(leaf, frame, wanted):
                scan.hits.append(_answered_entry(row, frame, index=index, unreadable=scan.unreadable))
        except _BrokenError as broken:
            scan.unreadable.append(Unreadable(index, str(broken), leaf))
    return _dated(scan, last)


def parse_get_entries(body: bytes, *, first_index: int, limit: int) -> list[Entry | Unreadable]:
    """Return every entry of a get-entries answer, by index. Raises as scan_get_entries does."""
    return scan_get_entries(body, first_index=first_index, limit=limit, wanted=EVERYTHING).in_order()


def _dated(scan: Scan, last_timestamp_ms: int | None) -> Scan:
    return replace(scan, last_timestamp_ms=last_timestamp_ms)


# What both protocols share: the leaf.


def _leaf(data: bytes, frame: _Frame) -> bytes:
    return _LEAF_PREFIX + data[frame.start : frame.end]


def _is_wanted(data: bytes, frame: _Frame, wanted: Wanted) -> bool:
    """Tell whether the entry is a candidate. Raises _BrokenError when a certificate's issuer cannot be found."""
    if frame.entry_type == PRECERT_ENTRY:
        key_hash = data[frame.body - 35 : frame.body - 3]
        return key_hash in wanted.issuer_key_hashes or wanted.everything
    name = _issuer_name(data, frame.body, frame.extensions)
    return name in wanted.issuer_names or wanted.everything


def _issuer_name(data: bytes, at: int, end: int) -> bytes:
    """Return the issuer's Name of the certificate at `at`, as its bytes stand. Raises _BrokenError.

    RFC 5280 section 4.1: Certificate and TBSCertificate are SEQUENCEs; version [0] (optional), serialNumber INTEGER and
    signature AlgorithmIdentifier come before issuer Name. Lengths in BER's longer forms pass: whoever issues those
    is not ours, and no reason for an alarm.
    """
    at, end = _element(data, at, end, tag=0x30)
    at, end = _element(data, at, end, tag=0x30)
    if data[at] == 0xA0:
        _, at = _element(data, at, end, tag=0xA0)
    _, at = _element(data, at, end, tag=0x02)
    _, at = _element(data, at, end, tag=0x30)
    _, name_end = _element(data, at, end, tag=0x30)
    return data[at:name_end]


def _element(data: bytes, at: int, end: int, *, tag: int) -> tuple[int, int]:
    """Return where the value of the element at `at` starts and ends. Raises _BrokenError."""
    if at + 2 > end or data[at] != tag:
        raise _BrokenError("its certificate does not lead to an issuer")
    length, value = data[at + 1], at + 2
    if length >= 0x80:
        value += length - 0x80
        # No octets at all would be an indefinite length, more than four an absurd one.
        length = int.from_bytes(data[at + 2 : value]) if 0x80 < length <= 0x84 else end
    if value + length > end:
        raise _BrokenError("its certificate is cut off before its issuer")
    return value, value + length


def _entry(
    data: bytes,
    frame: _Frame,
    *,
    index: int,
    precertificate: bytes | None = None,
    chain: Iterable[bytes] = (),
    chain_fingerprints: Iterable[bytes] = (),
) -> Entry:
    is_precert = frame.entry_type == PRECERT_ENTRY
    signed = data[frame.body : frame.extensions]
    return Entry(
        index=index,
        timestamp_ms=frame.timestamp_ms,
        entry_type=frame.entry_type,
        leaf=_leaf(data, frame),
        issuer_key_hash=data[frame.body - 35 : frame.body - 3] if is_precert else None,
        tbs=signed if is_precert else None,
        certificate=None if is_precert else signed,
        precertificate=precertificate,
        chain=tuple(chain),
        chain_fingerprints=tuple(chain_fingerprints),
    )


# static-ct-api, "Log Entries": what follows the leaf in a data tile, none of it covered by the tree.
#
#   struct {
#       TimestampedEntry timestamped_entry;
#       select (entry_type) { case x509_entry: Empty; case precert_entry: ASN.1Cert pre_certificate; };
#       Fingerprint certificate_chain<0..2^16-1>;   // SHA-256, 32 octets each
#   } TileLeaf;


def _beside_the_leaf(tile: bytes, frame: _Frame) -> tuple[int, int]:
    """Return where the list of fingerprints starts, with its length, and where the whole TileLeaf ends."""
    chain = frame.end
    if frame.entry_type == PRECERT_ENTRY:
        chain += 3 + _u24(tile, chain)
    end = chain + 2 + _u16(tile, chain)
    if end > len(tile):
        raise _BrokenError("what follows its leaf is cut off")
    return chain, end


def _is_misplaced(tile: bytes, frame: _Frame, *, index: int, unreadable: list[Unreadable]) -> bool:
    """Tell whether the leaf names another index than the one it stands at; archives of older logs name none.

    struct { ExtensionType extension_type; opaque extension_data<0..2^16-1>; } CTExtension; a leaf_index(0) holds
    a uint40.
    """
    at = frame.extensions + 2
    while at < frame.end:
        kind, value, after = tile[at], at + 3, at + 3 + _u16(tile, at + 1)
        if after > frame.end or (kind == _LEAF_INDEX and after - value != _LEAF_INDEX_SIZE):
            unreadable.append(Unreadable(index, "its extensions do not add up", _leaf(tile, frame)))
            return False
        if kind == _LEAF_INDEX and int.from_bytes(tile[value:after]) != index:
            return True
        at = after
    return False


def _tile_entry(tile: bytes, frame: _Frame, *, index: int, chain: int, end: int, unreadable: list[Unreadable]) -> Entry:
    fingerprints = tile[chain + 2 : end]
    if len(fingerprints) % _FINGERPRINT_SIZE != 0:
        unreadable.append(Unreadable(index, "its chain is not a list of fingerprints", fingerprints))
        fingerprints = b""
    return _entry(
        tile,
        frame,
        index=index,
        precertificate=tile[frame.end + 3 : chain] if frame.entry_type == PRECERT_ENTRY else None,
        chain_fingerprints=(
            fingerprints[at : at + _FINGERPRINT_SIZE] for at in range(0, len(fingerprints), _FINGERPRINT_SIZE)
        ),
    )


# RFC 6962 section 4.6: {"entries": [{"leaf_input": base64 MerkleTreeLeaf, "extra_data": base64}, …]}


class _Row(msgspec.Struct, gc=False):
    leaf_input: bytes
    # Three quarters of the bytes, and of use for a hit only: left as it stands until then.
    extra_data: msgspec.Raw = msgspec.Raw(b'""')


class _Answer(msgspec.Struct, gc=False):
    entries: list[_Row]


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_BASE64: Final = msgspec.json.Decoder(bytes)
# What msgspec raises for bytes that are not the JSON it was told to expect, and for JSON nested without end.
_NOT_JSON: Final = (ValueError, RecursionError)


def _rows(body: bytes) -> list[_Row]:
    try:
        rows = _ANSWER.decode(body).entries
    except _NOT_JSON as exc:
        raise UnreadableAnswer(f"this is no get-entries answer: {exc}") from exc
    if not rows:
        raise UnreadableAnswer("a get-entries answer without entries")
    return rows


def _leaf_frame(leaf: bytes) -> _Frame:
    if leaf[:2] != _LEAF_PREFIX:
        raise _BrokenError(f"its version and leaf type are {leaf[:2].hex()}, which nobody has defined")
    frame = _frame(leaf, len(_LEAF_PREFIX))
    if frame.end != len(leaf):
        raise _BrokenError(f"{len(leaf) - frame.end} octets follow its extensions")
    return frame


def _answered_entry(row: _Row, frame: _Frame, *, index: int, unreadable: list[Unreadable]) -> Entry:
    try:
        precertificate, chain = _extra_data(_BASE64.decode(row.extra_data), frame.entry_type)
    except (_BrokenError, *_NOT_JSON) as exc:
        unreadable.append(Unreadable(index, f"its extra_data: {exc}", bytes(row.extra_data)))
        precertificate, chain = None, []
    return _entry(row.leaf_input, frame, index=index, precertificate=precertificate, chain=chain)


def _extra_data(extra: bytes, entry_type: int) -> tuple[bytes | None, list[bytes]]:
    """Split extra_data into the precertificate, if there is one, and its chain. Raises _BrokenError.

    x509_entry: ASN.1Cert certificate_chain<0..2^24-1>; precert_entry: struct { ASN.1Cert pre_certificate;
    ASN.1Cert precertificate_chain<0..2^24-1>; } PrecertChainEntry.
    """
    precertificate, at = None, 0
    if entry_type == PRECERT_ENTRY:
        precertificate, at = _opaque(extra, 0)
    chain, end = _opaque(extra, at)
    if end != len(extra):
        raise _BrokenError(f"{len(extra) - end} octets follow the chain")
    certificates, at = [], 0
    while at < len(chain):
        certificate, at = _opaque(chain, at)
        certificates.append(certificate)
    return precertificate, certificates


def _opaque(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 3 + _u24(data, at)
    if end > len(data):
        raise _BrokenError("it is cut off")
    return data[at + 3 : end], end
