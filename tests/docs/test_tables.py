# SPDX-License-Identifier: Apache-2.0
"""docs/tables.md: every table is there, the grants are what the database says, and every query runs."""

from pathlib import Path

import psycopg
import pytest
from psycopg.rows import tuple_row

from demo.ca import Authority, write_certificates
from demo.stage import run_admin
from tests.conftest import as_role
from tests.docs.reading import DOCS, blocks, code, sections, table

TEXT = (DOCS / "tables.md").read_text(encoding="utf-8")
PARTS = {path[-1]: body for path, body in sections(TEXT)}
QUERIES = blocks(TEXT, "sql")
ROLES = ("ocsp_responder", "ocsp_reconciler", "ocsp_admin")

_RIGHTS = """
SELECT c.relname, r.rolname, has_table_privilege(r.oid, c.oid, 'SELECT'), has_table_privilege(r.oid, c.oid, 'INSERT'),
       has_table_privilege(r.oid, c.oid, 'UPDATE'),
       array(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND has_column_privilege(r.oid, c.oid, attnum, 'UPDATE')
             ORDER BY attnum),
       has_table_privilege(r.oid, c.oid, 'DELETE') OR has_table_privilege(r.oid, c.oid, 'TRUNCATE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN pg_roles r
WHERE n.nspname = 'ocsp' AND c.relkind = 'r' AND r.rolname = ANY (%s)
"""


def granted(dsn: str) -> dict[str, dict[str, str]]:
    """Return what each role may do with each table, in the document's words."""
    found: dict[str, dict[str, str]] = {}
    with psycopg.connect(dsn, row_factory=tuple_row) as connection:
        for name, role, reads, inserts, updates, columns, deletes in connection.execute(_RIGHTS, [list(ROLES)]):
            words = ["select"] * reads + ["insert"] * inserts + ["update"] * updates + ["delete"] * deletes
            if columns and not updates:
                words.append(f"update of {', '.join(columns)}")
            found.setdefault(name, {})[role] = ", ".join(words) or "nothing"
    return found


def test_the_document_names_every_table_and_no_other(dsn: str) -> None:
    named = [code(row[0]) for row in table(PARTS["What each table is for"])]
    assert sorted(named) == sorted(granted(dsn))


def test_the_document_grants_what_the_database_grants(dsn: str) -> None:
    written = {
        code(row[0]): dict(zip(ROLES, row[1:], strict=True)) for row in table(PARTS["Who may do what"])
    }  # fmt: skip
    assert written == granted(dsn)


def test_nobody_may_delete_anything_but_what_is_made_again(dsn: str) -> None:
    found = {(name, role) for name, roles in granted(dsn).items() for role, words in roles.items() if "delete" in words}
    assert found == {(name, "ocsp_responder") for name in ("stored_answer", "presign_job", "asked")}


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_every_query_runs_as_the_admin_and_changes_nothing(number: int, dsn: str) -> None:
    with psycopg.connect(as_role(dsn, "ocsp_admin")) as connection:
        connection.read_only = True
        found = connection.execute(QUERIES[number].encode())
        assert found.description is not None


def test_the_document_has_queries() -> None:
    assert len(QUERIES) >= 10


def test_the_queries_find_a_certificate_that_was_registered_and_a_serial_that_was_reserved(
    dsn: str, tmp_path: Path
) -> None:
    authority, settings = Authority.create("Tables CA"), tmp_path / "admin.toml"
    settings.write_text(f'[database]\ndsn = "{dsn}"\n')
    write_certificates(tmp_path / "ca.pem", authority.certificate)
    write_certificates(tmp_path / "leaf.pem", authority.issue("leaf.example", serial=0x03AF12))
    run_admin(settings, "issuer", "add", "example-r1", "--cert", str(tmp_path / "ca.pem"))
    run_admin(settings, "cert", "register", "--issuer", "example-r1", str(tmp_path / "leaf.pem"))
    run_admin(settings, "cert", "reserve", "--issuer", "example-r1", "03af13")
    with psycopg.connect(as_role(dsn, "ocsp_admin")) as connection:
        row, sighting, history = (connection.execute(query.encode()).fetchall() for query in QUERIES[:3])
        reserved = connection.execute(QUERIES[-1].encode()).fetchall()
    assert [each[0] for each in row] == ["good"]
    assert [each[:2] for each in sighting] == [("ocsp-admin", "certificate")]
    assert [each[2] for each in history] == ["good"]
    assert [each[:2] for each in reserved] == [("example-r1", "03af13")]
