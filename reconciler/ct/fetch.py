# SPDX-License-Identifier: Apache-2.0
"""Asking a log over HTTP: one answer at a time, bounded in size and time, with every failure turned into RetrySource.

Knows no protocol of logs. Redirects are refused and nothing is believed: signatures and hashes are for the readers.
"""

import asyncio
import email.utils
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Self, TypeVar

import aiohttp

from reconciler.errors import RetrySource

#: A data tile of 256 entries is about 0.6 MB; entries may be larger, but not without end.
MOST_OCTETS: Final = 64 * 2**20
_CHUNK: Final = 64 * 2**10
#: An answer within this time or none: also against logs that drip (seconds).
TIMEOUT: Final = aiohttp.ClientTimeout(total=60, connect=10, sock_read=20)
#: A log may ask for patience, but not for a day of it (seconds).
_MOST_PATIENCE: Final = 600.0

_OK, _NOT_FOUND, _TOO_MANY = 200, 404, 429


class NotFound(RetrySource):
    """The log has no such resource, at least for now: HTTP 404."""


class Fetcher:
    """A session with one log, `async with Fetcher(…) as fetcher`. Logs share none: they do not share faults either."""

    def __init__(self, base_url: str, *, user_agent: str, timeout: aiohttp.ClientTimeout = TIMEOUT) -> None:
        """Prepare a session; nothing is opened yet."""
        self._timeout = timeout
        self._base = base_url.rstrip("/") + "/"
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "gzip, identity"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the session's connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(
        self, path: str, *, params: dict[str, str] | None = None, most: int = MOST_OCTETS, fresh: bool = False
    ) -> bytes:
        """Return the body at `path` below the base URL.

        `most` caps the body in octets, after decompression; `fresh` asks caches on the way to step aside. Raises
        NotFound for 404 and RetrySource for everything else that is not a whole 200.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout)
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        try:
            async with self._session.get(
                self._base + path, params=params, headers=headers, allow_redirects=False
            ) as response:
                _check_status(response, path)
                return await _body(response, path, most)
        except TimeoutError as exc:
            raise RetrySource(f"{path}: no whole answer in time") from exc
        except (aiohttp.ClientError, ValueError, OSError) as exc:
            raise RetrySource(f"{path}: {type(exc).__name__}: {exc}") from exc


def _check_status(response: aiohttp.ClientResponse, path: str) -> None:
    if response.status == _OK:
        return
    if response.status == _NOT_FOUND:
        raise NotFound(f"{path}: HTTP 404")
    patience = retry_after(response.headers.get("Retry-After"), now=datetime.now(UTC))
    if 300 <= response.status < 400:
        raise RetrySource(f"{path}: HTTP {response.status}: redirects are not followed", retry_after=patience)
    raise RetrySource(f"{path}: HTTP {response.status}", retry_after=patience)


async def _body(response: aiohttp.ClientResponse, path: str, most: int) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > most:
            raise RetrySource(f"{path}: more than {most} octets")
        chunks.append(chunk)
    return b"".join(chunks)


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, in either spelling (RFC 9110 section 10.2.3), capped."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), _MOST_PATIENCE)
    with suppress(ValueError, TypeError):
        moment = email.utils.parsedate_to_datetime(value)
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return min(max(0.0, (aware - now).total_seconds()), _MOST_PATIENCE)
    return None


_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


async def in_order(
    asked: Iterable[_Asked], ask: Callable[[_Asked], Awaitable[_Answer]], *, ahead: int
) -> AsyncGenerator[tuple[_Asked, _Answer], None]:
    """Ask for several things at once, at most `ahead`, and yield the answers in the order of the questions."""
    running: deque[tuple[_Asked, asyncio.Future[_Answer]]] = deque()
    questions = iter(asked)
    try:
        while True:
            while len(running) < ahead and (question := next(questions, None)) is not None:
                running.append((question, asyncio.ensure_future(ask(question))))
            if not running:
                return
            question, future = running.popleft()
            yield question, await future
    finally:
        for _, future in running:
            future.cancel()
        await asyncio.gather(*(future for _, future in running), return_exceptions=True)
