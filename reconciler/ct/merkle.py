# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree of RFC 6962 section 2.1: hashes, compact ranges, tiles of hashes, audit paths and proofs.

Knows hashes and sizes; never what a leaf says, nor who signed a root. Called by whoever follows a log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from reconciler.errors import Contradiction, DistrustLog, UnreadableAnswer

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()

TILE_WIDTH: Final = 256  # hashes, or entries, in a full tile
DATA_LEVEL: Final = -1  # the level of data tiles, which hold the entries beneath the level-0 hashes
_TILE_BITS: Final = 8


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256(0x00 || MerkleTreeLeaf), RFC 6962 section 2.1."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right), RFC 6962 section 2.1."""
    return sha256(b"\x01" + left + right).digest()


def _paired(nodes: Sequence[bytes]) -> list[bytes]:
    # One list for a whole level instead of a call per node: this line is half the cost of following a log.
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=True)]


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The first `size` leaves of a tree, reduced to one hash per perfect subtree, the largest (leftmost) first.

    It is all one needs to append leaves and to know the root. There is one hash per set bit of `size`.
    """

    size: int
    hashes: tuple[bytes, ...]

    @classmethod
    def empty(cls) -> "CompactRange":
        """Return the range of no leaves."""
        return cls(0, ())

    def extended(self, hashes: Sequence[bytes]) -> "CompactRange":
        """Return the range with these leaf hashes appended, in order."""
        size = self.size + len(hashes)
        old, peaks = list(self.hashes), list[bytes]()
        nodes = list(hashes)
        for level in range(size.bit_length()):
            # At each level an old peak without a right sibling precedes the new nodes; whoever is left alone at the
            # end is the peak of that level, all others climb in pairs.
            if self.size >> level & 1:
                nodes.insert(0, old.pop())
            if len(nodes) & 1:
                peaks.append(nodes.pop())
            nodes = _paired(nodes)
        return CompactRange(size, tuple(reversed(peaks)))

    def root(self) -> bytes:
        """Return the Merkle tree hash over the range; EMPTY_ROOT when there is nothing in it."""
        if self.size == 0:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def to_bytes(self) -> bytes:
        """Return the hashes in order, 32 octets each; `size` has to be kept beside them."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "CompactRange":
        """Read what to_bytes wrote. Raises ValueError when that many hashes do not belong to that size."""
        if size < 0 or len(data) != size.bit_count() * HASH_SIZE:
            raise ValueError(f"{len(data)} octets are not the compact range of {size} leaves")
        return cls(size, tuple(_split(data)))


