# SPDX-License-Identifier: Apache-2.0
"""The private address: who is alive, who is ready and why not, and the numbers of all workers, however they end."""

import json
import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest

from demo.ca import Authority
from demo.stage import free_port
from tests.conftest import as_role
from tests.responder import asking
from tests.responder.asking import exchange, head, request_for
from tests.responder.proxy import Proxy
from tests.responder.running import Private, World, running, until
from tests.responder.test_start import refusal

CA = Authority.create("Watched CA")


@pytest.fixture
def private() -> Private:
    return Private(free_port())


def test_the_private_address_tells_and_answers_no_ocsp_and_the_public_one_tells_nothing(
    world: World, private: Private
) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    request = request_for(issuer.certificate, world.issue(issuer))
    dsn = as_role(world.dsn, "ocsp_responder")
    with running(world, dsn=dsn, more=private.settings) as responder:
        assert private.get("/healthz").body == b"ok\n"
        assert private.get("/metrics").headers["content-type"].startswith("text/plain")
        assert private.ready()["ready"] is True
        for path in ("/healthz", "/readyz", "/metrics", "/"):
            assert asking.get(responder.port, path.encode()).body == asking.MALFORMED
        for target in (b"/", asking.target_of(request), b"/nothing"):
            assert asking.get(private.port, target).status == 404
        assert asking.post(private.port, request).status == 404
        assert exchange(private.port, head("POST", b"/metrics", ("Content-Length", "0"))).status == 405
        assert exchange(private.port, head("HEAD", b"/healthz", ("Connection", "close"))).status == 200


def test_without_a_setting_there_is_no_private_address(world: World) -> None:
    with running(world) as responder:
        assert responder.status(world.add_issuer("ca", CA, signer=None), 1) == "unauthorized"
        listening = Path(f"/proc/{responder.process.pid}/net/tcp").read_text()
        held = {str(each.readlink()) for each in Path(f"/proc/{responder.process.pid}/fd").iterdir()}
        ours = [line.split() for line in listening.splitlines()[1:] if f"socket:[{line.split()[9]}]" in held]
        assert [int(each[1].split(":")[1], 16) for each in ours if each[3] == "0A"] == [responder.port]


def test_an_address_that_cannot_be_had_is_refused_at_the_start(world: World) -> None:
    assert "[private] bind: cannot listen on '192.0.2.1:1'" in refusal(world, more='[private]\nbind = "192.0.2.1:1"')
    port = free_port()
    said = refusal(world, port=port, more=f'[private]\nbind = "127.0.0.1:{port}"')
    assert "is the public address, [http] bind" in said


def test_the_private_address_may_be_a_unix_socket_and_an_old_one_is_in_nobodys_way(world: World) -> None:
    place = world.folder / "private.sock"
    for _ in range(2):
        with running(world, more=f'[private]\nbind = "unix:{place}"'), socket.socket(socket.AF_UNIX) as line:
            line.connect(str(place))
            line.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert line.makefile("rb").read().endswith(b"ok\n")


def test_totals_never_go_back_and_gauges_of_the_dead_vanish_when_workers_are_killed(
    world: World, private: Private
) -> None:
    with running(world, workers=2, more=private.settings) as responder:
        before = private.metrics()[("foundling_responder_cpu_seconds_total",)]
        until(lambda: private.metrics()[("foundling_responder_workers",)] == 2)
        for ended in range(1, 4):
            killed = responder.workers()[0]
            os.kill(killed, signal.SIGKILL)
            until(lambda: private.metrics()[("foundling_responder_workers_ended_total",)] == ended)  # noqa: B023
            after = private.metrics()[("foundling_responder_cpu_seconds_total",)]
            assert after >= before
            before = after
            until(lambda: private.metrics()[("foundling_responder_workers",)] == 2)


