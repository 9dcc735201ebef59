# SPDX-License-Identifier: Apache-2.0
"""Settings taken over, workers replaced and the whole service restarted, under load, and no client notices."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from demo.ca import Authority
from demo.stage import command, free_port
from tests.responder.asking import Line, Reply, head, request_for, target_of
from tests.responder.running import Private, Running, World, environment, running, stop, until, write_settings

CA = Authority.create("Restarting CA")
# What systemd does for a service with a socket: the socket is file descriptor 3, and the service's number is named.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Load:
    """Clients that ask without a pause, and what went wrong for any of them."""

    port: int
    requests: list[bytes]
    answered: int = 0
    closed: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, line: Line, number: int) -> Reply:
        request = self.requests[number % len(self.requests)]
        began = time.monotonic()
        if number % 2 == 0:
            line.send(head("GET", target_of(request)))
        else:
            line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
        reply = line.reply()
        self.slowest = max(self.slowest, time.monotonic() - began)
        return reply

    def keep_alive(self) -> None:
        """Ask on one connection for as long as the responder wants it, then on another: no request is sent twice."""
        number = 0
        while not self.over.is_set():
            with Line(self.port) as line:
                while not self.over.is_set():
                    number += 1
                    try:
                        reply = self.ask(line, number)
                    except (OSError, ValueError) as exc:
                        self.wrong.append(f"request {number}: {exc!r}")
                        break
                    if reply.words != "good":
                        self.wrong.append(reply.words)
                    self.answered += 1
                    if reply.headers.get("connection") == "close":
                        self.closed += 1
                        break

    def one_each(self) -> None:
        """Ask on a connection for each request."""
        number = 0
        while not self.over.is_set():
            number += 1
            try:
                with Line(self.port) as line:
                    reply = self.ask(line, number)
            except (OSError, ValueError) as exc:
                self.wrong.append(f"connection {number}: {exc!r}")
                continue
            if reply.words != "good":
                self.wrong.append(reply.words)
            self.answered += 1


@contextmanager
def loaded(port: int, requests: list[bytes], *, clients: int = 4) -> Iterator[Load]:
    """Ask with clients of both kinds while the block runs."""
    load = Load(port, requests)
    threads = [threading.Thread(target=work) for _ in range(clients) for work in (load.keep_alive, load.one_each)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: load.answered > 100)
        yield load
        enough = load.answered + 100
        until(lambda: load.answered > enough)
    finally:
        load.over.set()
        for thread in threads:
            thread.join()


def requests_of(world: World) -> list[bytes]:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    return [request_for(issuer.certificate, world.issue(issuer)) for _ in range(20)]


def hang_up(responder: Running, *, times: int = 1) -> list[dict[str, object]]:
    """Send SIGHUP, and return the lines that it brought."""
    before = len(responder.lines())
    responder.process.send_signal(signal.SIGHUP)
    words = {"workers.replaced", "settings.refused"}
    until(lambda: bool(words & {line["event"] for line in responder.lines()[before:]}), seconds=60 * times)
    return responder.lines()[before:]


def test_a_reload_replaces_every_worker_and_no_client_notices(world: World) -> None:
    requests = requests_of(world)
    with running(world, workers=2) as responder, loaded(responder.port, requests) as load:
        until(lambda: len(responder.workers()) == 2)
        before = set(responder.workers())
        hang_up(responder)
        assert len(responder.workers()) == 2
        assert not before & set(responder.workers())
        hang_up(responder)
    assert load.wrong == []
    assert load.closed >= 4, "clients were told, and not cut off"


def test_a_reload_takes_over_the_settings(world: World) -> None:
    requests_of(world)
    private = Private(free_port())
    with running(world, workers=1, more=private.settings) as responder:
        settings = world.folder / f"responder-{responder.port}.toml"
        text = settings.read_text()
        settings.write_text(
            text.replace("workers = 1", "workers = 3").replace("[private]", '[log]\nlevel = "debug"\n[private]')
        )
        lines = hang_up(responder)
        assert "settings.taken_over" in [line["event"] for line in lines]
        until(lambda: private.metrics()[("foundling_responder_workers",)] == 3)
        responder.ask(b"no request")
        until(lambda: any(line["level"] == "debug" for line in responder.lines()))
        settings.write_text(text)
        hang_up(responder)
        until(lambda: private.metrics()[("foundling_responder_workers",)] == 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("workers = 2", "wrokers = 2"), "[http] wrokers: no such key"),
        (("workers = 2", 'workers = "two"'), "[http] workers:"),
        (("[http]", "[http"), "not TOML"),
        (("bind = ", 'prefix = ""\nbind = "127.0.0.1:1" # '), "[http] bind: '127.0.0.1:1' takes a restart"),
        (("[http]", '[signing]\npassphrase_file = "/nowhere/at/all"\n[http]'), "No such file"),
        (("[http]", '[private]\nbind = "127.0.0.1:2"\n[http]'), "[private] bind: '127.0.0.1:2' takes a restart"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_with_a_fault_are_refused_in_one_line_and_the_former_go_on(
    world: World, change: tuple[str, str], words: str
) -> None:
    requests = requests_of(world)
    with running(world) as responder:
        settings = world.folder / f"responder-{responder.port}.toml"
        until(lambda: len(responder.workers()) == 2)
        before, text = set(responder.workers()), settings.read_text()
        settings.write_text(text.replace(*change))
        (refused,) = [line for line in hang_up(responder) if line["event"] == "settings.refused"]
        assert words in str(refused["detail"])
        assert str(settings) in str(refused["detail"])
        settings.unlink()
        (refused,) = [line for line in hang_up(responder) if line["event"] == "settings.refused"]
        assert "No such file" in str(refused["detail"])
        time.sleep(2.0)
        assert set(responder.workers()) == before
        assert responder.ask(requests[0]).words == "good"
        settings.write_text(text)
        hang_up(responder)
        assert not set(responder.workers()) & before


def test_a_worker_that_dies_during_a_reload_does_not_stop_it(world: World) -> None:
    requests_of(world)
    with running(world, workers=3) as responder:
        until(lambda: len(responder.workers()) == 3)
        before = set(responder.workers())
        responder.process.send_signal(signal.SIGHUP)
        until(lambda: bool(set(responder.workers()) - before))
        for victim in (min(before & set(responder.workers())), max(set(responder.workers()) - before)):
            os.kill(victim, signal.SIGKILL)
        until(lambda: "workers.replaced" in responder.events(), seconds=60)
        until(lambda: len(responder.workers()) == 3)
        assert not set(responder.workers()) & before


@contextmanager
def started_on(listener: socket.socket, settings: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the service as systemd would, with its socket, which stays when the service ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()),
                command("ocsp-responder"), "--config", str(settings), "serve",
            ],
            stdout=out, stderr=out, env=environment(), pass_fds=[listener.fileno()],
        )  # fmt: skip
    try:
        yield process
    finally:
        stop(process)


def test_a_restart_with_the_socket_of_the_service_manager_fails_no_request(world: World) -> None:
    """Stop and start, twice, under load; what arrives meanwhile waits in the socket's queue."""
    requests = requests_of(world)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        settings = write_settings(world.folder, dsn=world.dsn, port=1, workers=2)
        log = world.folder / "restarted.log"
        running_now = stack.enter_context(ExitStack())
        process = running_now.enter_context(started_on(listener, settings, log))
        load = stack.enter_context(loaded(listener.getsockname()[1], requests))
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0, log.read_text()
            running_now.close()
            process = running_now.enter_context(started_on(listener, settings, log))
            enough = load.answered + 200
            until(lambda: load.answered > enough, seconds=60)  # noqa: B023
    assert load.wrong == []
    assert load.closed >= 8, "clients were told, and not cut off"
    assert "Traceback" not in log.read_text()


def test_a_client_that_has_just_connected_gets_its_answer_when_the_worker_ends(world: World) -> None:
    (request, *_) = requests_of(world)
    with running(world, workers=1) as responder, ExitStack() as stack:
        lines = [stack.enter_context(Line(responder.port)) for _ in range(3)]
        time.sleep(0.3)
        responder.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        for line in lines:
            time.sleep(0.15)
            line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
            reply = line.reply()
            assert (reply.words, reply.headers["connection"]) == ("good", "close")
            assert line.is_closed()
        assert responder.process.wait(timeout=10) == 0


def test_a_client_that_only_keeps_its_connection_does_not_hold_up_the_end(world: World) -> None:
    (request, *_) = requests_of(world)
    with running(world, workers=1) as responder, Line(responder.port) as line:
        line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
        assert line.reply().words == "good"
        began = time.monotonic()
        responder.process.send_signal(signal.SIGTERM)
        assert line.is_closed()
        assert responder.process.wait(timeout=10) == 0
        assert time.monotonic() - began < 8.0
