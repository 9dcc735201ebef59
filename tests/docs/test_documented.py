# SPDX-License-Identifier: Apache-2.0
"""Settings, commands, answers and metrics are documented as they are, and nothing is documented that is not there."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter, Gauge
from prometheus_client.metrics import MetricWrapperBase

import admin.cli
import admin.config
import reconciler.cli
import reconciler.config
import responder.cli
import responder.config
from reconciler import metrics
from responder.answer import Answer
from responder.errors import MalformedRequest, OcspError, Refusal, ResponseStatus, TryLater
from responder.metrics import CATALOGUE, Fold
from responder.ocsp.policy import Times
from responder.runtime.settings import Section
from tests.docs.reading import (
    DOCS,
    REQUIRED,
    ROOT,
    Command,
    Key,
    as_setting,
    blocks,
    code,
    codes,
    commands,
    documents,
    links,
    sections,
    settings_tables,
    table,
)

SETTINGS: dict[str, type[Section]] = {
    "responder": responder.config.Settings,
    "reconciler": reconciler.config.Settings,
    "admin": admin.config.Settings,
}
LOADERS: dict[str, Callable[[Path], Section]] = {
    "responder": responder.config.load_settings,
    "reconciler": reconciler.config.load_settings,
    "admin": admin.config.load_settings,
}
PARSERS = {
    "ocsp-responder": responder.cli._parser(),
    "ocsp-reconciler": reconciler.cli._parser(),
    "ocsp-admin": admin.cli._parser(),
}
COMMANDS = {name: command for parser in PARSERS.values() for name, command in commands(parser)}


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- settings


def documented_settings(process: str) -> dict[str, dict[str, list[str]]]:
    """Return what docs/settings.md says: for each table of the file, for each key, default, unit and meaning."""
    return {
        path[2]: {code(row[0]): row[1:] for row in table(body)}
        for path, body in sections(read("settings.md"))
        if len(path) == 3 and path[1].startswith(f"ocsp-{process}:")
    }


@pytest.mark.parametrize("process", SETTINGS)
def test_every_setting_is_documented_and_no_other(process: str) -> None:
    wanted = {heading: sorted(keys) for heading, keys in settings_tables(SETTINGS[process]).items()}
    assert {heading: sorted(keys) for heading, keys in documented_settings(process).items()} == wanted


@pytest.mark.parametrize("process", SETTINGS)
def test_every_setting_is_documented_with_its_default_its_unit_and_the_comment_in_the_code(process: str) -> None:
    documented = documented_settings(process)
    wrong = []
    for heading, keys in settings_tables(SETTINGS[process]).items():
        for name, key in keys.items():
            default, unit, meaning = documented[heading][name]
            if as_setting(key.default, code(default)) != key.default:
                wrong.append(f"{heading} {name}: default {default}, really {key.default!r}")
            if key.comment not in meaning or not unit or not meaning:
                wrong.append(f"{heading} {name}: wants the words: {key.comment}")
    assert wrong == []


def uncommented(text: str) -> str:
    """Return a sample with the keys that stand there at their default taken out of the comments."""
    return re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("process", SETTINGS)
def test_the_sample_loads_as_it_stands_and_with_every_default_written_out(process: str, tmp_path: Path) -> None:
    sample = DOCS / "examples" / f"{process}.toml"
    full = tmp_path / "full.toml"
    full.write_text(uncommented(sample.read_text(encoding="utf-8")), encoding="utf-8")
    assert full.read_text(encoding="utf-8") != sample.read_text(encoding="utf-8")
    # Equal, because what is commented out is the default: a sample that told another would differ here.
    assert LOADERS[process](sample) == LOADERS[process](full)


@pytest.mark.parametrize("process", SETTINGS)
def test_the_sample_holds_every_key(process: str) -> None:
    full = tomllib.loads(uncommented((DOCS / "examples" / f"{process}.toml").read_text(encoding="utf-8")))
    assert _keys_in(full) == {
        heading: set(keys) for heading, keys in settings_tables(SETTINGS[process]).items()
    }  # fmt: skip


def _keys_in(sample: dict[str, Any]) -> dict[str, set[str]]:
    """Return the keys of a sample under the headings of the document; tables of one kind count together."""
    found: dict[str, set[str]] = {}
    for name, value in sample.items():
        for each in value if isinstance(value, list) else [value]:
            heading = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            if name == "issuance":
                heading += f' kind = "{each["kind"]}"'
            found.setdefault(heading, set()).update(each)
    return found


def test_a_required_key_says_so() -> None:
    key = settings_tables(reconciler.config.Settings)["[[ct_log]]"]["name"]
    assert key == Key(REQUIRED, "Your name for the log, unique among all sources. Its position is kept under it.")


# ------------------------------------------------------------------------------------------------------- commands


def documented_commands() -> dict[str, str]:
    return {path[-1]: body for path, body in sections(read("commands.md")) if path[-1].startswith("ocsp-")}


def test_every_command_is_documented_and_no_other() -> None:
    assert sorted(documented_commands()) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_a_command_is_documented_and_no_other(name: str) -> None:
    command = COMMANDS[name]
    rows = {code(row[0]): row[1] for row in table(documented_commands()[name])}
    assert sorted(rows) == sorted([*command.options, *command.positionals])
    assert [argument for argument, meaning in rows.items() if not meaning] == []
    for action in command.parser._actions:
        named = rows.get(max(action.option_strings, key=len, default=""))
        if named is None:
            continue
        assert named.startswith("*required.*") == action.required, action.option_strings
        assert all(f"`{choice}`" in named for choice in action.choices or ()), action.option_strings
        if isinstance(action.default, Path):
            assert f"`{action.default}`" in named


_INVOKED = re.compile(
    r"^\s*(?:[$#] )?(?:sudo (?:-u \S+ )?)?(?:\w+=(?:\"[^\"]*\"|\S+) )*(?:\S*/)?"
    r"(ocsp-(?:admin|responder|reconciler))((?: .*)?)$"
)


def invocations() -> list[tuple[str, str, str]]:
    """Return every line in a block of a document that runs one of our commands: where, which, with what."""
    found = []
    for document in documents():
        for block in blocks(document.read_text(encoding="utf-8"), "console", "sh", "bash", "shell", ""):
            for line in block.replace("\\\n", " ").splitlines():
                invoked = _INVOKED.match(line)
                if invoked is not None and "─" not in invoked[2]:  # which is a picture
                    arguments = re.split(r"\s(?:#|\||>|&&)\s", invoked[2])[0]
                    found.append((document.name, invoked[1], arguments.strip()))
    return found


def test_every_command_line_in_a_document_is_one_that_the_program_takes() -> None:
    lines = invocations()
    assert len(lines) >= len(COMMANDS) - len(PARSERS)
    wrong = []
    for document, program, arguments in lines:
        try:
            PARSERS[program].parse_args(shlex.split(arguments))
        except SystemExit:
            wrong.append(f"{document}: {program} {arguments}")
    assert wrong == []


def test_no_document_names_a_command_that_does_not_exist() -> None:
    wrong = []
    for document in documents():
        for text in codes(document.read_text(encoding="utf-8")):
            named = re.match(r"(ocsp-(?:admin|responder|reconciler)) (.*)", text)
            if named is None:
                continue
            words = [word for word in named[2].split() if re.fullmatch(r"[a-z-]+", word)]
            if not _leads_somewhere(PARSERS[named[1]], words):
                wrong.append(f"{document.name}: {text}")
    assert wrong == []


def _leads_somewhere(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    """Tell whether the first words choose a command, and the options among the rest are its own."""
    while words and not words[0].startswith("-"):
        deeper = next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
        if deeper is None:
            break
        if words[0] not in deeper.choices:
            return False
        parser, words = deeper.choices[words[0]], words[1:]
    known = {option for action in parser._actions for option in action.option_strings}
    return all(word in known for word in words if word.startswith("--"))


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    assert not _leads_somewhere(PARSERS["ocsp-admin"], ["issuer", "remove"])
    assert not _leads_somewhere(PARSERS["ocsp-admin"], ["issuer", "list", "--xml"])
    assert _leads_somewhere(PARSERS["ocsp-admin"], ["issuer", "list", "--json"])
    assert isinstance(COMMANDS["ocsp-admin issuer list"], Command)


# -------------------------------------------------------------------------------------------------------- answers

_RAISED = re.compile(r"(MalformedRequest|InternalError|TryLater|SigRequired|Unauthorized)\(\s*Refusal\.(\w+)")
_WORDS = {
    ResponseStatus.MALFORMED_REQUEST: "malformedRequest",
    ResponseStatus.INTERNAL_ERROR: "internalError",
    ResponseStatus.TRY_LATER: "tryLater",
    ResponseStatus.SIG_REQUIRED: "sigRequired",
    ResponseStatus.UNAUTHORIZED: "unauthorized",
}


def part(document: str, heading: str) -> str:
    return next(body for path, body in sections(read(document)) if path[-1] == heading)


def refusals() -> dict[str, list[str]]:
    rows = table(part("answers.md", "Errors"))
    return {code(row[0]): row[1:] for row in rows if len(row) == 4}


def test_every_refusal_is_documented_and_no_other() -> None:
    assert sorted(refusals()) == sorted(refusal.value for refusal in Refusal)


def test_every_refusal_is_documented_under_the_error_that_it_becomes() -> None:
    statuses = {kind.__name__: _WORDS[kind.status] for kind in OcspError.__subclasses__()}
    documented, wrong = refusals(), []
    raised = {"lint"}  # which LintError raises by itself
    for path in (ROOT / "responder").rglob("*.py"):
        for kind, name in _RAISED.findall(path.read_text(encoding="utf-8")):
            row = documented[Refusal[name].value]
            raised.add(Refusal[name].value)
            if statuses[kind] not in " ".join(row):
                wrong.append(f"{path.name}: {name} becomes {statuses[kind]}, and the document says {row[0]}")
    assert wrong == []
    unused = {name for name, row in documented.items() if "not sent today" in " ".join(row)}
    assert unused == {refusal.value for refusal in Refusal} - raised


def test_the_headers_are_documented_as_they_are_sent() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    times = Times(now, now + timedelta(hours=96), now + timedelta(hours=36))
    body = part("answers.md", "HTTP headers")
    signed, doubt, error = (row[1] for row in table(body))
    sent = {
        signed: Answer(b"", "good", times=times, max_age=timedelta(hours=1)),
        doubt: Answer(b"", "unknown", times=times, max_age=timedelta(hours=1), doubt=True),
        error: Answer.refusing(TryLater(Refusal.DATABASE, "")),
    }
    for written, answer in sent.items():
        control = dict(answer.headers(now))[b"cache-control"].decode()
        control = re.sub("max-age=[1-9][0-9]*", "max-age=N", control)
        assert f"`{re.sub('error=[1-9][0-9]*', 'error=M', control)}`" in written
    assert "`Pragma: no-cache`" in error
    headers = dict(Answer.refusing(MalformedRequest(Refusal.SYNTAX, "")).headers(now))
    assert headers[b"pragma"] == b"no-cache"
    assert not {b"etag", b"expires", b"last-modified"} & set(headers)


def test_every_event_in_the_document_is_one_that_is_logged() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "responder").rglob("*.py"))
    logged = set(re.findall(r"_log\.\w+\(\s*\"([a-z_.]+)\"", source))
    named = {text for text in codes(read("answers.md")) if re.fullmatch(r"(answer|request|signer|feed)\.[a-z_]+", text)}
    assert {"answer.refused", "answer.try_later", "answer.contradiction", "request.fault"} <= named
    assert named <= logged


# -------------------------------------------------------------------------------------------------------- metrics


def metrics_of_the_code() -> dict[str, list[str]]:
    """Return every metric under its name in Prometheus: kind, labels, and what it means."""
    kinds = {Counter: ("counter", "_total"), Gauge: ("gauge", "")}
    reconcilers = {
        f"{each._name}{kinds[type(each)][1]}": [kinds[type(each)][0], ", ".join(each._labelnames), each._documentation]
        for each in vars(metrics).values()
        if isinstance(each, MetricWrapperBase)
    }
    folds = {Fold.TOTAL: ("counter", "_total"), Fold.SPREAD: ("histogram", "")}
    responders = {}
    for told in CATALOGUE:
        kind, ending = folds.get(told.fold, ("gauge", ""))
        responders[told.name + ending] = [kind, ", ".join(told.labels), told.means]
    return reconcilers | responders


def test_every_metric_is_documented_as_it_is_and_no_other() -> None:
    documented = {code(row[0]): row[1:4] for row in table(read("metrics.md"))}
    assert documented == metrics_of_the_code()


def test_the_rules_in_the_document_name_real_metrics() -> None:
    documented = {code(row[0]) for row in table(read("metrics.md"))}
    rules = " ".join(blocks(read("metrics.md"), "promql"))
    named = set(re.findall(r"foundling_\w+", rules))
    assert named
    assert named <= documented


# ---------------------------------------------------------------------------------------------------------- links


def test_every_link_to_a_file_leads_to_one() -> None:
    wrong, seen = [], 0
    for document in documents():
        for target in links(document.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target) or target.startswith("#"):
                continue
            seen += 1
            if not (document.parent / target.partition("#")[0]).exists():
                wrong.append(f"{document.relative_to(ROOT)}: {target}")
    assert seen > 10
    assert wrong == []


def test_every_make_target_in_a_document_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    wrong = []
    for document in documents():
        text = document.read_text(encoding="utf-8")
        lines = [line for block in blocks(text, "console", "sh", "") for line in block.splitlines()]
        for line in [*codes(text), *lines]:
            called = re.match(r"(?:[$#] )?make (?:[A-Z]\S* )*([a-z]+)", line)
            if called is not None and called[1] not in targets:
                wrong.append(f"{document.name}: {line}")
    assert wrong == []
