# SPDX-License-Identifier: Apache-2.0
"""A finished answer and the HTTP headers that go with it at a given moment. Pure.

Called by service.py, which makes answers, and by app.py and fastpath.py, which send them.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import Final

from responder.counting import NO_HASH, UNCOUNTED, Tally
from responder.errors import OcspError, ResponseStatus
from responder.ocsp.policy import Times, cache_seconds, stale_seconds
from responder.ocsp.response import error_response

Headers = list[tuple[bytes, bytes]]

OK: Final = b"200 OK"
NOT_MODIFIED: Final = b"304 Not Modified"

CONTENT_TYPE: Final = b"application/ocsp-response"
# RFC 9919 section 7.2 wants one of these on everything that is not authoritative.
_NEVER_STORE: Final = [(b"cache-control", b"no-store, max-age=0"), (b"pragma", b"no-cache")]
_DOUBT: Final = b"max-age=0, private, no-transform, must-revalidate"


@dataclass(frozen=True, slots=True)
class Answer:
    """The octets to send, and how long they hold.

    `outcome` is a short word for logs and metrics. `times` are None for unsigned errors. `doubt` marks a signed answer
    about a serial that nobody knows: signed, so RFC 9919 section 7.2 forbids no-store, and still nothing that a shared
    cache may keep (invariant 6). `for_one` marks an answer to one request alone, such as one that repeats its nonce:
    true for whoever reads it, and of use to nobody else. `hash_name` is the CertID's hash; `tally` counts how often it
    is sent from memory.
    """

    body: bytes
    outcome: str
    times: Times | None = None
    max_age: timedelta = timedelta(0)
    doubt: bool = False
    for_one: bool = False
    hash_name: str = field(default=NO_HASH, init=False, compare=False)
    tally: Tally = field(default=UNCOUNTED, init=False, compare=False)
    etag: bytes = field(init=False)

    def __post_init__(self) -> None:
        # RFC 9919 section 7.2: the recommended ETag is the hexadecimal SHA-256 of the OCSPResponse.
        object.__setattr__(self, "etag", b'"' + hashlib.sha256(self.body).hexdigest().encode() + b'"')

    def count_as(self, hash_name: str, tally: Tally) -> None:
        """Say how to count it: by the CertID's hash, and where to add when it is sent from memory.

        Called once, by who made it. Nothing that a client gets to see depends on it.
        """
        object.__setattr__(self, "hash_name", hash_name)
        object.__setattr__(self, "tally", tally)

    @classmethod
    def refusing(cls, error: OcspError) -> "Answer":
        """Return the unsigned answer for an error (RFC 6960 section 2.3)."""
        return cls(error_response(error.status), error.reason.value)

    @property
    def response_status(self) -> int:
        """Its OCSPResponseStatus: of an unsigned answer the last of its five octets (RFC 6960 section 4.2.1)."""
        return ResponseStatus.SUCCESSFUL if self.times is not None else self.body[-1]

    @property
    def is_cacheable(self) -> bool:
        """Whether anybody but the client may keep it."""
        return self.times is not None and not self.doubt and not self.for_one

    def headers(self, now: datetime) -> Headers:
        """Return the headers for sending it now (RFC 9919 sections 6 and 7.2), dates as IMF-fixdate."""
        headers = list(_dated(self.times, self.max_age, self.is_cacheable, now))
        return headers if self.times is None else [*headers, (b"etag", self.etag)]

    def head(self, now: datetime, *, status: bytes = OK) -> bytes:
        """Return status line and headers as HTTP/1.1 writes them, but for the empty line and what the connection needs.

        A 304 has no body, and tells the length of the one it stands for as little as it may (RFC 9110 section 15.4.5).
        """
        dated = _dated_lines(self.times, self.max_age, self.is_cacheable, now.replace(microsecond=0))
        if status is NOT_MODIFIED:
            return b"HTTP/1.1 %b\r\n%betag: %b\r\n" % (status, dated, self.etag)
        tag = b"" if self.times is None else b"etag: %b\r\n" % self.etag
        return b"HTTP/1.1 %b\r\n%b%bcontent-length: %d\r\n" % (status, dated, tag, len(self.body))

    def is_what(self, if_none_match: bytes) -> bool:
        """Tell whether a client's If-None-Match names this answer (RFC 9110 section 13.1.2)."""
        if self.times is None:
            return False
        named = (tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b","))
        return any(tag in {self.etag, b"*"} for tag in named)


def _dated(times: Times | None, max_age: timedelta, kept: bool, now: datetime) -> Headers:
    """Return the headers that all answers of the same times have in common at this moment."""
    headers: Headers = [(b"content-type", CONTENT_TYPE), (b"date", http_date(now))]
    if times is None:
        return headers + _NEVER_STORE
    return [
        *headers,
        (b"last-modified", http_date(times.this_update)),
        (b"expires", http_date(times.next_update if kept else now)),
        (b"cache-control", _public(times, now=now, max_age=max_age) if kept else _DOUBT),
    ]


@lru_cache(maxsize=4096)
def _dated_lines(times: Times | None, max_age: timedelta, kept: bool, second: datetime) -> bytes:
    # Thousands of answers are signed, and sent, in the same second.
    return b"".join(b"%b: %b\r\n" % header for header in _dated(times, max_age, kept, second))


def _public(times: Times, *, now: datetime, max_age: timedelta) -> bytes:
    """Return Cache-Control for what anybody may keep.

    A cache that heeds RFC 5861 may use it for longer while we are out of reach; one that holds must-revalidate higher
    (RFC 9111 section 4.2.4) does not. Neither passes nextUpdate.
    """
    fresh = cache_seconds(times, now=now, max_age=max_age)
    stale = stale_seconds(times, now=now, max_age=fresh)
    return b"max-age=%d, public, no-transform, must-revalidate, stale-if-error=%d" % (fresh, stale)


def http_date(moment: datetime) -> bytes:
    """Return the moment as IMF-fixdate (RFC 9110 section 5.6.7): English, GMT, whole seconds."""
    return _imf_fixdate(moment.replace(microsecond=0))


@lru_cache(maxsize=1024)
def _imf_fixdate(moment: datetime) -> bytes:
    # Every answer of a second has the same date, and kept answers have the same two for hours.
    return format_datetime(moment.astimezone(UTC), usegmt=True).encode()
