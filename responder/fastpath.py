# SPDX-License-Identifier: Apache-2.0
"""A connection as most are: plain GETs and POSTs, one after another. A kept answer leaves at once, from memory.

Whatever is out of the ordinary, from a chunked body to a client that pipelines, is handed over with its octets to
uvicorn and falcon (protocol.py, app.py), and so is the rest of that connection. Knows HTTP's outline and no OCSP.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import httptools

from responder.answer import NOT_MODIFIED, Answer
from responder.front import Front
from responder.protocol import LAST_PATIENCE, Http
from responder.requestlog import Asked

# A whole request of the common kind fits in here; what is larger is not common.
_MOST_OCTETS: Final = 16 * 1024
_MOST_DIGITS: Final = 5  # of a Content-Length that may fit
_COMMON_METHODS: Final = frozenset({b"GET", b"POST"})
_COMMON_VERSIONS: Final = frozenset({"1.0", "1.1"})
# Headers that change how a request has to be read or answered.
_UNCOMMON_HEADERS: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade"})

_END: Final = b"\r\n"
_KEEP: Final = b"connection: keep-alive\r\n\r\n"
_CLOSE: Final = b"connection: close\r\n\r\n"


class FastPath(asyncio.Protocol):
    """One connection, until it turns out to be an uncommon one."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        """Take what uvicorn gives to the protocol of a connection."""
        self._front: Front = config.app.front
        self._uvicorn = (config, server_state, app_state)
        self._connections: set[Any] = server_state.connections
        self._transport: asyncio.Transport
        self._parser: Any = None
        # Of the request that is being read:
        self._octets = b""
        self._url = b""
        self._body = b""
        self._if_none_match: bytes | None = None
        self._begun = 0
        self._whole = 0
        self._is_common = True
        self._keep = True
        # Of the request that is being answered:
        self._told: Asked | None = None
        self._answering: asyncio.Task[None] | None = None
        self._early = b""
        self._is_last = False
        self._is_over = False  # the client sends nothing more
        self._is_blocked = False  # the client does not take what we send
        # Since when it has been the client's turn, and for how long it may be (seconds).
        self._silent_since = 0.0
        self._patience = self._front.patience

    # ---------------------------------------------------------------------------------------------- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # TCP has no other kind
        """Wait for the first request."""
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._connections.add(self)
        self._front.connections.add(self)
        self._be_patient(self._front.patience)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        """Forget it. An answer on its way is finished all the same, for whoever asks next."""
        self._connections.discard(self)
        self._front.connections.discard(self)
        self._parser = None  # it holds us as we hold it

    def shutdown(self) -> None:
        """Let the request on its way be the last one; uvicorn calls this when the worker listens no more.

        Who has been silent for a while is in the middle of nothing. Anybody else, such as a client that connected just
        now, may have a request under way, and gets its answer.
        """
        self._is_last = True
        if not self._octets:
            self._patience = min(self._patience, LAST_PATIENCE)
            self.close_if_silent(self._front.time())

    def eof_received(self) -> bool:
        """Stay for what was asked before: a client may end its side once it has asked (RFC 9112 section 9.6)."""
        self._is_over = True
        return self._answering is not None or self._is_blocked

    def pause_writing(self) -> None:
        """Take nothing more from a client that does not take our answers."""
        self._is_blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_blocked = False
        self._go_on()

    def _be_patient(self, seconds: float) -> None:
        self._silent_since = self._front.time()
        self._patience = seconds

    def close_if_silent(self, now: float) -> None:
        """Close when it has been the client's turn for too long, be it to ask or to take what we sent."""
        if self._answering is not None or now - self._silent_since <= self._patience:
            return
        if self._transport.get_write_buffer_size() > 0:
            self._transport.abort()  # closing would wait for the client once more
        else:
            self._transport.close()

    # ------------------------------------------------------------------------------------------ reading, by httptools

    def data_received(self, data: bytes) -> None:
        """Take octets as they come, and answer when they are one whole request."""
        if self._answering is not None or self._is_blocked:
            self._wait_with(data)
            return
        if not self._octets:
            self._be_patient(self._front.patience)
        self._octets = self._octets + data if self._octets else data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What follows the last request of a connection is nobody's concern (RFC 9112 section 9.6).
            self._is_common = self._is_common and self._whole == 1 and not self._keep
        if not self._is_common or self._begun > 1 or len(self._octets) > _MOST_OCTETS:
            self._hand_over()
        elif self._whole == 1:
            self._take()

    def on_message_begin(self) -> None:
        """Count the requests that these octets begin."""
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look for the few headers that matter."""
        lowered = name.lower()
        if lowered == b"if-none-match":
            self._if_none_match = value
        elif lowered in _UNCOMMON_HEADERS or (lowered == b"content-length" and len(value) > _MOST_DIGITS):
            self._is_common = False

    def on_body(self, body: bytes) -> None:
        """Take the body, or a part of it."""
        self._body += body

    def on_message_complete(self) -> None:
        """Count the requests that these octets end, and see whether another one may follow."""
        self._whole += 1
        self._keep = self._parser.should_keep_alive()

    def _hand_over(self) -> None:
        """Leave this connection, and everything read of its request, to those who can do all of HTTP."""
        self.connection_lost(None)
        successor = Http(*self._uvicorn)
        self._transport.set_protocol(successor)
        successor.connection_made(self._transport)
        successor.data_received(self._octets)
        if self._is_last:
            successor.shutdown()
        if self._is_over and not successor.eof_received():
            self._transport.close()

    def _wait_with(self, data: bytes) -> None:
        """Keep what a client sends before its turn. Nobody has to be fast for it, and nobody may fill our memory."""
        self._early += data
        if len(self._early) > _MOST_OCTETS:
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Take what came early, now that it is its turn, and whatever comes next."""
        if self._is_blocked or self._answering is not None or self._transport.is_closing():
            return
        if not self._is_over:
            self._transport.resume_reading()
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)
        self._close_if_over()

    def _close_if_over(self) -> None:
        # Handed over, it is not ours to close any more.
        if self._is_over and self._answering is None and self._parser is not None:
            self._transport.close()

    # ----------------------------------------------------------------------------------------------------- answering

    def _take(self) -> None:
        """Answer one whole request: at once when the answer is kept, else when it is ready."""
        front, parser = self._front, self._parser
        method, url, body = parser.get_method(), self._url, self._body
        version = parser.get_http_version()
        if method not in _COMMON_METHODS or version not in _COMMON_VERSIONS or not front.is_common(url):
            self._hand_over()
            return
        keep = self._keep and not self._is_last and not front.is_ending
        ending = _CLOSE if not keep else _END if version == "1.1" else _KEEP
        tag = self._if_none_match
        self._octets = self._url = self._body = b""
        self._if_none_match = None
        self._begun = self._whole = 0
        if front.request_log is not None:
            peer = self._transport.get_extra_info("peername")
            self._told = front.request_log.draw(method.decode(), url if method == b"GET" else body, peer)
        if method == b"GET":
            answer = front.kept_for_path(url)
            if answer is None:
                self._answer_later(front.get(url), ending, tag)
                return
            answer.tally.get += 1
        else:
            answer = front.kept(body)
            tag = None  # RFC 9110 section 13.1.2: 304 is an answer to GET
            if answer is None:
                self._answer_later(front.post(body), ending, tag)
                return
            answer.tally.post += 1
        self._send(answer, ending, tag)

    def _answer_later(self, coming: Coroutine[Any, Any, Answer], ending: bytes, tag: bytes | None) -> None:
        self._answering = asyncio.get_running_loop().create_task(self._answer(coming, ending, tag))

    async def _answer(self, coming: Coroutine[Any, Any, Answer], ending: bytes, tag: bytes | None) -> None:
        answer = await coming
        self._answering = None
        if self._transport.is_closing():
            return
        self._send(answer, _CLOSE if self._is_last or self._front.is_ending else ending, tag)
        if self._early or self._is_over:
            self._go_on()

    def _send(self, answer: Answer, ending: bytes, tag: bytes | None) -> None:
        now = self._front.clock()
        if tag is not None and answer.is_what(tag):
            self._front.counts.not_modified += 1
            octets = answer.head(now, status=NOT_MODIFIED) + ending
        else:
            octets = answer.head(now) + ending + answer.body
        self._transport.write(octets)
        self._be_patient(self._front.idle)
        if self._told is not None:
            self._told.answered(answer)
        if ending is _CLOSE:
            self._transport.close()
