# SPDX-License-Identifier: Apache-2.0
"""A responder that really runs: `ocsp-responder serve`, its database and its issuers, and the lines it logs."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client.parser import text_string_to_metric_families

from demo.ca import Authority, PrivateKey, write_key
from demo.stage import command, free_port
from responder.ocsp.policy import DEFAULT_POLICY
from responder.runtime.db import connect_once
from responder.signing.rollover import take_over
from responder.status import issuer_store, store
from responder.status.issuers import CaCertificate, IssuerSet
from responder.status.model import FilePlace, Policy, Reason, Revoked, Sighting, serial_octets
from responder.status.precert import prove
from responder.status.record import record_issued
from responder.status.signers import SignerState
from tests.responder.asking import Reply, ask, get, request_for

START: Final = 30.0


def until(what: Callable[[], bool], *, seconds: float = START) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass(frozen=True)
class Served:
    """An issuer in the database, and the CA behind it."""

    name: str
    issuer_id: int
    ca: Authority
    signer: x509.Certificate | None

    @property
    def certificate(self) -> x509.Certificate:
        return self.ca.certificate


@dataclass
class World:
    """A database, written to as ocsp-admin and the reconciler would."""

    dsn: str
    folder: Path
    _issuers: IssuerSet | None = field(default=None, repr=False)

    def add_issuer(
        self,
        name: str,
        ca: Authority,
        *,
        signer: tuple[x509.Certificate, PrivateKey] | None,
        public: bool = True,
        passphrase: bytes | None = None,
        policy: Policy = DEFAULT_POLICY,
    ) -> Served:
        """Add an issuer and, where one is given, its signer; the CA's own certificate means that it signs itself."""
        certificate = CaCertificate.load(ca.pem())
        direct = signer is not None and signer[0] == ca.certificate

        async def add() -> int:
            async with connect_once(self.dsn, application="tests") as connection, connection.transaction():
                issuer_id = await issuer_store.insert_issuer(
                    connection, name, certificate, public=public, direct_signing=direct, policy=policy
                )
                await issuer_store.insert_issuer_certificate(connection, issuer_id, certificate)
                return issuer_id

        issuer_id = asyncio.run(add())
        served = Served(name, issuer_id, ca, None if signer is None else signer[0])
        if signer is not None:
            self.add_signer(served, *signer, passphrase=passphrase)
        return served

    def add_signer(
        self, issuer: Served, certificate: x509.Certificate, key: PrivateKey, *, passphrase: bytes | None = None
    ) -> Path:
        """Add a signer whatever admission would say of it, and return where its key lies."""
        path = write_key(self.folder / f"{certificate.serial_number:x}.key", key, passphrase=passphrase)
        self.insert_signer(issuer, certificate, f"file:{path}")
        return path

    def insert_signer(
        self, issuer: Served, certificate: x509.Certificate, location: str, *, state: SignerState = SignerState.ACTIVE
    ) -> int:
        """Enter a signer; an active one takes over from the former. Return its number."""

        async def add() -> int:
            async with connect_once(self.dsn, application="tests") as connection, connection.transaction():
                number = await issuer_store.insert_signer(
                    connection,
                    issuer.issuer_id,
                    certificate=certificate.public_bytes(Encoding.DER),
                    key_location=location,
                    state=SignerState.STAGED,
                )
                record = await issuer_store.find_signer(connection, number)
                assert record is not None
                if state is SignerState.ACTIVE:
                    await take_over(connection, record)
                else:
                    await issuer_store.set_signer_state(connection, number, state)
                return number

        return asyncio.run(add())

    def register(self, *certificates: x509.Certificate) -> None:
        """Make certificates known, by the road of all others."""

        async def register() -> None:
            async with connect_once(self.dsn, application="tests") as connection, connection.transaction():
                issuers = await issuer_store.load_issuers(connection)
                proven = [prove(each.public_bytes(Encoding.DER), issuers).issued for each in certificates]
                source_id = await store.source_id(connection, "ocsp-admin")
                assert source_id is not None
                sightings = [
                    Sighting(issued=each, place=FilePlace(file=each.sha256.hex(), offset=0)) for each in proven
                ]
                await record_issued(connection, source_id, sightings)

        asyncio.run(register())

    def issue(self, issuer: Served, *, serial: int | None = None, ago: timedelta | None = None) -> int:
        """Issue and register a certificate; with `ago`, one that ended so long ago. Return its serial."""
        times: dict[str, Any] = {}
        if ago is not None:
            end = issuer.certificate.not_valid_before_utc + timedelta(days=1) - ago
            times = {"not_before": end - timedelta(days=5), "not_after": end}
        made = issuer.ca.issue("www.example", serial=serial, **times)
        self.register(made)
        return made.serial_number

    def revoke(self, issuer: Served, serial: int, revoked: Revoked) -> None:
        async def revoke() -> None:
            async with connect_once(self.dsn, application="tests") as connection:
                await store.set_revoked(connection, (issuer.issuer_id, serial), revoked)

        asyncio.run(revoke())

    def reserve(self, issuer: Served, serial: int) -> None:
        async def reserve() -> None:
            async with connect_once(self.dsn, application="tests") as connection:
                assert await store.reserve(connection, (issuer.issuer_id, serial))

        asyncio.run(reserve())

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement as the tables' owner."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            done = connection.execute(statement.encode(), parameters)
            return done.fetchall() if done.description is not None else []

    def purge(self, issuer: Served, serial: int) -> None:
        self.execute(
            "UPDATE ocsp.certificate SET status = 'purged', revoked_at = NULL, reason = NULL"
            " WHERE issuer_id = %s AND serial = %s",
            issuer.issuer_id,
            serial_octets(serial),
        )