def test_a_drain_file_sends_balancers_away_and_requests_are_still_answered(world: World, private: Private) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    serial = world.issue(issuer)
    drain = world.folder / "drain"
    more = private.settings + f'drain_file = "{drain}"'
    with running(world, more=more) as responder:
        assert private.states()["drain"] == "ok"
        drain.touch()
        assert private.states()["drain"] == "failing"
        assert private.get("/readyz").status == 503
        assert responder.status(issuer, serial) == "good"
        assert private.get("/healthz").status == 200
        drain.unlink()
        assert private.ready()["ready"] is True


def test_a_database_that_goes_away_makes_the_host_unready_until_it_is_back(world: World, private: Private) -> None:
    world.add_issuer("ca", CA, signer=CA.issue_responder())
    proxy = Proxy(world.dsn)
    with running(world, dsn=proxy.dsn, more=private.settings):
        assert private.ready()["ready"] is True
        proxy.cut()
        until(lambda: {"database", "feed"} <= {name for name, state in private.states().items() if state == "failing"})
        assert private.get("/healthz").status == 200
        assert private.metrics()[("foundling_responder_feed_age_seconds",)] > 1.5
        proxy.mend()
        until(lambda: private.ready()["ready"])
    proxy.close()


def test_a_stale_source_is_told_and_takes_no_host_out_of_rotation(world: World, private: Private) -> None:
    world.add_issuer("ca", CA, signer=CA.issue_responder())
    with running(world, more=private.settings):
        until(lambda: private.ready()["checks"]["sources"]["detail"].startswith("no source is required"))
        world.execute(
            "INSERT INTO ocsp.source (name, kind, required, stale_after) VALUES ('late-log', 'static', true, '15m')"
        )
        until(lambda: "late-log" in private.ready()["checks"]["sources"]["detail"])
        told = private.ready()
        assert (told["ready"], told["state"]) == (True, "degraded")
        samples = private.metrics()
        assert samples[("foundling_responder_sources_required",)] == 1
        assert samples[("foundling_responder_sources_stale",)] == 1


def test_one_signer_near_its_end_degrades_and_only_when_none_can_answer_lawfully_is_it_failing(
    world: World, private: Private
) -> None:
    # Certificates begin an hour ago: one ends in six hours, too soon for a public issuer's eight, and one in six days.
    ended, ending, fine = (Authority.create(f"CA {days}") for days in (0.25, 6, 90))
    world.add_issuer("ended", ended, signer=ended.issue_responder(days=0.3))
    with running(world, more=private.settings):
        assert private.states()["signer_expiry"] == "failing"
        world.add_issuer("ending", ending, signer=ending.issue_responder(days=6))
        until(lambda: private.states()["signer_expiry"] == "degraded")
        world.add_issuer("fine", fine, signer=fine.issue_responder(days=90))
        until(lambda: private.sum_of("foundling_responder_signer_remaining_seconds", issuer="fine") > 0)
        check = private.ready()["checks"]["signer_expiry"]
        assert check == {"state": "degraded", "detail": "ended ecdsa: no lawful answer any more"}
        for name, days in (("ended", 0.3), ("ending", 6), ("fine", 90)):
            remaining = private.sum_of("foundling_responder_signer_remaining_seconds", issuer=name, state="active")
            assert abs(remaining + 3600 - timedelta(days=days).total_seconds()) < 300


def test_a_worker_that_hangs_is_told(world: World, private: Private) -> None:
    with running(world, workers=3, more=private.settings) as responder:
        until(lambda: private.metrics()[("foundling_responder_workers",)] == 3)
        hanging = responder.workers()[0]
        os.kill(hanging, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 25
            while _states_of_another(private) != "degraded":
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            os.kill(hanging, signal.SIGCONT)


def _states_of_another(private: Private) -> str | None:
    """What the others say; a line that the hanging worker has taken is given up."""
    try:
        with asking.Line(private.port) as line:
            line._socket.settimeout(1.0)
            line.send(head("GET", b"/readyz", ("Connection", "close")))
            state: str = json.loads(line.reply().body)["checks"]["workers"]["state"]
            return state
    except OSError:
        return None
