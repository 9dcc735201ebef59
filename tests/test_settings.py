# SPDX-License-Identifier: Apache-2.0
"""Settings files are read strictly, and every complaint is one line: the file, the key, the fault, what is allowed."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.runtime.settings import (
    DSN_VARIABLE,
    DatabaseSettings,
    Duration,
    Section,
    SettingsError,
    database_dsn,
    load,
)


class Inner(Section, frozen=True, kw_only=True):
    name: str
    size: int = 1
    every: Duration = Duration(seconds=5)


class Spool(Section, frozen=True, kw_only=True, tag_field="kind", tag="spool"):
    directory: Path


class Lines(Section, frozen=True, kw_only=True, tag_field="kind", tag="lines"):
    path: Path


class Example(Section, frozen=True, kw_only=True):
    database: DatabaseSettings = DatabaseSettings()
    inner: tuple[Inner, ...] = ()
    source: tuple[Spool | Lines, ...] = ()
    colour: Literal["red", "green"] = "red"
    start: Literal["now"] | int = "now"


def write(folder: Path, text: str) -> Path:
    path = folder / "example.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour", "not TOML: Expected '=' after a key"),
        ('color = "red"', "color: no such key; allowed here: colour, database, inner, source, start"),
        ('colour = "blue"', "colour: invalid enum value 'blue'; allowed: 'red', 'green'"),
        ("colour = 7", "colour: expected `str`, got `int`"),
        ('start = "then"', "start: invalid enum value 'then'; allowed: 'now', a number"),
        ("[database]\ndns = ''", "[database] dns: no such key; allowed here: dsn"),
        ("database = 1", "database: expected `object`, got `int`"),
        ("[[inner]]\nsize = 1", "inner[0]: object missing required field `name`"),
        ("[[inner]]\nname = 'a'\nsize = 'big'", "[inner[0]] size: expected `int`, got `str`"),
        ("[[inner]]\nname = 'a'\nseize = 1", "[inner[0]] seize: no such key; allowed here: every, name, size"),
        ("[[inner]]\nname = 'a'\nevery = 5", '[inner[0]] every: a duration is a number and a unit (ms, s, m, h, d)'),
        ("[[inner]]\nname = 'a'\nevery = '5 weeks'", "not '5 weeks'"),
        ("[[inner]]\nname = 'a'\nevery = '99999999999999999999d'", "[inner[0]] every: a duration is"),
        ("[[inner]]\nname = 'a'\nevery = '999999999d'", "every: a duration is at most 36525 days long, not '99"),
        ("[[source]]\nkind = 'crate'", "[source[0]] kind: invalid value 'crate'; allowed: lines, spool"),
        ("[[source]]\nkind = 'spool'\ndirectory = 1", "[source[0]] directory: expected Path, got 1"),
        ("[[source]]\nkind = 'spool'\npath = 'x'\ndirectory = 'y'", "[source[0]] path: no such key; allowed here: "),
    ],
)  # fmt: skip
def test_each_fault_has_its_one_clear_line(text: str, complaint: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        load(path, Example)
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert complaint in line
    assert "\n" not in line


def test_what_is_left_out_has_its_default_and_what_is_given_is_kept(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), Example) == Example()
    text = "start = 7\n[[inner]]\nname = 'a'\nevery = '2h'\n[[source]]\nkind = 'spool'\ndirectory = '/x'"
    found = load(write(tmp_path, text), Example)
    assert found == Example(
        start=7, inner=(Inner(name="a", every=Duration(hours=2)),), source=(Spool(directory=Path("/x")),)
    )


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing.toml: cannot be read: No such file"):
        load(tmp_path / "nothing.toml", Example)
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(tmp_path, Example)
    (tmp_path / "latin.toml").write_bytes(b'colour = "\xe9"')
    with pytest.raises(SettingsError, match="latin.toml: not TOML: .*utf-8"):
        load(tmp_path / "latin.toml", Example)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("250ms", timedelta(milliseconds=250)), ("10s", timedelta(seconds=10)), ("15m", timedelta(minutes=15)),
        ("60 h", timedelta(hours=60)), ("4d", timedelta(days=4)), ("0s", timedelta()),
        ("36525d", timedelta(days=36525)),
    ],
)  # fmt: skip
def test_durations_have_units(text: str, length: timedelta) -> None:
    assert Duration.parse(text) == length


@pytest.mark.parametrize(
    "given_", ["", "10", "s", "-1s", "1.5h", "1h30m", "10 S", "١٠s", "36526d", 10, None, True, ["1s"]]
)
def test_what_is_no_duration_is_refused(given_: object) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        Duration.parse(given_)


@given(st.one_of(st.text(), st.from_regex(r"[0-9]{1,30} ?(ms|s|m|h|d)", fullmatch=True)))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        length = Duration.parse(text)
    except ValueError:
        return
    assert timedelta() <= length <= timedelta(days=36525)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DSN_VARIABLE, raising=False)
    path = tmp_path / "x.toml"
    assert database_dsn(DatabaseSettings(dsn="dbname=file"), path=path) == "dbname=file"
    with pytest.raises(SettingsError, match=r"x.toml: \[database\] dsn is not set, and neither is OCSP_DATABASE_DSN"):
        database_dsn(DatabaseSettings(), path=path)
    monkeypatch.setenv(DSN_VARIABLE, "dbname=environment")
    assert database_dsn(DatabaseSettings(dsn="dbname=file"), path=path) == "dbname=environment"


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        Example().colour = "green"  # type: ignore[misc]  # that it is frozen is what is tried
    assert msgspec.structs.asdict(Example())["colour"] == "red"