def _split(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


@dataclass(frozen=True, slots=True)
class TileId:
    """One tile of a static log: `level` (DATA_LEVEL for entries), number `n` in its level, and how wide it is.

    Raises ValueError for a tile that cannot exist.
    """

    level: int
    n: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level < DATA_LEVEL or self.n < 0 or not 1 <= self.width <= TILE_WIDTH:
            raise ValueError(f"there is no tile {self.n} of width {self.width} at level {self.level}")

    def path(self) -> str:
        """Return the path below the monitoring prefix, for example tile/0/x001/234 or tile/data/000.p/17.

        C2SP static-ct-api, "Merkle Tree": groups of three digits, each but the last with an x in front.
        """
        digits = str(self.n)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "data" if self.level == DATA_LEVEL else str(self.level)
        return f"tile/{level}/{number}" + ("" if self.width == TILE_WIDTH else f".p/{self.width}")

    def full(self) -> "TileId":
        """Return the full tile of the same place: what a log may offer in place of a partial one."""
        return TileId(self.level, self.n)


def tile_width(level: int, n: int, *, size: int) -> int:
    """Return how many hashes tile `n` of `level` has in a tree of `size` leaves: 0 to 256.

    A data tile is as wide as the level-0 tile above it.
    """
    complete = size >> (_TILE_BITS * max(level, 0))
    return max(0, min(TILE_WIDTH, complete - n * TILE_WIDTH))


def edge_tiles(size: int, *, head_size: int | None = None) -> list[TileId]:
    """Return the tiles from which range_from_tiles builds the range of `size`, the lowest level first.

    A log offers partial tiles only as wide as one of its heads implies. So for a size below the head, give the head's
    size: the same places then come back as wide as they are under that head. Raises ValueError if it is smaller.
    """
    head = size if head_size is None else head_size
    if head < size:
        raise ValueError(f"a head of {head} leaves does not cover {size}")
    levels = range((size.bit_length() + _TILE_BITS - 1) // _TILE_BITS)
    return [
        TileId(level, n, tile_width(level, n, size=head))
        for level in levels
        for n in [size >> (_TILE_BITS * (level + 1))]
        if tile_width(level, n, size=size) > 0
    ]


def range_from_tiles(size: int, tiles: Mapping[TileId, bytes]) -> CompactRange:
    """Return the range of `size` from the right-edge tiles that edge_tiles names; wider tiles will do.

    Nothing is verified here: compare the root with a verified head, or this proves nothing. Raises UnreadableAnswer
    when a tile is missing, too narrow, or not as long as its width says.
    """
    peaks: list[bytes] = []
    for wanted in reversed(edge_tiles(size)):
        # The peaks for bits 8L to 8L+7 of the size all lie in the one tile of level L at the right edge.
        nodes = CompactRange.empty().extended(_tile_hashes(wanted, tiles))
        peaks.extend(nodes.hashes)
    return CompactRange(size, tuple(peaks))


def _tile_hashes(wanted: TileId, tiles: Mapping[TileId, bytes]) -> list[bytes]:
    for tile, data in tiles.items():
        if (tile.level, tile.n) == (wanted.level, wanted.n) and tile.width >= wanted.width:
            if len(data) != tile.width * HASH_SIZE:
                raise UnreadableAnswer(f"{tile.path()} has {len(data)} octets instead of {tile.width * HASH_SIZE}")
            return _split(data[: wanted.width * HASH_SIZE])
    raise UnreadableAnswer(f"{wanted.path()} is missing, and no wider tile stands in for it")


def verify_inclusion(*, index: int, tree_size: int, leaf_hash: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Check an audit path (RFC 6962 section 2.1.1) from the leaf at `index` to the root of `tree_size` leaves.

    Raises DistrustLog of kind INCLUSION_PROOF unless it leads there with nothing missing and nothing left over.
    """
    _range_before(index=index, tree_size=tree_size, leaf_hash=leaf_hash, path=path, root=root)


def range_from_audit_path(
    *, index: int, tree_size: int, leaf_hash: bytes, path: Sequence[bytes], root: bytes
) -> CompactRange:
    """Return the range of `index` + 1 leaves that an audit path proves, as get-entry-and-proof gives one.

    Raises DistrustLog of kind INCLUSION_PROOF when the path does not lead to the root.
    """
    before = _range_before(index=index, tree_size=tree_size, leaf_hash=leaf_hash, path=path, root=root)
    return before.extended([leaf_hash])


def _range_before(*, index: int, tree_size: int, leaf_hash: bytes, path: Sequence[bytes], root: bytes) -> CompactRange:
    """Verify an audit path and return the range of the `index` leaves left of its leaf.

    Every sibling on the left of the way up is a perfect subtree, and together they are exactly the leaves before this
    one: the path, read from its end, holds their compact range. Raises DistrustLog as verify_inclusion does.
    """
    lefts: list[bytes] = []
    node, at, last = leaf_hash, index, tree_size - 1
    sound = 0 <= index <= last and all(len(part) == HASH_SIZE for part in (leaf_hash, root, *path))
    for sibling in path if sound else ():
        if last == 0:
            sound = False
            break
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            lefts.append(sibling)
            # A rightmost node without a sibling climbs unhashed until it becomes a right child.
            at, last = _climb(at, last)
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    if not sound or last != 0 or node != root:
        raise DistrustLog(
            f"the audit path of leaf {index} does not lead to the root of {tree_size} leaves",
            kind=Contradiction.INCLUSION_PROOF,
            proof={"leaf_hash": leaf_hash, "path": b"".join(path), "root": root, "place": f"{index} of {tree_size}"},
        )
    return CompactRange(index, tuple(reversed(lefts)))


def _climb(at: int, last: int) -> tuple[int, int]:
    while at and not at & 1:
        at, last = at >> 1, last >> 1
    return at, last


def verify_consistency(
    *, first_size: int, second_size: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 6962 section 2.1.2): the second tree begins with the whole first one.

    The RFC defines none for the empty tree, which says nothing about any other, so size 0 fails. Equal sizes need
    equal roots and an empty proof. Raises DistrustLog of kind CONSISTENCY_PROOF.
    """
    if first_size == second_size:
        sound = first_size > 0 and first_root == second_root and not proof
    else:
        sound = 0 < first_size < second_size and (first_root, second_root) == _both_roots(
            first_size, second_size, [first_root, *proof] if first_size.bit_count() == 1 else proof
        )
    if not sound:
        raise DistrustLog(
            f"no consistency proof from {first_size} leaves to {second_size}",
            kind=Contradiction.CONSISTENCY_PROOF,
            proof={
                "first_root": first_root,
                "second_root": second_root,
                "proof": b"".join(proof),
                "sizes": f"{first_size} to {second_size}",
            },
        )


def _both_roots(first_size: int, second_size: int, nodes: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return the two roots that the nodes lead to; None when there are too many or too few of them.

    The first node is the largest perfect subtree that ends where the first tree ends; a first tree that is such a
    subtree itself is left out of the proof, and the caller puts it back.
    """
    if not nodes or any(len(node) != HASH_SIZE for node in nodes):
        return None
    at, last = first_size - 1, second_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            first, second = node_hash(node, first), node_hash(node, second)
            at, last = _climb(at, last)
        else:
            second = node_hash(second, node)
        at, last = at >> 1, last >> 1
    return (first, second) if last == 0 else None
