# SPDX-License-Identifier: Apache-2.0
"""The three roles, each connected as itself: what it may, what it may not, and the real code under it."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from demo.ca import Authority
from demo.log import Log, serve
from reconciler import supervisor
from responder.runtime.db import Database
from responder.status import issuer_store, store
from responder.status.feed_store import Place, read_changes, read_place
from responder.status.issuers import IssuerSet
from responder.status.model import Good, Reason, Revoked
from responder.status.record import record_issued
from responder.status.signers import SignerState
from tests import served
from tests.conftest import as_role
from tests.reconciler.ct.followed import watched
from tests.status.conftest import Owner

ROLES = ("ocsp_responder", "ocsp_reconciler", "ocsp_admin")

# What stands in the database when each statement is tried: issuer 1 with a good row 1, a revoked one 2, an expired
# good one 3 and a reservation of 5; a source with a position; a document; a signer.
PREPARED = """
INSERT INTO ocsp.certificate (issuer_id, serial, status, revoked_at, reason, not_before, not_after, is_ca) VALUES
    (1, '\\x01', 'good', NULL, NULL, '2026-01-01', '2036-01-01', false),
    (1, '\\x02', 'revoked', '2026-02-01', 1, '2026-01-01', '2036-01-01', false),
    (1, '\\x03', 'good', NULL, NULL, '2020-01-01', '2021-01-01', false);
INSERT INTO ocsp.source (name, kind, required) VALUES ('log', 'static', true);
INSERT INTO ocsp.ct_position SELECT source_id, sha256(''), 0, 0, '', 0, '' FROM ocsp.source WHERE name = 'log';
INSERT INTO ocsp.ct_head SELECT source_id, 0, sha256(''), now(), '' FROM ocsp.source WHERE name = 'log';
INSERT INTO ocsp.file_position (source_id, device, inode, path, position, tail_sha256, tail_octets)
    SELECT source_id, 1, 1, 'x', 0, '', 0 FROM ocsp.source WHERE name = 'log';
