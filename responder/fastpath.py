# SPDX-License-Identifier: Apache-2.0
"""The ASGI callable in front: a kept answer leaves from memory, everything else goes to app.py.

GET and POST share what is kept, because it is kept by the octets of the request. Parses nothing.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from responder.answer import Answer
from responder.asgi import Asgi, Message, Receive, Scope, Send
from responder.errors import MalformedRequest, Refusal
from responder.service import Service


class FastPath:
    """Answers what it can from memory, and hands on the rest untouched."""

    def __init__(self, app: Asgi, service: Service, *, most_octets: int, clock: Callable[[], datetime]) -> None:
        """`app` gets everything that is not in memory, and refuses requests of more than `most_octets`."""
        self._app = app
        self._service = service
        self._most_octets = most_octets
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: Answer | None = None
        if scope["method"] == "GET":
            answer = self._service.kept_for_path(scope["raw_path"])
        elif scope["method"] == "POST" and _announced(scope["headers"]) > self._most_octets:
            # falcon would wait for the first octets of it, and have the client asked to go on.
            answer = Answer.refusing(MalformedRequest(Refusal.TOO_LARGE, "announced as too large"))
        elif scope["method"] == "POST":
            first = await receive()
            receive = _again(first, receive)
            # A request fits into the first message; one that does not is no common one.
            if first["type"] == "http.request" and not first.get("more_body", False):
                answer = self._service.kept(first.get("body", b""))
        if answer is None:
            await self._app(scope, receive, send)
        else:
            # RFC 9110 section 13.1.2: 304 is an answer to GET.
            asked = scope["headers"] if scope["method"] == "GET" else ()
            await _send(answer, asked, send, now=self._clock())


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the announced length of the body, 0 for none. Nobody shall wait for a body that is going to be refused."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def _again(first: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives the message already taken once more, and then goes on."""
    taken = [first]

    async def receive_again() -> Message:
        return taken.pop() if taken else await receive()

    return receive_again


async def _send(answer: Answer, asked: Iterable[tuple[bytes, bytes]], send: Send, *, now: datetime) -> None:
    headers = answer.headers(now)
    for name, value in asked:
        if name == b"if-none-match" and answer.is_what(value):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body"})
            return
    headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
