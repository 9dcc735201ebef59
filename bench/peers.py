# SPDX-License-Identifier: Apache-2.0
"""The servers that ours are compared with: nginx with a static file. A further one is a further function here.

Knows how each is configured and started; nothing of how it is asked. Called by answers.py.
"""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.load import MissingPeerError
from demo.stage import free_port, stop, wait_for_port

#: Where Debian has what is not on everybody's path.
_SYSTEM: Final = "/usr/sbin:/sbin"
STATIC_PATH: Final = "/answer.der"

# nginx as fast as it gets: one worker, no access log, the open file kept, connections never ended of its own accord.
_NGINX: Final = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nodelay on;
  keepalive_timeout 75s;
  keepalive_requests 1000000000;
  open_file_cache max=16 inactive=600s;
  open_file_cache_valid 600s;
  default_type application/ocsp-response;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} backlog=2048; root {folder}/static; }}
}}
"""


def find(program: str, *, package: str) -> str:
    """Return the path of a program. Raises MissingPeerError naming the Debian package."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")
    if found is None:
        raise MissingPeerError(program, package)
    return found


@contextmanager
def nginx(folder: Path, answer: bytes) -> Iterator[int]:
    """Serve these octets at STATIC_PATH and yield the port. Raises MissingPeerError without nginx."""
    program = find("nginx", package="nginx-light")
    (folder / "static").mkdir(parents=True)
    (folder / "static" / STATIC_PATH.lstrip("/")).write_bytes(answer)
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX.format(user=user(), folder=folder, port=port))
    command = [program, "-e", str(folder / "nginx.err"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running(command, port, log=folder / "nginx.log"):
        yield port


def user() -> str:
    """Return the directive that keeps nginx's worker who we are: as root it would become nobody and see no file."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"


@contextmanager
def running(command: list[str], port: int, *, log: Path) -> Iterator[None]:
    """Start a server, wait until it listens, and stop it afterwards; what it says goes to `log`."""
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield
    finally:
        stop(server)
