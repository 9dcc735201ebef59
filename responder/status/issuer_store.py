# SPDX-License-Identifier: Apache-2.0
"""Every statement on issuers, their CA certificates and their signers. One statement a function; decides nothing.

psycopg's errors pass through to `runtime.db.Database`, which lends the connection and translates them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from responder.runtime.db import Connection
from responder.status.issuers import CaCertificate, Issuer, IssuerSet
from responder.status.model import NonceMode, Policy, UnassignedAnswer
from responder.status.signers import KeyKind, SignerRecord, SignerState, key_kind


async def load_issuers(connection: Connection) -> IssuerSet:
    """Return all issuers with their certificates. Raises IssuerError for a certificate that cannot be read."""
    rows = await connection.execute(
        """
        SELECT i.issuer_id, i.name, i.public, i.direct_signing, i.validity_seconds, i.refresh_seconds,
               i.max_age_seconds, i.unassigned, i.unknown_validity_seconds, i.nonce, i.archive_cutoff_seconds,
               i.retention_seconds, i.require_signed,
               ARRAY (SELECT r.der FROM ocsp.requester_ca r
                      WHERE r.issuer_id = i.issuer_id AND r.removed_at IS NULL ORDER BY r.added_at),
               c.der
        FROM ocsp.issuer i JOIN ocsp.issuer_certificate c USING (issuer_id)
        ORDER BY i.issuer_id, c.added_at
        """
    )
    found: dict[int, tuple[Any, ...]] = {}
    certificates: dict[int, list[CaCertificate]] = defaultdict(list)
    async for issuer_id, *columns, der in rows:
        found[issuer_id] = tuple(columns)
        certificates[issuer_id].append(CaCertificate.load(der))
    return IssuerSet(_issuer(issuer_id, found[issuer_id], certificates[issuer_id]) for issuer_id in found)


def _issuer(issuer_id: int, columns: tuple[Any, ...], certificates: list[CaCertificate]) -> Issuer:
    name, public, direct_signing, validity, refresh, max_age, unassigned, unknown_validity, *more = columns
    nonce, archive_cutoff, retention, require_signed, requester_cas = more
    policy = Policy(
        validity=timedelta(seconds=validity),
        refresh=timedelta(seconds=refresh),
        max_age=timedelta(seconds=max_age),
        unassigned=UnassignedAnswer(unassigned),
        unknown_validity=timedelta(seconds=unknown_validity),
        nonce=NonceMode(nonce),
        archive_cutoff=_period(archive_cutoff),
        retention=_period(retention),
        require_signed=require_signed,
    )
    return Issuer(issuer_id, name, public, direct_signing, policy, tuple(certificates), tuple(requester_cas))


def _period(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


async def load_signers(connection: Connection, states: Iterable[SignerState]) -> tuple[SignerRecord, ...]:
    """Return the signers of all issuers that are in one of these states, the latest added first."""
    rows = await connection.execute(
        """
        SELECT signer_id, issuer_id, certificate, key_location, key_kind, state FROM ocsp.signer
        WHERE state = ANY (%(states)s) ORDER BY signer_id DESC
        """,
        {"states": [state.value for state in states]},
    )
    return tuple([_signer(row) async for row in rows])


async def find_signer(connection: Connection, signer_id: int) -> SignerRecord | None:
    """Return the signer of that number, and keep others from changing it until the transaction ends."""
    rows = await connection.execute(
        """
        SELECT signer_id, issuer_id, certificate, key_location, key_kind, state FROM ocsp.signer
        WHERE signer_id = %(signer_id)s FOR UPDATE
        """,
        {"signer_id": signer_id},
    )
    row = await rows.fetchone()
    return None if row is None else _signer(row)


def _signer(row: tuple[Any, ...]) -> SignerRecord:
    signer_id, issuer_id, certificate, key_location, kind, state = row
    return SignerRecord(
        signer_id=signer_id,
        issuer_id=issuer_id,
        certificate=certificate,
        key_location=key_location,
        kind=KeyKind(kind),
        state=SignerState(state),
    )


async def generation(connection: Connection) -> int:
    """Return the number that grows whenever an issuer, a certificate of one, or a signer changes."""
    rows = await connection.execute("SELECT generation FROM ocsp.configuration")
    row = await rows.fetchone()
    return 0 if row is None else int(row[0])


async def find_issuer(connection: Connection, name: str) -> int | None:
    """Return the row number of the issuer of that name."""
    rows = await connection.execute("SELECT issuer_id FROM ocsp.issuer WHERE name = %(name)s", {"name": name})
    row = await rows.fetchone()
    return None if row is None else row[0]


async def find_issuer_by_key(connection: Connection, spki_sha256: bytes) -> tuple[int, str] | None:
    """Return row number and name of the issuer with that key."""
    rows = await connection.execute(
        "SELECT issuer_id, name FROM ocsp.issuer WHERE spki_sha256 = %(spki_sha256)s", {"spki_sha256": spki_sha256}
    )
    return await rows.fetchone()


async def issuer_names(connection: Connection) -> tuple[str, ...]:
    """Return the names of all issuers, for messages that say what is allowed."""
    rows = await connection.execute("SELECT name FROM ocsp.issuer ORDER BY name")
    return tuple([name async for (name,) in rows])


async def insert_issuer(
    connection: Connection, name: str, certificate: CaCertificate, *, public: bool, direct_signing: bool, policy: Policy
) -> int:
    """Insert an issuer with the key of this certificate, and return its row number."""
    hashes = certificate.key_hashes
    rows = await connection.execute(
        """
        INSERT INTO ocsp.issuer (name, spki, spki_sha256, key_sha1, key_sha256, key_sha384, key_sha512, public,
                                 direct_signing, validity_seconds, refresh_seconds, max_age_seconds, unassigned,
                                 unknown_validity_seconds, nonce, archive_cutoff_seconds, retention_seconds,
                                 require_signed)
        VALUES (%(name)s, %(spki)s, %(spki_sha256)s, %(key_sha1)s, %(key_sha256)s, %(key_sha384)s, %(key_sha512)s,
                %(public)s, %(direct_signing)s, %(validity)s, %(refresh)s, %(max_age)s, %(unassigned)s,
                %(unknown_validity)s, %(nonce)s, %(archive_cutoff)s, %(retention)s, %(require_signed)s)
        RETURNING issuer_id
        """,
        {
            "name": name,
            "spki": certificate.spki,
            "spki_sha256": certificate.spki_sha256,
            "public": public,
            "direct_signing": direct_signing,
        }
        | _policy_columns(policy)
        | {f"key_{hash_name}": digest for hash_name, digest in hashes.items()},
    )
    row = await rows.fetchone()
    if row is None:
        raise ValueError("an insert without a conflict clause returned no row")
    return int(row[0])


async def insert_issuer_certificate(connection: Connection, issuer_id: int, certificate: CaCertificate) -> bool:
    """Insert one more CA certificate for an issuer's key, and return whether it was new."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.issuer_certificate
               (sha256, issuer_id, der, subject, name_sha1, name_sha256, name_sha384, name_sha512)
        VALUES (%(sha256)s, %(issuer_id)s, %(der)s, %(subject)s, %(name_sha1)s, %(name_sha256)s, %(name_sha384)s,
                %(name_sha512)s)
        ON CONFLICT DO NOTHING
        """,
        {
            "sha256": hashlib.sha256(certificate.der).digest(),
            "issuer_id": issuer_id,
            "der": certificate.der,
            "subject": certificate.subject,
        }
        | {f"name_{hash_name}": digest for hash_name, digest in certificate.name_hashes.items()},
    )
    return rows.rowcount == 1


async def update_policy(connection: Connection, issuer_id: int, policy: Policy, *, public: bool) -> None:
    """Change how an issuer's answers are made, and whether the Baseline Requirements bind it."""
    await connection.execute(
        """
        UPDATE ocsp.issuer
        SET public = %(public)s, validity_seconds = %(validity)s, refresh_seconds = %(refresh)s,
            max_age_seconds = %(max_age)s, unassigned = %(unassigned)s, unknown_validity_seconds = %(unknown_validity)s,
            nonce = %(nonce)s, archive_cutoff_seconds = %(archive_cutoff)s, retention_seconds = %(retention)s,
            require_signed = %(require_signed)s
        WHERE issuer_id = %(issuer_id)s
        """,
        {"issuer_id": issuer_id, "public": public} | _policy_columns(policy),
    )


