# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to a running responder, in whatever order: every answer agrees with a model of ten lines.

Two workers of a real gunicorn, asked one by one, by GET and POST and under every hash; the commands' own functions.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from demo.ca import Authority, make_key
from responder.runtime.db import connect_once
from responder.status import issuer_store, store
from responder.status.model import FilePlace, Reason, Sighting, UnassignedAnswer
from responder.status.precert import prove
from responder.status.purge import purge
from responder.status.record import record_issued
from responder.status.revoke import revoke
from tests.conftest import as_role, create_database, drop_database, unused_name
from tests.responder.asking import HASHES, Line, Reply, head, request_for, target_of
from tests.responder.conftest import REASONS
from tests.responder.running import Running, Served, World, running, until, with_policy

# Invariant 5: everything is visible everywhere within two seconds of its commit.
BOUND: Final = 2.0
# A longer run: more of these, in another order each time.
RUNS: Final = int(os.environ.get("FOUNDLING_MACHINE_RUNS", "0"))
STEPS: Final = int(os.environ.get("FOUNDLING_MACHINE_STEPS", "14"))
FOREIGN: Final = 0x7E57
RETENTION: Final = timedelta(days=1)


class Said(NamedTuple):
    """What an answer says: a word, and of a revocation its time and reason."""

    word: str
    at: datetime | None = None
    reason: str | None = None


UNKNOWN, GOOD, PURGED = Said("unknown"), Said("good"), Said("unauthorized")
PENDING = TRY_LATER = Said("try_later")


# The model --------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """What the responder has to say of every serial, and whose signature has to be under it."""

    rows: dict[int, Said] = field(default_factory=dict)
    unassigned: Said = UNKNOWN
    signer: x509.Certificate | None = None

    def says(self, serial: int) -> Said:
        return self.rows.get(serial, self.unassigned)

    def those(self, word: str) -> list[int]:
        return [serial for serial, said in self.rows.items() if said.word == word]

    def copy(self) -> "Model":
        return Model(dict(self.rows), self.unassigned, self.signer)


# The real thing ---------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """The one responder that all runs share; each run has an issuer of its own."""

    world: World
    stack: ExitStack
    responder: Running
    issuers: int = 0
    steps: int = 0
    answers: int = 0

    def restart(self) -> None:
        self.stack.close()
        self.responder = start(self.world, self.stack)

    def reload(self) -> None:
        before = set(self.responder.workers())
        self.responder.process.send_signal(signal.SIGHUP)
        until(lambda: len(now := set(self.responder.workers())) == len(before) and not now & before)

    @contextmanager
    def lines(self) -> Iterator[list[Line]]:
        """A connection to each worker."""
        with ExitStack() as stack:
            found: dict[int, Line] = {}
            deadline = time.monotonic() + 10
            while missing := set(self.responder.workers()) - set(found):
                assert time.monotonic() < deadline, f"never reached {missing}"
                line = stack.enter_context(Line(self.responder.port))
                line.send(head("POST", b"/", ("Content-Length", "0")))
                line.reply()
                found.setdefault(worker_of(line, self.responder), line)
            yield list(found.values())


def worker_of(line: Line, responder: Running) -> int:
    """The process that has the other end of this connection."""
    mine = line._socket.getsockname()[1]
    ends = f":{responder.port:04X}", f":{mine:04X}", "01"  # established
    rows = [each.split() for each in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if (row[1][-5:], row[2][-5:], row[3]) == ends]
    for pid in responder.workers():
        for each in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(each.readlink()) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError("nobody has it")


def start(world: World, stack: ExitStack) -> Running:
    return stack.enter_context(running(world, dsn=as_role(world.dsn, "ocsp_responder")))


