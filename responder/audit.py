# SPDX-License-Identifier: Apache-2.0
"""The audit log of signatures (BR 5.4.1): every signed response, in bundled JSON lines, on standard error or in a file.

Knows what was signed and by whom, never a client. Called by service.py after each signature; writes twice a second,
from a thread, so that a slow disk delays no answer. A kill -9 loses what was signed since the last bundle.
"""

import asyncio
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from responder.counting import Counts
from responder.errors import Refusal, TryLater
from responder.ocsp.policy import Times
from responder.ocsp.request import CertId
from responder.runtime.logs import get_logger
from responder.signing.admission import AdmittedSigner
from responder.status.model import CertStatus, Good, Revoked

_log = get_logger("audit")

_INTERVAL: Final = 0.5
# Responses to a line: about 20 kB, below the 48 kB at which the journal breaks lines.
_BUNDLE: Final = 100
# What is kept in memory while nothing can be written, about 50 MB; beyond it entries are lost, and counted.
_MOST_KEPT: Final = 100_000
_MODE: Final = 0o640
# How long the end may wait for a disk (seconds).
_LAST_PATIENCE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Signed:
    """One signed response."""

    issuer: str
    signer: AdmittedSigner
    cert_ids: Sequence[CertId]
    statuses: Sequence[CertStatus]
    times: Times


class Place(Protocol):
    """Where lines go: a file, or standard error."""

    def write(self, lines: bytes) -> None:
        """Write whole lines. Raises OSError; some of them may have been written then."""

    def close(self) -> None:
        """Let go of it."""


class Stderr:
    """Standard error, where all other lines of the log go."""

    def write(self, lines: bytes) -> None:
        """Write whole lines. Raises OSError."""
        _write_all(sys.stderr.fileno(), lines)

    def close(self) -> None:
        """Leave it open, as it is not ours."""


class AuditFile:
    """A file that several workers append to, and that may be renamed at any time: the next bundle opens a new one."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self._path = path
        self._open: int | None = None
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Append whole lines, and have the disk take them. Raises OSError."""
        descriptor = self._descriptor()
        # What a full disk has broken off is a line of its own, which nobody can read, and not the head of the next one.
        torn, self._torn = self._torn, True
        _write_all(descriptor, b"\n" + lines if torn else lines)
        self._torn = False
        os.fdatasync(descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _descriptor(self) -> int:
        if self._open is not None and not self._is_still_there(self._open):
            self.close()
        if self._open is None:
            self._open = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            self._torn = False
        return self._open

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _write_all(descriptor: int, octets: bytes) -> None:
    left = memoryview(octets)
    while len(left) > 0:
        left = left[os.write(descriptor, left) :]


class AuditLog:
    """The audit log of one process. Use as `async with AuditLog(…) as audit`."""

    def __init__(
        self, place: Place, counts: Counts, *, required: bool, process: str, clock: Callable[[], datetime]
    ) -> None:
        """Write nothing yet. With `required`, nothing may be signed while nothing can be written."""
        self._place = place
        self._counts = counts
        self._required = required
        self._process = process
        self._clock = clock
        self._entries: deque[Signed] = deque()
        # Lines that could not be written yet, with the number of responses in each.
        self._lines: deque[tuple[bytes, int]] = deque()
        self._life = secrets.token_hex(4)
        self._bundles = 0
        self._trouble: str | None = None
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_LAST_PATIENCE)
        if self._kept > 0:
            self._counts.audit_entries_lost += self._kept
            _log.error("audit.lost", responses=self._kept, detail=self._trouble)

    @property
    def _kept(self) -> int:
        return len(self._entries) + sum(number for _, number in self._lines)

    def check(self) -> None:
        """Raise TryLater where nothing may be signed now, because it could not be written down."""
        if self._required and self._trouble is not None:
            raise TryLater(Refusal.AUDIT, f"the audit log cannot be written: {self._trouble}")

    def note(self, signed: Signed) -> None:
        """Have a signed response written down, within half a second."""
        if self._trouble is not None and self._kept >= _MOST_KEPT:
            self._counts.audit_entries_lost += 1
            return
        self._entries.append(signed)
        if len(self._entries) == _BUNDLE:
            self._wake.set()

    async def _run(self) -> None:
        while not self._ending:
            try:
                async with asyncio.timeout(_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._write()
            if self._trouble is not None and not self._ending:
                await asyncio.sleep(_INTERVAL)
        await self._write()
        self._place.close()

    async def _write(self) -> None:
        self._bundle()
        if not self._lines:
            return
        due = tuple(self._lines)
        try:
            await asyncio.to_thread(self._place.write, b"".join(line for line, _ in due))
        except OSError as exc:
            self._fail(exc)
            return
        for _, number in due:
            self._lines.popleft()
            self._counts.audit_entries += number
        if self._trouble is not None:
            _log.info("audit.recovered", lost=self._counts.audit_entries_lost)
            self._trouble = None

    def _fail(self, exc: OSError) -> None:
        self._counts.audit_failures += 1
        if self._trouble is None:
            meaning = "nothing is signed meanwhile" if self._required else "answers go on, and wait to be written down"
            _log.critical("audit.failing", detail=exc.strerror, meaning=meaning)
        self._trouble = exc.strerror or repr(exc)

    def _bundle(self) -> None:
        """Make lines of what has come in. A line that is written twice, after a failure, has one name."""
        while self._entries:
            taken = [self._entries.popleft() for _ in range(min(_BUNDLE, len(self._entries)))]
            self._bundles += 1
            line = {
                "event": "audit.signed",
                "at": self._clock().isoformat(),
                "level": "info",
                "process": self._process,
                "pid": os.getpid(),
                "bundle": f"{self._life}-{self._bundles}",
                "responses": [_told(signed) for signed in taken],
            }
            self._lines.append((msgspec.json.encode(line) + b"\n", len(taken)))


def _told(signed: Signed) -> dict[str, object]:
    certificates = [
        {"serial": f"{cert_id.serial:x}", **_status(status)}
        for cert_id, status in zip(signed.cert_ids, signed.statuses, strict=True)
    ]
    return {
        "issuer": signed.issuer,
        "signer": signed.signer.serial_hex,
        "this_update": signed.times.this_update,
        "next_update": signed.times.next_update,
        "certificates": certificates,
    }


def _status(status: CertStatus) -> dict[str, object]:
    match status:
        case Good():
            return {"status": "good"}
        case Revoked():
            return {"status": "revoked", "revoked_at": status.at, "reason": status.reason.words}
        case _:
            return {"status": "unknown"}
