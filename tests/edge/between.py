# SPDX-License-Identifier: Apache-2.0
"""A listener between nginx and the responder that writes down what nginx asks, and can fall silent or answer itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.responder.asking import Reply, exchange, head


@dataclass(frozen=True)
class Asked:
    """One request as nginx sent it."""

    method: str
    target: bytes
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Asked], Reply]


@dataclass
class Between:
    """What was asked so far, and who answers: the responder's port at first, anything that a test puts there later."""

    answering: Answering
    port: int = 0
    down: bool = False
    #: Close so many connections upon their next request, as a responder does that restarts.
    dropping: int = 0
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def take(self) -> list[Asked]:
        """Return what was asked since the last time."""
        taken, self.asked = self.asked, []
        return taken


def forwarding(port: int) -> Answering:
    """Ask the responder in the very same octets."""

    def ask(asked: Asked) -> Reply:
        headers = [(name, asked.headers[name]) for name in ("Content-Type", "Content-Length") if name in asked.headers]
        return exchange(port, head(asked.method, asked.target, ("Connection", "close"), *headers) + asked.body)

    return ask


@contextmanager
def between(answering: Answering) -> Iterator[Between]:
    """Listen on a port of our own."""
    state = Between(answering)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # the whole answer at once

        def setup(self) -> None:
            state.connections += 1
            super().setup()

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            # The class makes one slash of several in `path`; the line itself is as it came.
            target = self.requestline.split()[1].encode("latin-1")
            asked = Asked(self.command, target, dict(self.headers.items()), body)
            state.asked.append(asked)
            if state.down or state.dropping > 0:
                state.dropping -= 1
                self.close_connection = True
                return
            reply = state.answering(asked)
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                if name not in {"connection", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_PUT = do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - named so by the base class

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.port = server.server_port
        thread = Thread(target=server.serve_forever)
        thread.start()

        def stop() -> None:
            """Listen no more, and end the connections there are with their next request."""
            state.down = True
            server.shutdown()
            thread.join()
            server.server_close()

        state.stop = stop
        try:
            yield state
        finally:
            stop()
