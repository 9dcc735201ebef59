# SPDX-License-Identifier: Apache-2.0
"""What the workers of one host tell each other through files: each its numbers, and together those of all.

Each worker rewrites one file about once a second; when it has ended, the master adds its counters to one file for all
that have ended. So counters never go back, gauges of the dead vanish, and there is a file for each living worker and
one more, however many there were. Knows no metric but those about workers, and no check.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from responder.metrics import Numbers, add_counters, counter, gauge, together
from responder.runtime.logs import get_logger

_log = get_logger("snapshots")

_ENDED: Final = "ended"
_WORKER: Final = "worker-"
# Enough that a reader who saw a worker's file before it was added up still finds the worker here.
_REMEMBERED: Final = 256


class Verdict(msgspec.Struct, frozen=True):
    """What one worker says of one check: 0 ok, 1 degraded, 2 failing; and why, for a person."""

    state: int
    detail: str


class Snapshot(msgspec.Struct):
    """One worker at one moment; `written` is the host's monotonic clock, `life` tells processes of one number apart."""

    life: str
    pid: int
    written: float
    numbers: Numbers
    checks: dict[str, Verdict]


class Ended(msgspec.Struct):
    """All workers that have ended: their counters, how many there were, and which were added last."""

    numbers: Numbers = msgspec.field(default_factory=Numbers)
    times: int = 0
    lives: list[str] = msgspec.field(default_factory=list)


_snapshots: Final = msgspec.msgpack.Decoder(Snapshot)
_endings: Final = msgspec.msgpack.Decoder(Ended)


class Writer:
    """The file of one worker."""

    def __init__(self, file: Path) -> None:
        """Write nothing yet."""
        self._file = file
        self._life = secrets.token_hex(8)

    def write(self, numbers: Numbers, checks: Mapping[str, Verdict]) -> None:
        """Replace what was written before. Raises OSError."""
        snapshot = Snapshot(self._life, os.getpid(), time.monotonic(), numbers, dict(checks))
        _replace(self._file, msgspec.msgpack.encode(snapshot))


class Snapshots:
    """The directory, which belongs to one master and its workers."""

    def __init__(self, directory: Path) -> None:
        """Use a directory that is there."""
        self._directory = directory

    @classmethod
    def create(cls) -> Self:
        """Make an empty directory: in the service manager's RuntimeDirectory where there is one, else a temporary one.

        Raises OSError.
        """
        parent = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
        return cls(Path(tempfile.mkdtemp(prefix="foundling-workers-", dir=parent)))

    def remove(self) -> None:
        """Remove the directory and all that is in it."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def writer(self, pid: int) -> Writer:
        """Return the worker's own file."""
        return Writer(self._directory / f"{_WORKER}{pid}")

    def has(self, pid: int) -> bool:
        """Tell whether this worker has written yet, which it does when it is ready."""
        return (self._directory / f"{_WORKER}{pid}").exists()

    def bury_all_but(self, living: Container[int]) -> None:
        """Add up the counters of workers that have ended. Called by the master alone, whenever it has reaped some."""
        for file in self._files():
            if int(file.name.removeprefix(_WORKER)) in living:
                continue
            try:
                self._bury(file)
            except (OSError, msgspec.MsgspecError) as exc:
                _log.warning("snapshot.lost", file=file.name, detail=str(exc))
                file.unlink(missing_ok=True)

    def _bury(self, file: Path) -> None:
        ended, last = self._ended(), _snapshots.decode(file.read_bytes())
        add_counters(ended.numbers, last.numbers)
        ended.times += 1
        ended.lives = [*ended.lives, last.life][-_REMEMBERED:]
        # In this order a reader between the two steps finds the worker twice and knows it, never not at all.
        _replace(self._directory / _ENDED, msgspec.msgpack.encode(ended))
        file.unlink()

    def read(self) -> tuple[list[Snapshot], Ended]:
        """Return what the living have told last, and all others together. Counts nobody twice, and nobody not."""
        found = []
        for file in self._files():
            try:
                found.append(_snapshots.decode(file.read_bytes()))
            except FileNotFoundError:
                continue  # added up since the directory was listed
        ended = self._ended()
        return [each for each in found if each.life not in ended.lives], ended

    def _files(self) -> list[Path]:
        return [file for file in self._directory.iterdir() if file.name.startswith(_WORKER) and not file.suffix]

    def _ended(self) -> Ended:
        try:
            return _endings.decode((self._directory / _ENDED).read_bytes())
        except FileNotFoundError:
            return Ended()


def whole(living: list[Snapshot], ended: Ended) -> Numbers:
    """Return the numbers of the host, those about its workers included."""
    numbers = together((each.numbers for each in living), ended.numbers)
    now = time.monotonic()
    numbers.totals[counter("workers_ended")] = ended.times
    numbers.gauges[gauge("workers")] = len(living)
    numbers.gauges[gauge("worker_silence_seconds")] = max((now - each.written for each in living), default=0.0)
    return numbers


def _replace(file: Path, octets: bytes) -> None:
    """Write the file as a whole or not at all, as others read it at any moment."""
    beside = file.with_suffix(".new")
    beside.write_bytes(octets)
    beside.replace(file)
