# SPDX-License-Identifier: Apache-2.0
"""Signers in the table: what the migration makes of those that were there, and what the database itself refuses."""

import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from demo.ca import Authority, make_key
from responder.status.migrate import migrations
from responder.status.signers import KeyKind, key_kind

CA = Authority.create("Older CA", key=make_key("rsa2048"))
KINDS = {
    kind: CA.issue_responder(key=make_key(kind))[0].public_bytes(Encoding.DER)
    for kind in ("rsa2048", "p256", "p384", "ed25519")
}
INSERT = "INSERT INTO ocsp.signer (issuer_id, certificate, key_location, state) VALUES (1, %s, 'file:/k', %s)"
ISSUER = (
    "INSERT INTO ocsp.issuer (name, spki, spki_sha256, key_sha1, key_sha256, key_sha384, key_sha512, validity_seconds,"
    " refresh_seconds, max_age_seconds, unassigned, unknown_validity_seconds) SELECT 'older', 's', sha256('s'),"
    " substr(sha256('s'), 1, 20), sha256('s'), substr(sha512('s'), 1, 48), sha512('s'), 9, 8, 7, 'unknown', 6"
)


def test_signers_that_were_there_keep_signing_as_they_did(empty_dsn: str) -> None:
    """The newest active one of a kind stays, the one before it stands in, and the rest are retired."""
    first, second = migrations()[:2]
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA ocsp")
        connection.execute(first.statements)
        connection.execute(ISSUER.encode())
        for kind, state in (
            ("p256", "active"), ("rsa2048", "active"), ("p384", "active"), ("p256", "active"), ("ed25519", "active"),
            ("rsa2048", "staged"), ("p256", "retired"),
        ):  # fmt: skip
            connection.execute(INSERT.encode(), (KINDS[kind], state))
        connection.execute(second.statements)
        found = connection.execute("SELECT key_kind, state FROM ocsp.signer ORDER BY signer_id").fetchall()
    assert found == [
        ("ecdsa", "retired"), ("rsa", "active"), ("ecdsa", "replaced"), ("ecdsa", "active"), ("ed25519", "active"),
        ("rsa", "staged"), ("ecdsa", "retired"),
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["active", "replaced"])
def test_an_issuer_has_one_active_and_one_replaced_signer_of_each_kind(dsn: str, state: str) -> None:
    insert = INSERT.replace("state)", "state, key_kind)").replace("%s)", "%s, %s)")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(ISSUER.encode())
        for kind in KeyKind:
            connection.execute(insert.encode(), (b"", state, kind.value))
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(insert.encode(), (b"", state, "rsa"))
        for _ in range(2):
            connection.execute(insert.encode(), (b"", "staged", "rsa"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rsa2048", KeyKind.RSA), ("p256", KeyKind.ECDSA), ("p384", KeyKind.ECDSA), ("ed25519", KeyKind.ED25519)],
)
def test_the_kind_of_a_key_is_read_from_its_certificate(name: str, kind: KeyKind) -> None:
    assert key_kind(KINDS[name]) is kind
