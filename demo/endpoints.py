# SPDX-License-Identifier: Apache-2.0
"""The addresses of a log and what stands behind each: RFC 6962 §4 and static-ct-api, request in, answer out.

Knows paths, parameters and JSON; never sockets, and of faults only that they are due. Called by demo/log.py.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import serialization

from demo.faults import Answer, Stage
from demo.leaf import Entry, Head, b64, tile_number
from demo.logbook import TILE, ChainRefusedError, Log

JSON = "application/json"
IMMUTABLE = {"Cache-Control": "public, max-age=604800, immutable"}
NO_STORE = {"Cache-Control": "no-store"}


class RefusedError(Exception):
    """The log's answer is no, with an HTTP status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: the history it is answered from, what it asks, and the labels faults know it by."""

    log: Log
    labels: frozenset[str]
    query: Mapping[str, str]
    tail: str
    body: bytes

    def number(self, name: str, *, at_most: int) -> int:
        """Read a number between 0 and `at_most` from the query, or refuse."""
        text = self.query.get(name, "")
        if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > at_most:
            raise RefusedError(400, f"parameter {name} is missing, malformed or beyond the tree")
        return int(text)

    def head(self) -> Head:
        """Return the head to show, spoilt by whatever is due."""
        head = self.log.head()
        for act in self.log.faults.due(Stage.HEAD, self.labels):
            head = act(self.log, head)
        return head

    def entry(self, index: int) -> Entry:
        """Return the entry to show, spoilt by whatever is due."""
        entry = self.log.entries[index]
        for act in self.log.faults.due(Stage.ENTRY, self.labels, entry=index):
            entry = replace(entry, leaf_input=act(entry.leaf_input))
        return entry


def as_json(value: object, *, status: int = 200) -> Answer:
    """Answer with JSON that nobody may keep."""
    return Answer(json.dumps(value).encode(), JSON, status, NO_STORE)


# RFC 6962 §4.


def get_sth(visit: Visit) -> Answer:
    """RFC 6962 §4.3."""
    return as_json(visit.head().json())


def get_entries(visit: Visit) -> Answer:
    """RFC 6962 §4.6: from start to end inclusive, as many as we care to give, at least one."""
    log = visit.log
    start = visit.number("start", at_most=log.published - 1)
    end = min(visit.number("end", at_most=2**63), log.published - 1)
    if end < start:
        raise RefusedError(400, "end lies before start")
    room = log.max_batch - start % log.max_batch if log.align else log.max_batch
    count = min(end - start + 1, room)
    for act in log.faults.due(Stage.COUNT, visit.labels):
        count = act(count)
    shown = (visit.entry(index) for index in range(start, start + count))
    return as_json({"entries": [_entry_json(entry, log) for entry in shown]})


def _entry_json(entry: Entry, log: Log) -> dict[str, str]:
    return {"leaf_input": b64(entry.leaf_input), "extra_data": b64(entry.extra_data(log.issuers))}


def get_sth_consistency(visit: Visit) -> Answer:
    """RFC 6962 §4.4."""
    second = visit.number("second", at_most=visit.log.published)
    first = visit.number("first", at_most=second)
    return as_json({"consistency": [b64(node) for node in visit.log.tree.consistency(first, second=second)]})


def get_proof_by_hash(visit: Visit) -> Answer:
    """RFC 6962 §4.5."""
    size = visit.number("tree_size", at_most=visit.log.published)
    index = visit.log.index_of(_decode(visit.query.get("hash", "")))
    if index is None or index >= size:
        raise RefusedError(404, "no such leaf in a tree of that size")
    return as_json({"leaf_index": index, "audit_path": _path(visit.log, index, size)})


def get_entry_and_proof(visit: Visit) -> Answer:
    """RFC 6962 §4.8."""
    size = visit.number("tree_size", at_most=visit.log.published)
    index = visit.number("leaf_index", at_most=size - 1)
    entry = _entry_json(visit.entry(index), visit.log)
    return as_json({**entry, "audit_path": _path(visit.log, index, size)})


def _path(log: Log, index: int, size: int) -> list[str]:
    return [b64(node) for node in log.tree.inclusion(index, size=size)]


def get_roots(visit: Visit) -> Answer:
    """RFC 6962 §4.7."""
    form = serialization.Encoding.DER
    return as_json({"certificates": [b64(root.public_bytes(form)) for root in visit.log.roots]})


def add_chain(visit: Visit) -> Answer:
    """RFC 6962 §4.1."""
    return _submit(visit, precert=False)


def add_pre_chain(visit: Visit) -> Answer:
    """RFC 6962 §4.2."""
    return _submit(visit, precert=True)


