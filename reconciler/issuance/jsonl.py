# SPDX-License-Identifier: Apache-2.0
"""A growing file of JSON lines, as a CA writes them when it signs, through every kind of rotation.

Knows how to read on where it stopped; never the database. Followed like any source, see follow.py.
"""

import asyncio
import glob
import hashlib
import io
import os
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from reconciler.errors import RetrySource
from reconciler.issuance.document import PREFIX_OCTETS, Gathering
from reconciler.issuance.files import may_be_growing, now, shown, told
from reconciler.issuance.lines import Line, LineSplitter
from reconciler.issuance.record import RecordSettings, read_line
from reconciler.issuance.rotation import Generation, Generations, Start, gap, resume
from reconciler.model import Batch, FileMove, FilePosition, Finding, Ledger, SourceSettings
from responder.status.issuers import IssuerSet

# One reading from the file: large enough that a backlog is not a matter of system calls.
_CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonlSettings:
    """Where the file is, what its lines look like, and how it is rotated.

    `path`: the live file. Its absence makes the source stale.
    `record`: how to find the certificate in a line, see record.py.
    `rotated`: patterns for the names that older generations get, in the same directory. Default: the file's own name
    followed by a dot or a dash and anything. Packed generations (.gz and the like) are never read.
    `settle`: a rotated file is finished once it has been quiet for so long. Until then the writer, which hears of the
    rotation only afterwards, may still append to it.
    `most_octets`: a longer line is quarantined by its beginning and stepped over.
    """

    path: Path
    record: RecordSettings
    rotated: tuple[str, ...] = ()
    settle: timedelta = timedelta(seconds=60)
    most_octets: int = 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError naming the setting."""
        if self.settle < timedelta(0):
            raise ValueError("settle: a duration of nought or more")
        if self.most_octets < 1:
            raise ValueError("most_octets: one or more")

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return the patterns for older generations, the default ones where none are set."""
        name = glob.escape(self.path.name)
        return self.rotated or (f"{name}.*", f"{name}-*")


class JsonlSource:
    """A Source over a growing file of JSON lines and its older generations."""

    def __init__(self, settings: SourceSettings, jsonl: JsonlSettings) -> None:
        """Take the settings; nothing is opened yet."""
        self._settings = settings
        self._jsonl = jsonl
        self._files = Generations(jsonl.path, rotated=jsonl.patterns)

    @property
    def settings(self) -> SourceSettings:
        """Return what the status table must know of this source."""
        return self._settings

    async def read(self, ledger: Ledger, issuers: IssuerSet) -> AsyncGenerator[Batch, None]:
        """Read all generations, oldest first, to the ends they had when the pass began.

        Older files are called finished at the very end: until everything newer is in the database, the ledger must
        remember which file was the newest one at the last pass. Raises RetrySource where a file cannot be read.
        """
        began = now()
        positions, finished = await ledger.file_positions(), await ledger.finished_files()
        survey = await asyncio.to_thread(self._files.survey, positions, finished)
        endings: list[Batch] = []
        for generation in survey.generations:
            reading = await asyncio.to_thread(_Reading, self._files, generation, self._jsonl, issuers)
            while (batch := await asyncio.to_thread(reading.next_batch)) is not None:
                yield batch
            endings += await asyncio.to_thread(reading.ending)
        endings += [_finish(old, gap(old)) for old in survey.lost]
        endings += [_finish(old) for old in survey.superseded]
        for ending in endings:
            yield ending
        if not survey.has_live_file:
            raise RetrySource(f"{shown(self._jsonl.path)}: there is no such file")
        yield Batch(caught_up_at=began)

    async def committed(self, batch: Batch) -> None:
        """Nothing is left to do: the position is all there is."""

    async def close(self) -> None:
        """Close the files."""
        await asyncio.to_thread(self._files.close)


