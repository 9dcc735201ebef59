# SPDX-License-Identifier: Apache-2.0
"""What every file of the repository keeps to: licence lines, no places of one machine, locks with hashes alone."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LICENCE = "SPDX-License-Identifier: Apache-2.0"
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Written with brackets, so that this file does not find itself.
PLACES = re.compile(r"(?<![\w.\]])/(?:w[o]rk|r[o]ot|h[o]me/\w+|t[m]p)/[\w.]")
REGISTRIES = re.compile(
    r"py[p]i\.org|python[h]osted|proxy\.go[l]ang|npm[j]s|crates\.[i]o|deb\.[d]ebian|docker\.[i]o|gh[c]r\.io"
)


def tracked() -> list[Path]:
    """Return the files that git knows."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def files(program: Callable[[str], str]) -> list[Path]:
    program("git")
    found = tracked()
    assert {"Makefile", "pyproject.toml", "sql/schema.sql"} <= {named(path) for path in found}
    return found


def test_every_source_file_begins_with_its_licence(files: list[Path]) -> None:
    kinds = {".py", ".sql", ".toml", ".service", ".socket", ".conf", ".yaml", ".sh"}
    wanting = []
    for path in files:
        if (path.suffix in kinds or named(path) == ".ci/run") and named(path) != "pyproject.toml":
            first, second = [*path.read_text(encoding="utf-8").splitlines(), "", ""][:2]
            if LICENCE not in (second if first.startswith("#!") else first) and path.stat().st_size:
                wanting.append(named(path))
    assert wanting == []


def test_no_file_names_a_place_of_one_machine_or_a_registry(files: list[Path]) -> None:
    found = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a binary file names nothing that anybody would follow
        found += [
            f"{named(path)}:{number}: {line.strip()[:120]}"
            for number, line in enumerate(lines, 1)
            if PLACES.search(line) or REGISTRIES.search(line)
        ]
    assert found == []


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes for every package of a lock; each line is one or the other."""
    found: dict[str, tuple[str, int]] = {}
    last = ""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        pinned = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==([^ ;]+)( ; [^\\]+)? \\", line)
        hashed = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert (pinned is None) != (hashed is None), f"{name}: {line}"
        if pinned is not None:
            last = canonicalize_name(pinned[1])
            found[last] = pinned[3], 0
        else:
            found[last] = found[last][0], found[last][1] + 1
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_pins_and_hashes_and_nothing_else(name: str) -> None:
    packages = locked(name)
    assert len(packages) > 10
    assert [package for package, (_, hashes) in packages.items() if hashes == 0] == []


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-dev.lock", [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]),
    ],
)
def test_a_lock_satisfies_what_the_project_asks_for(name: str, asked: list[str]) -> None:
    packages = locked(name)
    for text in asked:
        requirement = Requirement(text)
        version, _ = packages[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{text}: locked {version}"


def test_both_locks_agree_on_every_version() -> None:
    running, developing = locked(LOCKS[0]), locked(LOCKS[1])
    assert {name: developing[name][0] for name in running} == {name: version for name, (version, _) in running.items()}


def test_a_second_make_venv_does_nothing_and_a_changed_lock_is_noticed(
    tmp_path: Path, program: Callable[[str], str]
) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1000, 1000))
    ready = tmp_path / ".venv" / ".ready"  # what the first call leaves behind when it has succeeded
    ready.parent.mkdir()
    ready.touch()
    os.utime(ready, (2000, 2000))
    ask = [program("make"), "--question", "venv"]
    assert subprocess.run(ask, cwd=tmp_path, check=False).returncode == 0
    os.utime(tmp_path / "requirements-dev.lock", (3000, 3000))
    assert subprocess.run(ask, cwd=tmp_path, check=False).returncode == 1


def test_make_demo_make_test_and_make_check_set_themselves_up() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("check", "test", "demo", "bench", "lock", "wheel"):
        assert re.search(rf"^{target}: venv$", makefile, re.MULTILINE), target


def test_the_hook_runs_what_ci_runs_and_downloads_nothing() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]
    assert re.findall(r"entry: (.+)", hooks) == ["make check"]
    assert re.findall(r"language: (\S+)", hooks) == ["system"]


def test_ci_runs_check_test_and_demo_and_can_be_executed() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 == 0o111
    text = script.read_text(encoding="utf-8")
    assert 'make PYTHON="$python" test' in text
    assert re.findall(r'^part "make (\w+)"', text, re.MULTILINE) == ["check", "test", "demo"]


def test_the_debian_packages_are_listed_once_each() -> None:
    lines = (ROOT / "tests" / "debian-packages.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)
