# SPDX-License-Identifier: Apache-2.0
"""The wheel, installed as an operator installs it: an empty virtual environment, the lock, the wheel, nothing else."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("ocsp-responder", "ocsp-reconciler", "ocsp-admin")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Neither the checkout nor the environment of the tests may lend the commands anything.
    unset = {"PYTHONPATH", "VIRTUAL_ENV", "OCSP_DATABASE_DSN"}
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [str(each) for each in arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the commands of an environment that has the lock and the wheel."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for what in (("--require-hashes", "-r", ROOT / "requirements.lock"), ("--no-deps", wheel)):
        done = run(*pip, *what, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_the_wheel_holds_the_three_packages_and_every_sql_file_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "responder", "reconciler", "admin", f"foundling-{VERSION}.dist-info",
    }  # fmt: skip
    shipped = {name.removeprefix("responder/status/") for name in names if name.endswith(".sql")}
    assert shipped == {str(path.relative_to(ROOT)) for path in (ROOT / "sql").rglob("*.sql")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs_from_the_wheel(command: str, installed: Path, tmp_path: Path) -> None:
    version = run(installed / command, "--version", cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"foundling {VERSION}\n"), version.stderr
    helped = run(installed / command, "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"usage: {command} ")


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_the_sample_settings_pass_check_config(command: str, installed: Path, tmp_path: Path) -> None:
    sample = ROOT / "docs" / "examples" / f"{command.removeprefix('ocsp-')}.toml"
    checked = run(installed / command, "--config", sample, "check-config", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_a_missing_settings_file_is_one_clear_line(command: str, installed: Path, tmp_path: Path) -> None:
    checked = run(installed / command, "--config", "absent.toml", "check-config", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr == f"{command}: absent.toml: cannot be read: No such file or directory\n"


def test_migrate_finds_its_sql_in_the_wheel(installed: Path, empty_dsn: str, tmp_path: Path) -> None:
    settings = tmp_path / "admin.toml"
    settings.write_text("")
    for expected in ("applied 0001_", "nothing to apply"):
        done = run(installed / "ocsp-admin", "--config", settings, "migrate", cwd=tmp_path, OCSP_DATABASE_DSN=empty_dsn)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(expected)
    listed = run(
        installed / "ocsp-admin", "--config", settings, "issuer", "list", cwd=tmp_path, OCSP_DATABASE_DSN=empty_dsn
    )
    assert (listed.returncode, listed.stdout) == (0, "")


def test_the_environment_holds_no_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import admin, reconciler, responder; print(admin.__file__, reconciler.__file__, responder.__file__)"
    said = run(installed / "python", "-c", where, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert all(path.startswith(str(installed.parent)) for path in said.stdout.split())
