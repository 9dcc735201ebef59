# SPDX-License-Identifier: Apache-2.0
"""Every statement on answers signed ahead: what is stored, what is to be signed, what is asked for. Decides nothing.

psycopg's errors pass through to whoever lends the connection and translates them. Called by responder/stored.py, which
sends such answers, and by responder/presign/, which makes them.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from responder.runtime.db import Connection
from responder.status.model import Good, Purged, Reason, Revoked, serial_octets
from responder.status.presigned import Due, Form, Job, Made, Scope, Stored
from responder.status.store import Key

# One plan at a time on a database: "presign!" in ASCII.
_PLANNING: Final = int.from_bytes(b"presign!")
# Whoever watches for everybody holds this one: "prewatch" in ASCII.
_WATCHING: Final = int.from_bytes(b"prewatch")
_DELETED_AT_ONCE: Final = 10_000

# ------------------------------------------------------------------------------------------------- what is answered


async def look_up_stored(connection: Connection, forms: Sequence[Form]) -> dict[Form, Stored]:
    """Return the stored answer of each form that has one, with the status of its certificate from the same snapshot."""
    rows = await connection.execute(
        """
        SELECT a.issuer_id, a.serial, a.hash, a.body, a.status::text, a.revoked_at, a.reason,
               a.this_update, a.next_update, a.refresh_at, a.signer_id, s.certificate, s.state = 'retired',
               a.archive_cutoff_seconds, c.status::text, c.revoked_at, c.reason
        FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[], %(hashes)s::text[]) AS asked (issuer_id, serial, hash)
        JOIN ocsp.stored_answer a USING (issuer_id, serial, hash)
        JOIN ocsp.certificate c USING (issuer_id, serial)
        JOIN ocsp.signer s ON s.signer_id = a.signer_id AND s.issuer_id = a.issuer_id
        """,
        _arrays([form[:2] for form in forms]) | {"hashes": [hash_name for _, _, hash_name in forms]},
        binary=True,
    )
    return {(row[0], int.from_bytes(row[1]), row[2]): _stored(row) async for row in rows}


def _stored(row: tuple[Any, ...]) -> Stored:
    body, status, revoked_at, reason, *times, signer_id, certificate, retired, cutoff, now, now_at, now_reason = row[3:]
    this_update, next_update, refresh_at = times
    return Stored(
        body=body,
        signed=_proven(status, revoked_at, reason),
        this_update=this_update,
        next_update=next_update,
        refresh_at=refresh_at,
        signer_id=signer_id,
        signer_certificate=certificate,
        signer_is_retired=retired,
        archive_cutoff=None if cutoff is None else timedelta(seconds=cutoff),
        status=Purged() if now == "purged" else _proven(now, now_at, now_reason),
    )


async def issuers_with_answers(connection: Connection, *, now: datetime) -> frozenset[int]:
    """Return the issuers of which at least one stored answer is in date."""
    rows = await connection.execute(
        """
        SELECT i.issuer_id FROM ocsp.issuer i
        WHERE EXISTS (SELECT FROM ocsp.stored_answer a WHERE a.issuer_id = i.issuer_id AND a.next_update > %(now)s)
        """,
        {"now": now},
    )
    return frozenset([issuer_id async for (issuer_id,) in rows])


# --------------------------------------------------------------------------------------------------- what is to sign


async def signed_issuers(connection: Connection) -> dict[str, int]:
    """Return the issuers that somebody is meant to sign for, by name."""
    rows = await connection.execute(
        """
        SELECT i.name, i.issuer_id FROM ocsp.issuer i
        WHERE EXISTS (SELECT FROM ocsp.signer s WHERE s.issuer_id = i.issuer_id AND s.state = 'active')
        ORDER BY i.name
        """
    )
    return {name: issuer_id async for name, issuer_id in rows}


# What follows the certificates `c` in question: each in every form wanted, but for those with an answer that holds. An
# answer is due when it is missing, says something else than the table, was signed by somebody who signs no more, lives
# longer than the issuer's policy lets it today, or comes to its time.
_DUE: Final = """
        JOIN ocsp.issuer i USING (issuer_id)
        CROSS JOIN unnest(%(hashes)s::text[]) AS form (hash)
        LEFT JOIN ocsp.stored_answer a
             ON a.issuer_id = c.issuer_id AND a.serial = c.serial AND a.hash = form.hash
        WHERE c.status IN ('good', 'revoked') AND c.not_after > %(now)s
          AND (a.issuer_id IS NULL
               OR (a.status, a.revoked_at, a.reason) IS DISTINCT FROM (c.status, c.revoked_at, c.reason)
               OR a.signer_id <> ALL (ARRAY(SELECT signer_id FROM ocsp.signer WHERE state = 'active'))
               OR a.archive_cutoff_seconds IS DISTINCT FROM i.archive_cutoff_seconds
               OR a.next_update - a.this_update >= make_interval(secs => i.validity_seconds)
               OR least(a.refresh_at, a.this_update + make_interval(secs => i.refresh_seconds)) <= %(now)s
                  + least(%(lead)s::interval, (a.refresh_at - a.this_update) / 4,
                          make_interval(secs => i.refresh_seconds) / 4))
