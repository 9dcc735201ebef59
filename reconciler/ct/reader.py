# SPDX-License-Identifier: Apache-2.0
"""What a reader of a log offers, whichever protocol it speaks: heads, the right edge, entries, chains.

Two real ones exist, tiled.py and rfc6962.py; source.py follows a log through this.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from reconciler.ct.entry import Entry, Scan, Wanted
from reconciler.ct.head import VerifiedTreeHead
from reconciler.ct.merkle import CompactRange
from reconciler.errors import DistrustLog


@dataclass(frozen=True, slots=True)
class Portion:
    """Entries from index `first` on, and what is wrong with them as a whole, if anything: they are kept either way."""

    first: int
    scan: Scan
    contradiction: DistrustLog | None


class LogReader(Protocol):
    """Reads one log. Everything raises RetrySource when the log cannot answer now."""

    async def head(self) -> VerifiedTreeHead:
        """Return the log's current head. Raises DistrustLog when its signature fails."""

    async def edge(self, size: int, head: VerifiedTreeHead, *, fresh: bool) -> CompactRange:
        """Return the compact range of the first `size` leaves of the tree under `head`; `fresh` as in portions."""

    def portions(
        self, start: int, end: int, *, wanted: Wanted, head: VerifiedTreeHead, fresh: bool
    ) -> AsyncGenerator[Portion, None]:
        """Yield the entries [start, end), in order and without gap; `fresh` asks caches to step aside."""

    async def chain(self, entry: Entry) -> tuple[bytes, ...]:
        """Return the certificates that came with an entry, next one first. Hearsay."""

    async def close(self) -> None:
        """Let go of connections."""