def _policy_columns(policy: Policy) -> dict[str, Any]:
    return {
        "validity": _seconds(policy.validity),
        "refresh": _seconds(policy.refresh),
        "max_age": _seconds(policy.max_age),
        "unassigned": policy.unassigned.value,
        "unknown_validity": _seconds(policy.unknown_validity),
        "nonce": policy.nonce.value,
        "archive_cutoff": _seconds(policy.archive_cutoff),
        "retention": _seconds(policy.retention),
        "require_signed": policy.require_signed,
    }


def _seconds(period: timedelta | None) -> int | None:
    return None if period is None else int(period.total_seconds())


async def insert_requester_ca(connection: Connection, issuer_id: int, certificate: bytes) -> bool:
    """Let clients of this CA (DER) sign requests about an issuer, and return whether they could not before."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.requester_ca AS r (issuer_id, sha256, der)
        VALUES (%(issuer_id)s, sha256(%(der)s), %(der)s)
        ON CONFLICT (issuer_id, sha256) DO UPDATE SET removed_at = NULL WHERE r.removed_at IS NOT NULL
        """,
        {"issuer_id": issuer_id, "der": certificate},
    )
    return rows.rowcount == 1


async def remove_requester_ca(connection: Connection, issuer_id: int, certificate: bytes) -> bool:
    """Let clients of this CA (DER) sign requests about an issuer no longer, and return whether they could before."""
    rows = await connection.execute(
        """
        UPDATE ocsp.requester_ca SET removed_at = clock_timestamp()
        WHERE issuer_id = %(issuer_id)s AND sha256 = sha256(%(der)s) AND removed_at IS NULL
        """,
        {"issuer_id": issuer_id, "der": certificate},
    )
    return rows.rowcount == 1


