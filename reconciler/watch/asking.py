# SPDX-License-Identifier: Apache-2.0
"""Asks through a public address, octet by octet as told, within bounds of time, number and size.

Knows HTTP and addresses; nothing of OCSP. Called by check_url.py.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# BR 4.10.2 gives a responder ten seconds.
_PATIENCE: Final = 10.0
# An answer has some hundred octets, with a long chain some thousand.
MOST_OCTETS: Final = 64 * 1024


class AddressError(ValueError):
    """Not an address that OCSP is asked at: what is wrong with it, in one line."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to ask: `origin` is scheme, host and port; `prefix` the path of the pointer, as it stands."""

    origin: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an http or https URL, with or without port and path, also of an IPv6 address. Raises AddressError."""
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError as exc:
            raise AddressError(f"{text!r} is no URL: {exc}") from exc
        if parts.scheme not in {"http", "https"}:
            raise AddressError(f"{text!r} begins with neither http:// nor https://")
        if parts.hostname is None:
            raise AddressError(f"{text!r} names no host")
        if parts.username is not None or parts.password is not None:
            raise AddressError(f"{text!r} has a user's name in it, which no OCSP pointer may have")
        if "?" in text or "#" in text:
            raise AddressError(f"{text!r} has a query or a fragment; a GET appends its request to the path")
        return cls(f"{parts.scheme}://{parts.netloc}", parts.path)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: its status, headers and body, when it was there, and how many seconds it took."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    at: datetime
    seconds: float

    def header(self, name: str) -> str | None:
        """Return the value of a header, its lines joined as RFC 9110 section 5.3 joins them; None without one."""
        lines = self.headers.getall(name, [])
        return ", ".join(lines) if lines else None


@dataclass(frozen=True, slots=True)
class NoReply:
    """Nothing came back that could be looked at: why, in one line."""

    reason: str


class Client:
    """Asks one address, one question after another."""

    def __init__(self, address: Address) -> None:
        """Make a session that adds nothing of its own: no compression, no cookies, no proxy. Needs a running loop."""
        self._address = address
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_PATIENCE),
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
            headers={"User-Agent": f"foundling/{version('foundling')} (check-url)"},
            skip_auto_headers=("Accept-Encoding",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        await self._session.close()

    async def ask(
        self, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply | NoReply:
        """Ask for this very path, with POST where there is a body, and follow no redirect.

        Never raises for what the other side does.
        """
        given = CIMultiDict(headers or {})
        if body is not None:
            given["Content-Type"] = "application/ocsp-request"
        began = time.monotonic()
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                URL(self._address.origin + path, encoded=True),
                data=body,
                headers=given,
                allow_redirects=False,
            ) as response:
                octets = await _at_most(response.content, MOST_OCTETS)
                if octets is None:
                    return NoReply(f"more than {MOST_OCTETS} octets")
                return Reply(response.status, response.headers, octets, datetime.now(UTC), time.monotonic() - began)
        except TimeoutError:
            return NoReply(f"no answer within {_PATIENCE:.0f} seconds (BR 4.10.2)")
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, ValueError) as exc:
            return NoReply(str(exc) or type(exc).__name__)


async def _at_most(content: aiohttp.StreamReader, most: int) -> bytes | None:
    """Return what is left of a body; None when it is longer."""
    octets = b""
    while len(octets) <= most:
        chunk = await content.read(most + 1 - len(octets))
        if not chunk:
            return octets
        octets += chunk
    return None
