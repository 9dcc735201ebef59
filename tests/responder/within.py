# SPDX-License-Identifier: Apache-2.0
"""A responder in this very process: all that a worker opens, on a loop of its own, and connections over socket pairs.

For tests that need thousands of connections, or to look at one from inside. What goes wrong anywhere is kept, and told.
"""

import asyncio
import errno
import gc
import logging
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from structlog.testing import LogCapture
from uvicorn import Config
from uvicorn.server import ServerState

from responder.asgi import Message
from responder.fastpath import FastPath
from responder.front import Front
from responder.oversight import Shared
from responder.protocol import Http
from responder.server import Responder, read_start
from responder.snapshots import Snapshots
from tests.responder.asking import Reply
from tests.responder.running import write_settings

# An exchange in one process that takes so long (seconds) hangs.
PATIENCE: Final = 10.0
_CLOSED: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})
FAULTS: Final = frozenset({"request.fault", "answer.contradiction", "feed.fault"})


@dataclass
class Within:
    """The responder, and what must not happen in it."""

    loop: uvloop.Loop
    front: Front
    config: Config
    state: ServerState
    faults: list[str] = field(default_factory=list)
    told: LogCapture = field(default_factory=LogCapture)

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    def protocol(self) -> FastPath:
        return FastPath(self.config, self.state, {})

    async def connect(self, *, buffer: int | None = None) -> tuple[socket.socket, Any, FastPath]:
        """A connection: the client's end, and the responder's."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        if buffer is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        transport, protocol = await self.loop.connect_accepted_socket(self.protocol, theirs)
        return ours, transport, protocol

    def exchange(self, *pieces: bytes) -> bytes:
        """Send pieces one after another, each read before the next comes; end our side; return all that comes back."""
        replies: bytes = self.run(asyncio.wait_for(self._exchange(pieces), PATIENCE))
        self.check()
        return replies

    async def _exchange(self, pieces: Sequence[bytes]) -> bytes:
        ours, _, _ = await self.connect()
        with ours:
            reading = self.loop.create_task(self.read_on(ours))
            try:
                for piece in pieces:
                    await self.loop.sock_sendall(ours, piece)
                    await turns()
                ours.shutdown(socket.SHUT_WR)
            except OSError as exc:
                if exc.errno not in _CLOSED:  # it may close before it has heard everything
                    raise
            return await reading

    async def read_on(self, ours: socket.socket) -> bytes:
        """Read until the responder closes."""
        replies = b""
        try:
            while octets := await self.loop.sock_recv(ours, 1 << 16):
                replies += octets
        except ConnectionResetError:
            pass  # it closed with octets of ours unread
        return replies

    def check(self) -> None:
        """Fail when anything went wrong since the last time."""
        self.faults += [str(each) for each in self.told.entries if each["event"] in FAULTS]
        self.told.entries.clear()
        assert self.faults == [], self.faults


async def turns() -> None:
    """Let the loop turn often enough that what was sent is read."""
    for _ in range(3):
        await asyncio.sleep(0)


class _Handler(logging.Handler):
    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(self.format(record))


@contextmanager
def within(dsn: str, folder: Path) -> Iterator[Within]:
    """Open a responder as one worker would, and close it afterwards."""
    responder = Responder(
        read_start(write_settings(folder, dsn=dsn, port=1)), Shared(snapshots := Snapshots.create(), None)
    )
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    heard: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    before, thresholds = structlog.get_config(), gc.get_threshold()
    living = loop.create_task(responder({"type": "lifespan"}, heard.get, said.put))
    heard.put_nowait({"type": "lifespan.startup"})
    try:
        told = LogCapture()
        structlog.configure(processors=[told])
        loop.run_until_complete(asyncio.wait({living, loop.create_task(said.get())}, return_when="FIRST_COMPLETED"))
        assert responder.front is not None
        config = Config(
            responder, http=FastPath, lifespan="on", access_log=False, date_header=False, server_header=False,
            ws="none", log_config=None, proxy_headers=False, timeout_keep_alive=int(responder.front.idle),
        )  # fmt: skip
        config.load()
        started = Within(loop, responder.front, config, ServerState(), told=told)
        loop.set_exception_handler(lambda _, context: started.faults.append(str(context)))
        handler = _Handler(started.faults)
        logging.getLogger("uvicorn.error").addHandler(handler)
        yield started
        logging.getLogger("uvicorn.error").removeHandler(handler)
        started.check()
    finally:
        heard.put_nowait({"type": "lifespan.shutdown"})
        loop.run_until_complete(living)
        loop.close()
        asyncio.set_event_loop(None)
        snapshots.remove()
        structlog.configure(**before)
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def read_replies(octets: bytes) -> list[Reply]:
    """Every reply in these octets; each has to be whole, and nothing may be left over."""
    replies = []
    while octets:
        assert b"\r\n\r\n" in octets, f"half a head: {octets!r}"
        head, _, rest = octets.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header twice: {lines}"
        # The answer to HEAD tells of a body that does not come; no method but GET and POST is answered otherwise.
        is_to_head = status == "405" and (not rest or rest.startswith(b"HTTP/1.1 "))
        bodiless = status in {"100", "304"} or is_to_head
        length = 0 if bodiless else int(headers["content-length"])
        assert len(rest) >= length, "half a body"
        replies.append(Reply(int(status), headers, rest[:length]))
        octets = rest[length:]
    return replies


def is_handed_over(transport: asyncio.Transport) -> bool:
    return isinstance(transport.get_protocol(), Http)
