# SPDX-License-Identifier: Apache-2.0
"""A CT log as a Source: verified heads, entries hashed into a compact range, a root that must be met.

Certificates of ours prove themselves by their signature; what is verified here is that the log showed us everything.
So a log that contradicts itself loses our trust in its coverage, and is read on.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from reconciler.ct.entry import Entry, Scan
from reconciler.ct.head import VerifiedTreeHead, compare_heads
from reconciler.ct.merkle import CompactRange
from reconciler.ct.reader import LogReader, Portion
from reconciler.errors import Contradiction, DistrustLog, RetrySource
from reconciler.match import judge, needs_chain, place_of, unreadable, wanted
from reconciler.model import Batch, Head, Ledger, LogMove, LogPosition, SourceSettings
from responder.status.issuers import IssuerSet
from responder.status.model import Quarantined, Sighting

Start = Literal["now", "beginning"] | int

#: A head that does not verify or has shrunk is asked for again before the log is blamed: replicas lag, caches err.
_SECOND_OPINIONS: Final = 2
_BETWEEN_OPINIONS: Final = 1.0  # seconds
#: Leaves that do not meet the root are read once more, past the caches, unless there are more of them than this.
_MOST_REREAD: Final = 2**16
#: Entries to a transaction while catching up.
_BATCH_ENTRIES: Final = 4096
#: A head may lie this far in our future before we stop believing its clock, and ours.
_SKEW: Final = timedelta(minutes=5)


class CtSource:
    """One CT log, followed from where the ledger says we stand."""

    def __init__(
        self, settings: SourceSettings, reader: LogReader, *, log_id: bytes, start: Start, merge_delay: timedelta
    ) -> None:
        """Prepare to follow a log. `merge_delay` is the age at which a head no longer vouches for the present."""
        self._settings = settings
        self._reader = reader
        self._log_id = log_id
        self._start = start
        self._merge_delay = merge_delay

    @property
    def settings(self) -> SourceSettings:
        """Return what the status table must know of this source."""
        return self._settings

    async def committed(self, batch: Batch) -> None:
        """Nothing waits for a commit here: the position moved with the rows."""

    async def close(self) -> None:
        """Let go of the connections."""
        await self._reader.close()

    async def read(self, ledger: Ledger, issuers: IssuerSet) -> AsyncIterator[Batch]:
        """Read from the position to the current head, and say so once the root is met."""
        asked_at = datetime.now(UTC)
        head = await self._trusted_head(await ledger.latest_head())
        position = await ledger.log_position()
        if position is None:
            position, batch = await self._begin(head)
            yield batch
        elif position.log_id != self._log_id:
            raise RetrySource("this name was given to a log with another key before; give the new log a new name")
        caught_up_at = self._vouches_for(head, asked_at)
        for again in (False, True):
            async for batch in self._entries(position, head, issuers, fresh=again):
                moved = batch.move
                position = moved.new if isinstance(moved, LogMove) else position
                met = position.position == head.size and _range(position).root() == head.root_hash
                yield _verified(batch, caught_up_at) if met else batch
            if position.position != head.size or _range(position).root() == head.root_hash:
                return
            if again or head.size - position.verified_size > _MOST_REREAD:
                break
            # It may have been the way to the log and not the log: once more from where the last root was met.
            old, position = position, replace(position, position=position.verified_size, range=position.verified_range)
            yield Batch(move=LogMove(old=old, new=position, head=_stored(head)), counts={"reread": 1})
        raise _unmet_root(position, head)

    async def _entries(
        self, position: LogPosition, head: VerifiedTreeHead, issuers: IssuerSet, *, fresh: bool
    ) -> AsyncIterator[Batch]:
        """Yield batches of entries up to the head; at least one, so that the head itself is recorded.

        A contradiction found in the entries is raised after the last batch: what they prove is kept first.
        """
        contradiction: DistrustLog | None = None
        at, gathered = position, _Gathered()
        portions = self._reader.portions(position.position, head.size, wanted=wanted(issuers), head=head, fresh=fresh)
        async for portion in portions:
            contradiction = contradiction or portion.contradiction
            gathered.add(portion, await self._judged(portion.scan, issuers))
            if gathered.entries >= _BATCH_ENTRIES and position.position + gathered.entries < head.size:
                moved = _advanced(at, gathered)
                yield gathered.batch(LogMove(old=at, new=moved, head=_stored(head)))
                at, gathered = moved, _Gathered()
        yield gathered.batch(LogMove(old=at, new=_advanced(at, gathered), head=_stored(head)))
        if contradiction is not None:
            raise contradiction

    async def _judged(self, scan: Scan, issuers: IssuerSet) -> list[Sighting | Quarantined]:
        verdicts: list[Sighting | Quarantined] = [await self._judge(hit, issuers) for hit in scan.hits]
        verdicts.extend(unreadable(each, timestamp_ms=scan.last_timestamp_ms) for each in scan.unreadable)
        return verdicts

    async def _judge(self, entry: Entry, issuers: IssuerSet) -> Sighting | Quarantined:
        verdict = judge(entry, issuers, chain=entry.chain)
        if needs_chain(verdict) and entry.chain_fingerprints:
            chain = await self._reader.chain(entry)
            return judge(entry, issuers, chain=chain)
        return verdict

    async def _begin(self, head: VerifiedTreeHead) -> tuple[LogPosition, Batch]:
        """Return the first position: the tip by the right edge of the tree, the beginning, or an index."""
        match self._start:
            case "beginning":
                reached = CompactRange.empty()
            case "now":
                reached = await self._reader.edge(head.size, head)
            case index:
                if index > head.size:
                    raise RetrySource(f"start = {index} lies beyond the log's {head.size} entries")
                reached = await self._reader.edge(index, head)
        octets = reached.to_bytes()
        position = LogPosition(
            log_id=self._log_id,
            started_at=reached.size,
            position=reached.size,
            range=octets,
            verified_size=reached.size,
            verified_range=octets,
        )
        return position, Batch(move=LogMove(old=None, new=position, head=_stored(head)))

    async def _trusted_head(self, latest: Head | None) -> VerifiedTreeHead:
        """Return the current head: signed by the log, and not smaller than or at odds with the largest one seen.

        Raises DistrustLog when it stays so after a second and a third opinion.
        """
        previous = None if latest is None else _seen(latest)
        for opinions_left in reversed(range(_SECOND_OPINIONS + 1)):
            try:
                head = await self._reader.head()
                return head if previous is None else compare_heads(previous, head)
            except DistrustLog as distrust:
                # Two signed heads of one size with different roots are proof as they stand.
                if opinions_left == 0 or distrust.kind in {Contradiction.FORK, Contradiction.ROLLBACK}:
                    raise
            await asyncio.sleep(_BETWEEN_OPINIONS)
        raise AssertionError("the last opinion either returned or raised")

    def _vouches_for(self, head: VerifiedTreeHead, asked_at: datetime) -> datetime | None:
        """Return the moment up to which this head shows everything, or None when it is too old or from the future.

        RFC 6962 section 3.5: a log signs a new head at least once in its maximum merge delay.
        """
        signed_at = place_of(0, head.timestamp_ms).logged_at
        if not asked_at - self._merge_delay <= signed_at <= asked_at + _SKEW:
            return None
        return asked_at


class _Gathered:
    """Entries on their way into one batch."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self.sightings: list[Sighting] = []
        self.quarantined: list[Quarantined] = []
        self.unreadable = 0

    @property
    def entries(self) -> int:
        return len(self.hashes)

    def add(self, portion: Portion, verdicts: Sequence[Sighting | Quarantined]) -> None:
        self.hashes.extend(portion.scan.hashes)
        self.unreadable += len(portion.scan.unreadable)
        for verdict in verdicts:
            if isinstance(verdict, Sighting):
                self.sightings.append(verdict)
            else:
                self.quarantined.append(verdict)

    def batch(self, move: LogMove) -> Batch:
        return Batch(
            sightings=tuple(self.sightings),
            quarantined=tuple(self.quarantined),
            move=move,
            counts={"entries": self.entries, "unreadable": self.unreadable},
        )