class _Reading:
    """One file on the way from its position to the end it had when it was opened. Used in threads, one at a time."""

    def __init__(self, files: Generations, generation: Generation, jsonl: JsonlSettings, issuers: IssuerSet) -> None:
        self._files = files
        self._generation = generation
        self._jsonl = jsonl
        self._issuers = issuers
        self._name = shown(generation.path)
        try:
            self._file, start = _open(files, generation, self._name)
            seen = os.fstat(self._file.fileno())
        except OSError as exc:
            raise RetrySource(f"{self._name}: cannot be read: {told(exc)}") from exc
        self._upto = seen.st_size
        self._is_quiet = not may_be_growing(seen.st_mtime_ns, settle=jsonl.settle, moment=now())
        self._read_to = start.position
        self._splitter = LineSplitter(
            offset=start.position,
            tail=start.tail,
            longest=jsonl.most_octets,
            prefix=min(PREFIX_OCTETS, jsonl.most_octets),
        )
        self._lines: deque[Line] = deque()
        self._old = generation.known
        self._findings: tuple[Finding, ...] = () if start.finding is None else (start.finding,)
        self._position = self._at(start.position, start.tail)

    def next_batch(self) -> Batch | None:
        """Return the next batch of lines, or None at the end."""
        gathering = Gathering()
        while not gathering.full and (line := self._next_line()) is not None:
            self._take(line, gathering)
            self._position = self._at(line.end, line.tail)
        # A file that is new to the ledger is recorded even while it is empty, or its rotation would go unnoticed.
        if self._position == self._old:
            return None
        return self._batch(gathering, self._position)

    def ending(self) -> list[Batch]:
        """Return the batch that finishes a rotated file, with its last line if that has no newline; or nothing."""
        if self._generation.live or not self._is_quiet or os.fstat(self._file.fileno()).st_size > self._upto:
            return []
        self._files.release(self._generation)
        gathering = Gathering()
        rest = self._splitter.rest()
        if rest is not None:
            self._take(rest, gathering)
            self._position = self._at(rest.end, rest.tail)
        return [self._batch(gathering, replace(self._position, finished=True))]

    def _next_line(self) -> Line | None:
        while not self._lines and self._read_to < self._upto:
            try:
                self._file.seek(self._read_to)
                chunk = self._file.read(min(_CHUNK, self._upto - self._read_to))
            except OSError as exc:
                raise RetrySource(f"{self._name}: cannot be read: {told(exc)}") from exc
            if not chunk:
                # Truncated while we read it. The next pass sees a position behind the end, and tells.
                self._upto = self._read_to
                break
            self._read_to += len(chunk)
            self._lines += self._splitter.feed(chunk)
        return self._lines.popleft() if self._lines else None

    def _take(self, line: Line, gathering: Gathering) -> None:
        gathering.octets += line.octets
        if line.data.isspace() or line.octets == 0:
            return
        gathering.counts["lines"] += 1
        contents = read_line(line, self._jsonl.record, file=self._name, issuers=self._issuers)
        if contents is None:
            gathering.counts["skipped"] += 1
        else:
            gathering.add(contents)

    def _batch(self, gathering: Gathering, new: FilePosition) -> Batch:
        batch = gathering.batch(move=FileMove(old=self._old, new=new), findings=self._findings)
        self._old, self._findings = new, ()
        return batch

    def _at(self, position: int, tail: bytes) -> FilePosition:
        device, inode = self._generation.identity
        return FilePosition(
            device=device,
            inode=inode,
            path=self._name,
            position=position,
            tail_sha256=hashlib.sha256(tail).digest(),
            tail_octets=len(tail),
        )


def _open(files: Generations, generation: Generation, name: str) -> tuple[io.FileIO, Start]:
    file = files.open(generation)
    return file, resume(generation.start, file, path=name)


def _finish(old: FilePosition, *findings: Finding) -> Batch:
    """End a file that will not be read again."""
    return Batch(findings=findings, move=FileMove(old=old, new=replace(old, finished=True)))
