# SPDX-License-Identifier: Apache-2.0
"""The nine invariants, each stated in the words of docs/architecture.md and held against the real parts."""

import asyncio
import inspect
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from demo.ca import Authority, write_key
from demo.log import Log, serve
from reconciler.cli import _ct_source
from reconciler.config import CtLogSettings, Settings
from reconciler.follow import follow
from reconciler.model import Source
from reconciler.orphans import report_orphans
from reconciler.store import enter_source
from reconciler.supervisor import Watched, once
from responder.answer import Answer
from responder.cache import Cache
from responder.counting import Counts
from responder.errors import LintError, ResponseStatus
from responder.feed import Feed
from responder.lookups import LookUps
from responder.ocsp.lint import lint
from responder.ocsp.policy import DEFAULT_POLICY
from responder.ocsp.request import parse_request
from responder.ocsp.response import error_response
from responder.runtime.db import Database, DatabaseRefused
from responder.service import Service
from responder.signing.keyring import Keyring, load_keyring
from responder.signing.keys import Keys
from responder.status import issuer_store, store
from responder.status.issuers import CaCertificate
from responder.status.model import FilePlace, Reason, Revoked, Sighting, whole_second
from responder.status.precert import prove
from responder.status.record import record_issued
from responder.status.revoke import revoke
from responder.status.signers import SignerState
from responder.stored import StoredAnswers, Use
from tests.conftest import as_role

ARCHITECTURE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
UNAUTHORIZED = error_response(ResponseStatus.UNAUTHORIZED)


def now() -> datetime:
    return datetime.now(UTC)


class Ground:
    """A CA with a delegated signer, its issuer in a database, and a responder's service over it."""

    def __init__(self, database: Database, ca: Authority, issuer_id: int, keyring: Keyring) -> None:
        self.database = database
        self.ca = ca
        self.issuer_id = issuer_id
        self.cache = Cache(most=100)
        counts = Counts()
        self.feed = Feed(database, self.cache, reload=self._unchanged, counts=counts)
        self.service = Service(
            lookups=LookUps(database, deadline=5.0, counts=counts),
            cache=self.cache,
            feed=self.feed,
            keyring=lambda: keyring,
            clock=now,
            stored=StoredAnswers(database, Use.WHEN_SIGNER_FAILS, clock=now),
            counts=counts,
        )

    async def _unchanged(self, _: int) -> None: ...

    def request(self, serial: int, *, ca: Authority | None = None) -> bytes:
        asked = (ca or self.ca).certificate
        key_hash = x509.SubjectKeyIdentifier.from_public_key(asked.public_key()).digest
        digest = hashes.Hash(hashes.SHA1())  # noqa: S303 - RFC 6960's name for an issuer
        digest.update(asked.subject.public_bytes())
        builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            digest.finalize(),
            key_hash,
            serial,
            hashes.SHA1(),  # noqa: S303
        )
        return builder.build().public_bytes(Encoding.DER)

    async def ask(self, serial: int) -> str:
        """Return what the responder says: good, revoked, unknown, or the error's name."""
        return said(await self.service.answer(self.request(serial)))

    async def register(self, document: x509.Certificate) -> None:
        async with self.database.transaction() as connection:
            issuers = await issuer_store.load_issuers(connection)
            issued = prove(document.public_bytes(Encoding.DER), issuers).issued
            source_id = await store.source_id(connection, "ocsp-admin")
            assert source_id is not None
            await record_issued(connection, source_id, [Sighting(issued=issued, place=FilePlace(file="x", offset=0))])

    async def revoke(self, serial: int, reason: Reason = Reason.KEY_COMPROMISE) -> Revoked:
        async with self.database.transaction() as connection:
            return await revoke(connection, (self.issuer_id, serial), at=None, reason=reason, correct=False, now=now())

    async def make_stale(self, name: str) -> None:
        await self.run("UPDATE ocsp.source SET verified_at = now() - interval '16 minutes' WHERE name = %s", name)

    async def run(self, statement: str, *arguments: object) -> list[tuple[object, ...]]:
        async with self.database.connection() as connection:
            rows = await connection.execute(statement.encode(), arguments)
            return await rows.fetchall() if rows.description is not None else []


