# SPDX-License-Identifier: Apache-2.0
"""The responder cannot lie: everything around it is broken, one thing at a time, while clients ask and rows change.

Every answer that came is held against what could be justified at its moment (justified.py), and each fault is over by
itself in bounded time. Which fault is proven where:

    database stopped, killed or cut in a query, torn in an answer,
    slow, frozen, read-only; a source that grows stale meanwhile       here
    database out of reach at a start, cut for long, frozen             test_answers.py, test_start.py
    connections cut again and again, notes that wait, lost history     test_feed.py, test_db.py
    replica lagging, frozen, promoted, primary gone                    test_replicas.py
    token slow, hanging; key file replaced by another's, gone          here
    token pulled out, away at the start, overloaded, another key       test_tokens.py, signing/test_pkcs11.py
    signer about to end, refused at the start, mended on the spot      test_answers.py, test_start.py
    clock stepped forwards and backwards                               here
    no room for the log and for the workers' numbers                   here
    worker killed, standing still for seconds, hanging for good        here (killed at a start: test_answers.py)
"""

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import conninfo

from demo.ca import Authority, make_key, write_key
from responder.runtime.db import connect_once
from responder.status.migrate import grant_roles, migrate
from tests.conftest import missing_component
from tests.replicas import Server, standing
from tests.responder import test_tokens
from tests.responder.justified import BROKEN, FRESH, STALE, TRY_LATER
from tests.responder.proxy import Proxy
from tests.responder.running import Running, Served, World, running, until
from tests.responder.test_tokens import hsm  # noqa: F401 - a fixture
from tests.responder.watching import UNASSIGNED, Watch, watching

ROLE: Final = "ocsp_responder"
FAKETIME: Final = "*/faketime/libfaketimeMT.so.1"

Tell = Any  # pytest's record_property


@dataclass
class Stand:
    """A responder whose database may be ill-treated, and the line between the two."""

    server: Server
    proxy: Proxy
    responder: Running
    issuer: Served
    world: World

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return self.world.execute(statement)

    def backends(self, condition: str = "true") -> list[int]:
        """The server's processes that work for the responder."""
        found = self.execute(
            f"SELECT pid FROM pg_stat_activity WHERE usename = '{ROLE}' AND {condition}"  # noqa: S608 - our own words
        )
        return [int(pid) for (pid,) in found]

    def verify_source(self, ago: str) -> None:
        self.execute(f"UPDATE ocsp.source SET verified_at = clock_timestamp() - interval '{ago}' WHERE name = 'ct'")  # noqa: S608 - our own words


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing() as server:
        # Whoever inserts and revokes may write when nobody else may.
        dsn = conninfo.make_conninfo(server.create_database("faults"), options="-c default_transaction_read_only=off")

        async def fill() -> None:
            async with connect_once(dsn, application="tests") as connection:
                await migrate(connection)
                await grant_roles(connection)

        asyncio.run(fill())
        world = World(dsn, tmp_path_factory.mktemp("faults"))
        world.execute(
            "INSERT INTO ocsp.source (name, kind, required, verified_at) VALUES ('ct', 'static', true, now())"
        )
        issuer = one_issuer(world)
        proxy = Proxy(server.dsn("faults", user=ROLE))
        with running(world, dsn=proxy.dsn) as responder:
            yield Stand(server, proxy, responder, issuer, world)
        proxy.close()


