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
from responder.errors import MalformedRequest
from responder.ocsp.path import request_in_path, too_large
from responder.service import Service

# How often silent connections are looked for (seconds).
_BETWEEN_SWEEPS: Final = 1.0
# What the private listener serves; a base64 request begins with M.
_PRIVATE: Final = frozenset({b"/healthz", b"/readyz", b"/metrics"})


class Connection(Protocol):
    """A connection that can be closed when its client is silent."""

    def close_if_silent(self, now: float) -> None:
        """Close when it has been the client's turn for too long."""


class Front:
    """Whom the connections of a worker ask, and what they may cost."""

    def __init__(
        self, service: Service, *, prefix: str, most_octets: int, idle: float, clock: Callable[[], datetime]
    ) -> None:
        """`prefix` stands before the request in a GET's path; `idle` is how long one may be silent (seconds)."""
        self.service = service
        self.clock = clock
        self.time = time.monotonic
        self.kept = service.kept
        self.kept_for_path = service.kept_for_path
        self.connections: set[Connection] = set()
        self.most_octets = most_octets
        self._prefix = prefix.encode().strip(b"/")
        self.idle = idle

    def is_common(self, target: bytes) -> bool:
        """Tell whether a request target is a plain path that no one but OCSP has a use for."""
        return target.startswith(b"/") and b"?" not in target and b"#" not in target and target not in _PRIVATE

    async def get(self, path: bytes) -> Answer:
        """Answer the request in a GET's path, and remember the spelling."""
        try:
            request = request_in_path(path, prefix=self._prefix, most_octets=self.most_octets)
        except MalformedRequest as error:
            return self.service.refuse(error)
        answer = await self.service.answer(request)
        if answer.is_cacheable:
            self.service.remember_path(path, request)
        return answer

    async def post(self, body: bytes) -> Answer:
        """Answer the request in a POST's body."""
        if len(body) > self.most_octets:
            return self.service.refuse(too_large(self.most_octets))
        return await self.service.answer(body)

    async def sweep(self) -> None:
        """Close, for ever, the connections whose clients have been silent for too long."""
        while True:
            await asyncio.sleep(_BETWEEN_SWEEPS)
            now = self.time()
            for connection in tuple(self.connections):
                connection.close_if_silent(now)
