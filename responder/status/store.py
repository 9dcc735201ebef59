# SPDX-License-Identifier: Apache-2.0
"""Every statement on statuses, the evidence behind them, and the freshness of sources. One statement a function.

Decides nothing. psycopg's errors pass through to `runtime.db.Database`, which lends the connection and translates them.
Serials are integers outside and minimal octets inside.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, assert_never

from psycopg.rows import dict_row

from responder.runtime.db import Connection
from responder.status.model import (
    FilePlace,
    Freshness,
    Good,
    Issued,
    LogPlace,
    Place,
    Purged,
    Quarantined,
    Reason,
    Revoked,
    Sighting,
    Status,
    serial_octets,
)

Key = tuple[int, int]  # issuer_id, serial


# ------------------------------------------------------------------------------------------------ what is answered


async def look_up(connection: Connection, keys: Sequence[Key]) -> dict[Key, Status]:
    """Return the status of each of these certificates that has a row."""
    rows = await connection.execute(
        """
        SELECT c.issuer_id, c.serial, c.status, c.revoked_at, c.reason
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[]) AS asked (issuer_id, serial)
        JOIN ocsp.certificate c USING (issuer_id, serial)
        """,
        _arrays(keys),
    )
    return {
        (issuer_id, int.from_bytes(serial)): _status(status, revoked_at, reason)
        for issuer_id, serial, status, revoked_at, reason in await rows.fetchall()
    }


async def reserved(connection: Connection, keys: Sequence[Key]) -> frozenset[Key]:
    """Return those of the keys that are reserved, whether or not they have a row."""
    rows = await connection.execute(
        """
        SELECT r.issuer_id, r.serial
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[]) AS asked (issuer_id, serial)
        JOIN ocsp.reservation r USING (issuer_id, serial)
        """,
        _arrays(keys),
    )
    return frozenset([(issuer_id, int.from_bytes(serial)) async for issuer_id, serial in rows])


async def example_serials(connection: Connection, issuer_id: int) -> tuple[int, ...]:
    """Return the serials of a good and of a revoked certificate that have not expired, of each where there is one."""
    rows = await connection.execute(
        """
        (SELECT c.serial FROM ocsp.certificate c
         WHERE c.issuer_id = %(issuer)s AND c.status = 'good' AND c.not_after > now() LIMIT 1)
        UNION ALL
        (SELECT c.serial FROM ocsp.certificate c
         WHERE c.issuer_id = %(issuer)s AND c.status = 'revoked' AND c.not_after > now() LIMIT 1)
        """,
        {"issuer": issuer_id},
    )
    return tuple([int.from_bytes(serial) async for (serial,) in rows])


async def freshness(connection: Connection) -> Freshness:
    """Return how many sources are required, and which of them do not vouch for now: silent, distrusted, or never read.

    An excluded source is not required any more: a person said so, with a reason.
    """
    rows = await connection.execute(
        """
        SELECT name, distrusted_at IS NOT NULL OR verified_at IS NULL OR verified_at + stale_after < clock_timestamp()
        FROM ocsp.source
        WHERE configured AND required AND excluded_at IS NULL
        ORDER BY name
        """
    )
    states = [(name, stale) async for name, stale in rows]
    return Freshness(required=len(states), stale=tuple(name for name, stale in states if stale))


async def note_unanswered(connection: Connection, notes: Sequence[tuple[Key, str, int]]) -> None:
    """Write down certificates that were asked for and not known: which, what was answered last, how often."""
    # One statement touches a row once only, so notes of one certificate become one.
    noted: dict[Key, tuple[str, int]] = {}
    for key, answer, times in notes:
        noted[key] = answer, times + noted.get(key, (answer, 0))[1]
    ordered = sorted(noted.items())  # one order everywhere, so that two responders cannot wait for each other
    await connection.execute(
        """
        INSERT INTO ocsp.unanswered AS u (issuer_id, serial, answer, times)
        SELECT * FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[], %(answers)s::text[], %(times)s::bigint[])
        ON CONFLICT (issuer_id, serial) DO UPDATE
        SET answer = EXCLUDED.answer, times = u.times + EXCLUDED.times, last_at = clock_timestamp()
        """,
        _arrays([key for key, _ in ordered])
        | {"answers": [answer for _, (answer, _) in ordered], "times": [times for _, (_, times) in ordered]},
    )


# ------------------------------------------------------------------------------------------------- what is written


async def insert_documents(connection: Connection, documents: dict[bytes, bytes]) -> None:
    """Keep these documents, by SHA-256, unless they are kept already."""
    ordered = sorted(documents.items())
    await connection.execute(
        """
        INSERT INTO ocsp.document (sha256, der)
        SELECT * FROM unnest(%(sha256)s::bytea[], %(der)s::bytea[])
        ON CONFLICT DO NOTHING
        """,
        {"sha256": [sha256 for sha256, _ in ordered], "der": [document for _, document in ordered]},
    )


async def insert_rows(connection: Connection, issued: dict[Key, Issued]) -> frozenset[Key]:
    """Insert a good row for each certificate that has none, and return which had none. Other rows stay as they are."""
    ordered = sorted(issued.items())  # one order everywhere, so that two writers cannot wait for each other
    rows = await connection.execute(
        """
        INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)
        SELECT issuer_id, serial, 'good', not_before, not_after, is_ca
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[], %(not_before)s::timestamptz[],
                    %(not_after)s::timestamptz[], %(is_ca)s::boolean[])
             AS proven (issuer_id, serial, not_before, not_after, is_ca)
        ON CONFLICT (issuer_id, serial) DO NOTHING
        RETURNING issuer_id, serial
        """,
        _arrays([key for key, _ in ordered])
        | {
            "not_before": [each.not_before for _, each in ordered],
            "not_after": [each.not_after for _, each in ordered],
            "is_ca": [each.is_ca for _, each in ordered],
        },
    )
    return frozenset([(issuer_id, int.from_bytes(serial)) async for issuer_id, serial in rows])


async def insert_sightings(connection: Connection, source_id: int, sightings: Sequence[Sighting]) -> int:
    """Write these facts down unless they are known, and return how many were new."""
    ordered = sorted(sightings, key=lambda sighting: sighting.issued.sha256)  # as with rows: one order everywhere
    places = [_columns(sighting.place) for sighting in ordered]
    rows = await connection.execute(
        """
        INSERT INTO ocsp.sighting (issuer_id, serial, kind, source_id, sha256, log_index, logged_at, file, file_offset)
        SELECT issuer_id, serial, kind, %(source_id)s, sha256, log_index, logged_at, file, file_offset
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[], %(kinds)s::text[], %(sha256)s::bytea[],
                    %(log_index)s::bigint[], %(logged_at)s::timestamptz[], %(file)s::text[], %(file_offset)s::bigint[])
             AS seen (issuer_id, serial, kind, sha256, log_index, logged_at, file, file_offset)
        ON CONFLICT DO NOTHING
        """,
        _arrays([(sighting.issued.issuer_id, sighting.issued.serial) for sighting in ordered])
        | {
            "source_id": source_id,
            "kinds": [sighting.issued.kind.value for sighting in ordered],
            "sha256": [sighting.issued.sha256 for sighting in ordered],
        }
        | {name: [place[name] for place in places] for name in ("log_index", "logged_at", "file", "file_offset")},
    )
    return rows.rowcount


async def reused_serials(connection: Connection, keys: Sequence[Key]) -> tuple[tuple[Key, str], ...]:
    """Return those of the certificates of which two different documents of one kind have been seen, with the kind."""
    rows = await connection.execute(
        """
        SELECT s.issuer_id, s.serial, s.kind
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[]) AS asked (issuer_id, serial)
        JOIN ocsp.sighting s USING (issuer_id, serial)
        GROUP BY s.issuer_id, s.serial, s.kind
        HAVING count(DISTINCT s.sha256) > 1
        ORDER BY s.issuer_id, s.serial, s.kind
        """,
        _arrays(keys),
    )
    return tuple([((issuer_id, int.from_bytes(serial)), kind) async for issuer_id, serial, kind in rows])


async def insert_quarantined(connection: Connection, source_id: int, entries: Sequence[Quarantined]) -> int:
    """Keep this evidence unless it is kept already, and return how much was new."""
    ordered = sorted(entries, key=lambda entry: entry.raw)  # as with rows: one order everywhere
    places = [_columns(entry.place) for entry in ordered]
    rows = await connection.execute(
        """
        INSERT INTO ocsp.quarantine (source_id, reason, detail, sha256, raw, log_index, file, file_offset)
        SELECT %(source_id)s, reason, detail, sha256(raw), raw, log_index, file, file_offset
        FROM unnest(%(reasons)s::text[], %(details)s::text[], %(raw)s::bytea[], %(log_index)s::bigint[],
                    %(file)s::text[], %(file_offset)s::bigint[])
             AS kept (reason, detail, raw, log_index, file, file_offset)
        ON CONFLICT DO NOTHING
        """,
        {
            "source_id": source_id,
            "reasons": [entry.reason.value for entry in ordered],
            "details": [entry.detail.replace("\0", "\N{REPLACEMENT CHARACTER}") for entry in ordered],
            "raw": [entry.raw for entry in ordered],
        }
        | {name: [place[name] for place in places] for name in ("log_index", "file", "file_offset")},
    )
    return rows.rowcount


async def has_finding(connection: Connection, *, kind: str, subject: str) -> bool:
    """Tell whether a finding of this kind about this subject is written down, whichever source it came from."""
    rows = await connection.execute(
        "SELECT EXISTS (SELECT FROM ocsp.finding WHERE kind = %(kind)s AND subject = %(subject)s)",
        {"kind": kind, "subject": subject},
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def insert_finding(
    connection: Connection, source_id: int, *, kind: str, severity: str, key: Key | None, subject: str, detail: str
) -> bool:
    """Write a finding down unless it is known, and return whether it was new."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.finding (kind, severity, source_id, issuer_id, serial, subject, detail)
        VALUES (%(kind)s, %(severity)s, %(source_id)s, %(issuer_id)s, %(serial)s, %(subject)s, %(detail)s)
        ON CONFLICT DO NOTHING
        """,
        {
            "kind": kind,
            "severity": severity,
            "source_id": source_id,
            "issuer_id": None if key is None else key[0],
            "serial": None if key is None else serial_octets(key[1]),
            "subject": subject,
            "detail": detail,
        },
    )
    return rows.rowcount == 1


async def act_for(connection: Connection, actor: str) -> None:
    """Say for whom the rest of this transaction acts: history keeps it beside the database user."""
    await connection.execute("SELECT set_config('ocsp.actor', %(actor)s, true)", {"actor": actor})


async def reserve(connection: Connection, key: Key) -> bool:
    """Reserve a serial before anything is signed, and return whether it was free."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.reservation (issuer_id, serial) VALUES (%(issuer_id)s, %(serial)s) ON CONFLICT DO NOTHING
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1])},
    )
    return rows.rowcount == 1


