# SPDX-License-Identifier: Apache-2.0
"""nginx with docs/nginx.conf as it stands, but for addresses and folders: what operators read is what is run.

Knows the places in that file that every operator changes. Called by answers.py, and by the tests in tests/edge.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.peers import find, running, user
from demo.stage import free_port

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "nginx.conf"
_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def rendered(folder: Path, *, port: int, upstream: int, changes: Mapping[str, str] | None = None) -> str:
    """Return the file for a throwaway nginx on loopback, in front of what listens on the port `upstream`.

    `changes` are further replacements. Raises ValueError when one of them does not find its place exactly once.
    """
    temporary = "\n".join(f"    {name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    text = DOCUMENT.read_text(encoding="utf-8")
    for old, new in {
        "user www-data;": user(),
        "worker_processes auto;": "worker_processes 1;\ndaemon off;",
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "error_log /var/log/nginx/error.log": f"error_log {folder}/nginx.err",
        "\nhttp {\n": f"\nhttp {{\n{temporary}\n",
        "/var/cache/nginx/ocsp": f"{folder}/cache",
        "server 127.0.0.1:8080": f"server 127.0.0.1:{upstream}",
        "listen 80 ": f"listen 127.0.0.1:{port} ",
        "listen [::]:80 ": f"listen [::1]:{port} ",
        **(changes or {}),
    }.items():
        if text.count(old) != 1:
            raise ValueError(f"docs/nginx.conf has {old!r} {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


@contextmanager
def edge(folder: Path, *, upstream: int, changes: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run nginx in front of the port `upstream` and yield its own. Raises MissingPeerError without nginx."""
    program = find("nginx", package="nginx-light")
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "nginx.conf").write_text(rendered(folder, port=port, upstream=upstream, changes=changes))
    command = [program, "-e", str(folder / "nginx.err"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running(command, port, log=folder / "nginx.log"):
        yield port