"""
_ALL: Final = "FROM ocsp.certificate c"
_IN_DEMAND: Final = """
        FROM (SELECT issuer_id, serial FROM ocsp.asked WHERE last_at >= %(asked_since)s) AS asked
        JOIN ocsp.certificate c USING (issuer_id, serial)
"""
_CHANGED: Final = """
        FROM (SELECT DISTINCT issuer_id, serial FROM ocsp.status_change
              WHERE xid >= %(horizon)s::text::xid8) AS changed
        JOIN ocsp.certificate c USING (issuer_id, serial)
"""
_CHANGED_IN_DEMAND: Final = """
        FROM (SELECT DISTINCT s.issuer_id, s.serial FROM ocsp.status_change s
              JOIN ocsp.asked q ON q.issuer_id = s.issuer_id AND q.serial = s.serial
                                   AND q.last_at >= %(asked_since)s
              WHERE s.xid >= %(horizon)s::text::xid8) AS changed
        JOIN ocsp.certificate c USING (issuer_id, serial)
"""


async def queue_due(
    connection: Connection, scope: Scope, *, now: datetime, portion: int, changed_since: int | None = None
) -> int:
    """Queue what is due and not queued yet, in portions of so many certificates, and return how many answers that is.

    With `changed_since`, an horizon, only certificates whose status changed since then are looked at. Call it inside a
    transaction: two plans at once wait for each other, so that nothing is queued twice.
    """
    if changed_since is None:
        source = _ALL if scope.asked_within is None else _IN_DEMAND
    else:
        source = _CHANGED if scope.asked_within is None else _CHANGED_IN_DEMAND
    await connection.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _PLANNING})
    rows = await connection.execute(
        f"""
        WITH due AS (
            SELECT c.issuer_id, c.serial, count(*) AS answers,
                   bool_or(c.status = 'revoked'
                           AND (a.status, a.revoked_at, a.reason) IS DISTINCT FROM (c.status, c.revoked_at, c.reason)
                          ) AS urgent
            {source} {_DUE} AND c.issuer_id = ANY (%(issuers)s::integer[])
            GROUP BY c.issuer_id, c.serial
        ), queued AS MATERIALIZED (
            SELECT issuer_id, urgent, unnest(serials) AS serial FROM ocsp.presign_job
        ), portioned AS (
            SELECT d.issuer_id, d.serial, d.answers, d.urgent,
                   (row_number() OVER (PARTITION BY d.issuer_id, d.urgent ORDER BY d.serial) - 1) / %(portion)s AS part
            FROM due d
            WHERE NOT EXISTS (SELECT FROM queued q WHERE q.issuer_id = d.issuer_id AND q.serial = d.serial
                                                         AND (q.urgent OR NOT d.urgent))
        )
        INSERT INTO ocsp.presign_job (issuer_id, urgent, serials, answers)
        SELECT issuer_id, urgent, array_agg(serial ORDER BY serial), sum(answers)
        FROM portioned GROUP BY urgent, part, issuer_id ORDER BY urgent DESC, part
        RETURNING answers
        """,  # noqa: S608 - put together from the constants above and nothing else
        {
            "issuers": list(scope.issuers),
            "hashes": list(scope.hash_names),
            "lead": scope.lead,
            "now": now,
            "portion": portion,
            "asked_since": None if scope.asked_within is None else now - scope.asked_within,
            "horizon": None if changed_since is None else str(changed_since),
        },
    )
    return sum([answers async for (answers,) in rows])


async def horizon(connection: Connection) -> int:
    """Return the oldest transaction still open: whatever commits from here on has that number or a higher one."""
    rows = await connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    row = await rows.fetchone()
    if row is None:
        raise ValueError("a query without a table returned no row")
    return int(row[0])


async def take_job(connection: Connection, issuers: Iterable[int]) -> Job | None:
    """Take the next portion out of the queue, urgent ones first, or return None when there is none that is free.

    Call it inside a transaction: as long as that is open nobody else gets the portion, and if it fails it is back.
    """
    rows = await connection.execute(
        """
        DELETE FROM ocsp.presign_job WHERE job_id = (
            SELECT job_id FROM ocsp.presign_job WHERE issuer_id = ANY (%(issuers)s::integer[])
            ORDER BY urgent DESC, job_id LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        RETURNING issuer_id, serials
        """,
        {"issuers": list(issuers)},
        binary=True,
    )
    row = await rows.fetchone()
    return None if row is None else Job(*row)


async def still_due(connection: Connection, job: Job, scope: Scope, *, now: datetime) -> list[Due]:
    """Return the answers of the portion that are due still, with what each has to say now."""
    rows = await connection.execute(
        f"""
        SELECT c.serial, form.hash, c.status::text, c.revoked_at, c.reason
        FROM unnest(%(serials)b::bytea[]) AS wanted (serial)
        JOIN ocsp.certificate c ON c.issuer_id = %(issuer_id)s AND c.serial = wanted.serial
        {_DUE}
        ORDER BY c.serial, form.hash
        """,  # noqa: S608 - as above
        {
            "issuer_id": job.issuer_id,
            "serials": list(job.serials),
            "hashes": list(scope.hash_names),
            "lead": scope.lead,
            "now": now,
        },
        binary=True,
    )
    return [
        Due(int.from_bytes(serial), hash_name, _proven(status, revoked_at, reason))
        async for serial, hash_name, status, revoked_at, reason in rows
    ]


async def store_answers(connection: Connection, made: Made) -> int:
    """Store these answers, each in place of an older one, and return how many are stored."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.stored_answer AS a (issuer_id, serial, hash, status, revoked_at, reason, this_update,
                                             next_update, refresh_at, signer_id, archive_cutoff_seconds, body)
        SELECT %(issuer_id)s, serial, hash, status::ocsp.status, revoked_at, reason, %(this_update)s, %(next_update)s,
               %(refresh_at)s, %(signer_id)s, %(archive_cutoff)s, body
        FROM unnest(%(serials)b::bytea[], %(hashes)b::text[], %(statuses)b::text[],
                    %(revoked_at)s::timestamptz[], %(reasons)s::smallint[], %(bodies)b::bytea[])
             AS made (serial, hash, status, revoked_at, reason, body)
        ON CONFLICT (issuer_id, serial, hash) DO UPDATE
        SET status = EXCLUDED.status, revoked_at = EXCLUDED.revoked_at, reason = EXCLUDED.reason,
            this_update = EXCLUDED.this_update, next_update = EXCLUDED.next_update, refresh_at = EXCLUDED.refresh_at,
            signer_id = EXCLUDED.signer_id, archive_cutoff_seconds = EXCLUDED.archive_cutoff_seconds,
            body = EXCLUDED.body
        WHERE a.this_update <= EXCLUDED.this_update
        """,
        {
            "issuer_id": made.issuer_id,
            "signer_id": made.signer_id,
            "this_update": made.this_update,
            "next_update": made.next_update,
            "refresh_at": made.refresh_at,
            "archive_cutoff": None if made.archive_cutoff is None else int(made.archive_cutoff.total_seconds()),
            "bodies": [body for _, body in made.answers],
        }
        | _columns([due for due, _ in made.answers]),
    )
    return rows.rowcount


def _columns(answers: Sequence[Due]) -> dict[str, Any]:
    said = [due.status for due in answers]
    return {
        "serials": [serial_octets(due.serial) for due in answers],
        "hashes": [due.hash_name for due in answers],
        "statuses": ["revoked" if isinstance(status, Revoked) else "good" for status in said],
        "revoked_at": [status.at if isinstance(status, Revoked) else None for status in said],
        "reasons": [status.reason.value if isinstance(status, Revoked) else None for status in said],
    }


async def queued(connection: Connection, issuers: Iterable[int]) -> int:
    """Return how many answers of these issuers wait in the queue or are being signed."""
    rows = await connection.execute(
        "SELECT coalesce(sum(answers), 0) FROM ocsp.presign_job WHERE issuer_id = ANY (%(issuers)s::integer[])",
        {"issuers": list(issuers)},
    )
    row = await rows.fetchone()
    return 0 if row is None else int(row[0])


async def commit_lazily(connection: Connection) -> None:
    """Let the rest of this transaction commit without waiting for the disk: what a crash undoes is queued again."""
    await connection.execute("SET LOCAL synchronous_commit = off")


async def may_watch(connection: Connection) -> bool:
    """Tell whether this connection is the one that watches for everybody; once it is, it stays so until it closes."""
    rows = await connection.execute("SELECT pg_try_advisory_lock(%(lock)s)", {"lock": _WATCHING})
    row = await rows.fetchone()
    return row is not None and bool(row[0])


# -------------------------------------------------------------------------------------------- demand, and letting go


async def note_asked(connection: Connection, keys: Iterable[Key]) -> None:
    """Note that these certificates were asked for just now, where the last note is older than an hour."""
    ordered = sorted(set(keys))  # one order everywhere, so that two responders cannot wait for each other
    await connection.execute(
        """
        INSERT INTO ocsp.asked AS a (issuer_id, serial)
        SELECT * FROM unnest(%(issuers)s::integer[], %(serials)s::bytea[])
        ON CONFLICT (issuer_id, serial) DO UPDATE SET last_at = EXCLUDED.last_at
        WHERE a.last_at < EXCLUDED.last_at - interval '1 hour'
        """,
        _arrays(ordered),
    )


async def drop_stored(connection: Connection, *, now: datetime) -> int:
    """Delete some of the answers that nobody can use any more, and return how many; 0 when there are none left.

    That is: past their nextUpdate, or about a certificate that has expired or whose record was let go.
    """
    rows = await connection.execute(
        """
        DELETE FROM ocsp.stored_answer WHERE ctid = ANY (ARRAY(
            SELECT a.ctid FROM ocsp.stored_answer a LEFT JOIN ocsp.certificate c USING (issuer_id, serial)
            WHERE a.next_update <= %(now)s OR c.issuer_id IS NULL OR c.not_after <= %(now)s OR c.status = 'purged'
            LIMIT %(most)s
        ))
        """,
        {"now": now, "most": _DELETED_AT_ONCE},
    )
    return rows.rowcount


async def drop_asked(connection: Connection, *, before: datetime) -> int:
    """Delete some of the notes older than that, and return how many; 0 when there are none left."""
    rows = await connection.execute(
        """
        DELETE FROM ocsp.asked WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM ocsp.asked WHERE last_at < %(before)s LIMIT %(most)s
        ))
        """,
        {"before": before, "most": _DELETED_AT_ONCE},
    )
    return rows.rowcount


# ------------------------------------------------------------------------------------------------------- conversions


def _arrays(keys: Sequence[Key]) -> dict[str, Any]:
    return {"issuers": [issuer_id for issuer_id, _ in keys], "serials": [serial_octets(serial) for _, serial in keys]}


def _proven(status: str, revoked_at: datetime | None, reason: int | None) -> Good | Revoked:
    if status == "good":
        return Good()
    if status == "revoked" and revoked_at is not None and reason is not None:
        return Revoked(revoked_at, Reason(reason))
    # The tables' constraints keep this from being reached.
    raise ValueError(f"a row says {status} at {revoked_at} for {reason}")
