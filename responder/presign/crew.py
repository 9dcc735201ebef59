# SPDX-License-Identifier: Apache-2.0
"""The processes that sign ahead: started, listened to, replaced when they die, and stopped without losing anything.

Knows processes and nothing of answers. Called by conductor.py.
"""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Line
from multiprocessing.context import SpawnProcess
from typing import Final

from responder.presign.worker import Order, Report, run
from responder.runtime.logs import get_logger

_log = get_logger("presign")

# What is under way when a worker is told to stop takes a portion's time at most (seconds).
_GRACE: Final = 30.0
# Workers that die one after the other are no accident: one replacement in so many seconds for each.
_BETWEEN_REPLACEMENTS: Final = 1.0


@dataclass(slots=True)
class _Member:
    process: SpawnProcess
    line: Line


class Crew:
    """So many workers under one order."""

    def __init__(self, order: Order, *, workers: int) -> None:
        """Start nobody yet."""
        self._order = order
        self._workers = workers
        # Forking a process that runs an event loop copies half of it; a new interpreter has nothing to inherit.
        self._context = multiprocessing.get_context("spawn")
        self._members: list[_Member] = []
        self._replaced_at = float("-inf")

    def start(self) -> None:
        """Start all of them."""
        self._members = [self._begin() for _ in range(self._workers)]

    def reports(self) -> list[Report]:
        """Return what the workers have reported since the last call, and replace those that have died."""
        found: list[Report] = []
        for member in self._members:
            found += _heard(member.line)
        for at, member in enumerate(self._members):
            if not member.process.is_alive() and time.monotonic() - self._replaced_at > _BETWEEN_REPLACEMENTS:
                self._replaced_at = time.monotonic()
                code = member.process.exitcode
                _log.error("presign.worker_died", exit_code=code, meaning="another one is started")
                found += [*_heard(member.line), Report.of_trouble(f"a worker ended with exit code {code}")]
                member.line.close()
                self._members[at] = self._begin()
        return found

    def order_anew(self, order: Order) -> list[Report]:
        """Let workers under a new order take the places of the present ones, and return the last reports of those."""
        if order == self._order:
            return []
        self._order = order
        last = self.stop()
        self.start()
        return last

    def stop(self) -> list[Report]:
        """Let each finish its portion, and end it; return the last reports."""
        found: list[Report] = []
        for member in self._members:
            member.line.send(None)
        deadline = time.monotonic() + _GRACE
        for member in self._members:
            # One that has much to say would wait for us to listen.
            while member.process.is_alive() and time.monotonic() < deadline:
                found += _heard(member.line)
                member.process.join(0.05)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            found += _heard(member.line)
            member.line.close()
        self._members = []
        return found

    def _begin(self) -> _Member:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=run, args=(self._order, theirs), daemon=True, name="ocsp-presign")
        process.start()
        # Theirs is only theirs: when they end, ours says so, and the other way round.
        theirs.close()
        return _Member(process, ours)


def _heard(line: Line) -> list[Report]:
    found: list[Report] = []
    try:
        while line.poll():
            found.append(line.recv())
    except (EOFError, OSError):
        pass
    return found
