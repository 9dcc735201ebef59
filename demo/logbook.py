# SPDX-License-Identifier: Apache-2.0
"""What a CT log holds and signs: entries, the tree over them, timestamps and heads, for both protocols at once.

Knows RFC 6962 and the static-ct-api from the inside; never a socket. Called by demo/log.py, which serves it.
"""

from __future__ import annotations

import copy
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.ca import is_precertificate_signing, leaf_tbs, spki_sha256
from demo.faults import Faults
from demo.leaf import (
    PRECERT_ENTRY,
    TIMESTAMP_OFFSET,
    TYPE_OFFSET,
    X509_ENTRY,
    Entry,
    Head,
    SignedCertificateTimestamp,
    b64,
    digitally_signed,
    fingerprint,
    leaf_index_extension,
    merkle_tree_leaf,
    opaque,
    read_tile,
    tree_head,
)
from demo.tree import Tree, leaf_hash

TILE = 256  # hashes or entries in a full tile
MAX_LEVEL = 5  # the highest level of hash tiles, static-ct-api


class ChainRefusedError(ValueError):
    """The submitted chain does not hang together, or ends in no root this log accepts."""


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


class Log:
    """A log in memory.

    Settings, which may be changed at any time: `auto_publish` signs a head after every entry; `max_batch` and `align`
    bound get-entries, with `align` up to the next multiple only; `gzip` compresses tiles and, on request, JSON;
    `drop_partials` removes a partial tile when the full one exists; `leaf_index` puts that extension into new leaves;
    `roots`, unless empty, are the only ends of chain accepted over HTTP; `head_age` is how old, in milliseconds, a
    head may get before it is signed afresh. `issuers` maps SHA-256 fingerprints to DER certificates.
    """

    def __init__(
        self,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        origin: str | None = None,
        auto_publish: bool = True,
        max_batch: int = 1000,
        align: bool = False,
        gzip: bool = False,
        drop_partials: bool = False,
        leaf_index: bool = True,
        roots: Iterable[x509.Certificate] = (),
        head_age: int = 60_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        # Without an origin of its own, a log is called by the address it is served at.
        self.origin = origin
        self.auto_publish = auto_publish
        self.max_batch = max_batch
        self.align = align
        self.gzip = gzip
        self.drop_partials = drop_partials
        self.leaf_index = leaf_index
        self.roots = list(roots)
        self.head_age = head_age
        self.entries: list[Entry] = []
        self.tree = Tree()
        self.issuers: dict[bytes, bytes] = {}
        self.heads: list[Head] = []
        self.faults = Faults(lambda: len(self.heads))
        self.requests: Counter[str] = Counter()
        self.last_headers: dict[str, str] = {}
        self.tile_cache: dict[str, bytes] = {}
        self._clock = clock
        self._sizes: list[int] = []
        self._index_of_leaf: dict[bytes, int] = {}
        self._index_of_entry: dict[bytes, int] = {}
        self._forks: dict[tuple[int, int], Log] = {}
        self.publish()

    @classmethod
    def from_data_tiles(
        cls, tiles: Iterable[bytes], *, key: ec.EllipticCurvePrivateKey | None = None, origin: str | None = None
    ) -> Log:
        """Make a log of the entries in data tiles, leaf for leaf; raises ValueError where a tile cannot be read.

        Its key is its own. Fill `issuers` to give chains: a data tile holds fingerprints only.
        """
        log = cls(key=key, origin=origin)
        for tile in tiles:
            for entry in read_tile(tile):
                log._append(entry)
        log.publish()
        return log

    # Who the log is.

    @property
    def spki(self) -> bytes:
        """The log's public key, DER SubjectPublicKeyInfo."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.DER, form)

    @property
    def key_b64(self) -> str:
        """The log's public key as log lists carry it."""
        return b64(self.spki)

    @property
    def log_id(self) -> bytes:
        """SHA-256 of the public key (RFC 6962 §3.2)."""
        return sha256(self.spki).digest()

    def now(self) -> int:
        """The log's clock in milliseconds."""
        return int(self._clock() * 1000)

    # What it holds.

    @property
    def size(self) -> int:
        """Number of entries, published or not."""
        return len(self.entries)

    @property
    def published(self) -> int:
        """Number of entries the newest head covers."""
        return self.heads[-1].size

    def index_of(self, digest: bytes) -> int | None:
        """Return the first index of a leaf hash, or None."""
        return self._index_of_leaf.get(digest)

    def add_precertificate(
        self, precert: x509.Certificate, chain: Sequence[x509.Certificate], *, timestamp: int | None = None
    ) -> SignedCertificateTimestamp:
        """Log a precertificate with its chain, issuer first, and promise it. Nothing about the chain is verified.

        signed_entry is PreCert: issuer_key_hash[32] | TBSCertificate<1..2^24-1> (RFC 6962 §3.2). Behind a
        Precertificate Signing Certificate the final issuer is the second of the chain.
        """
        signing = chain[0] if is_precertificate_signing(chain[0]) else None
        issuer = chain[0] if signing is None else chain[1]
        signed = spki_sha256(issuer) + opaque(leaf_tbs(precert, signing_certificate=signing), width=3)
        return self._promise(PRECERT_ENTRY, signed, chain=chain, precert=_der(precert), timestamp=timestamp)

    def add_certificate(
        self, certificate: x509.Certificate, chain: Sequence[x509.Certificate], *, timestamp: int | None = None
    ) -> SignedCertificateTimestamp:
        """Log a certificate with its chain, issuer first, and promise it. signed_entry is ASN.1Cert<1..2^24-1>."""
        return self._promise(X509_ENTRY, opaque(_der(certificate), width=3), chain=chain, timestamp=timestamp)

    def add_raw(self, leaf_input: bytes, *, extra_data: bytes | None = None, tile_leaf: bytes | None = None) -> int:
        """Log any bytes at all: the leaf as hashed, and what each protocol says. Returns the index.

        Left out, `extra_data` is an empty chain and `tile_leaf` the leaf without its first two octets and an empty
        list of fingerprints.
        """
        index = self._append(Entry(leaf_input, raw_extra_data=extra_data, raw_tile_leaf=tile_leaf))
        self._maybe_publish()
        return index

    def _promise(
        self,
        entry_type: int,
        signed_entry: bytes,
        *,
        chain: Sequence[x509.Certificate],
        precert: bytes | None = None,
        timestamp: int | None = None,
    ) -> SignedCertificateTimestamp:
        """Append the entry unless we have it, and sign its SCT. A second submission gets the first one's promise."""
        name = sha256(entry_type.to_bytes(2, "big") + signed_entry).digest()
        index = self._index_of_entry.get(name)
        if index is None:
            index = self._index_of_entry[name] = self.size
            certificates = [_der(each) for each in chain]
            self.issuers.update((fingerprint(each), each) for each in certificates)
            leaf = merkle_tree_leaf(
                timestamp=self.now() if timestamp is None else timestamp,
                entry_type=entry_type,
                signed_entry=signed_entry,
                extensions=leaf_index_extension(index) if self.leaf_index else b"",
            )
            self._append(Entry(leaf, precert, tuple(fingerprint(each) for each in certificates)))
            self._maybe_publish()
        leaf = self.entries[index].leaf_input
        return SignedCertificateTimestamp(
            log_id=self.log_id,
            timestamp=int.from_bytes(leaf[TIMESTAMP_OFFSET:TYPE_OFFSET], "big"),
            extensions=leaf[TYPE_OFFSET + 2 + len(signed_entry) + 2 :],
            signature=self._sign(leaf),
        )

    def _append(self, entry: Entry) -> int:
        digest = leaf_hash(entry.leaf_input)
        self.entries.append(entry)
        index = self.tree.append(digest)
        self._index_of_leaf.setdefault(digest, index)
        return index

    def submit(self, chain: Sequence[bytes], *, precert: bool) -> SignedCertificateTimestamp:
        """Log what came in over HTTP (RFC 6962 §4.1, §4.2): DER certificates, the leaf first.

        Raises ChainRefusedError for what is not a chain of the right kind, or leads to none of our roots.
        """
        try:
            leaf, *issuers = [x509.load_der_x509_certificate(each) for each in chain]
            poisoned = any(each.oid == x509.PrecertPoison.oid for each in leaf.extensions)
        except ValueError as exc:
            raise ChainRefusedError(f"not a chain of certificates: {exc}") from exc
        if poisoned is not precert:
            raise ChainRefusedError("a precertificate belongs to add-pre-chain, and nothing else does")
        issuers = self._checked(leaf, issuers)
        return self.add_precertificate(leaf, issuers) if precert else self.add_certificate(leaf, issuers)

    def _checked(self, leaf: x509.Certificate, issuers: list[x509.Certificate]) -> list[x509.Certificate]:
        """Verify each signature by the next certificate, up to a root of ours, which is added when left out."""
        last = [leaf, *issuers][-1]
        if self.roots and last not in self.roots:
            issuers = issuers + [root for root in self.roots if root.subject == last.issuer][:1]
        if not issuers or (self.roots and issuers[-1] not in self.roots):
            raise ChainRefusedError("the chain leads to no root of this log")
        if is_precertificate_signing(issuers[0]) and len(issuers) < 2:
            raise ChainRefusedError("the chain ends at a precertificate signing certificate")
        try:
            for child, parent in zip([leaf, *issuers], issuers, strict=False):
                child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature) as exc:
            raise ChainRefusedError("a certificate of the chain was not issued by the next") from exc
        return issuers

    # What it signs.

    def publish(self) -> Head:
        """Sign a head over all entries; its timestamp is later than every earlier one (RFC 6962 §3.5)."""
        stamp = max(self.now(), self.heads[-1].timestamp + 1) if self.heads else self.now()
        head = self.sign_head(size=self.size, timestamp=stamp, root=self.tree.root(self.size))
        self.heads.append(head)
        self.remember_size(head.size)
        return head

    def _maybe_publish(self) -> None:
        if self.auto_publish:
            self.publish()

    def head(self) -> Head:
        """Return the newest head, over the same entries but signed afresh when it has grown old."""
        newest = self.heads[-1]
        if self.now() - newest.timestamp > self.head_age:
            newest = self.sign_head(size=newest.size, timestamp=self.now(), root=newest.root)
            self.heads.append(newest)
        return newest

    def sign_head(
        self, *, size: int, timestamp: int, root: bytes, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Head:
        """Sign any head at all; only `publish` makes it one of ours."""
        return Head(size, timestamp, root, self._sign(tree_head(size=size, timestamp=timestamp, root=root), key))

    def _sign(self, data: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        signer = self.key if key is None else key
        return digitally_signed(signer.sign(data, ec.ECDSA(hashes.SHA256())))

    # What a tile reader may ask for.

    def remember_size(self, size: int) -> None:
        """Note a size some head has shown: its partial tiles exist from now on."""
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes) or self._sizes[at] != size:
            self._sizes.insert(at, size)

    def has_tile(self, level: int, *, number: int, width: int) -> bool:
        """Say whether a tile exists: full ones of published entries, partial ones of some head that was shown."""
        if not (0 <= level <= MAX_LEVEL and number >= 0 and 1 <= width <= TILE):
            return False
        depth = 8 * level
        full = self.published >> depth >= (number + 1) * TILE
        if width == TILE or (full and self.drop_partials):
            return full and width == TILE
        hashes_then = number * TILE + width
        at = bisect_left(self._sizes, hashes_then << depth)
        return at < len(self._sizes) and self._sizes[at] >> depth == hashes_then

    # The other history a split view shows.

    def fork_at(self, entry: int) -> Log:
        """Return a log of the same key and published size whose leaf `entry` is a millisecond younger.

        A negative entry counts from the end. It is a whole log: its proofs, tiles and entries agree with its head.
        """
        size = self.published
        index = entry % size if size > 0 else 0
        if (index, size) not in self._forks:
            # One at a time: an older fork is of no use once the log has grown.
            self._forks = {(index, size): self._forked(index, size)}
        return self._forks[index, size]

    def _forked(self, index: int, size: int) -> Log:
        other = copy.copy(self)
        other.part_from(index, size)
        return other

    def part_from(self, index: int, size: int) -> None:
        """Become another history from leaf `index` on, up to `size`. Called on a copy."""
        entries, newest = self.entries, self.heads[-1]
        self.entries, self.tree, self.tile_cache = entries[:index], self.tree.copy(index), {}
        self._index_of_leaf = {digest: at for digest, at in self._index_of_leaf.items() if at < index}
        for at, entry in enumerate(entries[index:size], start=index):
            self._append(entry if at != index else replace(entry, leaf_input=_younger(entry.leaf_input)))
        self.heads = [self.sign_head(size=size, timestamp=newest.timestamp, root=self.tree.root(size))]


def _younger(leaf_input: bytes) -> bytes:
    """Move a leaf's timestamp one millisecond on."""
    stamp = int.from_bytes(leaf_input[TIMESTAMP_OFFSET:TYPE_OFFSET], "big") + 1
    return leaf_input[:TIMESTAMP_OFFSET] + stamp.to_bytes(8, "big") + leaf_input[TYPE_OFFSET:]
