# SPDX-License-Identifier: Apache-2.0
"""A sample of requests as log lines, for those who want to see what is asked. Off by default; addresses even then.

Called by fastpath.py and app.py around each request. Decides nothing but which ones are told.
"""

import base64
import random
import time
from dataclasses import dataclass, field
from typing import Final

from responder.answer import Answer
from responder.runtime.logs import get_logger

_log = get_logger("requests")

# A line of the log shows no more of a request than this; none of a usual size is longer.
_MOST_SHOWN: Final = 2048


@dataclass(slots=True)
class Asked:
    """A request that was drawn, until its answer is known."""

    method: str
    asked: bytes
    client: str | None
    began: float = field(default_factory=time.perf_counter)

    def answered(self, answer: Answer) -> None:
        """Write the line."""
        more = {} if self.client is None else {"client": self.client}
        _log.info(
            "request",
            method=self.method,
            request=self._shown(),
            octets=len(self.asked),
            outcome=answer.outcome,
            hash=answer.hash_name,
            milliseconds=round((time.perf_counter() - self.began) * 1000, 3),
            **more,
        )

    def _shown(self) -> str:
        """Return a GET's path as it came, and a POST's body as a GET would have it."""
        shown = self.asked[:_MOST_SHOWN]
        return shown.decode("ascii", "replace") if self.method == "GET" else base64.b64encode(shown).decode()


class RequestLog:
    """Draws requests at random, each with the same chance."""

    def __init__(self, share: float, *, addresses: bool) -> None:
        """Tell this share of all requests, 0 to 1; with `addresses`, also who asked."""
        self._share = share
        self._addresses = addresses

    def draw(self, method: str, asked: bytes, peer: object) -> Asked | None:
        """Return the request if it is to be told; `peer` is the client's socket address as the transport has it."""
        if random.random() >= self._share:  # noqa: S311 - a sample, no secret
            return None
        return Asked(method, asked, _address(peer) if self._addresses else None)


def _address(peer: object) -> str | None:
    """Return the host of a socket address; a Unix socket has none."""
    return str(peer[0]) if isinstance(peer, tuple | list) and peer else None
