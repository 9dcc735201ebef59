# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an answer from outside, by itself and beside the others. Pure.

Knows what RFC 6960, RFC 9919 and RFC 9111 ask of answers and their headers; not how they came. Called by check_url.py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Final

from cryptography import x509

from reconciler.watch.questions import Question
from reconciler.watch.reading import Read, Signed, UnreadableAnswer, read, signer_faults

CONTENT_TYPE: Final = "application/ocsp-response"
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)
# How far the clocks here and there may be apart before an answer from the future is one.
_CLOCKS: Final = timedelta(minutes=1)
# BR 4.9.9: an answer about a certificate of a public issuer holds ten days at most.
MOST_PUBLIC_VALIDITY: Final = timedelta(days=10)
# RFC 6960 section 2.2: how "not issued" is said with the word "revoked".
_NEVER_ISSUED: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came: HTTP status, headers (one line for each name), body, and when it was there."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: datetime

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case; None without it."""
        return self.headers.get(name)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the status table says of a serial: the word that the answer has to be, and what belongs to `revoked`."""

    word: str
    revoked_at: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One question, what came of it, and every fault found in that. `received` is None where nothing came."""

    question: Question
    received: Received | None
    read: Read | None
    faults: tuple[str, ...]

    @property
    def digest(self) -> str | None:
        """Which answer it is: the SHA-256 of its octets."""
        return None if self.received is None else sha256(self.received.body).hexdigest()


def judge(question: Question, received: Received, *, issuers: Sequence[x509.Certificate], public: bool) -> Judged:
    """Judge one answer by itself. `issuers` are the CA certificates of the issuer asked about."""
    faults = list(_http_faults(received))
    found = None
    if received.status == _OK:
        try:
            found, response = read(received.body)
        except UnreadableAnswer as exc:
            faults.append(str(exc))
        else:
            if found.signed is not None:
                faults += _said_faults(question, found.signed, now=received.at, public=public)
                faults += signer_faults(response, issuers, now=received.at)
            faults += _cache_faults(found, received)
    return Judged(question, received, found, tuple(faults))


def _http_faults(received: Received) -> Iterator[str]:
    if received.status in _REDIRECTS:
        yield f"redirected to {received.header('location')}: clients do not follow"
    elif received.status != _OK:
        yield f"HTTP status {received.status}"
    elif received.header("content-type") != CONTENT_TYPE:
        yield f"Content-Type is {received.header('content-type')}, not {CONTENT_TYPE}"
    for name in ("set-cookie", "content-encoding"):
        if received.header(name) is not None:
            yield f"there is a header {name}"


def _said_faults(question: Question, signed: Signed, *, now: datetime, public: bool) -> Iterator[str]:
    if signed.serial != question.serial:
        yield f"the answer is about serial {signed.serial:x}"
    elif signed.cert_id != question.cert_id:
        yield "the answer's CertID is not the one that was asked about, octet by octet"
    if signed.this_update > now + _CLOCKS or signed.produced_at > now + _CLOCKS:
        yield f"it was signed in the future, at {_written(max(signed.this_update, signed.produced_at))}"
    if signed.next_update is None:
        yield "nextUpdate is missing"
        return
    if signed.next_update <= now:
        yield f"it ended at {_written(signed.next_update)}"
    if signed.next_update <= signed.this_update:
        yield "nextUpdate is not after thisUpdate"
    if public and signed.next_update - signed.this_update >= MOST_PUBLIC_VALIDITY:
        yield f"it holds {signed.next_update - signed.this_update}, more than ten days (BR 4.9.9)"


# -------------------------------------------------------------------------------------------------------- caching


def is_doubt(found: Read) -> bool:
    """Tell whether an answer is one that nobody may keep: an error, an unknown, or what stands for it."""
    return found.signed is None or found.word == "unknown" or found.signed.revoked_at == _NEVER_ISSUED


def directives(received: Received) -> dict[str, str]:
    """Return Cache-Control's directives, in lower case, with their values (RFC 9111 section 5.2)."""
    parts = (each.strip().partition("=") for each in (received.header("cache-control") or "").split(","))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in parts if name.strip()}


def _cache_faults(found: Read, received: Received) -> Iterator[str]:
    control = directives(received)
    if is_doubt(found):
        if not _keeps_caches_away(control):
            yield f"caches may keep it: Cache-Control is {received.header('cache-control')}"
        if (age := _seconds(received.header("age"))) is not None and age > 0:
            yield f"somebody kept it for {age} seconds, and nobody may"
    elif found.signed is not None:
        yield from _keeping_faults(found.signed, control, received)
        yield from _validator_faults(found.signed, received)


def _keeps_caches_away(control: Mapping[str, str]) -> bool:
    if "no-store" in control or "private" in control:
        return True
    return _seconds(control.get("s-maxage", control.get("max-age"))) == 0


