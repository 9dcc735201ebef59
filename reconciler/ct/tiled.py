# SPDX-License-Identifier: Apache-2.0
"""Reads a log by C2SP static-ct-api: checkpoint, tiles, issuers. Every byte is checked by someone else's hash.

Knows tiles and their fallbacks; never whether the log as a whole is honest, which source.py finds out.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from reconciler.ct.entry import Entry, MisplacedLeaf, Scan, Unreadable, UnreadableTile, Wanted, scan_data_tile
from reconciler.ct.fetch import Fetcher, NotFound, in_order
from reconciler.ct.head import LogKey, VerifiedTreeHead, verify_checkpoint
from reconciler.ct.merkle import (
    DATA_LEVEL,
    HASH_SIZE,
    TILE_WIDTH,
    CompactRange,
    TileId,
    edge_tiles,
    range_from_tiles,
    tile_width,
)
from reconciler.ct.reader import Portion
from reconciler.errors import Contradiction, DistrustLog, UnreadableAnswer

_MOST_HEAD_OCTETS: Final = 64 * 2**10
_MOST_ISSUER_OCTETS: Final = 64 * 2**10
#: Tiles asked for at once: enough to hide the round trip, few enough to be a polite guest.
_AHEAD: Final = 6
#: How often a data tile may come back unreadable before the log, and not the way to it, is held to be at fault.
_UNREADABLE_TIMES: Final = 3
#: How often an issuer may be missing before the entry that names it is judged without.
_MISSING_TIMES: Final = 3


class TiledLog:
    """A log read by tiles. `origin` is what its checkpoints must name, where the configuration says so."""

    def __init__(self, fetcher: Fetcher, *, key: LogKey, origin: str | None) -> None:
        """Prepare to read; nothing is asked yet."""
        self._fetcher = fetcher
        self._key = key
        self._origin = origin
        self._unreadable: Counter[int] = Counter()
        self._missing: Counter[bytes] = Counter()
        self._issuers: dict[bytes, bytes] = {}

    async def head(self) -> VerifiedTreeHead:
        """Return the log's checkpoint, its signature verified."""
        raw = await self._fetcher.get("checkpoint", most=_MOST_HEAD_OCTETS, fresh=True)
        return verify_checkpoint(raw, key=self._key, origin=self._origin)

    async def edge(self, size: int, head: VerifiedTreeHead, *, fresh: bool) -> CompactRange:
        """Return the compact range of `size` from the right edge of the tree. What it proves shows at the head."""
        wanted = edge_tiles(size, head_size=head.size)
        tiles: dict[TileId, bytes] = {}
        async with aclosing(in_order(wanted, lambda tile: self._tile(tile, fresh=fresh), ahead=_AHEAD)) as answers:
            async for tile, (found, data) in answers:
                tiles[TileId(tile.level, tile.n, found.width)] = data
        return range_from_tiles(size, tiles)

    async def portions(
        self, start: int, end: int, *, wanted: Wanted, head: VerifiedTreeHead, fresh: bool
    ) -> AsyncGenerator[Portion, None]:
        """Yield the entries [start, end) tile by tile."""
        if start >= end:
            # A partial tile that was read already is not worth asking for again.
            return
        first, last = start // TILE_WIDTH, -(-end // TILE_WIDTH)
        tiles = (TileId(DATA_LEVEL, n, tile_width(DATA_LEVEL, n, size=head.size)) for n in range(first, last))
        async with aclosing(in_order(tiles, lambda tile: self._tile(tile, fresh=fresh), ahead=_AHEAD)) as answers:
            async for tile, (_, data) in answers:
                yield _from(start, await self._scan(tile, data, wanted))

    async def chain(self, entry: Entry) -> tuple[bytes, ...]:
        """Return the first certificate of an entry's chain, or nothing where the log does not have it.

        The fingerprint is not covered by the tree: what comes back still has to prove itself.
        """
        if not entry.chain_fingerprints:
            return ()
        fingerprint = entry.chain_fingerprints[0]
        if fingerprint not in self._issuers:
            try:
                issuer = await self._fetcher.get(f"issuer/{fingerprint.hex()}", most=_MOST_ISSUER_OCTETS)
            except NotFound:
                # The log must have it; it may take a moment until every mirror does.
                self._missing[fingerprint] += 1
                if self._missing[fingerprint] < _MISSING_TIMES:
                    raise
                return ()
            if hashlib.sha256(issuer).digest() != fingerprint:
                return ()
            self._issuers[fingerprint] = issuer
        return (self._issuers[fingerprint],)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._fetcher.close()

    async def _tile(self, tile: TileId, *, fresh: bool = False) -> tuple[TileId, bytes]:
        """Return a tile, or the full one where the partial one is gone (C2SP tlog-tiles, "Partial Tiles")."""
        try:
            return tile, await self._fetcher.get(tile.path(), fresh=fresh)
        except NotFound:
            if tile.width == TILE_WIDTH:
                raise
            return tile.full(), await self._fetcher.get(tile.full().path(), fresh=fresh)

    async def _scan(self, tile: TileId, data: bytes, wanted: Wanted) -> Portion:
        first = tile.n * TILE_WIDTH
        try:
            scan = scan_data_tile(data, first_index=first, count=tile.width, wanted=wanted)
        except MisplacedLeaf as misplaced:
            return Portion(first, misplaced.scan, misplaced)
        except UnreadableTile as unreadable:
            self._unreadable[tile.n] += 1
            if self._unreadable[tile.n] < _UNREADABLE_TIMES:
                raise
            return await self._step_over(tile, data, unreadable)
        del self._unreadable[tile.n]
        return Portion(first, scan, None)

    async def _step_over(self, tile: TileId, data: bytes, unreadable: UnreadableTile) -> Portion:
        """Keep an unreadable tile as evidence and take its leaf hashes from the tree above, so that reading goes on."""
        _, hashes = await self._tile(TileId(0, tile.n, tile.width))
        if len(hashes) < tile.width * HASH_SIZE:
            raise UnreadableAnswer(f"{tile.path()} and the hashes above it are both unreadable") from unreadable
        scan = Scan(
            hashes=[hashes[at : at + HASH_SIZE] for at in range(0, tile.width * HASH_SIZE, HASH_SIZE)],
            hits=unreadable.scan.hits,
            unreadable=[*unreadable.scan.unreadable, Unreadable(unreadable.index, str(unreadable), data)],
            last_timestamp_ms=unreadable.scan.last_timestamp_ms,
        )
        proof: Mapping[str, bytes | str] = {"tile": data, "path": tile.path()}
        return Portion(
            tile.n * TILE_WIDTH, scan, DistrustLog(str(unreadable), kind=Contradiction.UNREADABLE_TILE, proof=proof)
        )


def _from(start: int, portion: Portion) -> Portion:
    """Leave out what lies before `start`: a tile that was partial when it was read last begins before it."""
    skipped = max(0, start - portion.first)
    if skipped == 0:
        return portion
    scan = portion.scan
    kept = Scan(
        hashes=scan.hashes[skipped:],
        hits=[hit for hit in scan.hits if hit.index >= start],
        unreadable=[each for each in scan.unreadable if each.index >= start],
        last_timestamp_ms=scan.last_timestamp_ms,
    )
    return Portion(start, kept, portion.contradiction)
