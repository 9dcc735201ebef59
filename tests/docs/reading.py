# SPDX-License-Identifier: Apache-2.0
"""Reads documents and the code they describe into the same shapes, so that a test can lay one on the other.

Knows how docs/*.md are laid out and where settings keep their comments; decides nothing.
"""

import argparse
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from responder.runtime.settings import Section

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"

_COMMENTED: Final = re.compile(r"((?:^ +#: .*\n)+) +(\w+): ", re.MULTILINE)
_CODE: Final = re.compile(r"`([^`]+)`")
_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a settings file: its default as the code has it, and the comment that explains it."""

    default: Any
    comment: str


REQUIRED: Final = "required"
NONE: Final = "none"


# ------------------------------------------------------------------------------------------------------- settings


def settings_tables(settings: type[Section]) -> dict[str, dict[str, Key]]:
    """Return the keys of each table that a settings file may have, under the heading the document gives the table."""
    tables: dict[str, dict[str, Key]] = {}
    for field in msgspec.structs.fields(settings):
        array = not (isinstance(field.type, type) and issubclass(field.type, Section))
        for section in _sections(field.type):
            tag = section.__struct_config__.tag
            heading = f"[[{field.encode_name}]]" if array else f"[{field.encode_name}]"
            keys = section_keys(section)
            if tag is not None:
                heading += f' kind = "{tag}"'
                keys["kind"] = Key(REQUIRED, "")
            tables[heading] = keys
    return tables


def section_keys(section: type[Section]) -> dict[str, Key]:
    comments = _comments(section)
    return {field.encode_name: Key(_default(field), comments[field.name]) for field in msgspec.structs.fields(section)}


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _comments(section: type[Section]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in reversed(section.__mro__):
        if issubclass(each, Section) and each is not Section:
            for comment, name in _COMMENTED.findall(inspect.getsource(each)):
                found[name] = " ".join(comment.replace("#:", " ").split())
    return found


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.required:
        return REQUIRED
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return NONE
    return list(value) if isinstance(value, tuple) else value


def as_setting(default: Any, text: str) -> Any:
    """Read a default as a document writes it, into what the code would have."""
    if text in {REQUIRED, NONE}:
        return text
    value = tomllib.loads(f"value = {text}")["value"]
    if isinstance(default, timedelta):
        return type(default).parse(value)  # type: ignore[attr-defined] # Duration, which every such default is
    return value


# ------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Command:
    """A command with everything that can be said to it: options by their longest name, and positional arguments."""

    options: dict[str, str]
    positionals: tuple[str, ...]
    parser: argparse.ArgumentParser


def commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Command]]:
    """Yield the parser and every command below it that can be run, under its whole name."""
    deeper = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    options = {
        max(action.option_strings, key=len): action.help or ""
        for action in parser._actions
        if action.option_strings and "--help" not in action.option_strings
    }
    positionals = tuple(
        str(action.metavar or action.dest)
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
    )
    if options or positionals or not deeper:
        yield parser.prog, Command(options, positionals, parser)
    for action in deeper:
        for below in dict.fromkeys(action.choices.values()):
            yield from commands(below)


# ------------------------------------------------------------------------------------------------------ documents


def sections(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the headings over each part of a document, outermost first and without backquotes, with the part."""
    path: list[str] = []
    fenced = False
    body: list[str] = []
    for line in [*text.splitlines(), "# "]:
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(r"(#+) (.*)", line)
        if heading is None:
            body.append(line)
            continue
        if path:
            yield tuple(path), "\n".join(body)
        path, body = [*path[: len(heading[1]) - 1], heading[2].replace("`", "")], []


def table(text: str) -> list[list[str]]:
    """Return the rows of the tables in a part of a document, without heads and rules."""
    rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [number for number, row in enumerate(rows) if all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    heads = {number - 1 for number in rules} | set(rules)
    return [row for number, row in enumerate(rows) if number not in heads]


def code(cell: str) -> str:
    """Return what a cell has in backquotes, or the cell where it has none."""
    found = _CODE.fullmatch(cell)
    return cell if found is None else found[1]


def codes(text: str) -> list[str]:
    """Return everything in single backquotes outside of blocks."""
    return _CODE.findall(_FENCE.sub("", text))


def blocks(text: str, *languages: str) -> list[str]:
    """Return the contents of the blocks in these languages."""
    return [body for language, body in _FENCE.findall(text) if language in languages]


def links(text: str) -> list[str]:
    """Return the targets of all links outside of blocks."""
    return _LINK.findall(_FENCE.sub("", text))


def documents() -> list[Path]:
    """Return every document of ours."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "systemd").glob("*.md")])