def said(answer: Answer) -> str:
    response = ocsp.load_der_ocsp_response(answer.body)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return response.response_status.name.lower()
    return response.certificate_status.name.lower()


@pytest.fixture
async def ground(database: Database, tmp_path: Path) -> Ground:
    ca = Authority.create("Invariant CA")
    signer, key = ca.issue_responder()
    write_key(tmp_path / "signer.key", key)
    certificate = CaCertificate.load(ca.certificate.public_bytes(Encoding.DER))
    async with database.transaction() as connection:
        issuer_id = await issuer_store.insert_issuer(
            connection, "ca", certificate, public=True, direct_signing=False, policy=DEFAULT_POLICY
        )
        await issuer_store.insert_issuer_certificate(connection, issuer_id, certificate)
        await issuer_store.insert_signer(
            connection,
            issuer_id,
            certificate=signer.public_bytes(Encoding.DER),
            key_location=f"file:{tmp_path / 'signer.key'}",
            state=SignerState.ACTIVE,
        )
    async with database.connection() as connection:
        keyring = await load_keyring(connection, Keys(passphrase=lambda: None), now=now())
    ground = Ground(database, ca, issuer_id, keyring)
    await ground.feed.read_once()
    return ground


@asynccontextmanager
async def watched_log(ground: Ground, log: Log) -> AsyncIterator[Source]:
    """Serve a log, read it once to its head, and yield what reads it again."""
    async with serve(log) as url:
        settings = CtLogSettings(name="log", kind="static", monitoring_url=url, key=log.key_b64, start="beginning")
        source = _ct_source(settings, Settings())
        assert await once(ground.database, [Watched(source, timedelta(seconds=1))]) == []
        yield source
        await source.close()


async def test_unknown_means_foreign(ground: Ground) -> None:
    """A signed `unknown` is sent only for an issuer we serve, for a serial in no source we have read, while every
    required source is fresh. If a required source is stale (default: no verified progress for 15 minutes), the answer
    is `tryLater`, never `unknown`. An issuer we do not serve gets unsigned `unauthorized`."""
    log = Log()
    async with watched_log(ground, log):
        assert await ground.ask(4711) == "unknown"
        await ground.make_stale("log")
        assert await ground.ask(4711) == "try_later"
        await ground.run("UPDATE ocsp.source SET verified_at = now(), distrusted_at = now(), distrust_reason = 'x'")
        assert await ground.ask(4711) == "try_later"
    foreign = ground.request(4711, ca=Authority.create("Somebody else"))
    assert (await ground.service.answer(foreign)).body == UNAUTHORIZED


async def test_good_means_assigned(ground: Ground) -> None:
    """`good` only for a serial whose certificate or precertificate we have verified to be signed by that issuer's
    key."""
    log = Log()
    impostor = Authority.create("Invariant CA")
    forged = impostor.precertificate("forged.example")
    genuine = ground.ca.precertificate("genuine.example")
    # A dishonest log: it claims our key for what another key has signed.
    log.add_precertificate(genuine, [ground.ca.certificate])
    log.add_precertificate(forged, [ground.ca.certificate])
    async with watched_log(ground, log):
        assert await ground.ask(genuine.serial_number) == "good"
        assert await ground.ask(forged.serial_number) == "unknown"
    assert await ground.run("SELECT reason FROM ocsp.quarantine") == [("signature",)]


