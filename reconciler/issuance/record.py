# SPDX-License-Identifier: Apache-2.0
"""One line of JSON: is it about an issuance, and which certificate does it hold?

Pure: octets in, evidence out. Called by jsonl.py.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from reconciler.issuance.document import Contents, read_certificate, read_pem, unparsable
from reconciler.issuance.lines import Line
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace

Encoding = Literal["base64", "hex", "pem"]
Scalar = str | int | bool

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """How to find the certificate in a line.

    `certificate_field` is a key, or keys joined by dots. `encoding` is how the certificate is written there; it is
    never guessed. Lines are about an issuance where every field of `where` has exactly the value given; without
    `where`, all lines are.
    """

    certificate_field: str
    encoding: Encoding
    where: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError naming the setting."""
        if not self.certificate_field:
            raise ValueError("certificate_field: the name of the field that holds the certificate")
        if self.encoding not in {"base64", "hex", "pem"}:
            raise ValueError('encoding: "base64", "hex" or "pem"')


def read_line(line: Line, settings: RecordSettings, *, file: str, issuers: IssuerSet) -> Contents | None:
    """Return what a line holds, or None where it is about something else. What cannot be read is quarantined."""
    place = FilePlace(file=file, offset=line.offset)
    if not line.is_whole:
        return _unreadable(line, place, f"a line of {line.octets} octets, kept by its first {len(line.data)}")
    try:
        # A byte order mark is no JSON, but some writers begin their files with one.
        record: object = json.loads(line.data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        return _unreadable(line, place, f"not UTF-8: {exc.reason} at octet {exc.start}")
    except (ValueError, RecursionError) as exc:
        return _unreadable(line, place, f"not JSON: {exc}")
    if not isinstance(record, dict):
        return _unreadable(line, place, "JSON, but not an object")
    if not _matches(record, settings.where):
        return None
    value = look_up(record, settings.certificate_field)
    if not isinstance(value, str):
        what = "is not there" if value is _ABSENT else "is not a string"
        return _unreadable(line, place, f"the field {settings.certificate_field} {what}")
    return _read_value(value, line, settings=settings, place=place, issuers=issuers)


def look_up(record: object, path: str) -> object:
    """Follow a dotted path. A key that has the dots in it, as flattened logs have them, comes first."""
    while isinstance(record, dict):
        if path in record:
            return record[path]
        key, dot, path = path.partition(".")
        if not dot or key not in record:
            return _ABSENT
        record = record[key]
    return _ABSENT


def _matches(record: dict[str, object], where: Mapping[str, Scalar]) -> bool:
    for path, wanted in where.items():
        found = look_up(record, path)
        # JSON tells true from 1; Python's equality does not.
        if type(found) is not type(wanted) or found != wanted:
            return False
    return True


def _read_value(value: str, line: Line, *, settings: RecordSettings, place: FilePlace, issuers: IssuerSet) -> Contents:
    try:
        octets = value.encode("ascii")
        if settings.encoding == "pem":
            return read_pem(octets, file=place.file, issuers=issuers, offset=place.offset)
        if settings.encoding == "hex":
            document = bytes.fromhex(value)
        else:
            document = base64.b64decode(b"".join(octets.split()), validate=True)
    except ValueError as exc:
        return _unreadable(line, place, f"the field {settings.certificate_field} is not {settings.encoding}: {exc}")
    return Contents((read_certificate(document, place=place, issuers=issuers),))


def _unreadable(line: Line, place: FilePlace, detail: str) -> Contents:
    return Contents((unparsable(line.data, place=place, detail=detail),))
