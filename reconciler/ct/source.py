# SPDX-License-Identifier: Apache-2.0
"""A CT log as a Source: verified heads, entries hashed into a compact range, a root that must be met.

Certificates of ours prove themselves by their signature; what is verified here is that the log showed us everything.
So a log that contradicts itself loses our trust in its coverage, and is read on.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NoReturn

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
#: While they do not meet it even so, reading them yet again waits this long, then twice as long, and so on.
_LEAST_REREAD_WAIT: Final = timedelta(seconds=10)
_MOST_REREAD_WAIT: Final = timedelta(minutes=5)
#: A head that has been shown is public: a log that shows nothing but a smaller one for so long shows two histories.
_MOST_HEAD_LAG: Final = timedelta(minutes=1)
#: What the table's counters hold. static-ct-api allows 2^40 entries.
_MOST_ENTRIES: Final = 2**63 - 1
#: Entries to a transaction while catching up.
_BATCH_ENTRIES: Final = 4096
#: A head may lie this far in our future before we stop believing its clock, and ours.
_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Gap:
    """A tile that could not be read, and how far reading has got beyond it. Kept in memory: the position stays."""

    reached: LogPosition
    cause: DistrustLog


@dataclass(frozen=True, slots=True)
class _Step:
    """A batch with where the position stands once it is committed, and the gap behind which it stands still."""

    batch: Batch
    position: LogPosition
    gap: _Gap | None


class CtSource:
    """One CT log, followed from where the ledger says we stand."""

    def __init__(
        self,
        settings: SourceSettings,
        reader: LogReader,
        *,
        log_id: bytes,
        start: Start,
        merge_delay: timedelta,
        batch_entries: int = _BATCH_ENTRIES,
        between_opinions: float = _BETWEEN_OPINIONS,
        most_head_lag: timedelta = _MOST_HEAD_LAG,
    ) -> None:
        """Prepare to follow a log. `merge_delay` is the age at which a head no longer vouches for the present.

        `batch_entries` go into one transaction while catching up; `between_opinions` is in seconds;
        for `most_head_lag` a head smaller than the largest one seen passes for that of a replica.
        """
        self._settings = settings
        self._reader = reader
        self._log_id = log_id
        self._start = start
        self._merge_delay = merge_delay
        self._batch_entries = batch_entries
        self._between_opinions = between_opinions
        self._most_head_lag = most_head_lag
        self._old_since: datetime | None = None
        self._reread_from = datetime.min.replace(tzinfo=UTC)
        self._gap: _Gap | None = None
        self._reread_wait = _LEAST_REREAD_WAIT

    @property
    def settings(self) -> SourceSettings:
        """Return what the status table must know of this source."""
        return self._settings

    async def committed(self, batch: Batch) -> None:
        """Nothing waits for a commit here: the position moved with the rows."""

    async def close(self) -> None:
        """Let go of the connections."""
        await self._reader.close()

    async def read(self, ledger: Ledger, issuers: IssuerSet) -> AsyncGenerator[Batch, None]:
        """Read from the position to the current head, and say so once the root is met.

        What contradicts itself is raised at the end: what the entries prove is kept first.
        """
        asked_at = datetime.now(UTC)
        position = await ledger.log_position()
        if position is not None and position.log_id != self._log_id:
            raise RetrySource("this name was given to a log with another key before; give the new log a new name")
        head, contradiction = await self._current_head(await ledger.latest_head())
        if position is None:
            position, batch = await self._begin(head)
            yield batch
        vouched = None if contradiction is not None else self._vouches_for(head, asked_at)
        gap, self._gap = self._gap if datetime.now(UTC) < self._reread_from else None, None
        noticed: list[DistrustLog] = [] if gap is None else [gap.cause]
        met = position.position > head.size
        for fresh in (False, True) if not met else ():
            if gap is None:
                noticed.clear()
            steps = self._entries(position, head, issuers, fresh=fresh, noticed=noticed, gap=gap)
            async with aclosing(steps):
                async for step in steps:
                    position, gap = step.position, step.gap
                    reached = position if gap is None else gap.reached
                    met = reached.position == head.size and _range(reached).root() == head.root_hash
                    yield _verified(step.batch, None if noticed else vouched) if met and gap is None else step.batch
            if met or fresh or gap is not None or contradiction is not None or not self._may_reread(position, head):
                break
            # It may have been the way to the log and not the log: once more from where the last root was met.
            old, position = position, replace(position, position=position.verified_size, range=position.verified_range)
            yield Batch(move=LogMove(old=old, new=position, head=_stored(head)), counts={"reread": 1})
        self._gap = gap
        self._reread_met(met=met and gap is None)
        if contradiction is not None:
            raise contradiction
        if gap is not None:
            raise gap.cause
        if not met:
            raise _unmet_root(position, head)
        if noticed:
            raise noticed[0]

    async def _entries(
        self,
        position: LogPosition,
        head: VerifiedTreeHead,
        issuers: IssuerSet,
        *,
        fresh: bool,
        noticed: list[DistrustLog],
        gap: _Gap | None,
    ) -> AsyncGenerator[_Step, None]:
        """Yield the steps up to the head; at least one, to record the head itself.

        What the entries say against the log goes to `noticed`: whether the tree covers it shows at the head. Beyond a
        tile that cannot be read the position does not move: what lies in it is not read, whatever is read after it.
        """
        at, gathered = position if gap is None else gap.reached, _Gathered()
        portions = self._reader.portions(at.position, head.size, wanted=wanted(issuers), head=head, fresh=fresh)
        async with aclosing(portions):
            async for portion in portions:
                cause = portion.contradiction
                if cause is not None:
                    noticed.append(cause)
                if cause is not None and cause.kind is Contradiction.UNREADABLE_TILE and gap is None:
                    at = _advanced(at, gathered)
                    yield _Step(gathered.batch(LogMove(old=position, new=at, head=_stored(head))), at, None)
                    position, gap, gathered = at, _Gap(at, cause), _Gathered()
                gathered.add(portion, await self._judged(portion.scan, issuers))
                if gathered.entries >= self._batch_entries and at.position + gathered.entries < head.size:
                    at = _advanced(at, gathered)
                    step = _step(position, at, gathered, head=head, gap=gap)
                    yield step
                    position, gap, gathered = step.position, step.gap, _Gathered()
        yield _step(position, _advanced(at, gathered), gathered, head=head, gap=gap)

    def _may_reread(self, position: LogPosition, head: VerifiedTreeHead) -> bool:
        """Say whether to read again what met no root: not without end, and not at every pass while it stays so."""
        return head.size - position.verified_size <= _MOST_REREAD and datetime.now(UTC) >= self._reread_from

    def _reread_met(self, *, met: bool) -> None:
        """Keep in mind how the pass ended, for the next one's rereading."""
        if met:
            self._reread_wait = _LEAST_REREAD_WAIT
        elif datetime.now(UTC) >= self._reread_from:
            self._reread_from = datetime.now(UTC) + self._reread_wait
            self._reread_wait = min(2 * self._reread_wait, _MOST_REREAD_WAIT)

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
                reached = await self._edge(head.size, head)
            case index:
                if index > head.size:
                    raise RetrySource(f"start = {index} lies beyond the log's {head.size} entries")
                reached = await self._edge(index, head)
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

    async def _edge(self, size: int, head: VerifiedTreeHead) -> CompactRange:
        """Return the range to begin with; asked for again, past the caches, before the log is blamed for it."""
        for fresh in (False, True):
            try:
                reached = await self._reader.edge(size, head, fresh=fresh)
                if size == head.size and reached.root() != head.root_hash:
                    raise _unmet_edge(reached, head)
            except DistrustLog:
                if fresh:
                    raise
            else:
                return reached
        raise AssertionError("the second answer either returned or raised")

    async def _current_head(self, latest: Head | None) -> tuple[VerifiedTreeHead, DistrustLog | None]:
        """Return the log's current head, and how it contradicts the largest one seen, if it does.

        A head that does not verify, or is merely old, is asked for again. Raises DistrustLog when its signature stays
        wrong. Replicas lag, so one that stays old is RetrySource at first, and DistrustLog after `most_head_lag`.
        """
        previous = None if latest is None else _seen(latest)
        for opinions_left in reversed(range(_SECOND_OPINIONS + 1)):
            try:
                head = _counted(await self._reader.head())
            except DistrustLog:
                if opinions_left == 0:
                    raise
            else:
                contradiction = _contradiction(previous, head)
                if contradiction is None or contradiction.kind is not Contradiction.STALE_HEAD:
                    self._old_since = None
                    return head, contradiction
                if opinions_left == 0:
                    self._bear_with(contradiction)
            await asyncio.sleep(self._between_opinions)
        raise AssertionError("the last opinion either returned or raised")

    def _bear_with(self, stale: DistrustLog) -> NoReturn:
        """Raise RetrySource for a head that is smaller than one seen before, and DistrustLog when it stays so."""
        self._old_since = self._old_since or datetime.now(UTC)
        if datetime.now(UTC) - self._old_since >= self._most_head_lag:
            raise stale
        raise RetrySource(f"the log shows an old head: {stale}") from stale

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


