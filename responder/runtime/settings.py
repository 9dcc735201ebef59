# SPDX-License-Identifier: Apache-2.0
"""Reads a process's one TOML file into frozen structs, strictly: unknown keys, wrong types and bad units are refused.

Knows no particular setting but those that every service has: the database and the log. Every complaint names the file,
the key, what is wrong and what is allowed. Constructing settings does nothing else.
"""

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args, get_origin

import msgspec

from responder.runtime.logs import Level

DSN_VARIABLE: Final = "OCSP_DATABASE_DSN"

# What nobody means, and what calendars and intervals cannot hold.
_LONGEST: Final = timedelta(days=36525)
_DURATION: Final = re.compile(r"([0-9]{1,15})\s*(ms|s|m|h|d)")
_UNITS: Final = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PLACE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_TAG: Final = re.compile(r"Invalid value ")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")


class SettingsError(Exception):
    """A settings file that cannot be used, in one line: which file, which key, what is wrong, what is allowed."""


class Duration(timedelta):
    """A length of time with its unit, as settings write it: "10s", "15m", "60h", "4d"."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a duration. Raises ValueError saying how durations are written."""
        matched = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if matched is None:
            raise ValueError(
                f'a duration is a number and a unit (ms, s, m, h, d) in quotes, such as "15m", not {text!r}'
            )
        unit = _UNITS[matched[2]]
        if int(matched[1]) > _LONGEST / timedelta(**{unit: 1}):
            raise ValueError(f"a duration is at most {_LONGEST.days} days long, not {text!r}")
        return cls(**{unit: int(matched[1])})


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a settings file. Subclasses list its keys, each with its default, unit and consequence."""


class DatabaseSettings(Section, frozen=True, kw_only=True):
    """[database]"""

    #: How to reach PostgreSQL, as libpq understands it. OCSP_DATABASE_DSN in the environment wins over it. Passwords
    #: belong into a libpq password file or service file, not here.
    dsn: str = ""


class LogSettings(Section, frozen=True, kw_only=True):
    """[log]"""

    #: The least that is logged: "debug", "info", "warning" or "error".
    level: Level = "info"


_Settings = TypeVar("_Settings", bound=Section)


def load(path: Path, kind: type[_Settings]) -> _Settings:
    """Read the file at `path` as `kind`. Raises SettingsError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not TOML: {exc}") from exc
    return convert(found, kind, path=path)


def convert(found: dict[str, Any], kind: type[_Settings], *, path: Path) -> _Settings:
    """Check what a TOML file held against `kind`. Raises SettingsError naming `path`."""
    try:
        return msgspec.convert(found, kind, strict=True, dec_hook=_custom)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{path}: {_in_words(str(exc), kind)}") from exc


def database_dsn(settings: DatabaseSettings, *, path: Path) -> str:
    """Return the DSN to use: the environment's, else the file's. Raises SettingsError where neither has one."""
    dsn = os.environ.get(DSN_VARIABLE) or settings.dsn
    if not dsn:
        raise SettingsError(f"{path}: [database] dsn is not set, and neither is {DSN_VARIABLE} in the environment")
    return dsn


def _custom(kind: type, value: object) -> object:
    if kind is Duration:
        return Duration.parse(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}, got {value!r}")


def _in_words(complaint: str, kind: type[Section]) -> str:
    """Turn msgspec's complaint into one that speaks TOML: `[http] workers: …`."""
    matched = _PLACE.match(complaint)
    what, path = (matched["what"], matched["path"] or "") if matched else (complaint, "")
    keys = [key for key in path.split(".") if key]
    if what.startswith("Invalid enum value") and keys:
        choices = ", ".join(_choices_at(kind, keys))
        return f"{_place(keys)}: {what[:1].lower()}{what[1:]}; allowed: {choices}"
    if _TAG.match(what) and keys:
        kinds = ", ".join(sorted(_tags_at(kind, keys[:-1])))
        return f"{_place(keys)}: {what[:1].lower()}{what[1:]}; allowed: {kinds}"
    unknown = _UNKNOWN.match(what)
    if unknown is not None:
        allowed = ", ".join(_fields_at(kind, keys))
        return f"{_place([*keys, unknown['name']])}: no such key; allowed here: {allowed}"
    return f"{_place(keys)}: {what[:1].lower()}{what[1:]}"


def _place(keys: list[str]) -> str:
    *tables, key = keys or ["the file"]
    return f"[{'.'.join(tables)}] {key}" if tables else key


def _sections_at(kind: type[Section], keys: list[str]) -> list[type[Section]]:
    """Return the sections that may stand where `keys` lead to; an array's index says nothing about its type."""
    found = [kind]
    for key in keys:
        name = key.partition("[")[0]
        inner = [field.type for each in found for field in msgspec.structs.fields(each) if field.encode_name == name]
        found = [struct for annotation in inner for struct in _structs(annotation)]
    return found


def _fields_at(kind: type[Section], keys: list[str]) -> list[str]:
    names: set[str] = set()
    for section in _sections_at(kind, keys):
        names.update(field.encode_name for field in msgspec.structs.fields(section))
        names.update(filter(None, [section.__struct_config__.tag_field]))
    return sorted(names)


def _tags_at(kind: type[Section], keys: list[str]) -> set[str]:
    tags = (section.__struct_config__.tag for section in _sections_at(kind, keys))
    return {str(tag) for tag in tags if tag is not None}


def _choices_at(kind: type[Section], keys: list[str]) -> list[str]:
    """Return the values that the key at the end of `keys` may have, where its type lists them."""
    name = keys[-1].partition("[")[0]
    types = [
        field.type
        for section in _sections_at(kind, keys[:-1])
        for field in msgspec.structs.fields(section)
        if field.encode_name == name
    ]
    return [choice for annotation in types for choice in _choices(annotation)]


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [repr(choice) for choice in get_args(annotation)]
    if annotation is int or get_origin(annotation) is Annotated:
        return ["a number"]
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _structs(annotation: Any) -> list[type[Section]]:
    """Return the sections that an annotation is made of: itself, or those inside a tuple, list or union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [struct for argument in get_args(annotation) for struct in _structs(argument)]
