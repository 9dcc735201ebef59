# SPDX-License-Identifier: Apache-2.0
"""HTTP by falcon: GET and POST bodies, the size limit, headers, 304. Never ASN.1, SQL or keys.

RFC 6960 appendix A and RFC 9919 section 6. Every OCSP-level answer, errors included, goes out with HTTP status 200.
"""

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, cast
from urllib.parse import unquote_to_bytes

import falcon
import falcon.asgi

from responder.answer import Answer, http_date
from responder.asgi import Asgi
from responder.errors import MalformedRequest, Refusal
from responder.service import Service

_NO_CONTENT_NEEDED: Final = falcon.HTTP_304
_ESCAPED: Final = re.compile(rb"%[0-9A-Fa-f]{2}")


def create_app(service: Service, *, prefix: str, most_octets: int, clock: Callable[[], datetime]) -> Asgi:
    """Return the application that answers below `prefix`; a request may have `most_octets`."""
    app = falcon.asgi.App()
    sink = _Sink(service, prefix=prefix, most_octets=most_octets, clock=clock)

    async def take(req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **_: str) -> None:
        if resp is not None:
            await sink.take(req, resp)

    app.add_sink(take)
    return cast("Asgi", app)


class _Sink:
    """Takes every path: base64 has slashes in it, and no router may touch them."""

    def __init__(self, service: Service, *, prefix: str, most_octets: int, clock: Callable[[], datetime]) -> None:
        self._service = service
        self._prefix = prefix.encode().strip(b"/")
        self._most_octets = most_octets
        self._clock = clock

    async def take(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer one request."""
        try:
            match req.method:
                case "GET":
                    answer = await self._get(req)
                case "POST":
                    answer = await self._service.answer(await self._body(req))
                case _:
                    resp.set_header("Date", http_date(self._clock()).decode())
                    raise falcon.HTTPMethodNotAllowed(["GET", "POST"])
        except MalformedRequest as error:
            answer = Answer.refusing(error)
        _send(answer, req, resp, now=self._clock())

    async def _get(self, req: falcon.asgi.Request) -> Answer:
        path = bytes(req.scope["raw_path"])
        request = request_in_path(path, prefix=self._prefix, most_octets=self._most_octets)
        answer = await self._service.answer(request)
        if answer.is_cacheable:
            self._service.remember_path(path, request)
        return answer

    async def _body(self, req: falcon.asgi.Request) -> bytes:
        """Return the body, reading no more of it than a request may have; fastpath.py refuses what says so itself."""
        body = await req.stream.read(self._most_octets + 1)
        if len(body) > self._most_octets:
            raise _too_large(self._most_octets)
        return bytes(body)


def request_in_path(path: bytes, *, prefix: bytes, most_octets: int) -> bytes:
    """Return the request that a GET's path holds, in any spelling that clients and proxies are known to use.

    Percent-escapes in either case, whole, partial or doubled; `+` as it is, escaped, or turned into a blank; padding
    or none; further slashes in front. Base64 of an OCSPRequest begins with M, so a leading slash is never its own.
    Raises MalformedRequest when it is not base64.
    """
    text = path.lstrip(b"/")
    if prefix and (text == prefix or text.startswith(prefix + b"/")):
        text = text[len(prefix) :]
    # One escaping by the client, one by a proxy; a third time nobody has seen.
    for _ in range(2):
        if _ESCAPED.search(text):
            text = unquote_to_bytes(text)
    text = text.replace(b" ", b"+").lstrip(b"/").rstrip(b"=")
    if len(text) > 2 * most_octets:
        raise _too_large(most_octets)
    try:
        request = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise MalformedRequest(Refusal.ENCODING, f"the path is not base64: {exc}") from exc
    if len(request) > most_octets:
        raise _too_large(most_octets)
    return request


def _too_large(most_octets: int) -> MalformedRequest:
    return MalformedRequest(Refusal.TOO_LARGE, f"a request has at most {most_octets} octets")


def _send(answer: Answer, req: falcon.asgi.Request, resp: falcon.asgi.Response, *, now: datetime) -> None:
    for name, value in answer.headers(now):
        resp.set_header(name.decode(), value.decode())
    # RFC 9110 section 13.1.2: 304 is an answer to GET.
    if_none_match = req.get_header("If-None-Match") if req.method == "GET" else None
    if if_none_match is not None and answer.is_what(if_none_match.encode()):
        resp.status = _NO_CONTENT_NEEDED
        return
    resp.data = answer.body