INSERT INTO ocsp.document (sha256, der) VALUES (sha256('x'), 'x');
INSERT INTO ocsp.reservation (issuer_id, serial) VALUES (1, '\\x05');
INSERT INTO ocsp.unanswered (issuer_id, serial, answer) VALUES (1, '\\x06', 'unknown');
INSERT INTO ocsp.signer (issuer_id, certificate, key_location, state, key_kind) VALUES (1, '', '/key', 'active', 'rsa');
"""

SIGHTING = (
    "INSERT INTO ocsp.sighting (issuer_id, serial, kind, source_id, sha256, file, file_offset)"
    " VALUES (1, '\\x01', 'certificate', 1, sha256('x'), 'x', 0)"
)
NEW_ROW = (
    "INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)"
    " VALUES (1, '\\x09', 'good', now(), now(), false)"
)
NEW_ISSUER = (
    "INSERT INTO ocsp.issuer (name, spki, spki_sha256, key_sha1, key_sha256, key_sha384, key_sha512, validity_seconds,"
    " refresh_seconds, max_age_seconds, unassigned, unknown_validity_seconds) SELECT 'other', 's', sha256('s'),"
    " substr(sha256('s'), 1, 20), sha256('s'), substr(sha512('s'), 1, 48), sha512('s'), 9, 8, 7, 'unknown', 6"
)
NEW_SIGNER = (
    "INSERT INTO ocsp.signer (issuer_id, certificate, key_location, state, key_kind)"
    " VALUES (1, '', '/key', 'staged', 'rsa')"
)
REVOKE = "UPDATE ocsp.certificate SET status = 'revoked', revoked_at = '2026-03-01', reason = 1 WHERE serial = '\\x01'"
UNREVOKE = (
    "INSERT INTO ocsp.certificate AS c (issuer_id, serial, status, not_before, not_after, is_ca)"
    " VALUES (1, '\\x02', 'good', now(), now(), false)"
    " ON CONFLICT (issuer_id, serial) DO UPDATE SET status = 'good', revoked_at = NULL, reason = NULL"
)
QUARANTINED = (
    "INSERT INTO ocsp.quarantine (source_id, reason, detail, sha256, raw) VALUES (1, 'x', 'x', sha256('x'), 'x')"
)
A, C, R = "ocsp_admin", "ocsp_reconciler", "ocsp_responder"

# Each statement with the roles that may run it; the others must be refused.
STATEMENTS: list[tuple[str, set[str]]] = [
    # Reading.
    ("SELECT * FROM ocsp.certificate", {A, C, R}),
    ("SELECT * FROM ocsp.reservation", {A, C, R}),
    ("SELECT * FROM ocsp.status_change", {A, C, R}),
    ("SELECT * FROM ocsp.issuer JOIN ocsp.issuer_certificate USING (issuer_id)", {A, C, R}),
    ("SELECT * FROM ocsp.signer", {A, C, R}),
    ("SELECT * FROM ocsp.source", {A, C, R}),
    ("SELECT * FROM ocsp.migration", {A, C, R}),
    ("SELECT * FROM ocsp.configuration", {A, C, R}),
    ("SELECT * FROM ocsp.sighting", {A, C}),
    ("SELECT * FROM ocsp.document", {A, C}),
    ("SELECT * FROM ocsp.quarantine", {A, C}),
    ("SELECT * FROM ocsp.finding", {A, C}),
    ("SELECT * FROM ocsp.source_change", {A, C}),
    ("SELECT * FROM ocsp.ct_position", {A, C}),
    # Statuses.
    (NEW_ROW, {A, C}),
    (REVOKE, {A}),
    ("UPDATE ocsp.certificate SET revoked_at = '2026-01-15' WHERE serial = '\\x02'", {A}),
    ("UPDATE ocsp.certificate SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = '\\x02'", set()),
    ("UPDATE ocsp.certificate SET status = 'purged' WHERE serial = '\\x03'", {A}),
    ("UPDATE ocsp.certificate SET serial = '\\x04' WHERE serial = '\\x03'", set()),
    ("UPDATE ocsp.certificate SET not_after = '2020-01-02'", set()),
    (UNREVOKE, set()),
    ("SELECT * FROM ocsp.certificate FOR UPDATE", {A}),
    ("INSERT INTO ocsp.reservation (issuer_id, serial) VALUES (1, '\\x07')", {A}),
    ("DELETE FROM ocsp.certificate WHERE serial = '\\x01'", set()),
    ("DELETE FROM ocsp.reservation", set()),
    ("TRUNCATE ocsp.certificate CASCADE", set()),
    # History.
    ("INSERT INTO ocsp.status_change (issuer_id, serial, new_status) VALUES (1, '\\x01', 'good')", set()),
    ("UPDATE ocsp.status_change SET actor = 'nobody'", set()),
    ("DELETE FROM ocsp.status_change", set()),
    ("TRUNCATE ocsp.status_change", set()),
    ("INSERT INTO ocsp.source_change (source_id, what) VALUES (1, 'nothing')", set()),
    ("UPDATE ocsp.source_change SET what = ''", set()),
    # Evidence.
    ("INSERT INTO ocsp.document (sha256, der) VALUES (sha256('y'), 'y')", {A, C}),
    (SIGHTING, {A, C}),
    (QUARANTINED, {A, C}),
    ("INSERT INTO ocsp.finding (kind, severity, source_id, subject, detail) VALUES ('x', 'low', 1, 'x', 'x')", {A, C}),
    ("INSERT INTO ocsp.ct_proof (source_id, kind, name, content) VALUES (1, 'x', 'x', 'x')", {C}),
    ("UPDATE ocsp.document SET der = 'y'", set()),
    ("UPDATE ocsp.sighting SET kind = 'certificate'", set()),
    ("UPDATE ocsp.quarantine SET raw = ''", set()),
    ("DELETE FROM ocsp.quarantine", set()),
    ("DELETE FROM ocsp.ct_proof", set()),
    ("UPDATE ocsp.ct_proof SET content = ''", set()),
    # Sources and positions.
    ("INSERT INTO ocsp.source (name, kind, required) VALUES ('other', 'spool', true)", {C}),
    ("UPDATE ocsp.source SET verified_at = now(), trouble = NULL WHERE name = 'log'", {C}),
    ("UPDATE ocsp.source SET distrusted_at = now(), distrust_reason = 'fork' WHERE name = 'log'", {A, C}),
    ("UPDATE ocsp.source SET excluded_at = now(), excluded_reason = 'x', excluded_by = 'x' WHERE name = 'log'", {A}),
    ("UPDATE ocsp.source SET configured = false WHERE name = 'log'", {C}),
    ("DELETE FROM ocsp.source WHERE name = 'log'", set()),
    ("UPDATE ocsp.ct_position SET position = 1, range = '\\x00'", {A, C}),
    ("UPDATE ocsp.ct_position SET verified_size = 0", {C}),
    ("UPDATE ocsp.ct_head SET signed_at = now(), raw = ''", {C}),
    ("UPDATE ocsp.ct_head SET root = sha256('x')", set()),
    ("UPDATE ocsp.file_position SET position = 1", {C}),
    ("DELETE FROM ocsp.file_position", set()),
    # Issuers and signers.
    (NEW_ISSUER, {A}),
    ("UPDATE ocsp.issuer SET name = 'renamed'", {A}),
    ("UPDATE ocsp.issuer SET spki = 's', spki_sha256 = sha256('s')", set()),
    ("DELETE FROM ocsp.issuer_certificate", set()),
    (NEW_SIGNER, {A}),
    ("UPDATE ocsp.signer SET state = 'retired'", {A}),
    ("UPDATE ocsp.signer SET certificate = 'x'", set()),
    ("UPDATE ocsp.configuration SET generation = 0", set()),
    # What was asked for and not known.
    ("INSERT INTO ocsp.unanswered (issuer_id, serial, answer) VALUES (1, '\\x08', 'unknown')", {R}),
    ("UPDATE ocsp.unanswered SET times = times + 1, last_at = now()", {R}),
    ("UPDATE ocsp.unanswered SET first_at = now()", set()),
    ("DELETE FROM ocsp.unanswered", set()),
    # The schema itself.
    ("INSERT INTO ocsp.migration (version, name, sha256) VALUES (99, 'x', '')", set()),
    ("CREATE TABLE ocsp.extra (x integer)", set()),
    ("ALTER TABLE ocsp.certificate DISABLE TRIGGER ALL", set()),
    ("SET session_replication_role = replica", set()),
]  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_its_work_needs_and_nothing_else(role: str, dsn: str, owner: Owner) -> None:
    owner.execute(PREPARED.encode())
    wrong = []
    with psycopg.connect(as_role(dsn, role)) as connection:
        for statement, allowed in STATEMENTS:
            try:
                connection.execute(statement.encode())
                refused = None
            except psycopg.Error as exc:
                refused = exc
            connection.rollback()
            if refused is None and role not in allowed:
                wrong.append(f"was allowed: {statement}")
            elif refused is not None and role in allowed:
                wrong.append(f"was refused: {statement}: {refused}")
            elif refused is not None and not isinstance(
                refused, psycopg.errors.InsufficientPrivilege | psycopg.errors.RestrictViolation
            ):
                wrong.append(f"was refused for another reason: {statement}: {refused}")
    assert wrong == []


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_more_than_a_login(role: str, owner: Owner) -> None:
    found = owner.execute(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication FROM pg_roles WHERE rolname = %s",
        (role,),
    ).fetchone()
    assert found == (False,) * 5


def test_a_statement_names_who_really_connected(dsn: str, owner: Owner) -> None:
    owner.execute(PREPARED.encode())
    with psycopg.connect(as_role(dsn, "ocsp_admin"), autocommit=True) as connection:
        connection.execute("SET ocsp.actor = 'alice'")
        connection.execute(REVOKE.encode())
    found = owner.execute("SELECT changed_by, actor FROM ocsp.status_change ORDER BY change_id DESC LIMIT 1").fetchone()
    assert found == ("ocsp_admin", "alice")


# The real code, each part under the role it runs as.


async def test_the_reconciler_makes_a_pass_as_its_own_role(dsn: str, ca: Authority, issuer_id: int) -> None:
    log = Log()
    precert = ca.precertificate("a.example")
    log.add_precertificate(precert, ca.chain)
    log.add_raw(b"no leaf at all", tile_leaf=b"")
    async with serve(log) as url, Database(as_role(dsn, "ocsp_reconciler"), application="tests") as database:
        behind = await supervisor.once(database, [watched(log, url, "rfc6962")])
        assert behind == []
        async with database.connection() as connection:
            assert await store.look_up(connection, [(issuer_id, precert.serial_number)]) == {
                (issuer_id, precert.serial_number): Good()
            }
        log.faults.set("fork")
        await supervisor.once(database, [watched(log, url, "rfc6962")])
        found = await served.rows(
            database, "SELECT distrust_reason IS NOT NULL FROM ocsp.source WHERE kind = 'rfc6962'"
        )
        assert found == [(True,)]


async def test_the_admin_command_registers_and_revokes_as_its_own_role(dsn: str, ca: Authority, issuer_id: int) -> None:
    async with Database(as_role(dsn, "ocsp_admin"), application="tests") as database:
        issuers = await served.served(database)
        issued = served.proven(ca.precertificate("a.example"), issuers)
        revoked = Revoked(datetime(2026, 3, 1, tzinfo=UTC), Reason.KEY_COMPROMISE)
        key = (issuer_id, issued.serial)
        async with database.transaction() as connection:
            source_id = await store.source_id(connection, "ocsp-admin")
            assert source_id is not None
            recorded = await record_issued(connection, source_id, [served.in_file(issued)])
            assert recorded.rows == (issued,)
            assert await store.lock_status(connection, key) == Good()
            await store.set_revoked(connection, key, revoked)
            assert await store.reserve(connection, (issuer_id, 77))
        async with database.connection() as connection:
            assert await store.look_up(connection, [key]) == {key: revoked}
            assert len(await store.show_sightings(connection, key)) == 1
            assert [change["new_status"] for change in await store.show_changes(connection, key)] == ["good", "revoked"]


async def test_the_responder_reads_and_takes_notes_as_its_own_role(
    dsn: str, ca: Authority, issuers: IssuerSet, database: Database
) -> None:
    (issuer,) = issuers.all
    issued = served.proven(ca.precertificate("a.example"), issuers)
    async with Database(as_role(dsn, "ocsp_responder"), application="tests") as responder:
        async with responder.connection() as connection:
            began = await read_changes(connection, since=None, most=10)
            assert await read_place(connection) == Place(False, began.mark.lineage, 0)
            before = await store.freshness(connection)
            assert (before.required, before.stale) == (0, ())
        async with database.transaction() as writer:
            await record_issued(writer, 1, [served.in_file(issued)])
        async with responder.connection() as connection:
            key = (issuer.issuer_id, issued.serial)
            assert await store.look_up(connection, [key]) == {key: Good()}
            assert await store.reserved(connection, [key]) == frozenset()
            changes = await read_changes(connection, since=began.mark, most=10)
            assert key in changes.changed
            await store.note_unanswered(connection, [((issuer.issuer_id, 99), "unknown", 1)])
            loaded = await issuer_store.load_issuers(connection)
            assert [each.name for each in loaded.all] == ["issuing"]
            assert await issuer_store.generation(connection) == changes.generation
            assert await issuer_store.load_signers(connection, SignerState) == ()


async def test_freshness_counts_required_sources_and_names_the_stale_ones(database: Database, owner: Owner) -> None:
    owner.execute(
        "INSERT INTO ocsp.source (name, kind, required, configured, verified_at, distrusted_at, distrust_reason,"
        " excluded_at, excluded_reason, excluded_by) VALUES"
        " ('fresh', 'static', true, true, now() - interval '14 minutes', NULL, NULL, NULL, NULL, NULL),"
        " ('silent', 'static', true, true, now() - interval '16 minutes', NULL, NULL, NULL, NULL, NULL),"
        " ('never', 'spool', true, true, NULL, NULL, NULL, NULL, NULL, NULL),"
        " ('liar', 'rfc6962', true, true, now(), now(), 'fork', NULL, NULL, NULL),"
        " ('excluded', 'rfc6962', true, true, NULL, now(), 'fork', now(), 'shut down', 'alice'),"
        " ('optional', 'static', false, true, NULL, NULL, NULL, NULL, NULL, NULL),"
        " ('removed', 'static', true, false, NULL, NULL, NULL, NULL, NULL, NULL)"
    )
    async with database.connection() as connection:
        found = await store.freshness(connection)
    assert (found.required, found.stale) == (4, ("liar", "never", "silent"))
    owner.execute("UPDATE ocsp.source SET stale_after = %s WHERE name = 'silent'", (timedelta(hours=1),))
    async with database.connection() as connection:
        assert (await store.freshness(connection)).stale == ("liar", "never")
