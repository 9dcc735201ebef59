# SPDX-License-Identifier: Apache-2.0
"""HTTP by falcon, for what fastpath.py hands over: chunked bodies, other methods, pipelines. Never ASN.1, SQL or keys.

RFC 6960 appendix A and RFC 9919 section 6. Every OCSP-level answer, errors included, goes out with HTTP status 200.
"""

from collections.abc import Iterable
from typing import Final, cast

import falcon
import falcon.asgi

from responder.answer import Answer, http_date
from responder.asgi import Asgi, Receive, Scope, Send
from responder.front import Front

_NO_CONTENT_NEEDED: Final = falcon.HTTP_304
_NOT_ALLOWED: Final = 405


def create_app(front: Front) -> Asgi:
    """Return the application that has every request answered by `front`."""
    app = falcon.asgi.App()
    falcons = cast("Asgi", app)
    sink = _Sink(front)

    async def take(req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **_: str) -> None:
        if resp is not None:
            await sink.take(req, resp)

    app.add_sink(take, prefix="")  # also for what does not begin with a slash; falcon would call it 404

    async def refuse_or_take(scope: Scope, receive: Receive, send: Send) -> None:
        # falcon would wait for the first octets of the body, and have the client asked to go on.
        announced = _announced(scope["headers"]) if scope["type"] == "http" else 0
        if announced > front.most_octets:
            await _refuse(front, announced, send)
        else:
            await falcons(scope, receive, send)

    return refuse_or_take


class _Sink:
    """Takes every path: base64 has slashes in it, and no router may touch them."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def take(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer one request."""
        if req.method not in {"GET", "POST"}:
            resp.set_header("Date", http_date(self._front.clock()).decode())
            self._front.counts.refused_http(_NOT_ALLOWED)
            raise falcon.HTTPMethodNotAllowed(["GET", "POST"])
        is_get = req.method == "GET"
        # No more of a body is read than shows that it is too large.
        asked = bytes(req.scope["raw_path"] if is_get else await req.stream.read(self._front.most_octets + 1))
        log = self._front.request_log
        told = None if log is None else log.draw(req.method, asked, req.scope["client"])
        answer = await (self._front.get(asked) if is_get else self._front.post(asked))
        self._send(answer, req, resp)
        if told is not None:
            told.answered(answer)

    def _send(self, answer: Answer, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        for name, value in answer.headers(self._front.clock()):
            resp.set_header(name.decode(), value.decode())
        # RFC 9110 section 13.1.2: 304 is an answer to GET.
        if_none_match = req.get_header("If-None-Match") if req.method == "GET" else None
        if if_none_match is not None and answer.is_what(if_none_match.encode()):
            self._front.counts.not_modified += 1
            resp.status = _NO_CONTENT_NEEDED
            return
        resp.data = answer.body


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the announced length of the body, 0 for none. Nobody shall wait for a body that is going to be refused."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


async def _refuse(front: Front, announced: int, send: Send) -> None:
    answer = front.refuse_unread(announced)
    headers = [*answer.headers(front.clock()), (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
