# SPDX-License-Identifier: Apache-2.0
"""What it was measured on: processor, kernel, versions. Called by report.py; knows no figure."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psycopg

from bench.load import MissingPeerError
from bench.peers import find

_PACKAGES: Final = ("gunicorn", "uvicorn", "uvloop", "httptools", "falcon", "cryptography", "psycopg", "aiohttp")
_PEERS: Final = {
    "nginx": ("nginx-light", "-v"),
    "openssl": ("openssl", "version"),
    "cfssl": ("golang-cfssl", "version"),
    "wrk": ("wrk", "-v"),
    "ab": ("apache2-utils", "-V"),
}


def describe(server: str) -> dict[str, str]:
    """Return names and values for the head of the document; `server` is the DSN of the PostgreSQL that was used."""
    with psycopg.connect(server) as connection:
        said = connection.execute("SELECT current_setting('server_version'), current_setting('fsync')").fetchone()
    postgresql, fsync = said if said is not None else ("?", "?")
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores seen, {len(os.sched_getaffinity(0))} usable",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "PostgreSQL": f"{postgresql}, fsync {fsync}",
        **{name: _version_of(name) for name in _PEERS},
    }


def load_average() -> str:
    """Return the load averages of 1, 5 and 15 minutes."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(name: str) -> str:
    """Return the version that a program says it has, wherever it says it; "missing" without it."""
    package, option = _PEERS[name]
    try:
        program = find(name, package=package)
    except MissingPeerError:
        return "missing"
    said = subprocess.run([program, option], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?\w*", said.stdout + said.stderr)
    return "unknown" if found is None else found.group()