@pytest.fixture(autouse=True)
def _started_only_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault of the database needs another process, neither master nor worker."""
    if "stand" not in request.fixturenames:
        yield
        return
    responder: Running = request.getfixturevalue("stand").responder
    before = responder.process.pid, responder.workers()
    yield
    assert (responder.process.pid, responder.workers()) == before
    assert responder.process.poll() is None


@contextmanager
def told(watch: AbstractContextManager[Watch], tell: Tell) -> Iterator[Watch]:
    """Have it reported how many answers were judged, and how long recovery took."""
    with watch as watched:
        yield watched
    tell("answers_judged", sum(watched.said.values()))
    tell("recoveries", [round(each, 2) for each in watched.recoveries])
    took = ", ".join(f"{each:.2f}" for each in watched.recoveries)
    print(f"\n{sum(watched.said.values())} answers judged, {dict(watched.said)}; recovered in {took} s")  # noqa: T201 - for whoever runs it with -s


def one_issuer(world: World) -> Served:
    ca = Authority.create("Faults CA")
    return world.add_issuer("ca", ca, signer=ca.issue_responder())


# ------------------------------------------------------------------------------------------------------- the database


def test_a_database_that_crashes_and_comes_back(stand: Stand, record_property: Tell) -> None:
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        stand.server.stop("immediate")
        watch.go_on(2.5)
        assert watch.heard()[TRY_LATER] > 0
        stand.server.start()


def test_backends_killed_in_the_middle_of_a_query(stand: Stand, record_property: Tell) -> None:
    killed = 0
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        for _ in range(5):
            with psycopg.connect(stand.world.dsn) as locking:
                locking.execute("LOCK TABLE ocsp.certificate IN ACCESS EXCLUSIVE MODE")
                until(lambda: len(stand.backends("wait_event_type = 'Lock'")) > 0)
                killed += stand.server.cut(ROLE)
        assert killed >= 5
        assert watch.heard()[TRY_LATER] > 0


def test_connections_torn_in_the_middle_of_an_answer(stand: Stand, record_property: Tell) -> None:
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        for seconds in (3.0, 0.3, 0.3, 0.3):
            stand.proxy.tear()
            watch.go_on(seconds)
            stand.proxy.mend()
            watch.go_on(0.2)
        assert watch.heard()[TRY_LATER] > 0


def test_a_database_that_takes_its_time(stand: Stand, record_property: Tell) -> None:
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        for seconds in (0.4, 1.2):
            stand.proxy.delay(seconds)
            watch.go_on(3.0)
            assert max(each.received - each.sent for each in watch.answers[-200:]) > seconds
        stand.proxy.mend()


def test_backends_that_stand_still_while_rows_change(stand: Stand, record_property: Tell) -> None:
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        stopped = stand.backends()
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            watch.go_on(4.5)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert watch.heard()[TRY_LATER] > 0


def test_a_database_that_only_reads_costs_no_answer(stand: Stand, record_property: Tell) -> None:
    def read_only(state: str) -> None:
        stand.server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}")
        stand.server.execute("SELECT pg_reload_conf()")

    def noted() -> int:
        ((times,),) = stand.execute("SELECT coalesce(sum(times), 0) FROM ocsp.unanswered")
        return int(times)

    with told(watching(stand.responder, stand.issuer), record_property) as watch:
        try:
            read_only("on")
            until(lambda: "unanswered.not_written" in stand.responder.events())
            with watch.fault(may=()):
                watch.go_on(1.5)
        finally:
            read_only("off")
        before = noted()
        until(lambda: noted() > before)
        assert TRY_LATER not in watch.heard()


def test_a_source_that_grows_stale_while_the_line_is_cut(stand: Stand, record_property: Tell) -> None:
    """Unknown means foreign (invariant 1): not a moment after the line is back is it said."""
    with told(watching(stand.responder, stand.issuer), record_property) as watch, watch.fault():
        stand.proxy.cut()
        with watch.truth.sources.becoming(STALE):
            stand.verify_source("16 minutes")
        watch.go_on(0.7)
        stand.proxy.mend()
        until(lambda: stand.responder.everywhere(lambda: stand.responder.status(stand.issuer, watch.good) == "good"))
        assert stand.responder.everywhere(lambda: stand.responder.status(stand.issuer, UNASSIGNED) == TRY_LATER)
        watch.go_on(0.7)
        with watch.truth.sources.becoming(FRESH):
            stand.verify_source("1 second")


# ------------------------------------------------------------------------------------------------------- the signer


def children(pid: int) -> list[int]:
    """The processes that any thread of this one has started."""
    return [int(each) for file in Path(f"/proc/{pid}/task").glob("*/children") for each in file.read_text().split()]


def test_a_token_that_takes_its_time_and_one_that_hangs(world: World, hsm: Any, record_property: Tell) -> None:  # noqa: F811 - the fixture
    issuer = test_tokens.add(world, hsm, "p256")

    @contextmanager
    def stopped(responder: Running) -> Iterator[None]:
        tokens = [pid for worker in responder.workers() for pid in children(worker)]
        assert len(tokens) >= 2
        for pid in tokens:
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in tokens:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)

    with (
        test_tokens.signing(world, hsm) as responder,
        told(watching(responder, issuer), record_property) as watch,
    ):
        with watch.fault(may=()):
            with stopped(responder):
                watch.go_on(0.8)
            watch.go_on(0.4)
            assert max(each.received - each.sent for each in watch.answers) > 0.7
        with watch.fault(), stopped(responder):
            watch.go_on(4.0)
            assert watch.heard()[TRY_LATER] > 0


def test_a_key_file_replaced_by_another_or_gone(world: World, record_property: Tell) -> None:
    """Who signs already goes on, and nobody ever signs with the wrong key; a worker that starts now cannot sign."""
    ca = Authority.create("Faults CA")
    certificate, key = ca.issue_responder()
    unsigned = world.add_issuer("ca", ca, signer=None)
    file = world.add_signer(unsigned, certificate, key)
    issuer = Served(unsigned.name, unsigned.issuer_id, ca, certificate)

    def refused(responder: Running) -> int:
        return responder.events().count("signer.refused")

    def have_it_loaded_anew(responder: Running) -> None:
        before = refused(responder)
        world.execute("UPDATE ocsp.issuer SET name = name || '.'")
        until(lambda: refused(responder) >= before + 2)

    with running(world) as responder, told(watching(responder, issuer), record_property) as watch:
        with watch.fault(may=()):
            write_key(file, make_key())
            have_it_loaded_anew(responder)
        file.unlink()
        with watch.fault(may=()):
            have_it_loaded_anew(responder)
        write_key(file, make_key())
        with watch.fault(may=(TRY_LATER, BROKEN)):
            killed = responder.workers()[0]
            before = refused(responder)
            os.kill(killed, signal.SIGKILL)
            until(lambda: refused(responder) > before)
            until(lambda: watch.heard()[TRY_LATER] > 0)
            write_key(file, key)
        told_of = [line["meaning"] for line in responder.lines() if line["event"] == "signer.refused"]
        assert told_of[:4] == ["signer 1 goes on"] * 4
        assert told_of[4] == "nobody answers in its place"


# -------------------------------------------------------------------------------------------------------- the clock


_MENDED: Final = """import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds)
"""


@dataclass
class Clock:
    """The clock of a process under libfaketime, as far as it tells the time of day."""

    file: Path
    library: str
    # Where Python's own way to sleep is mended: the library takes the monotonic moment it waits for to be one of day.
    mended: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": self.library,
            "PYTHONPATH": str(self.mended),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def step(self, ahead: timedelta) -> None:
        """Set it so far ahead of ours, or behind."""
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{ahead.total_seconds():+.0f}\n")
        beside.replace(self.file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    found = [str(path) for path in Path("/usr/lib").glob(FAKETIME)]
    if not found:
        missing_component("libfaketime (tests/debian-packages.txt)")
    made = Clock(tmp_path / "ahead", found[0], tmp_path / "mended")
    made.mended.mkdir()
    (made.mended / "sitecustomize.py").write_text(_MENDED)
    made.step(timedelta())
    return made


STEPS: Final = (
    timedelta(minutes=40),
    timedelta(hours=40),  # past the refresh time of all that is kept
    timedelta(minutes=-40),
    timedelta(days=5),  # past nextUpdate
    timedelta(),
)
# Past the end of the signer's certificate, and before its beginning: nothing lawful can be signed.
IMPOSSIBLE: Final = (timedelta(days=60), timedelta(hours=-20), timedelta(days=-3000))


def test_a_clock_that_is_stepped_forwards_and_backwards(world: World, clock: Clock, record_property: Tell) -> None:
    issuer = one_issuer(world)
    with (
        running(world, variables=clock.variables) as responder,
        told(watching(responder, issuer), record_property) as watch,
    ):
        for ahead in STEPS:
            with watch.truth.ahead.becoming(ahead):
                clock.step(ahead)
            with watch.fault(may=()):
                watch.go_on(0.6)
        for ahead in IMPOSSIBLE:
            with watch.fault():
                with watch.truth.ahead.becoming(ahead):
                    clock.step(ahead)
                watch.go_on(0.6)
                assert watch.heard()[TRY_LATER] > 0
                assert responder.everywhere(lambda: responder.status(issuer, watch.good) == TRY_LATER)
                with watch.truth.ahead.becoming(timedelta()):
                    clock.step(timedelta())


# ------------------------------------------------------------------------------------------- no room, and the workers


def test_no_room_for_the_log_costs_no_answer(world: World, record_property: Tell) -> None:
    issuer = one_issuer(world)
    with running(world) as responder, told(watching(responder, issuer), record_property) as watch:
        everyone = [responder.process.pid, *responder.workers()]
        before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in everyone]
        written = responder.log.stat().st_size
        # No process may make any file longer than it is: what a full disk says, but only to them.
        for pid in everyone:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[0][1]))
        with watch.fault(may=()):
            world.execute("UPDATE ocsp.issuer SET name = 'untold'")
            watch.go_on(2.5)
        assert responder.log.stat().st_size == written
        for pid, limits in zip(everyone, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        world.execute("UPDATE ocsp.issuer SET name = 'told'")
        until(lambda: any("told" in line.get("issuers", ()) for line in responder.lines()), seconds=5)


def test_workers_that_are_killed_or_stand_still_for_a_while(world: World, record_property: Tell) -> None:
    issuer = one_issuer(world)
    with running(world) as responder, told(watching(responder, issuer), record_property) as watch:
        gone: set[int] = set()
        for _ in range(3):
            with watch.fault(may=(BROKEN,)):
                killed = responder.workers()[0]
                gone.add(killed)
                os.kill(killed, signal.SIGKILL)
                until(lambda: len(set(responder.workers()) - gone) == 2)
        # Whom it had asked is asked too late by then: the deadline goes by the clock, not by who stands still.
        with watch.fault(may=(BROKEN, TRY_LATER)):
            still = responder.workers()[0]
            os.kill(still, signal.SIGSTOP)
            watch.go_on(3.5)
            os.kill(still, signal.SIGCONT)
        assert still in responder.workers()


def test_a_worker_that_hangs_for_good_is_replaced(world: World, record_property: Tell) -> None:
    issuer = one_issuer(world)
    with running(world) as responder, told(watching(responder, issuer), record_property) as watch:
        with watch.fault(may=(BROKEN,)):
            hanging, other = responder.workers()
            os.kill(hanging, signal.SIGSTOP)
            until(lambda: hanging not in responder.workers() and len(responder.workers()) == 2, seconds=45)
        assert other in responder.workers()