async def insert_signer(
    connection: Connection, issuer_id: int, *, certificate: bytes, key_location: str, state: SignerState
) -> int:
    """Insert a signer for an issuer and return its row number. The private key itself is never stored.

    Raises ValueError for a certificate whose key is of no kind that signs here.
    """
    rows = await connection.execute(
        """
        INSERT INTO ocsp.signer (issuer_id, certificate, key_location, state, key_kind)
        VALUES (%(issuer_id)s, %(certificate)s, %(key_location)s, %(state)s, %(key_kind)s)
        RETURNING signer_id
        """,
        {
            "issuer_id": issuer_id,
            "certificate": certificate,
            "key_location": key_location,
            "state": state.value,
            "key_kind": key_kind(certificate).value,
        },
    )
    row = await rows.fetchone()
    if row is None:
        raise ValueError("an insert without a conflict clause returned no row")
    return int(row[0])


async def set_signer_state(connection: Connection, signer_id: int, state: SignerState) -> None:
    """Change what one signer may do."""
    await connection.execute(
        "UPDATE ocsp.signer SET state = %(state)s WHERE signer_id = %(signer_id)s",
        {"signer_id": signer_id, "state": state.value},
    )


async def move_signers(
    connection: Connection, issuer_id: int, kind: KeyKind, *, before: SignerState, after: SignerState
) -> tuple[int, ...]:
    """Change what the signers of a kind that an issuer has in one state may do, and return their numbers."""
    rows = await connection.execute(
        """
        UPDATE ocsp.signer SET state = %(after)s
        WHERE issuer_id = %(issuer_id)s AND key_kind = %(kind)s AND state = %(before)s
        RETURNING signer_id
        """,
        {"issuer_id": issuer_id, "kind": kind.value, "before": before.value, "after": after.value},
    )
    return tuple([signer_id async for (signer_id,) in rows])
