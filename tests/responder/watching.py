# SPDX-License-Identifier: Apache-2.0
"""Clients that ask all the time while something goes wrong, and a registrar that inserts and revokes all the time.

Every answer is recorded and judged in the end (justified.py), and each fault has to be over by itself in bounded time.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from psycopg import OperationalError

from responder.runtime.db import DatabaseError
from responder.status.model import Reason
from tests.responder.asking import Line, Reply, head, request_for, target_of
from tests.responder.justified import TRY_LATER, UNKNOWN, Asked, Excuse, Timeline, Truth, now
from tests.responder.running import Running, Served, World, revoked

METHODS: Final = ("GET", "POST")
HASHES: Final = ("sha1", "sha256")
UNASSIGNED: Final = 0x7E57
# From the end of a fault until everything is answered rightly by every worker (seconds).
RECOVERED: Final = 10.0
_PAUSE: Final = 0.004
_BETWEEN_CHANGES: Final = 0.35


@dataclass
class Watch:
    """What is asked, what came of it, and what was so meanwhile."""

    responder: Running
    issuer: Served
    world: World
    truth: Truth
    good: int
    revoked: int
    answers: list[Asked] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    # Certificates that are about to be inserted, have been, and have been revoked.
    _recent: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _faults: list[BaseException] = field(default_factory=list)

    _seen: int = 0

    def heard(self) -> Counter[str]:
        """Return what was said since the last look or the fault's beginning; for tests to see that a fault bites."""
        seen, self._seen = self._seen, len(self.answers)
        return Counter(self.truth.word(each) for each in self.answers[seen : self._seen])

    @contextmanager
    def fault(self, *, may: Collection[str] = (TRY_LATER,)) -> Iterator[None]:
        """Excuse these words in this block, and until everything is right again by itself, which has to be soon."""
        excuse = Excuse(frozenset(may), time.monotonic())
        self.truth.excuses.append(excuse)
        self._seen = len(self.answers)
        yield
        ended = time.monotonic()
        while not self.responder.everywhere(self.is_right):
            assert time.monotonic() < ended + RECOVERED, "no recovery by itself"
            time.sleep(0.05)
        excuse.until = time.monotonic()
        self.recoveries.append(excuse.until - ended)

    def is_right(self) -> bool:
        """Whether what stays the same is answered rightly, in all the ways there are to ask."""
        wanted = {self.good: "good", self.revoked: "revoked", UNASSIGNED: UNKNOWN}
        with suppress(OSError):
            return all(
                self.responder.status(self.issuer, serial, method=method, hash_name=hash_name) == word
                for serial, word in wanted.items()
                for method in METHODS
                for hash_name in HASHES
            )
        return False

    def go_on(self, seconds: float) -> None:
        """Let clients ask and the registrar work for so long."""
        assert not self._stop.wait(seconds), self._faults

    # ------------------------------------------------------------------------------------------------ the clients

    def _questions(self) -> list[int]:
        return [self.good, self.revoked, UNASSIGNED, *self._recent[-3:]]

    def _ask(self, method: str, hash_name: str, *, keep: bool) -> None:
        line: Line | None = None
        while not self._stop.is_set():
            for serial in self._questions():
                if self._stop.is_set():
                    break
                line = self._ask_one(serial, method, hash_name, line)
                if line is not None and not keep:
                    _close(line)
                    line = None
                time.sleep(_PAUSE)
        if line is not None:
            _close(line)

    def _ask_one(self, serial: int, method: str, hash_name: str, line: Line | None) -> Line | None:
        request = _request_for(self.issuer.certificate, serial, hash_name)
        sent, sent_at = time.monotonic(), now()
        body = None
        try:
            line = Line(self.responder.port) if line is None else line
            body = _exchange(line, method, request).body
        except (OSError, ValueError):
            if line is not None:
                _close(line)
            line = None
        self.answers.append(Asked(serial, method, hash_name, sent, time.monotonic(), sent_at, now(), body))
        return line

    # ---------------------------------------------------------------------------------------------- the registrar

    def _register(self) -> None:
        """Insert a certificate after it was asked for a while, and revoke the one before it."""
        while not self._stop.is_set():
            made = self.issuer.ca.issue("www.example")
            serial = made.serial_number
            timeline = self.truth.statuses[serial] = Timeline(UNKNOWN)
            self._recent.append(serial)
            self._stop.wait(_BETWEEN_CHANGES)
            with timeline.becoming("good"):
                self._surely(lambda: self.world.register(made))  # noqa: B023 - called right here
            if len(self._recent) > 1:
                former = self._recent[-2]
                with self.truth.statuses[former].becoming("revoked"):
                    self._surely(lambda: self._revoke(former))  # noqa: B023 - called right here

    def _revoke(self, serial: int) -> None:
        self.world.revoke(self.issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=self.issuer.ca))

    def _surely(self, act: Callable[[], None]) -> None:
        """Try until it is done; what failed may have been done all the same, and the table takes both twice."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return act()
            except (DatabaseError, OperationalError):
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def run(self, work: Callable[[], None]) -> threading.Thread:
        """Start a thread whose fault is ours to raise."""

        def guarded() -> None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits for the threads
                self._faults.append(exc)
                self._stop.set()

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def start(self) -> list[threading.Thread]:
        clients = [
            self.run(lambda method=method, hash_name=hash_name, keep=keep: self._ask(method, hash_name, keep=keep))  # type: ignore[misc] # a lambda's defaults have no types
            for method in METHODS
            for hash_name in HASHES
            for keep in (True, False)
        ]
        return [*clients, self.run(self._register)]

    def finish(self, threads: list[threading.Thread]) -> None:
        """Stop asking, and judge all that was said."""
        self._stop.set()
        for thread in threads:
            thread.join()
        if self._faults:
            raise self._faults[0]
        self.said = self.truth.judge(self.answers)


@contextmanager
def watching(responder: Running, issuer: Served, *, world: World | None = None) -> Iterator[Watch]:
    """Ask all the time, and judge in the end; `world` is how the registrar reaches the database."""
    reached = responder.world if world is None else world
    assert issuer.signer is not None
    good, was_revoked = reached.issue(issuer), reached.issue(issuer)
    reached.revoke(issuer, was_revoked, revoked(Reason.SUPERSEDED, ca=issuer.ca))
    truth = Truth(issuer.certificate, issuer.signer)
    for serial, word in ((good, "good"), (was_revoked, "revoked"), (UNASSIGNED, UNKNOWN)):
        truth.statuses[serial] = Timeline(word)
    watch = Watch(responder, issuer, reached, truth, good, was_revoked)
    deadline = time.monotonic() + RECOVERED
    while not responder.everywhere(watch.is_right):
        assert time.monotonic() < deadline
    threads = watch.start()
    try:
        watch.go_on(0.5)
        yield watch
        # The fault is over: from here on nothing is excused.
        watch.go_on(0.8)
    finally:
        watch.finish(threads)


@lru_cache(maxsize=4096)
def _request_for(ca: x509.Certificate, serial: int, hash_name: str) -> bytes:
    return request_for(ca, serial, hash_name=hash_name)


def _exchange(line: Line, method: str, request: bytes) -> Reply:
    if method == "GET":
        line.send(head("GET", target_of(request)))
    else:
        line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
    reply = line.reply()
    assert reply.status == 200
    return reply


def _close(line: Line) -> None:
    with suppress(OSError):
        line.__exit__()
