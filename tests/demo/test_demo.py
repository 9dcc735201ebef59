# SPDX-License-Identifier: Apache-2.0
"""The demonstration plays the incident to its end and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[2]


def run_demo(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield an empty temporary directory with a short name: a socket's path has about a hundred characters at most."""
    with TemporaryDirectory(prefix="fl-") as made:
        yield Path(made)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, as Linux tells it."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def test_the_incident_is_played_to_its_end_and_nothing_is_left_behind(folder: Path) -> None:
    playing = run_demo(folder)
    said, complaints = playing.communicate(timeout=120)
    assert playing.returncode == 0, complaints
    assert re.findall(r" says (good|revoked|unknown):", said) == ["good", "unknown", "good", "revoked", "good"]
    assert re.search(r"healed \d+\.\d seconds after publication", said)
    assert "in demo-log (static): precertificate, entry" in said
    assert list(folder.iterdir()) == []


def test_ctrl_c_ends_a_kept_demonstration_and_leaves_nothing_behind(folder: Path) -> None:
    playing = run_demo(folder, "--keep")
    assert playing.stdout is not None
    assert playing.stderr is not None
    for line in playing.stdout:
        if "Ctrl-C ends it" in line:
            break
    children = descendants(playing.pid)
    assert len(children) >= 4  # the log, the reconciler, gunicorn and its workers
    playing.send_signal(signal.SIGINT)
    assert playing.wait(timeout=60) == 0
    playing.stdout.close()
    playing.stderr.close()
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
    assert list(folder.iterdir()) == []
