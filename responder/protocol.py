# SPDX-License-Identifier: Apache-2.0
"""HTTP connections by uvicorn and httptools, with the bounds that neither has: how long a head may be, and how long a
request may take to arrive. Knows no OCSP; server.py hands it to its workers.
"""

import asyncio
from collections import deque
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# Request line and headers together. A request of 10,000 octets in the path, every octet of it escaped twice, fits.
MOST_HEAD_OCTETS: Final = 96 * 1024
# How long a client that has begun nothing may be silent and still find its answer, when the worker is to end (seconds).
LAST_PATIENCE: Final = 1.0

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)
_BAD_REQUEST: Final = 400
_HEAD_TOO_LARGE: Final = 431
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_UPGRADING: Final = frozenset({b"upgrade", b"connection", b"http2-settings"})


class Http(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._begun_in_this_data = False
        self._head_octets = 0
        self._whole = True
        self._impatience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._cycles: deque[RequestResponseCycle] = deque()
        self._is_last = False
        self._patience: float = self.config.app.front.patience  # type: ignore[union-attr] # a Responder, as below

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn does the same
        """Wait for the first request, for a while."""
        super().connection_made(transport)
        self._wait_or_not()

    def shutdown(self) -> None:
        """Let the request on its way be the last one, and wait a moment for one that may be under way."""
        if self._is_idle():
            self.loop.call_later(LAST_PATIENCE, self._close_if_idle)
        else:
            self._is_last = True
            if self.cycle is not None:
                self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        return self._whole and (cycle is None or cycle.response_complete)

    def _is_owed(self) -> bool:
        """Whether the newest request is whole and its answer still to be sent; those before it are answered first."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _close_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        self._stop_waiting_for_reader()
        # uvicorn tells the newest request only, and the one that is being answered would write to nobody.
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        self._cycles.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn never stays
        """Stay for what was asked before: a client may end its side once it has asked (RFC 9112 section 9.6)."""
        if self._is_owed():
            self.cycle.keep_alive = False
            return True
        return False

    def pause_writing(self) -> None:
        """Wait for a client that does not take our answers, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take octets as they come, and close where they come without end."""
        self._unset_keepalive_if_required()
        self._begun_in_this_data = False
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserError:
            self.send_400_response("not an HTTP request")
        # What one reading brings is bounded by the loop, so only the readings after the first one are counted.
        if self._in_head and not self._begun_in_this_data:
            self._head_octets += len(data)
            if self._head_octets > MOST_HEAD_OCTETS and not self.transport.is_closing():
                self._count(_HEAD_TOO_LARGE)
                self.transport.write(_TOO_LARGE)
                self.transport.close()
        self._wait_or_not()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and count it. What was asked before it is answered, and is the last to be."""
        self._count(_BAD_REQUEST)
        if self._is_owed():
            self.cycle.keep_alive = False
            self._whole = True
            self.flow.pause_reading()
        else:
            super().send_400_response(msg)

    def _count(self, status: int) -> None:
        self.config.app.front.counts.refused_http(status)  # type: ignore[union-attr] # a Responder, whatever uvicorn takes

    def _feed(self, data: memoryview) -> None:
        # Each turn consumes a head, so the loop ends with the data.
        while len(data) > 0:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[int(upgrade.args[0]) :]
                self._read_head_again()
            else:
                return

    def _read_head_again(self) -> None:
        """Read the head once more without its wish for another protocol, which we may ignore (RFC 9110 section 7.8).

        Java's client wishes for HTTP/2 this way, and the parser would take the body for that other protocol's.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("no proxy")
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name not in _UPGRADING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_head = self._begun_in_this_data = True
        self._head_octets = 0
        self._whole = False

    def on_headers_complete(self) -> None:
        """Start to answer, unless the head is going to be read once more."""
        self._in_head = False
        if self.parser.get_http_version() not in _VERSIONS:
            raise httptools.HttpParserError("neither HTTP/1.0 nor HTTP/1.1")
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            while self._cycles and self._cycles[0].response_complete:
                self._cycles.popleft()
            self._cycles.append(self.cycle)
            if self._is_last or self.config.app.front.is_ending:  # type: ignore[union-attr] # a Responder, whatever uvicorn takes
                self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Have a whole request."""
        if self.parser.should_upgrade():
            return
        self._whole = True
        super().on_message_complete()

    def _wait_or_not(self) -> None:
        """Keep the time while it is the client's turn; uvicorn keeps it between a response and the next octet only."""
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        ours = self._whole and cycle is not None and not cycle.response_complete
        if ours or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            self._stop_waiting()
        elif self._impatience is None:
            self._impatience = self.loop.call_later(self._patience, self.transport.close)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop_waiting(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
