# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a log, as one table from a fault's name to its behaviour.

Knows how to spoil an answer, a head or an entry, and for how many requests; never why anybody would want it. Switched
by tests and by the demonstration through demo/logbook.py and demo/log.py, which ask at each stage of a request.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from demo.leaf import ENTRY_OFFSET, PRECERT_ENTRY, TIMESTAMP_OFFSET, TYPE_OFFSET, Head

if TYPE_CHECKING:
    from demo.logbook import Log

BOMB_LIMIT = 1 << 30  # the most a gzip bomb may unpack to, in octets


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before it goes out."""

    body: bytes
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        """Make the response aiohttp sends."""
        headers = {"Content-Type": self.content_type, **self.headers}
        return web.Response(body=self.body, status=self.status, headers=headers)


class Stage(enum.Enum):
    """Where in a request a fault acts."""

    INSTEAD = enum.auto()  # before anything else: may answer in the log's place
    WORLD = enum.auto()  # which history the request is answered from
    HEAD = enum.auto()  # the signed head about to be shown
    ENTRY = enum.auto()  # one leaf about to be shown; the tree keeps the true one
    COUNT = enum.auto()  # how many entries get-entries gives
    SENDING = enum.auto()  # the work is done and the answer is on its way


@dataclass(slots=True)
class Fault:
    """One fault that is switched on, and how far it reaches.

    `endpoint` is a label of requests: an endpoint's name, or a group of them (head, entries, partial, submit); None
    means all. `times` counts down with each request it spoils; None means until cleared. `skip` lets that many
    requests pass first. What the other numbers mean is in the table's rows.
    """

    name: str
    endpoint: str | None = None
    times: int | None = None
    skip: int = 0
    seconds: float = 1.0
    size: int = 0
    entry: int = 0
    byte: int = 0
    bit: int = 0
    location: str = "/elsewhere"
    heads: int = 0  # how many heads had been published when it was switched on


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A row of the table: when it acts, what it does, and the settings it has unless told otherwise."""

    stage: Stage
    act: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _status(status: int, retry: Callable[[Fault], dict[str, str]] | None = None) -> Callable[..., Any]:
    """Answer with a bare status, and with what `retry` adds to the header."""

    async def act(fault: Fault, _: web.Request) -> Answer:
        headers = {} if retry is None else retry(fault)
        return Answer(f"{status} on purpose\n".encode(), "text/plain", status, headers)

    return act


def _retry_seconds(fault: Fault) -> dict[str, str]:
    return {"Retry-After": str(int(fault.seconds))}


def _retry_date(fault: Fault) -> dict[str, str]:
    then = datetime.now(UTC) + timedelta(seconds=fault.seconds)
    return {"Retry-After": format_datetime(then, usegmt=True)}


async def _hang(fault: Fault, _: web.Request) -> None:
    await asyncio.sleep(fault.seconds)


async def _drop(_: Fault, request: web.Request) -> Answer:
    _hang_up(request)
    return Answer(b"")


async def _redirect(fault: Fault, _: web.Request) -> Answer:
    return Answer(b"", "text/plain", 302, {"Location": fault.location})


async def _html(_: Fault, __: web.Request) -> Answer:
    return Answer(b"<!DOCTYPE html><title>Maintenance</title><p>Back soon.\n", "text/html; charset=utf-8")


async def _gzip_bomb(fault: Fault, _: web.Request) -> Answer:
    return Answer(_bomb(min(fault.size, BOMB_LIMIT)), "application/json", 200, {"Content-Encoding": "gzip"})


@functools.lru_cache(maxsize=2)
def _bomb(size: int) -> bytes:
    """Pack `size` zero octets, about a thousandth of that in transit, without ever holding them all."""
    packer, piece = zlib.compressobj(6, zlib.DEFLATED, 31), bytes(1 << 20)
    packed = b"".join(packer.compress(piece) for _ in range(size >> 20))
    return packed + packer.compress(bytes(size & 0xFFFFF)) + packer.flush()


def _fork(fault: Fault, log: Log) -> Log:
    return log.fork_at(fault.entry)


def _wrong_root(_: Fault, log: Log, head: Head) -> Head:
    spoilt = bytes((head.root[0] ^ 1,)) + head.root[1:]
    return log.sign_head(size=head.size, timestamp=head.timestamp, root=spoilt)