def revoked(reason: Reason, *, ago: timedelta = timedelta(days=1), ca: Authority) -> Revoked:
    return Revoked(ca.certificate.not_valid_before_utc + timedelta(days=1) - ago, reason)


@dataclass
class Running:
    """A responder process, where it listens, and what it logged."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path
    world: World

    def ask(self, request: bytes, method: str = "POST") -> Reply:
        return ask(self.port, request, method)

    def status(self, issuer: Served, serial: int, *, method: str = "POST", hash_name: str = "sha1") -> str:
        return self.ask(request_for(issuer.certificate, serial, hash_name=hash_name), method).words

    def lines(self) -> list[dict[str, Any]]:
        """Every line it logged; each has to be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def workers(self) -> list[int]:
        """The process numbers of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    @contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """Have this worker take every new connection, as all others stand still meanwhile."""
        others = [pid for pid in self.workers() if pid != worker]
        try:
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            until(lambda: all(_stands(pid) for pid in others))
            yield
        finally:
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def everywhere(self, what: Callable[[], bool]) -> bool:
        """Tell whether it is so in every worker, whichever of them would have taken the connections."""
        for worker in self.workers():
            with self.alone(worker):
                if not what():
                    return False
        return True


def _stands(pid: int) -> bool:
    """Whether a process has been stopped by a signal, and not only told to."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in {"T", "t", "Z", "X"}


def environment(**more: str) -> dict[str, str]:
    """What our processes see: no settings from outside."""
    ours = {"OCSP_DATABASE_DSN", "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET"}
    return {name: value for name, value in os.environ.items() if name not in ours} | more


def write_settings(
    folder: Path, *, dsn: str, port: int, workers: int = 2, more: str = "", replica_dsn: str = ""
) -> Path:
    """Write a settings file, and return where it lies."""
    path = folder / f"responder-{port}.toml"
    path.write_text(
        f"[database]\ndsn = {json.dumps(dsn)}\nreplica_dsn = {json.dumps(replica_dsn)}\n"
        f'[http]\nbind = "127.0.0.1:{port}"\nworkers = {workers}\n{more}\n'
    )
    return path


@contextmanager
def running(
    world: World,
    *,
    dsn: str | None = None,
    replica_dsn: str = "",
    workers: int = 2,
    more: str = "",
    variables: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Start a responder, wait until it answers, and stop it afterwards; it may not have logged a traceback."""
    port = free_port()
    settings = write_settings(
        world.folder,
        dsn=world.dsn if dsn is None else dsn,
        replica_dsn=replica_dsn,
        port=port,
        workers=workers,
        more=more,
    )
    log = world.folder / f"responder-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command("ocsp-responder"), "--config", settings, "serve"],
            stdout=out,
            stderr=out,
            env=environment(**(variables or {})),
        )
    started = Running(port, process, log, world)
    try:
        until(lambda: answers(started) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield started
    finally:
        stop(process)
    assert process.returncode == 0, log.read_text()[-4000:]
    assert "Traceback" not in log.read_text(), log.read_text()[-4000:]
    started.lines()


@dataclass(frozen=True)
class Private:
    """The private address of a responder, as those who watch it use it."""

    port: int

    @property
    def settings(self) -> str:
        return f'[private]\nbind = "127.0.0.1:{self.port}"\n'

    def get(self, path: str) -> Reply:
        return get(self.port, path.encode())

    def ready(self) -> dict[str, Any]:
        """What /readyz says; the status and the word agree."""
        reply = self.get("/readyz")
        told: dict[str, Any] = json.loads(reply.body)
        assert reply.status == (200 if told["ready"] else 503)
        return told

    def states(self) -> dict[str, str]:
        return {name: check["state"] for name, check in self.ready()["checks"].items()}

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample, by its name and the values of its labels in the order of their names."""
        families = text_string_to_metric_families(self.get("/metrics").body.decode())
        samples = [sample for family in families for sample in family.samples]
        return {
            (each.name, *(value for _, value in sorted(each.labels.items()))): each.value for each in samples
        }  # fmt: skip

    def sum_of(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics").body.decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def answers(started: Running) -> bool:
    try:
        return ask(started.port, b"", "POST").status == 200
    except OSError:
        return False


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process that we started, kindly first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def with_policy(**changes: Any) -> Policy:
    """The usual policy, but for these."""
    return replace(DEFAULT_POLICY, **changes)


def sources(world: World, statement: str, names: Sequence[str] = ()) -> None:
    """Change the sources that back an unknown."""
    world.execute(statement, *names)
