# SPDX-License-Identifier: Apache-2.0
"""Which files a growing, rotated log consists of now, in which order to read them, and what has been lost of them.

Knows directories, inodes and positions; no line and no certificate. Called by jsonl.py, in a thread.
"""

import fnmatch
import hashlib
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reconciler.errors import RetrySource
from reconciler.issuance.files import device_and_inode, shown, told
from reconciler.model import FilePosition, Finding

Identity = tuple[int, int]

# A generation that was packed is another file with other octets. Rotators that pack at once, without waiting for the
# next rotation (logrotate: delaycompress), can take lines away before they are read; that shows as a gap.
_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


@dataclass(frozen=True, slots=True)
class Generation:
    """One file of the log. `known` is its position in the ledger, `start` the one to go on from.

    They differ only where the device number of the file system has changed, which makes it a new file to the ledger.
    """

    path: Path
    identity: Identity
    live: bool
    known: FilePosition | None
    start: FilePosition | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is to read, oldest first and the live file last.

    `lost` are positions in files that are gone, `superseded` those in files that go by another device number now. Both
    are empty where the live file is absent, because then nothing is certain.
    """

    generations: tuple[Generation, ...]
    lost: tuple[FilePosition, ...] = ()
    superseded: tuple[FilePosition, ...] = ()

    @property
    def has_live_file(self) -> bool:
        """Whether the file is there under its own name."""
        return any(generation.live for generation in self.generations)


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin in a file, the octets before that place, and what is wrong with the old position, if anything."""

    position: int
    tail: bytes
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class _Sibling:
    path: Path
    mtime_ns: int