def _step(
    position: LogPosition, reached: LogPosition, gathered: _Gathered, *, head: VerifiedTreeHead, gap: _Gap | None
) -> _Step:
    new = reached if gap is None else position
    batch = gathered.batch(LogMove(old=position, new=new, head=_stored(head)))
    return _Step(batch, new, None if gap is None else replace(gap, reached=reached))


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


def _counted(head: VerifiedTreeHead) -> VerifiedTreeHead:
    """Return the head unless no table can count so far. Raises RetrySource: a log may come back to its senses."""
    if head.size > _MOST_ENTRIES:
        raise RetrySource(f"the log says that it has {head.size} entries")
    return head


def _contradiction(previous: VerifiedTreeHead | None, head: VerifiedTreeHead) -> DistrustLog | None:
    try:
        compare_heads(head if previous is None else previous, head)
    except DistrustLog as contradiction:
        return contradiction
    return None


def _unmet_edge(reached: CompactRange, head: VerifiedTreeHead) -> DistrustLog:
    return DistrustLog(
        f"the right edge of {head.size} entries hashes to {reached.root().hex()} and the log signed "
        f"{head.root_hash.hex()}",
        kind=Contradiction.ROOT,
        proof={"head": head.raw, "range": reached.to_bytes()},
    )


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