def _bad_signature(_: Fault, log: Log, head: Head) -> Head:
    # Well-formed, over the right bytes, by somebody else: only a real verification notices.
    stranger = ec.generate_private_key(ec.SECP256R1())
    return log.sign_head(size=head.size, timestamp=head.timestamp, root=head.root, key=stranger)


def _rollback(fault: Fault, log: Log, _: Head) -> Head:
    size = min(fault.size, log.size)
    log.remember_size(size)
    return log.sign_head(size=size, timestamp=log.now(), root=log.tree.root(size))


def _replay(fault: Fault, log: Log, head: Head) -> Head:
    return next((old for old in reversed(log.heads) if old.size <= fault.size), head)


def _frozen(fault: Fault, log: Log, head: Head) -> Head:
    return log.heads[fault.heads - 1] if fault.heads > 0 else head


def _future(fault: Fault, log: Log, head: Head) -> Head:
    return log.sign_head(size=head.size, timestamp=log.now() + int(fault.seconds * 1000), root=head.root)


def _absurd_size(fault: Fault, log: Log, head: Head) -> Head:
    return log.sign_head(size=fault.size, timestamp=head.timestamp, root=head.root)


def _flip_bit(fault: Fault, leaf: bytes) -> bytes:
    """Flip one bit; `byte` counts from the timestamp's first octet, which both protocols serve."""
    at = TIMESTAMP_OFFSET + fault.byte
    return leaf[:at] + bytes((leaf[at] ^ 1 << fault.bit,)) + leaf[at + 1 :]


def _bad_length(_: Fault, leaf: bytes) -> bytes:
    """Make the u24 length of the certificate or TBSCertificate reach far past the end."""
    precert = leaf[TYPE_OFFSET:ENTRY_OFFSET] == PRECERT_ENTRY.to_bytes(2, "big")
    at = ENTRY_OFFSET + (32 if precert else 0)
    return leaf[:at] + b"\xff\xff\xff" + leaf[at + 3 :]


def _unknown_type(fault: Fault, leaf: bytes) -> bytes:
    return leaf[:TYPE_OFFSET] + fault.size.to_bytes(2, "big") + leaf[ENTRY_OFFSET:]


def _short_answer(fault: Fault, count: int) -> int:
    return min(count, fault.size)


async def _slow(fault: Fault, request: web.Request, answer: Answer) -> web.StreamResponse:
    """Drip the body, `size` octets every `seconds`."""
    response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type, **answer.headers})
    response.content_length = len(answer.body)
    await response.prepare(request)
    for at in range(0, len(answer.body), fault.size):
        await asyncio.sleep(fault.seconds)
        await response.write(answer.body[at : at + fault.size])
    return response