async def lock_status(connection: Connection, key: Key) -> Status | None:
    """Return the status of a certificate, and let nobody else change it until this transaction ends."""
    rows = await connection.execute(
        """
        SELECT status, revoked_at, reason FROM ocsp.certificate
        WHERE issuer_id = %(issuer_id)s AND serial = %(serial)s
        FOR NO KEY UPDATE
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1])},
    )
    row = await rows.fetchone()
    return None if row is None else _status(*row)


async def set_revoked(connection: Connection, key: Key, revoked: Revoked) -> None:
    """Make the row say revoked. The table itself refuses what may not be."""
    await connection.execute(
        """
        UPDATE ocsp.certificate SET status = 'revoked', revoked_at = %(at)s, reason = %(reason)s
        WHERE issuer_id = %(issuer_id)s AND serial = %(serial)s
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1]), "at": revoked.at, "reason": revoked.reason.value},
    )


# --------------------------------------------------------------------------------------------------- what is shown


async def show_row(connection: Connection, key: Key) -> dict[str, Any] | None:
    """Return the whole row of a certificate, for people."""
    rows = await connection.cursor(row_factory=dict_row).execute(
        """
        SELECT status, revoked_at, reason, not_before, not_after, is_ca, recorded_at FROM ocsp.certificate
        WHERE issuer_id = %(issuer_id)s AND serial = %(serial)s
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1])},
    )
    return await rows.fetchone()


async def show_sightings(connection: Connection, key: Key) -> list[dict[str, Any]]:
    """Return every sighting of a certificate with its source and its document, oldest first, for people."""
    rows = await connection.cursor(row_factory=dict_row).execute(
        """
        SELECT source.name AS source, source.kind AS source_kind, s.kind AS document, s.seen_at, s.log_index,
               s.logged_at, s.file, s.file_offset, s.sha256, d.der
        FROM ocsp.sighting s JOIN ocsp.source USING (source_id) JOIN ocsp.document d USING (sha256)
        WHERE s.issuer_id = %(issuer_id)s AND s.serial = %(serial)s
        ORDER BY s.seen_at, s.sighting_id
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1])},
    )
    return await rows.fetchall()