def _keeping_faults(signed: Signed, control: Mapping[str, str], received: Received) -> Iterator[str]:
    """RFC 9919 section 7.2: max-age ends inside nextUpdate, whoever keeps it from now on."""
    if forbidden := {"no-store", "no-cache"} & set(control):
        yield f"Cache-Control says {', '.join(sorted(forbidden))} of a definite answer (RFC 9919 7.2)"
    fresh = _seconds(control.get("max-age"))
    if fresh is None:
        yield f"Cache-Control has no max-age: {received.header('cache-control')}"
        return
    age, problem = _age(received)
    if problem is not None:
        yield problem
    left = timedelta(seconds=fresh - age)
    if left < -_CLOCKS:
        yield f"it was kept for {age} seconds, and max-age is {fresh}"
    elif signed.next_update is not None and received.at + max(left, timedelta(0)) >= signed.next_update:
        yield "max-age lasts to nextUpdate or past it (RFC 9919 7.2)"
    expires = _date(received.header("expires"))
    if expires is not None and signed.next_update is not None and expires > signed.next_update:
        yield f"Expires is after nextUpdate: {received.header('expires')}"


def _validator_faults(signed: Signed, received: Received) -> Iterator[str]:
    etag = received.header("etag")
    if etag is None:
        yield "ETag is missing (RFC 9919 7.2)"
    elif not (etag.startswith('"') and etag.endswith('"') and len(etag) > 2):
        yield f"ETag is weak or no ETag: {etag}"
    modified = _date(received.header("last-modified"))
    if modified is not None and modified != signed.this_update:
        yield f"Last-Modified is not thisUpdate: {received.header('last-modified')}"


def _age(received: Received) -> tuple[int, str | None]:
    """Return how many seconds old an answer is (RFC 9111 section 4.2.3), and what is wrong with how it says so."""
    told = received.header("age")
    age = 0 if told is None else _seconds(told)
    if age is None:
        return 0, f"Age is {told}"
    date = _date(received.header("date"))
    if date is None:
        return age, f"Date is {received.header('date')}"
    if date > received.at + _CLOCKS:
        return age, f"Date is in the future: {received.header('date')}"
    return max(age, int((received.at - date).total_seconds())), None


def _seconds(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _date(text: str | None) -> datetime | None:
    try:
        found = None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else None


def _written(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


# ----------------------------------------------------------------------------------------------- beside each other


def compare(judged: Sequence[Judged], expected: Expected | None) -> Iterator[str]:
    """Yield what is wrong with the answers about one serial beside each other, and beside what the table says."""
    said = [(each, _statement(each.read)) for each in judged if each.read is not None]
    words = Counter(statement for _, statement in said)
    if len(words) > 1:
        usual, _ = words.most_common(1)[0]
        others = [f"{statement} to {_named(each)}" for each, statement in said if statement != usual]
        yield f"the answers differ: {usual} mostly, but {'; '.join(others)}"
    if expected is not None:
        wanted = _sentence(expected.word, expected.revoked_at, expected.reason)
        for statement in words:
            if statement != wanted:
                yield f"the table says {wanted}, and the answer is {statement} ({words[statement]} times)"
    yield from _tag_faults(judged)


def _tag_faults(judged: Sequence[Judged]) -> Iterator[str]:
    """An ETag stands for octets: the same for the same, another for others (RFC 9110 section 8.8.3)."""
    tags: dict[str, set[str]] = {}
    for each in judged:
        tag = None if each.received is None else each.received.header("etag")
        if tag is not None and each.digest is not None:
            tags.setdefault(tag, set()).add(each.digest)
    for tag, digests in tags.items():
        if len(digests) > 1:
            yield f"one ETag for {len(digests)} different answers: {tag}"
    if len(tags) > len(set().union(*tags.values())):
        yield "different ETags for the same answer"


def _statement(found: Read | None) -> str:
    if found is None:
        return "nothing"
    signed = found.signed
    return found.word if signed is None else _sentence(found.word, signed.revoked_at, signed.reason)


def _sentence(word: str, revoked_at: datetime | None, reason: str | None) -> str:
    if revoked_at is None:
        return word
    return f"{word} at {_written(revoked_at)} for {reason or 'no reason'}"


def _named(judged: Judged) -> str:
    return f"{judged.question.way} {judged.question.what}"


def kept_doubt(first: Judged, second: Judged) -> str | None:
    """Return what is wrong when a question asked twice, seconds apart, shows that doubt was kept; None otherwise.

    What is signed anew differs in its time, and what is sent anew in its Date.
    """
    if first.received is None or second.received is None or second.read is None or not is_doubt(second.read):
        return None
    same = first.received.body == second.received.body
    if second.read.signed is not None and same:
        return f"{_named(second)}: the same {second.read.word} twice: somebody keeps answers that nobody may keep"
    dates = first.received.header("date"), second.received.header("date")
    if second.read.signed is None and same and dates[0] == dates[1] and dates[0] is not None:
        return f"{_named(second)}: {second.read.word} twice with one Date: somebody keeps answers that nobody may keep"
    return None
