# SPDX-License-Identifier: Apache-2.0
"""The log lists of Chrome and Apple (schema version 3): which logs exist, where, under which key, in which state.

Knows the format only; never fetches a list, nor decides which logs to follow. Called when a list was fetched.
"""

import base64
import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from reconciler.ct.merkle import HASH_SIZE
from reconciler.errors import UnreadableAnswer


class LogKind(enum.StrEnum):
    """How a log is read. The values are those of the configuration."""

    STATIC = "static"  # C2SP static-ct-api, listed under tiled_logs
    RFC6962 = "rfc6962"  # RFC 6962 section 4, listed under logs


class LogState(enum.StrEnum):
    """What the list's owner thinks of the log. The values are the keys of the list."""

    PENDING = "pending"  # asked for inclusion
    QUALIFIED = "qualified"  # included, not yet in every client
    USABLE = "usable"  # SCTs from it count
    READONLY = "readonly"  # takes nothing more; it ends at its final tree head
    RETIRED = "retired"  # older SCTs still count; it may vanish at any time
    REJECTED = "rejected"  # was never included, or no longer is


@dataclass(frozen=True, slots=True)
class FinalTreeHead:
    """Where a read-only log ends, as the list says; nothing of it is signed by the log."""

    size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True)
class TemporalInterval:
    """The log takes certificates whose notAfter is at or after `start` and before `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Log:
    """One log of a list. `key` is a SubjectPublicKeyInfo in DER; LogKey.from_spki judges it once the log is followed.

    An RFC 6962 log has one URL, given here as both. `mmd` is the maximum merge delay. `state` is None, as is its
    time, when the list gives none that we know; `temporal_interval` is None for a log that takes every notAfter.
    """

    description: str
    operator: str
    log_id: bytes
    key: bytes
    kind: LogKind
    monitoring_url: str
    submission_url: str
    mmd: timedelta
    state: LogState | None
    state_timestamp: datetime | None
    final_tree_head: FinalTreeHead | None
    temporal_interval: TemporalInterval | None


@dataclass(frozen=True, slots=True)
class LogList:
    """A whole list. `version` is the owner's own; `published` is None where the list does not say (Apple's)."""

    version: str | None
    published: datetime | None
    logs: tuple[Log, ...]


# The lists as JSON. Keys we do not name are ignored, so that a list may grow.

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _FinalTreeHead(msgspec.Struct):
    sha256_root_hash: bytes
    tree_size: _Count


class _State(msgspec.Struct):
    timestamp: _Moment
    final_tree_head: _FinalTreeHead | None = None


class _Interval(msgspec.Struct):
    start_inclusive: _Moment
    end_exclusive: _Moment


class _Log(msgspec.Struct):
    log_id: bytes
    key: bytes
    mmd: _Count
    description: str = ""
    state: dict[str, msgspec.Raw] = {}
    temporal_interval: _Interval | None = None


class _Rfc6962Log(_Log, kw_only=True):
    url: str


class _TiledLog(_Log, kw_only=True):
    monitoring_url: str
    submission_url: str


class _Operator(msgspec.Struct):
    name: str
    logs: list[_Rfc6962Log] = []
    tiled_logs: list[_TiledLog] = []


class _LogList(msgspec.Struct):
    operators: list[_Operator]
    version: str | None = None
    log_list_timestamp: _Moment | None = None


_LIST: Final = msgspec.json.Decoder(_LogList)
_STATE: Final = msgspec.json.Decoder(_State)


def parse_log_list(raw: bytes) -> LogList:
    """Read a version 3 log list. Raises UnreadableAnswer, naming the log, when it is none or contradicts itself.

    A list damaged anywhere is refused whole: whoever holds an older one keeps it.
    """
    try:
        parsed = _LIST.decode(raw)
        logs = tuple(
            log
            for operator in parsed.operators
            for log in (
                *(_log(each, operator.name, LogKind.RFC6962, urls=(each.url, each.url)) for each in operator.logs),
                *(
                    _log(each, operator.name, LogKind.STATIC, urls=(each.monitoring_url, each.submission_url))
                    for each in operator.tiled_logs
                ),
            )
        )
    except (ValueError, OverflowError, RecursionError) as exc:
        raise UnreadableAnswer(f"this is no log list: {exc}") from exc
    return LogList(parsed.version, parsed.log_list_timestamp, logs)


def _log(log: _Log, operator: str, kind: LogKind, *, urls: tuple[str, str]) -> Log:
    if sha256(log.key).digest() != log.log_id:
        raise UnreadableAnswer(
            f"the log list gives {log.description!r} the log_id {base64.b64encode(log.log_id).decode()}, "
            f"but its key hashes to {base64.b64encode(sha256(log.key).digest()).decode()}"
        )
    state, details = _state(log)
    return Log(
        description=log.description,
        operator=operator,
        log_id=log.log_id,
        key=log.key,
        kind=kind,
        monitoring_url=urls[0],
        submission_url=urls[1],
        mmd=timedelta(seconds=log.mmd),
        state=state,
        state_timestamp=None if details is None else details.timestamp,
        final_tree_head=None if details is None else _final_tree_head(details, log.description),
        temporal_interval=_temporal_interval(log.temporal_interval),
    )


def _final_tree_head(state: _State, description: str) -> FinalTreeHead | None:
    if state.final_tree_head is None:
        return None
    root_hash = state.final_tree_head.sha256_root_hash
    if len(root_hash) != HASH_SIZE:
        raise UnreadableAnswer(f"the final root of {description!r} has {len(root_hash)} octets instead of 32")
    return FinalTreeHead(state.final_tree_head.tree_size, root_hash)


def _temporal_interval(interval: _Interval | None) -> TemporalInterval | None:
    return None if interval is None else TemporalInterval(interval.start_inclusive, interval.end_exclusive)


def _state(log: _Log) -> tuple[LogState, _State] | tuple[None, None]:
    known = [state for state in LogState if state in log.state]
    if len(known) > 1:
        raise UnreadableAnswer(f"{log.description!r} is in {len(known)} states at once: {', '.join(known)}")
    for state in known:
        return state, _STATE.decode(log.state[state])
    return None, None