async def show_changes(connection: Connection, key: Key) -> list[dict[str, Any]]:
    """Return the history of a certificate's status, oldest first, for people."""
    rows = await connection.cursor(row_factory=dict_row).execute(
        """
        SELECT changed_at, old_status, new_status, revoked_at, reason, changed_by, actor FROM ocsp.status_change
        WHERE issuer_id = %(issuer_id)s AND serial = %(serial)s
        ORDER BY change_id
        """,
        {"issuer_id": key[0], "serial": serial_octets(key[1])},
    )
    return await rows.fetchall()


async def source_id(connection: Connection, name: str) -> int | None:
    """Return the row number of the source of that name."""
    rows = await connection.execute("SELECT source_id FROM ocsp.source WHERE name = %(name)s", {"name": name})
    row = await rows.fetchone()
    return None if row is None else row[0]


# --------------------------------------------------------------------------------------------------- conversions


def _arrays(keys: Sequence[Key]) -> dict[str, Any]:
    """Return the keys as two array literals of PostgreSQL's.

    The driver would make them one element at a time and in general; these are numbers and hexadecimal digits, which
    need no escaping, and every look-up passes here.
    """
    issuers = ",".join([str(issuer_id) for issuer_id, _ in keys])
    serials = ",".join(['"\\\\x' + serial_octets(serial).hex() + '"' for _, serial in keys])
    return {"issuers": f"{{{issuers}}}", "serials": f"{{{serials}}}"}


_GOOD: Final = Good()


def _status(status: str, revoked_at: datetime | None, reason: int | None) -> Status:
    if status == "good":
        return _GOOD
    if status == "revoked" and revoked_at is not None and reason is not None:
        return Revoked(revoked_at, Reason(reason))
    if status == "purged":
        return Purged()
    # The table's constraints keep this from being reached.
    raise ValueError(f"a row says {status} at {revoked_at} for {reason}")


def _columns(place: Place) -> dict[str, Any]:
    match place:
        case LogPlace():
            return {"log_index": place.index, "logged_at": place.logged_at, "file": None, "file_offset": None}
        case FilePlace():
            return {"log_index": None, "logged_at": None, "file": place.file, "file_offset": place.offset}
        case _ as never:
            assert_never(never)
