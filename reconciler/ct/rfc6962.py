# SPDX-License-Identifier: Apache-2.0
"""Reads a log by RFC 6962: get-sth, get-entries, get-entry-and-proof.

Knows short answers and the one proof that leads into the middle of a tree; never whether the log as a whole is honest,
which source.py finds out.
"""

from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from reconciler.ct.entry import Entry, Wanted, scan_get_entries
from reconciler.ct.fetch import Fetcher
from reconciler.ct.head import LogKey, VerifiedTreeHead, verify_sth
from reconciler.ct.merkle import CompactRange, leaf_hash, range_from_audit_path
from reconciler.ct.reader import Portion
from reconciler.errors import UnreadableAnswer

_MOST_HEAD_OCTETS: Final = 64 * 2**10
_MOST_PROOF_OCTETS: Final = 16 * 2**20
#: Entries asked for at once. Logs answer with fewer as they like (RFC 6962 section 4.6).
_BATCH: Final = 1000


class _EntryAndProof(msgspec.Struct):
    leaf_input: bytes
    audit_path: list[bytes]


_ENTRY_AND_PROOF: Final = msgspec.json.Decoder(_EntryAndProof)


class Rfc6962Log:
    """A log read by RFC 6962 section 4."""

    def __init__(self, fetcher: Fetcher, *, key: LogKey) -> None:
        """Prepare to read; nothing is asked yet."""
        self._fetcher = fetcher
        self._key = key

    async def head(self) -> VerifiedTreeHead:
        """Return the log's signed tree head, its signature verified."""
        raw = await self._fetcher.get("ct/v1/get-sth", most=_MOST_HEAD_OCTETS, fresh=True)
        return verify_sth(raw, key=self._key)

    async def edge(self, size: int, head: VerifiedTreeHead, *, fresh: bool) -> CompactRange:
        """Return the compact range of `size`: the left siblings on the audit path of its last leaf, verified."""
        if size == 0:
            return CompactRange.empty()
        raw = await self._fetcher.get(
            "ct/v1/get-entry-and-proof",
            params={"leaf_index": str(size - 1), "tree_size": str(head.size)},
            most=_MOST_PROOF_OCTETS,
            fresh=fresh,
        )
        try:
            answer = _ENTRY_AND_PROOF.decode(raw)
        except (ValueError, RecursionError) as exc:
            raise UnreadableAnswer(f"this is no entry with its proof: {exc}") from exc
        return range_from_audit_path(
            index=size - 1,
            tree_size=head.size,
            leaf_hash=leaf_hash(answer.leaf_input),
            path=answer.audit_path,
            root=head.root_hash,
        )

    async def portions(
        self, start: int, end: int, *, wanted: Wanted, head: VerifiedTreeHead, fresh: bool
    ) -> AsyncGenerator[Portion, None]:
        """Yield the entries [start, end), advancing by what comes and never by what was asked for."""
        del head  # the entries of a position are the same under every head
        at = start
        while at < end:
            last = min(at + _BATCH, end) - 1
            body = await self._fetcher.get(
                "ct/v1/get-entries", params={"start": str(at), "end": str(last)}, fresh=fresh
            )
            scan = scan_get_entries(body, first_index=at, limit=last - at + 1, wanted=wanted)
            yield Portion(at, scan, None)
            at += len(scan.hashes)

    async def chain(self, entry: Entry) -> tuple[bytes, ...]:
        """Return the chain that came with the entry."""
        return entry.chain

    async def close(self) -> None:
        """Let go of the connections."""
        await self._fetcher.close()
