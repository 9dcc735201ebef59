# SPDX-License-Identifier: Apache-2.0
"""A Merkle tree after RFC 6962 §2.1, straight from its definitions, keeping the hash of every full subtree.

Knows hashes and nothing of what was hashed. Called by demo/logbook.py; shares nothing with the reconciler's own tree.
"""

from __future__ import annotations

import hashlib

HASH = 32  # octets of a SHA-256


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962 §2.1: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 §2.1: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """Return k, the largest power of two smaller than `count` (RFC 6962 §2.1)."""
    return 1 << ((count - 1).bit_length() - 1)


class Tree:
    """Leaf hashes in order. Level k holds the hash of every full, aligned subtree of 2**k leaves, packed end to end.

    The packing makes a hash tile a plain slice, and keeps a few hundred thousand leaves within some 20 MB.
    """

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH

    def copy(self, size: int) -> Tree:
        """Return a tree of the first `size` leaves, which may then grow another way."""
        other = Tree()
        other._levels = [level[: (size >> depth) * HASH] for depth, level in enumerate(self._levels)]
        return other

    def append(self, digest: bytes) -> int:
        """Add one leaf hash, completing every subtree that ends here. Returns its index."""
        index, depth = self.size, 0
        self._levels[0] += digest
        while (index + 1) % (2 << depth) == 0:
            if depth + 1 == len(self._levels):
                self._levels.append(bytearray())
            pair = self._levels[depth][-2 * HASH :]
            self._levels[depth + 1] += node_hash(bytes(pair[:HASH]), bytes(pair[HASH:]))
            depth += 1
        return index

    def hashes(self, depth: int, *, start: int, count: int) -> bytes:
        """Return `count` neighbouring full-subtree hashes of level `depth`, packed: a hash tile, if depth is 8·L."""
        level = self._levels[depth] if depth < len(self._levels) else b""
        return bytes(level[start * HASH : (start + count) * HASH])

    def root(self, size: int) -> bytes:
        """MTH(D[size]) of the first `size` leaves; raises ValueError for a size not reached yet."""
        self._check(size)
        return hashlib.sha256(b"").digest() if size == 0 else self._hash(0, size)

    def inclusion(self, index: int, *, size: int) -> list[bytes]:
        """PATH(index, D[size]), RFC 6962 §2.1.1, nearest sibling first; raises ValueError outside the tree."""
        self._check(size)
        if not 0 <= index < size:
            raise ValueError("the leaf is not in a tree of that size")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, *, second: int) -> list[bytes]:
        """PROOF(first, D[second]), RFC 6962 §2.1.2; empty for equal sizes and for an empty first tree."""
        self._check(second)
        if not 0 <= first <= second:
            raise ValueError("the first tree is larger than the second")
        return [] if first in (0, second) else self._subproof(first, start=0, end=second, whole=True)

    def _subproof(self, first: int, *, start: int, end: int, whole: bool) -> list[bytes]:
        """SUBPROOF(m, D[start:end], b). `whole` is b: the verifier already knows the hash of the first tree."""
        if first == end:
            return [] if whole else [self._hash(start, end)]
        middle = start + _split(end - start)
        if first <= middle:
            return [*self._subproof(first, start=start, end=middle, whole=whole), self._hash(middle, end)]
        return [*self._subproof(first, start=middle, end=end, whole=False), self._hash(start, middle)]

    def _hash(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]); `start` is aligned wherever the definitions of §2.1 ask for it."""
        count = end - start
        if count & (count - 1) == 0:
            depth = count.bit_length() - 1
            return self.hashes(depth, start=start >> depth, count=1)
        middle = start + _split(count)
        return node_hash(self._hash(start, middle), self._hash(middle, end))

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"no tree of size {size} in a tree of size {self.size}")