async def test_knowledge_only_grows(ground: Ground, dsn: str) -> None:
    """Sources insert; they never update, delete, un-revoke or downgrade. Revocation time and reason can be corrected,
    revocation cannot be undone."""
    certificate = ground.ca.precertificate("a.example")
    await ground.register(certificate)
    await ground.revoke(certificate.serial_number)
    await ground.register(certificate)
    assert await ground.ask(certificate.serial_number) == "revoked"
    for undoing in (
        "UPDATE ocsp.certificate SET status = 'good', revoked_at = NULL, reason = NULL",
        "DELETE FROM ocsp.certificate",
        "TRUNCATE ocsp.certificate CASCADE",
    ):
        with pytest.raises(DatabaseRefused):
            await ground.run(undoing)
    async with Database(as_role(dsn, "ocsp_reconciler"), application="tests") as reconciler:
        with pytest.raises(DatabaseRefused, match="permission denied"):
            async with reconciler.connection() as connection:
                await connection.execute("UPDATE ocsp.certificate SET reason = 4")
    async with ground.database.transaction() as connection:
        corrected = await revoke(
            connection, (ground.issuer_id, certificate.serial_number),
            at=whole_second(now() - timedelta(days=1)), reason=Reason.SUPERSEDED, correct=True, now=now(),
        )  # fmt: skip
    assert corrected.reason is Reason.SUPERSEDED


async def test_every_source_takes_the_same_road(ground: Ground, tmp_path: Path) -> None:
    """CT, issuance logs, registration by hand: one idempotent routine writes a certificate's row."""
    certificate = ground.ca.precertificate("everywhere.example")
    log = Log()
    log.add_precertificate(certificate, [ground.ca.certificate])
    row = "SELECT status, not_before, not_after, is_ca, recorded_at FROM ocsp.certificate"
    await ground.register(certificate)
    before = await ground.run(row)
    async with watched_log(ground, log):
        await ground.register(certificate)
        assert await ground.run(row) == before
    seen = await ground.run("SELECT name FROM ocsp.sighting JOIN ocsp.source USING (source_id) ORDER BY name")
    assert seen == [("log",), ("ocsp-admin",)]
    callers = [
        path.relative_to(Path(__file__).parents[1])
        for folder in ("responder", "reconciler", "admin")
        for path in (Path(__file__).parents[1] / folder).rglob("*.py")
        if re.search(r"\binsert_rows\(", path.read_text()) and path.name != "store.py"
    ]
    assert callers == [Path("responder/status/record.py")]


async def test_a_revocation_is_visible_everywhere_within_two_seconds(ground: Ground) -> None:
    """A revocation is visible everywhere within two seconds of its commit, in every worker, and no cached answer
    outlives it."""
    certificate = ground.ca.precertificate("kept.example")
    await ground.register(certificate)
    await ground.feed.read_once()
    feeding = asyncio.create_task(ground.feed.run())
    try:
        assert await ground.ask(certificate.serial_number) == "good"
        request = ground.request(certificate.serial_number)
        assert ground.service.kept(request) is not None
        await ground.revoke(certificate.serial_number)
        await asyncio.sleep(1.9)
        assert await ground.ask(certificate.serial_number) == "revoked"
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    # The feed is cut: what is kept is not vouched for any more, and the table is asked.
    await asyncio.sleep(1.6)
    assert ground.service.kept(ground.request(certificate.serial_number)) is None
    assert await ground.ask(certificate.serial_number) == "revoked"


async def test_doubt_is_never_cached(ground: Ground) -> None:
    """`unknown`, errors and `tryLater` carry headers that keep shared caches from storing them; a signed `unknown` is
    short-lived."""
    unknown = await ground.service.answer(ground.request(4711))
    control = dict(unknown.headers(now()))[b"cache-control"]
    assert b"private" in control
    assert b"max-age=0" in control
    response = ocsp.load_der_ocsp_response(unknown.body)
    assert response.next_update_utc is not None
    assert response.next_update_utc - response.this_update_utc <= timedelta(minutes=15)
    error = await ground.service.answer(b"no request")
    assert b"no-store" in dict(error.headers(now()))[b"cache-control"]
    assert len(ground.cache) == 0