class Responders(RuleBasedStateMachine):
    """The rules: each does one thing through the real functions, and says in the model what it has to mean."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        stage = self.stage
        stage.issuers += 1
        self.ca = Authority.create(f"Machine CA {stage.issuers}")
        signer = self.ca.issue_responder(key=make_key("p256"))
        self.issuer: Served = stage.world.add_issuer(
            f"machine-{stage.issuers}", self.ca, signer=signer, policy=with_policy(retention=RETENTION)
        )
        self.now = Model(signer=signer[0])
        self.expired: set[int] = set()
        self.next_serial = 0x1000
        self.open: tuple[asyncio.Runner, AsyncExitStack, Model] | None = None
        # A certificate of every kind is there from the start, so that no run goes by without one.
        for ago in (None, None, timedelta(days=2)):
            serial = self.fresh()
            stage.world.issue(self.issuer, serial=serial, ago=ago)
            self.now.rows[serial] = GOOD
        self.expired.add(serial)
        reserved = self.fresh()
        stage.world.reserve(self.issuer, reserved)
        self.now.rows[reserved] = PENDING
        self.before = Model(dict.fromkeys(self.now.rows, PURGED), Said("unauthorized"), signer[0])
        self.agree()

    # What is done

    @rule()
    def reserve(self) -> None:
        serial = self.fresh()
        self.stage.world.reserve(self.issuer, serial)
        self.now.rows[serial] = PENDING
        self.agree()

    @rule(ago=st.sampled_from([None, timedelta(hours=2), timedelta(days=2)]))
    def register(self, ago: timedelta | None) -> None:
        serial = self.fresh()
        self.stage.world.issue(self.issuer, serial=serial, ago=ago)
        self.now.rows[serial] = GOOD
        if ago is not None and ago > RETENTION:
            self.expired.add(serial)
        self.agree()

    @precondition(lambda self: self.now.those("try_later"))
    @rule(is_precertificate=st.booleans())
    def sign_what_was_reserved(self, is_precertificate: bool) -> None:
        serial = self.now.those("try_later")[0]
        made = self.ca.precertificate if is_precertificate else self.ca.issue
        self.stage.world.register(made("www.example", serial=serial))
        self.now.rows[serial] = GOOD
        self.agree()

    @precondition(lambda self: self.free("good"))
    @rule(reason=st.sampled_from(REASONS))
    def revoke(self, reason: Reason) -> None:
        self.set_revoked(self.free("good")[-1], reason, ago=0, correct=False)

    @precondition(lambda self: self.free("revoked"))
    @rule(reason=st.sampled_from(REASONS), ago=st.integers(1, 3600))
    def correct_a_revocation(self, reason: Reason, ago: int) -> None:
        self.set_revoked(self.free("revoked")[0], reason, ago=ago, correct=True)

    @precondition(lambda self: self.open is None)  # it would wait for that transaction, as it should
    @rule()
    def purge(self) -> None:
        async def let_go() -> None:
            async with connect_once(self.stage.world.dsn, application="tests") as connection:
                before = datetime.now(UTC) - RETENTION
                await purge(connection, self.issuer.issuer_id, before=before, actor="machine", told=lambda _: None)

        asyncio.run(let_go())
        self.now.rows.update(dict.fromkeys(self.expired, PURGED))
        self.agree()

    @rule()
    def roll_the_signer(self) -> None:
        certificate, key = self.ca.issue_responder(key=make_key("p256"))
        self.stage.world.add_signer(self.issuer, certificate, key)
        self.now.signer = certificate
        self.agree()

    @rule(unassigned=st.sampled_from([UnassignedAnswer.UNKNOWN, UnassignedAnswer.UNAUTHORIZED]))
    def change_the_policy(self, unassigned: UnassignedAnswer) -> None:
        async def change() -> None:
            async with connect_once(self.stage.world.dsn, application="tests") as connection, connection.transaction():
                policy = with_policy(retention=RETENTION, unassigned=unassigned)
                await issuer_store.update_policy(connection, self.issuer.issuer_id, policy, public=True)

        asyncio.run(change())
        self.now.unassigned = Said(unassigned.value)
        self.agree()

    @rule()
    def cut_every_connection_to_the_database(self) -> None:
        with psycopg.connect(self.stage.world.dsn, autocommit=True) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ocsp-responder' AND datname = current_database()"
            )
        self.agree(disturbed=True)

    @rule(is_gentle=st.booleans())
    def restart(self, is_gentle: bool) -> None:
        self.stage.reload() if is_gentle else self.stage.restart()
        self.agree()

    @precondition(lambda self: self.open is None)
    @rule()
    def do_something_and_do_not_commit_yet(self) -> None:
        """Register a certificate and revoke another in a transaction that stays open while other things happen."""
        after = Model()
        runner, stack = asyncio.Runner(), AsyncExitStack()
        made = self.ca.issue("www.example", serial=self.fresh())
        after.rows[made.serial_number] = GOOD

        async def begin() -> None:
            connection = await stack.enter_async_context(connect_once(self.stage.world.dsn, application="tests"))
            await stack.enter_async_context(connection.transaction())
            issuers = await issuer_store.load_issuers(connection)
            source = await store.source_id(connection, "ocsp-admin")
            assert source is not None
            issued = prove(made.public_bytes(Encoding.DER), issuers).issued
            await record_issued(connection, source, [Sighting(issued=issued, place=FilePlace(file="held", offset=0))])
            for serial in self.free("good")[:1]:
                after.rows[serial] = await self.revoked(connection, serial, Reason.SUPERSEDED, ago=0, correct=False)

        runner.run(begin())
        self.open = runner, stack, after
        self.agree()

    @precondition(lambda self: self.open is not None)
    @rule()
    def commit_at_last(self) -> None:
        self.end_transaction()
        self.agree()

    def teardown(self) -> None:
        if self.open is not None:
            self.end_transaction()

    # What that takes

    def fresh(self) -> int:
        self.next_serial += 1
        return self.next_serial

    def free(self, word: str) -> list[int]:
        """The serials of this status that no open transaction has locked."""
        locked = {} if self.open is None else self.open[2].rows
        return [serial for serial in self.now.those(word) if serial not in locked]

    def end_transaction(self) -> None:
        assert self.open is not None
        runner, stack, after = self.open
        runner.run(stack.aclose())
        runner.close()
        self.open = None
        self.now.rows |= after.rows

    def set_revoked(self, serial: int, reason: Reason, *, ago: int, correct: bool) -> None:
        async def act() -> Said:
            async with connect_once(self.stage.world.dsn, application="tests") as connection, connection.transaction():
                return await self.revoked(connection, serial, reason, ago=ago, correct=correct)

        self.now.rows[serial] = asyncio.run(act())
        self.agree()

    async def revoked(self, connection: Any, serial: int, reason: Reason, *, ago: int, correct: bool) -> Said:
        now = datetime.now(UTC)
        at = now.replace(microsecond=0) - timedelta(seconds=ago)
        key = self.issuer.issuer_id, serial
        await revoke(connection, key, at=at, reason=reason, correct=correct, now=now)
        return Said("revoked", at, None if reason is Reason.UNSPECIFIED else reason.words)

    # What is asked

    def agree(self, *, disturbed: bool = False) -> None:
        """Ask every worker for everything until all agrees with the model, for as long as the bound allows.

        An answer on the way there has to be one that was right before this step, or is right after it; doubt is right
        where connections were cut.
        """
        deadline = time.monotonic() + BOUND
        before, self.before = self.before, self.now.copy()
        while wrong := self.wrong(before, disturbed=disturbed):
            assert time.monotonic() < deadline, f"after {BOUND} seconds: {wrong}"
        self.stage.steps += 1

    def wrong(self, before: Model, *, disturbed: bool) -> list[str]:
        found = []
        serials = [*self.now.rows, FOREIGN]
        if self.open is not None:
            serials += [each for each in self.open[2].rows if each not in self.now.rows]
        with self.stage.lines() as lines:
            for number, line in enumerate(lines):
                for serial in serials:
                    for method, hash_name in self.ways(serial):
                        said, signer = self.ask(line, serial, method=method, hash_name=hash_name)
                        where = f"{serial:x} by {method} and {hash_name} from worker {number}: {said}"
                        allowed = {before.says(serial), self.now.says(serial)} | ({TRY_LATER} if disturbed else set())
                        assert said in allowed, f"{where} was never right; right is {allowed}"
                        assert signer in {None, before.signer, self.now.signer}, f"{where} by a foreign signer"
                        if said != self.now.says(serial) or signer not in {None, self.now.signer}:
                            found.append(where)
        return found

    def ways(self, serial: int) -> list[tuple[str, str]]:
        """Both methods under the two usual hashes, and one of the unusual ones."""
        usual = [(method, hash_name) for method in ("GET", "POST") for hash_name in HASHES[:2]]
        return [*usual, ("GET", HASHES[2 + serial % 2])]

    def ask(self, line: Line, serial: int, *, method: str, hash_name: str) -> tuple[Said, x509.Certificate | None]:
        """Ask, and have the answer judged by the cryptography library."""
        request = request_for(self.issuer.certificate, serial, hash_name=hash_name)
        if method == "GET":
            line.send(head("GET", target_of(request)))
        else:
            line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
        reply = line.reply()
        self.stage.answers += 1
        return judge(reply, serial, hash_name)


def judge(reply: Reply, serial: int, hash_name: str) -> tuple[Said, x509.Certificate | None]:
    read = reply.parsed()
    if read.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Said(reply.words), None
    (signer,) = read.certificates
    key, digest = signer.public_key(), read.signature_hash_algorithm
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert digest is not None
    key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(digest))
    assert (read.serial_number, read.hash_algorithm.name) == (serial, hash_name)
    assert len(read.issuer_key_hash) == hashlib.new(hash_name).digest_size
    assert read.next_update_utc is not None
    assert read.this_update_utc <= datetime.now(UTC) + timedelta(seconds=1) < read.next_update_utc
    if read.certificate_status is not ocsp.OCSPCertStatus.REVOKED:
        return Said(read.certificate_status.name.lower()), signer
    reason = read.revocation_reason
    return Said("revoked", read.revocation_time_utc, None if reason is None else reason.value), signer


@pytest.fixture
def stage(server_dsn: str, template: str, tmp_path: Path) -> Iterator[Stage]:
    name = unused_name("machine")
    world = World(create_database(server_dsn, name, template=template), tmp_path)
    ca = Authority.create("Machine CA 0")
    world.add_issuer("machine-0", ca, signer=ca.issue_responder())
    with ExitStack() as stack:
        yield Stage(world, stack, start(world, stack))
    drop_database(server_dsn, name)


def test_after_every_step_every_answer_agrees_with_the_model(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    Responders.stage = stage
    run_state_machine_as_test(
        Responders,
        settings=settings(
            max_examples=RUNS or 3,
            stateful_step_count=STEPS,
            derandomize=RUNS == 0,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f"\nstate machine: {stage.steps} steps, {stage.answers} answers, {stage.issuers} runs")  # noqa: T201
    assert stage.steps >= STEPS
