# SPDX-License-Identifier: Apache-2.0
"""Where the two ways in meet: what fastpath.py (plain HTTP) and app.py (all of it) both need to have requests answered.

Knows how a request travels in HTTP and how large it may be. One per worker.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from responder.answer import Answer
from responder.counting import Counts
from responder.errors import OcspError, Refusal, TryLater
from responder.ocsp.path import request_in_path, too_large
from responder.requestlog import RequestLog
from responder.service import Service

# From the first octet that is awaited to the last one of a request (seconds): who needs longer holds a connection and
# nothing else.
MOST_SECONDS: Final = 20.0
# How often silent connections are looked for (seconds).
_BETWEEN_SWEEPS: Final = 1.0


class Connection(Protocol):
    """A connection that can be closed when its client is silent."""

    def close_if_silent(self, now: float) -> None:
        """Close when it has been the client's turn for too long."""


class Front:
    """Whom the connections of a worker ask, and what they may cost."""

    def __init__(
        self,
        service: Service,
        *,
        prefix: str,
        most_octets: int,
        most_in_flight: int,
        idle: float,
        clock: Callable[[], datetime],
        counts: Counts,
        patience: float = MOST_SECONDS,
        request_log: RequestLog | None = None,
    ) -> None:
        """`prefix` stands before the request in a GET's path; `idle` is how long one may be silent (seconds).

        `patience` is how long a request may take to arrive, or an answer to be taken (seconds).
        Of requests that no kept answer is for, at most `most_in_flight` are worked on at once.
        """
        self.service = service
        self.counts = counts
        self.request_log = request_log
        self.clock = clock
        self.time = time.monotonic
        self.kept = service.kept
        self.kept_for_path = service.kept_for_path
        self.connections: set[Connection] = set()
        self.most_octets = most_octets
        self._most_in_flight = most_in_flight
        self._prefix = prefix.encode().strip(b"/")
        self.idle = idle
        self.patience = patience
        #: Whether this worker is to end, so that every answer is the last one of its connection.
        self.is_ending = False

    def is_common(self, target: bytes) -> bool:
        """Tell whether a request target is a plain path that no one but OCSP has a use for."""
        return target.startswith(b"/") and b"?" not in target and b"#" not in target

    async def get(self, path: bytes) -> Answer:
        """Answer the request in a GET's path, and remember the spelling."""
        try:
            request = request_in_path(path, prefix=self._prefix, most_octets=self.most_octets)
        except OcspError as error:
            return self.refuse(error, method="GET", octets=len(path))
        answer = self.kept(request)
        if answer is None:
            answer = await self._work_out(request, method="GET")
        else:
            answer.tally.get += 1
        if answer.is_cacheable:
            self.service.remember_path(path, request)
        return answer

    async def post(self, body: bytes) -> Answer:
        """Answer the request in a POST's body."""
        if len(body) > self.most_octets:
            return self.refuse_unread(len(body))
        answer = self.kept(body)
        if answer is None:
            return await self._work_out(body, method="POST")
        answer.tally.post += 1
        return answer

    def refuse_unread(self, octets: int) -> Answer:
        """Refuse a POST that says itself, or shows, that it is too large."""
        return self.refuse(too_large(self.most_octets), method="POST", octets=octets)

    def refuse(self, error: OcspError, *, method: str, octets: int) -> Answer:
        """Return the answer to a request that is not worked on; counted and told like any other."""
        answer = self.service.refuse(error)
        self._count(answer, method=method, octets=octets, seconds=0.0)
        return answer

    async def _work_out(self, request: bytes, *, method: str) -> Answer:
        """Answer what is not in memory, unless there is too much in hand already."""
        counts = self.counts
        if counts.in_flight >= self._most_in_flight:
            shed = TryLater(Refusal.OVERLOADED, f"{counts.in_flight} requests are in hand already")
            return self.refuse(shed, method=method, octets=len(request))
        began = self.time()
        counts.in_flight += 1
        try:
            answer = await self.service.work_out(request)
        finally:
            counts.in_flight -= 1
        self._count(answer, method=method, octets=len(request), seconds=self.time() - began)
        return answer

    def _count(self, answer: Answer, *, method: str, octets: int, seconds: float) -> None:
        age = None if answer.times is None else (self.clock() - answer.times.this_update).total_seconds()
        self.counts.answered(
            answer.outcome,
            response_status=answer.response_status,
            method=method,
            octets=octets,
            seconds=seconds,
            hash_name=answer.hash_name,
            age=age,
        )

    async def sweep(self) -> None:
        """Close, for ever, the connections whose clients have been silent for too long."""
        while True:
            await asyncio.sleep(_BETWEEN_SWEEPS)
            now = self.time()
            for connection in tuple(self.connections):
                connection.close_if_silent(now)