class Generations:
    """The files of one log. Keeps those open that may still be written to, so that no rotation can take them away."""

    def __init__(self, path: Path, *, rotated: Sequence[str]) -> None:
        """`path` is the live file; `rotated` are patterns for the names of older generations in its directory."""
        self._path = path
        self._rotated = tuple(rotated)
        self._held: dict[Identity, io.FileIO] = {}

    def survey(self, positions: Sequence[FilePosition], finished: frozenset[Identity]) -> Survey:
        """Look at the directory. Raises RetrySource where it or the live file cannot be read."""
        # The live file comes first: should it be rotated in between, it is also found among its siblings, as itself.
        live = self._open_live()
        siblings = self._siblings()
        self._let_go({(each.device, each.inode) for each in positions} | ({live} if live is not None else set()))
        generations: list[Generation] = []
        lost: list[FilePosition] = []
        superseded: list[FilePosition] = []
        live_start: tuple[FilePosition | None, FilePosition | None] = (None, None)
        for known in positions:
            identity = (known.device, known.inode)
            if identity == live:
                live_start = (known, known)
            elif identity in self._held or self._is_continued(siblings.get(identity), known):
                path = siblings[identity].path if identity in siblings else Path(known.path)
                generations.append(Generation(path, identity, live=False, known=known, start=known))
            elif (moved := self._elsewhere(known, siblings)) is not None:
                superseded.append(known)
                if moved == live:
                    live_start = (None, known)
                else:
                    generations.append(Generation(siblings[moved].path, moved, live=False, known=None, start=known))
            else:
                lost.append(known)
        seen = {generation.identity for generation in generations} | {live}
        # What is gone bears no witness, see _still_finished.
        is_certain = live is None or not lost
        still = self._still_finished(finished, generations, siblings) if is_certain else frozenset()
        generations += self._never_read(siblings, seen, still)
        if live is None:
            return Survey(tuple(generations))
        generations.append(Generation(self._path, live, live=True, known=live_start[0], start=live_start[1]))
        return Survey(tuple(generations), tuple(lost), tuple(superseded))

    def open(self, generation: Generation) -> io.FileIO:
        """Return the open file. Raises RetrySource where its name has passed to another one by now."""
        held = self._held.get(generation.identity)
        if held is not None:
            return held
        try:
            file = generation.path.open("rb", buffering=0)
        except OSError as exc:
            raise RetrySource(f"{shown(generation.path)}: cannot be read: {told(exc)}") from exc
        if device_and_inode(os.fstat(file.fileno())) != generation.identity:
            file.close()
            raise RetrySource(f"{shown(generation.path)}: was rotated while the log was being read")
        self._held[generation.identity] = file
        return file

    def release(self, generation: Generation) -> None:
        """Close a file that is read to its end."""
        file = self._held.pop(generation.identity, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close all files."""
        self._let_go(set())

    def _open_live(self) -> Identity | None:
        try:
            # Opening a named pipe would wait for its writer.
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise RetrySource(f"{shown(self._path)}: is not a regular file")
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise RetrySource(f"{shown(self._path)}: cannot be read: {told(exc)}") from exc
        identity = device_and_inode(os.fstat(file.fileno()))
        if identity in self._held:
            file.close()
        else:
            self._held[identity] = file
        return identity

    def _siblings(self) -> dict[Identity, _Sibling]:
        found: dict[Identity, _Sibling] = {}
        try:
            with os.scandir(self._path.parent) as entries:
                for entry in entries:
                    try:
                        seen = entry.stat()
                    except FileNotFoundError:
                        continue  # renamed at this moment; a file that is known and not held then counts as lost
                    if stat.S_ISREG(seen.st_mode):
                        found[device_and_inode(seen)] = _Sibling(Path(entry.path), seen.st_mtime_ns)
        except OSError as exc:
            raise RetrySource(f"{shown(self._path.parent)}: cannot be listed: {told(exc)}") from exc
        return found

    def _is_continued(self, sibling: _Sibling | None, known: FilePosition) -> bool:
        """Whether a sibling under the known inode is to be read on.

        A generation always is: one that does not continue what was read is read from its beginning, with a finding.
        Any other file has to prove that it is the one we know.
        """
        if sibling is None or sibling.path.name.lower().endswith(_PACKED):
            return False
        return self._is_generation(sibling.path.name) or _continues(sibling.path, known)

    def _elsewhere(self, known: FilePosition, siblings: dict[Identity, _Sibling]) -> Identity | None:
        """Find the file under another device number: network and mapped devices get new ones when mounted anew."""
        for identity, sibling in siblings.items():
            if identity[1] == known.inode and known.position > 0 and _continues(sibling.path, known):
                return identity
        return None

    def _still_finished(
        self, finished: frozenset[Identity], older: Sequence[Generation], siblings: dict[Identity, _Sibling]
    ) -> frozenset[Identity]:
        """Return the finished files that are certainly still those files, and not newer ones under their inode numbers.

        File systems give the number of a deleted file to the next one made, so after some rotations a generation that
        was never read can bear the number of a finished one. The file that was live when we last looked is newer than
        all that was finished then: what was written after it is a file we have not seen. Without that witness nothing
        is certain, and every generation still here is read once more, which repeats rows and changes nothing.
        """
        written = [self._written(each.identity, siblings) for each in older]
        if not written:
            return finished
        return frozenset(each for each in finished if each not in siblings or siblings[each].mtime_ns < min(written))

    def _written(self, identity: Identity, siblings: dict[Identity, _Sibling]) -> int:
        held = self._held.get(identity)
        return siblings[identity].mtime_ns if held is None else os.fstat(held.fileno()).st_mtime_ns

    def _never_read(
        self, siblings: dict[Identity, _Sibling], seen: set[Identity | None], finished: frozenset[Identity]
    ) -> list[Generation]:
        """Return the generations that came and were rotated away between two passes, oldest first."""
        unread = [
            (sibling.mtime_ns, sibling.path, identity)
            for identity, sibling in siblings.items()
            if identity not in seen and identity not in finished and self._is_generation(sibling.path.name)
        ]
        return [Generation(path, identity, live=False, known=None, start=None) for _, path, identity in sorted(unread)]

    def _is_generation(self, name: str) -> bool:
        if name == self._path.name or name.lower().endswith(_PACKED):
            return False
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._rotated)

    def _let_go(self, wanted: set[Identity]) -> None:
        for identity in set(self._held) - wanted:
            self._held.pop(identity).close()


def resume(start: FilePosition | None, file: io.FileIO, *, path: str) -> Start:
    """Return where to begin in the file, after a look at what stands before the old position.

    A file that is shorter than its position was truncated; one with other octets there was rewritten in place, or is
    another file under an old inode number. Either way lines may be lost, and it is read from its beginning.
    """
    if start is None:
        return Start(0, b"")
    octets = os.fstat(file.fileno()).st_size
    tail = _tail_before(file, start)
    if tail is not None:
        return Start(start.position, tail)
    kind = "truncated" if octets < start.position else "rewritten"
    happened = f"has only {octets} octets now" if octets < start.position else "has other contents before that place"
    detail = (
        f"{path} was read up to octet {start.position} and {happened}. It is read again from its beginning; lines that "
        "were written between the last reading and that moment may be lost."
    )
    return Start(0, b"", _finding(kind, start, detail))


def gap(lost: FilePosition) -> Finding:
    """Tell that a file disappeared before it was read to its end."""
    detail = (
        f"{lost.path} (inode {lost.inode}) was read up to octet {lost.position} and is gone: rotated away and packed "
        "or deleted before its end was read. Lines after that place, and files rotated away since, may be lost."
    )
    return _finding("gap", lost, detail)


def _finding(kind: str, at: FilePosition, detail: str) -> Finding:
    # The hash tells two accidents at the same place of the same file apart.
    subject = f"{at.path} inode {at.inode} octet {at.position} {at.tail_sha256.hex()[:16]}"
    return Finding(kind=kind, severity="high", subject=subject, detail=detail)


def _continues(path: Path, known: FilePosition) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            return _tail_before(file, known) is not None
    except OSError:
        return False


def _tail_before(file: io.FileIO, known: FilePosition) -> bytes | None:
    """Return the octets before the position if they are the ones that were there when it was reached."""
    if os.fstat(file.fileno()).st_size < known.position:
        return None
    file.seek(known.position - known.tail_octets)
    tail = b""
    while len(tail) < known.tail_octets:
        part = file.read(known.tail_octets - len(tail))
        if not part:
            return None
        tail += part
    return tail if hashlib.sha256(tail).digest() == known.tail_sha256 else None