async def _truncated(_: Fault, request: web.Request, answer: Answer) -> web.StreamResponse:
    return _by_hand(request, answer, announced=len(answer.body), sent=len(answer.body) // 2)


async def _wrong_length(_: Fault, request: web.Request, answer: Answer) -> web.StreamResponse:
    return _by_hand(request, answer, announced=len(answer.body) // 2, sent=len(answer.body))


async def _lost_answer(fault: Fault, request: web.Request, _: Answer) -> web.StreamResponse:
    """Say nothing for `seconds`, then hang up: the entry is logged, and the submitter never learns of it."""
    await asyncio.sleep(fault.seconds)
    _hang_up(request)
    return web.Response()


def _by_hand(request: web.Request, answer: Answer, *, announced: int, sent: int) -> web.StreamResponse:
    """Write what aiohttp rightly refuses to write: a body and a Content-Length that disagree. Then hang up."""
    headers = {"Content-Type": answer.content_type, **answer.headers, "Content-Length": str(announced)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if request.transport is not None:
        request.transport.write(f"HTTP/1.1 {answer.status} Spoilt\r\n{lines}\r\n".encode() + answer.body[:sent])
    _hang_up(request)
    return web.Response()


def _hang_up(request: web.Request) -> None:
    """Close the connection once what was written is out; whatever aiohttp writes afterwards goes nowhere."""
    if request.transport is not None:
        request.transport.close()


_DAY = 86_400.0

TABLE: dict[str, Behaviour] = {
    # Too many requests; `seconds` is what Retry-After says, as a number, as a date, or not at all.
    "status_429": Behaviour(Stage.INSTEAD, _status(429, _retry_seconds)),
    "status_429_date": Behaviour(Stage.INSTEAD, _status(429, _retry_date)),
    "status_429_bare": Behaviour(Stage.INSTEAD, _status(429)),
    "status_500": Behaviour(Stage.INSTEAD, _status(500)),
    "status_503": Behaviour(Stage.INSTEAD, _status(503)),
    "no_partials": Behaviour(Stage.INSTEAD, _status(404), {"endpoint": "partial"}),
    "hang": Behaviour(Stage.INSTEAD, _hang, {"seconds": 3600.0}),  # then goes on as if nothing had been
    "drop": Behaviour(Stage.INSTEAD, _drop),  # hangs up before any work is done
    "redirect": Behaviour(Stage.INSTEAD, _redirect),  # to `location`
    "html": Behaviour(Stage.INSTEAD, _html),  # a maintenance page with status 200
    "gzip_bomb": Behaviour(Stage.INSTEAD, _gzip_bomb, {"size": 64 << 20}),  # `size` octets of zero
    # Another history of the same size, parted at `entry` (negative: counted from the end), wholly consistent in
    # itself. Limited to the endpoint "head", only the heads come from it.
    "fork": Behaviour(Stage.WORLD, _fork, {"entry": -1}),
    "wrong_root": Behaviour(Stage.HEAD, _wrong_root),  # properly signed
    "bad_signature": Behaviour(Stage.HEAD, _bad_signature),
    "rollback": Behaviour(Stage.HEAD, _rollback),  # to `size`, signed afresh, now
    "replay": Behaviour(Stage.HEAD, _replay),  # of the newest head not above `size`, as it was
    "frozen": Behaviour(Stage.HEAD, _frozen),  # the head that stood when the fault was switched on
    "future": Behaviour(Stage.HEAD, _future, {"seconds": _DAY}),  # stamped `seconds` from now
    "absurd_size": Behaviour(Stage.HEAD, _absurd_size, {"size": 1 << 60}),
    "flip_bit": Behaviour(Stage.ENTRY, _flip_bit, {"byte": 60}),  # `bit` of `byte` of `entry`
    "bad_length": Behaviour(Stage.ENTRY, _bad_length),
    "unknown_type": Behaviour(Stage.ENTRY, _unknown_type, {"size": 0x7F7F}),  # `size` is the type
    "short_answer": Behaviour(Stage.COUNT, _short_answer, {"size": 1}),  # at most `size` entries
    "slow": Behaviour(Stage.SENDING, _slow, {"seconds": 0.1, "size": 64}),  # `size` octets every `seconds`
    "truncated": Behaviour(Stage.SENDING, _truncated),  # half of what Content-Length announces
    "wrong_length": Behaviour(Stage.SENDING, _wrong_length),  # twice what Content-Length announces
    "lost_answer": Behaviour(Stage.SENDING, _lost_answer, {"endpoint": "submit", "seconds": 0.0}),
}


@dataclass(slots=True)
class Faults:
    """The faults that are switched on. Several may be; they act in the order they were set."""

    count_heads: Callable[[], int]
    active: list[Fault] = field(default_factory=list)

    def set(self, name: str, **settings: Any) -> Fault:
        """Switch a fault on; raises KeyError for a name and TypeError for a setting that do not exist."""
        fault = Fault(name=name, **{**TABLE[name].defaults, **settings})
        fault.heads = self.count_heads()
        self.active.append(fault)
        return fault

    def clear(self, name: str | None = None) -> None:
        """Switch off every fault, or those of one name."""
        self.active = [] if name is None else [fault for fault in self.active if fault.name != name]

    def due(self, stage: Stage, labels: frozenset[str], *, entry: int | None = None) -> list[Callable[..., Any]]:
        """Return what acts on this request at this stage, counted as used. Entry faults wait for their entry."""
        due: list[Callable[..., Any]] = []
        for fault in list(self.active):
            row = TABLE[fault.name]
            if row.stage is not stage or (fault.endpoint is not None and fault.endpoint not in labels):
                continue
            if (stage is Stage.ENTRY and fault.entry != entry) or not self._use(fault):
                continue
            due.append(functools.partial(row.act, replace(fault)))
        return due

    def _use(self, fault: Fault) -> bool:
        """Count a request against the fault; says whether it is spoilt."""
        if fault.skip > 0:
            fault.skip -= 1
            return False
        if fault.times is None:
            return True
        fault.times -= 1
        if fault.times <= 0:
            self.active = [other for other in self.active if other is not fault]
        return fault.times >= 0

    def json(self) -> list[dict[str, Any]]:
        """The active faults for /_demo/state."""
        return [asdict(fault) for fault in self.active]