def _submit(visit: Visit, *, precert: bool) -> Answer:
    try:
        chain = json.loads(visit.body)["chain"]
        decoded = [_decode(each) for each in chain]
    except (ValueError, KeyError, TypeError) as exc:
        raise RefusedError(400, "not a JSON object with a chain") from exc
    try:
        return as_json(visit.log.submit(decoded, precert=precert).json())
    except ChainRefusedError as exc:
        raise RefusedError(400, str(exc)) from exc


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise RefusedError(400, "not base64") from exc


# static-ct-api.


def checkpoint(visit: Visit) -> Answer:
    """Show the head as a signed note."""
    note = visit.head().checkpoint(origin=visit.log.origin or "", log_id=visit.log.log_id)
    return Answer(note.encode(), "text/plain; charset=utf-8", 200, NO_STORE)


def hash_tile(visit: Visit) -> Answer:
    """/tile/<L>/<N>[.p/<W>]: the hashes of W neighbouring subtrees of 256**L entries."""
    level, _, rest = visit.tail.partition("/")
    if not (len(level) == 1 and level.isdecimal()):
        raise RefusedError(400, "not a tile")
    number, width = _existing(visit.log, int(level), rest)
    return Answer(visit.log.tree.hashes(8 * int(level), start=number * TILE, count=width), headers=IMMUTABLE)


def data_tile(visit: Visit) -> Answer:
    """/tile/data/<N>[.p/<W>]: W entries end to end."""
    log = visit.log
    number, width = _existing(log, 0, visit.tail)
    true = log.entries[number * TILE : number * TILE + width]
    shown = [visit.entry(number * TILE + at) for at in range(width)]
    if not log.gzip:
        return Answer(b"".join(entry.tile_leaf() for entry in shown), headers=IMMUTABLE)
    packed = log.tile_cache.get(visit.tail) if shown == true else None
    if packed is None:
        packed = gzip.compress(b"".join(entry.tile_leaf() for entry in shown), 6)
        if shown == true and width == TILE:
            log.tile_cache[visit.tail] = packed
    # Compressed whether asked for or not: clients must support it.
    return Answer(packed, headers={**IMMUTABLE, "Content-Encoding": "gzip"})


def _existing(log: Log, level: int, rest: str) -> tuple[int, int]:
    """Read <N>[.p/<W>] and make sure the tile is there. Returns its number and width."""
    name, partial, width = rest.partition(".p/")
    try:
        number = tile_number(name.split("/"))
        wide = int(width) if partial else TILE
    except ValueError as exc:
        raise RefusedError(400, "not a tile") from exc
    if (partial and (wide == TILE or str(wide) != width)) or not log.has_tile(level, number=number, width=wide):
        raise RefusedError(404, "no such tile")
    return number, wide


def issuer(visit: Visit) -> Answer:
    """/issuer/<hex SHA-256>: a certificate of some chain, in DER."""
    try:
        found = visit.log.issuers.get(bytes.fromhex(visit.tail))
    except ValueError as exc:
        raise RefusedError(400, "not a fingerprint") from exc
    if found is None:
        raise RefusedError(404, "no such issuer")
    return Answer(found, "application/pkix-cert", headers=IMMUTABLE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the table of endpoints: where it is, the labels faults know it by, and who answers."""

    method: str
    path: str
    labels: tuple[str, ...]
    answer: Callable[[Visit], Answer]


ENDPOINTS = (
    Endpoint("GET", "/ct/v1/get-sth", ("get-sth", "head"), get_sth),
    Endpoint("GET", "/ct/v1/get-entries", ("get-entries", "entries"), get_entries),
    Endpoint("GET", "/ct/v1/get-sth-consistency", ("get-sth-consistency",), get_sth_consistency),
    Endpoint("GET", "/ct/v1/get-proof-by-hash", ("get-proof-by-hash",), get_proof_by_hash),
    Endpoint("GET", "/ct/v1/get-entry-and-proof", ("get-entry-and-proof",), get_entry_and_proof),
    Endpoint("GET", "/ct/v1/get-roots", ("get-roots",), get_roots),
    Endpoint("POST", "/ct/v1/add-chain", ("add-chain", "submit"), add_chain),
    Endpoint("POST", "/ct/v1/add-pre-chain", ("add-pre-chain", "submit"), add_pre_chain),
    Endpoint("GET", "/checkpoint", ("checkpoint", "head"), checkpoint),
    Endpoint("GET", "/tile/data/{tail:.+}", ("data", "entries"), data_tile),
    Endpoint("GET", "/tile/{tail:.+}", ("tile",), hash_tile),
    Endpoint("GET", "/issuer/{tail:.+}", ("issuer",), issuer),
)