async def test_nothing_leaves_unlinted(ground: Ground) -> None:
    """Every signed response is checked (interval, times, signer window, reason, echo of CertID) before it is served."""
    certificate = ground.ca.precertificate("linted.example")
    await ground.register(certificate)
    answer = await ground.service.answer(ground.request(certificate.serial_number))
    asked = parse_request(ground.request(certificate.serial_number + 1)).cert_ids
    async with ground.database.connection() as connection:
        keyring = await load_keyring(connection, Keys(passphrase=lambda: None), now=now())
    issuer = keyring.issuers.all[0]
    with pytest.raises(LintError):
        lint(
            answer.body, asked=asked, issuer=issuer, now=now(), verify=True,
            signer_certificate=keyring.signers[issuer.issuer_id].certificate,
        )  # fmt: skip
    # A row that says what must not be said: the table cannot hold a revocation in the future of our clock by accident,
    # but if it does, no such response leaves.
    await ground.run(
        "UPDATE ocsp.certificate SET status = 'revoked', reason = 1, revoked_at = date_trunc('second', now()) + '1 day'"
    )
    await ground.feed.read_once()
    assert await ground.ask(certificate.serial_number) == "internal_error"


async def test_a_position_never_runs_ahead_of_the_rows_it_covers(ground: Ground, dsn: str) -> None:
    """A position never runs ahead of the rows it covers, and both move in one transaction."""
    log = Log()
    async with watched_log(ground, log) as source:
        before = await ground.run("SELECT position FROM ocsp.ct_position")
        orphan = ground.ca.precertificate("orphan.example")
        log.add_precertificate(orphan, [ground.ca.certificate])
        async with ground.database.connection() as connection:
            issuers = await issuer_store.load_issuers(connection)
        # The row cannot be written: then the position must not move either.
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'disk full'; END$$;"
                "CREATE TRIGGER refuse BEFORE INSERT ON ocsp.certificate FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        (source_id,) = (await ground.run("SELECT source_id FROM ocsp.source WHERE name = 'log'"))[0]
        assert isinstance(source_id, int)
        with pytest.raises(DatabaseRefused, match="disk full"):
            await follow(source, ground.database, issuers, source_id=source_id)
        assert await ground.run("SELECT position FROM ocsp.ct_position") == before
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("DROP TRIGGER refuse ON ocsp.certificate")
        await follow(source, ground.database, issuers, source_id=source_id)
        assert await ground.ask(orphan.serial_number) == "good"


async def test_no_alarm_is_lost_in_a_mailbox(ground: Ground) -> None:
    """Findings are rows, written once and never edited (`ocsp.finding`)"""
    await ground.run("INSERT INTO ocsp.source (name, kind, required) VALUES ('spool', 'spool', true)")
    orphan = ground.ca.precertificate("orphan.example")
    log = Log()
    log.add_precertificate(orphan, [ground.ca.certificate])
    async with serve(log) as url:
        source = _ct_source(
            CtLogSettings(name="log", kind="static", monitoring_url=url, key=log.key_b64, start="beginning"), Settings()
        )
        async with ground.database.transaction() as connection:
            source_id = await enter_source(connection, source.settings)
        async with ground.database.connection() as connection:
            issuers = await issuer_store.load_issuers(connection)
        for _ in range(2):
            await follow(source, ground.database, issuers, source_id=source_id)
            await report_orphans(ground.database, after=timedelta(0))
        await source.close()
    assert await ground.run("SELECT kind, severity FROM ocsp.finding") == [("orphan", "critical")]
    for forgetting in ("DELETE FROM ocsp.finding", "UPDATE ocsp.finding SET severity = 'low'"):
        with pytest.raises(DatabaseRefused, match="only grows"):
            await ground.run(forgetting)


def test_the_invariants_are_stated_in_the_same_words_as_the_document() -> None:
    stated = " ".join(ARCHITECTURE.replace("**", "").split())
    tests = [
        test
        for name, test in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
        if name.startswith("test_") and test.__doc__
    ]
    assert len(tests) == 9
    for test in tests:
        assert test.__doc__ is not None
        assert " ".join(test.__doc__.split()).rstrip(".") in stated, test.__name__
