# SPDX-License-Identifier: Apache-2.0
"""The servers that ours are compared with: nginx with a static file, cfssl ocspserve, openssl ocsp.

Knows how each is configured and started; nothing of how it is asked. Called by answers.py.
"""

import grp
import os
import pwd
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.ground import Issuer
from bench.load import MissingPeerError
from demo.stage import StageError, free_port, stop, wait_for_port

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


@contextmanager
def cfssl(folder: Path, answers: Iterable[bytes]) -> Iterator[int]:
    """Serve these answers with `cfssl ocspserve` and yield the port. Raises MissingPeerError without cfssl."""
    program = find("cfssl", package="golang-cfssl")
    folder.mkdir()
    (folder / "answers").write_bytes(b"\n".join(map(b64encode, answers)) + b"\n")
    port = free_port()
    command = [program, "ocspserve", "-address", "127.0.0.1", "-port", str(port), "-loglevel", "4"]
    with running([*command, "-responses", str(folder / "answers")], port, log=folder / "cfssl.log"):
        yield port


@contextmanager
def openssl(folder: Path, issuer: Issuer, serials: Iterable[int]) -> Iterator[int]:
    """Answer for these serials, all good, with `openssl ocsp` and yield the port. Raises MissingPeerError without it.

    It signs each answer anew. It listens on every address of the machine, for the length of the block.
    """
    program = find("openssl", package="openssl")
    folder.mkdir(exist_ok=True)
    index, log, port = folder / "index.txt", folder / "openssl.log", free_port()
    if not index.exists():
        index.write_text("".join(f"V\t491231235959Z\t\t{serial:X}\tunknown\t/CN=bench\n" for serial in serials))
        (folder / "index.txt.attr").write_text("unique_subject = no\n")
    command = [
        program, "ocsp", "-port", str(port), "-index", str(index), "-CA", str(issuer.certificate_file),
        "-rsigner", str(issuer.signer_file), "-rkey", str(issuer.key_file), "-ndays", "4",
    ]  # fmt: skip
    with _started(command, log=log):
        # A connection that asks for nothing would hang it, so what it says is all there is to go by.
        deadline = time.monotonic() + 20
        while b"waiting for OCSP client connections" not in log.read_bytes():
            if time.monotonic() > deadline:
                raise StageError(f"openssl ocsp does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield port


def user() -> str:
    """Return the directive that keeps nginx's worker who we are: as root it would become nobody and see no file."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"


@contextmanager
def running(command: list[str], port: int, *, log: Path) -> Iterator[None]:
    """Start a server, wait until it listens, and stop it afterwards; what it says goes to `log`."""
    with _started(command, log=log):
        wait_for_port(port)
        yield


@contextmanager
def _started(command: list[str], *, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        stop(server)
