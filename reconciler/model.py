# SPDX-License-Identifier: Apache-2.0
"""What sources hand over and what positions look like: the values between a source, the straight line and the store.

An adapter knows this file and the status values, and nothing else of the reconciler.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from responder.status.issuers import IssuerSet
from responder.status.model import Quarantined, Sighting

Severity = Literal["low", "high", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """What the status table must know of a source: its name, its kind, and when silence makes it stale."""

    name: str
    kind: str
    required: bool
    stale_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a person must look at. `subject` tells it from others of its kind, so that it is written once."""

    kind: str
    severity: Severity
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How far a CT log has been read. Ranges are compact ranges, serialised (RFC 6962 section 2.1)."""

    log_id: bytes
    started_at: int
    position: int
    range: bytes
    verified_size: int
    verified_range: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A signed tree head as the store keeps it, with the raw bytes that prove it."""

    tree_size: int
    root: bytes
    signed_at: datetime
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMove:
    """From one position of a log to the next. Only valid while the log still stands at `old`."""

    old: LogPosition | None
    new: LogPosition
    head: Head


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePosition:
    """How far a growing file has been read, in octets, and the hash of the octets just before that place.

    A file is its device and inode, whatever it is called. `finished` says that nothing will be appended any more.
    """

    device: int
    inode: int
    path: str
    position: int
    tail_sha256: bytes
    tail_octets: int
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMove:
    """From one position of a file to the next. `old` is None for a file not read before."""

    old: FilePosition | None
    new: FilePosition


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFile:
    """A file of a spool directory, with everything that changes when it is replaced."""

    name: str
    inode: int
    octets: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolMove:
    """These files of a spool are done."""

    done: tuple[SpoolFile, ...]


Move = LogMove | FileMove | SpoolMove


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step of reading brought: evidence, where the position goes, and whether that was all there is.

    Committed as one transaction. `caught_up_at` is set when everything the source had shown up to that moment is
    covered once this batch is in; `counts` are for the log line and the metrics.
    """

    sightings: tuple[Sighting, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    findings: tuple[Finding, ...] = ()
    move: Move | None = None
    caught_up_at: datetime | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Ledger(Protocol):
    """What a source may ask about its own past. The store answers; adapters stay free of SQL."""

    async def log_position(self) -> LogPosition | None:
        """Return how far the log has been read, or None before the first batch."""

    async def latest_head(self) -> Head | None:
        """Return the largest signed head that the log has shown, or None."""

    async def file_positions(self) -> tuple[FilePosition, ...]:
        """Return every file of the source that is not finished, in the order they were first read."""

    async def finished_files(self) -> frozenset[tuple[int, int]]:
        """Return device and inode of the finished files."""

    async def not_done(self, files: Iterable[SpoolFile]) -> tuple[SpoolFile, ...]:
        """Return those of the spool's files that are not done yet, in the order given."""


class Source(Protocol):
    """One place where certificates of ours show up."""

    @property
    def settings(self) -> SourceSettings:
        """Return what the status table must know of this source."""

    def read(self, ledger: Ledger, issuers: IssuerSet) -> AsyncIterator[Batch]:
        """Read from where the ledger stands to where the source ends now.

        The next batch is asked for only after the last one is committed. Raises RetrySource when the source cannot be
        read now, and DistrustLog when it contradicts itself.
        """

    async def committed(self, batch: Batch) -> None:
        """Hear that a batch is in the database: the moment to rename what is done with."""

    async def close(self) -> None:
        """Let go of files and connections."""
