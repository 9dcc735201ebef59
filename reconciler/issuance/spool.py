# SPDX-License-Identifier: Apache-2.0
"""A directory into which the CA drops every certificate and precertificate it signs, one file each or PEM bundles.

Knows directories and files; never the database. Followed like any source, see follow.py.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from reconciler.errors import RetrySource
from reconciler.issuance.document import PREFIX_OCTETS, Contents, Gathering, read_file, unparsable
from reconciler.issuance.files import may_be_growing, now, shown, signed, told
from reconciler.model import Batch, Finding, Ledger, SourceSettings, SpoolFile, SpoolMove
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace

# How many files the ledger is asked about at once, so that a directory of millions makes many short questions.
_SLICE: Final = 1000
# Names under which programs write before they rename: rsync and editors use dotfiles, others these endings.
_UNFINISHED: Final = (".tmp", ".part")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Where the files are and what becomes of them.

    `directory`: read as it is; subdirectories are not entered. Must exist: an absent directory is a stale source.
    `suffixes`: endings of names that are read, in any case; other files are counted and left alone.
    `done`: "record" leaves files where they are and remembers them by name, inode, size and time, so a replaced file is
    read again; "rename" also takes them out of the way: into `done_directory` (which must exist, on the same file
    system), or without one, by adding ".done" to the name. Nothing is ever deleted or overwritten.
    `settle`: a file younger than this that does not parse waits for the next pass, for it may still be being written;
    a file younger than this is not renamed either.
    `most_octets`: a larger file is quarantined by its beginning. A certificate has a few thousand octets.
    """

    directory: Path
    suffixes: tuple[str, ...] = (".der", ".pem", ".crt", ".cer")
    done: Literal["record", "rename"] = "record"
    done_directory: Path | None = None
    settle: timedelta = timedelta(seconds=10)
    most_octets: int = 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError naming the setting."""
        if not self.suffixes or not all(suffix.startswith(".") for suffix in self.suffixes):
            raise ValueError('suffixes: at least one, each beginning with a dot, such as ".der"')
        if self.done == "rename" and self.done_directory is None and ".done" in self.suffixes:
            raise ValueError('suffixes: ".done" is what renamed files end with')
        if self.done == "record" and self.done_directory is not None:
            raise ValueError('done_directory: only with done = "rename"')
        if self.done_directory is not None and self.done_directory == self.directory:
            raise ValueError("done_directory: must be another one than directory")
        if self.settle < timedelta(0):
            raise ValueError("settle: a duration of nought or more")
        if self.most_octets < 1:
            raise ValueError("most_octets: one or more")


@dataclass(frozen=True, slots=True)
class _Read:
    """One file as it was read; `contents` is None where it is left for a later pass."""

    file: SpoolFile
    contents: Contents | None


class SpoolSource:
    """A Source over a spool directory."""

    def __init__(self, settings: SourceSettings, spool: SpoolSettings) -> None:
        """Take the settings; nothing is opened yet."""
        self._settings = settings
        self._spool = spool
        # From the name as the ledger keeps it to the name as the file system has it.
        self._paths: dict[str, Path] = {}

    @property
    def settings(self) -> SourceSettings:
        """Return what the status table must know of this source."""
        return self._settings

    async def read(self, ledger: Ledger, issuers: IssuerSet) -> AsyncGenerator[Batch, None]:
        """Read every file that is not done. Raises RetrySource where the directory or a file of it cannot be read."""
        began = now()
        listing, others = await asyncio.to_thread(self._list)
        unread: list[str] = []
        stuck: list[str] = []
        for files in _slices(listing):
            fresh = await ledger.not_done(files)
            waiting = iter(fresh)
            while (batch := await asyncio.to_thread(self._next_batch, waiting, issuers, unread)) is not None:
                yield batch
            # In the database since an earlier pass, and still here: the process died or the file was too young then.
            done = set(files) - set(fresh)
            stuck += await asyncio.to_thread(self._put_away, [file for file in files if file in done])
        if unread:
            raise RetrySource(f"{shown(self._spool.directory)}: {len(unread)} files not read, first {unread[0]}")
        findings = (self._stuck(stuck),) if stuck else ()
        counts = {"others": others} if others > 0 else {}
        yield Batch(findings=findings, caught_up_at=began, counts=counts)

    async def committed(self, batch: Batch) -> None:
        """Rename the files of the batch, where that is wanted.

        What cannot be renamed now is tried again by the next pass, which also tells about it: the rows are in, and a
        directory without write permission makes no certificate unknown.
        """
        if isinstance(batch.move, SpoolMove):
            await asyncio.to_thread(self._put_away, batch.move.done)

    async def close(self) -> None:
        """Nothing is kept open between passes."""

    def _list(self) -> tuple[list[SpoolFile], int]:
        """List the files to read, oldest first, and count the others. Raises RetrySource."""
        found: list[SpoolFile] = []
        self._paths = {}
        others = 0
        try:
            with os.scandir(self._spool.directory) as entries:
                for entry in entries:
                    if not self._is_wanted(entry.name):
                        others += 1
                        continue
                    try:
                        seen = entry.stat()
                    except FileNotFoundError:
                        continue  # renamed or removed since: the next pass sees what has become of it
                    if stat.S_ISREG(seen.st_mode):
                        self._paths[shown(entry.name)] = Path(entry.path)
                        found.append(_spool_file(entry.name, seen))
        except OSError as exc:
            raise RetrySource(f"{shown(self._spool.directory)}: cannot be listed: {told(exc)}") from exc
        return sorted(found, key=lambda file: (file.mtime_ns, file.name)), others

    def _is_wanted(self, name: str) -> bool:
        lowered = name.lower()
        if name.startswith(".") or lowered.endswith(_UNFINISHED):
            return False
        return lowered.endswith(tuple(suffix.lower() for suffix in self._spool.suffixes))

    def _next_batch(self, files: Iterator[SpoolFile], issuers: IssuerSet, unread: list[str]) -> Batch | None:
        """Read on until the batch is full. Files that could not be read are named in `unread`; None at the end."""
        gathering = Gathering()
        done: list[SpoolFile] = []
        for file in files:
            try:
                read = self._read_one(file, issuers)
            except OSError as exc:
                unread.append(f"{file.name}: {told(exc)}")
                continue
            if read.contents is None:
                gathering.counts["waiting"] += 1
                continue
            gathering.add(read.contents)
            gathering.octets += min(read.file.octets, self._spool.most_octets)
            done.append(read.file)
            if gathering.full:
                break
        if not done:
            return None
        gathering.counts["files"] += len(done)
        return gathering.batch(move=SpoolMove(done=tuple(done)))

    def _read_one(self, file: SpoolFile, issuers: IssuerSet) -> _Read:
        """Read one file. What is recorded as done is the file that was opened, not the one that was listed.

        Raises OSError, also where the file is gone: what was never read must not count as covered.
        """
        path = self._paths[file.name]
        moment = now()
        with path.open("rb") as opened:
            before = _spool_file(path.name, os.fstat(opened.fileno()))
            data = opened.read(self._spool.most_octets + 1)
            after = _spool_file(path.name, os.fstat(opened.fileno()))
        if before != after:
            return _Read(after, None)
        contents = self._contents(data, after, path=path, issuers=issuers)
        if contents.unparsable and may_be_growing(after.mtime_ns, settle=self._spool.settle, moment=moment):
            return _Read(after, None)
        return _Read(after, contents)

    def _contents(self, data: bytes, file: SpoolFile, *, path: Path, issuers: IssuerSet) -> Contents:
        most = self._spool.most_octets
        if len(data) <= most:
            return read_file(data, file=shown(path), issuers=issuers)
        detail = f"{file.octets} octets, where the most for a file is {most}"
        return Contents((unparsable(data[:PREFIX_OCTETS], place=FilePlace(file=shown(path), offset=0), detail=detail),))

    def _put_away(self, files: Sequence[SpoolFile]) -> list[str]:
        """Rename files that are done, and return what went wrong, a line per file. Without "rename", do nothing."""
        problems: list[str] = []
        if self._spool.done != "rename":
            return problems
        for file in files:
            path = self._paths.get(file.name)
            if path is None or may_be_growing(file.mtime_ns, settle=self._spool.settle, moment=now()):
                continue
            try:
                self._rename(file, path)
            except FileNotFoundError as exc:
                # Either somebody was faster, which is fine, or there is no directory to put it into, which is not.
                if path.exists():
                    problems.append(f"{file.name}: {told(exc)}")
            except OSError as exc:
                problems.append(f"{file.name}: {told(exc)}")
        return problems

    def _rename(self, file: SpoolFile, path: Path) -> None:
        """Rename the file unless another one has taken its name by now: that one is not done."""
        if _spool_file(path.name, path.stat()) != file:
            return
        directory = self._spool.done_directory
        target = path.with_name(path.name + ".done") if directory is None else directory / path.name
        if target.exists():
            target = target.with_name(f"{target.stem}.{file.inode}-{file.mtime_ns}{target.suffix}")
        path.rename(target)

    def _stuck(self, problems: Sequence[str]) -> Finding:
        return Finding(
            kind="spool_rename",
            severity="low",
            subject=shown(self._spool.directory),
            detail=f"{len(problems)} files are in the database but cannot be renamed; the first is {problems[0]}",
        )


def _spool_file(name: str, seen: os.stat_result) -> SpoolFile:
    return SpoolFile(name=shown(name), inode=signed(seen.st_ino), octets=seen.st_size, mtime_ns=seen.st_mtime_ns)


def _slices(files: Sequence[SpoolFile]) -> Iterator[Sequence[SpoolFile]]:
    for start in range(0, len(files), _SLICE):
        yield files[start : start + _SLICE]