def _advanced(position: LogPosition, gathered: _Gathered) -> LogPosition:
    reached = _range(position).extended(gathered.hashes)
    return replace(position, position=reached.size, range=reached.to_bytes())


def _verified(batch: Batch, caught_up_at: datetime | None) -> Batch:
    """Return the batch whose position met the signed root: what is verified catches up with what was read."""
    if not isinstance(batch.move, LogMove):
        raise TypeError("only a move of a log meets a root")
    new = replace(batch.move.new, verified_size=batch.move.new.position, verified_range=batch.move.new.range)
    return replace(batch, move=replace(batch.move, new=new), caught_up_at=caught_up_at)


def _range(position: LogPosition) -> CompactRange:
    return CompactRange.from_bytes(position.position, position.range)


def _stored(head: VerifiedTreeHead) -> Head:
    signed_at = place_of(0, head.timestamp_ms).logged_at
    return Head(tree_size=head.size, root=head.root_hash, signed_at=signed_at, raw=head.raw)


def _seen(head: Head) -> VerifiedTreeHead:
    """Return a stored head as the verified one it was when it was stored."""
    return VerifiedTreeHead(head.tree_size, head.root, round(head.signed_at.timestamp() * 1000), head.raw, None)


def _unmet_root(position: LogPosition, head: VerifiedTreeHead) -> DistrustLog:
    reached = _range(position).root()
    return DistrustLog(
        f"the entries up to {head.size} hash to {reached.hex()} and the log signed {head.root_hash.hex()}",
        kind=Contradiction.ROOT,
        proof={
            "head": head.raw,
            "range": position.range,
            "verified_range": position.verified_range,
            "sizes": f"{position.position} read, {position.verified_size} verified",
        },
    )
