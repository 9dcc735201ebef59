# SPDX-License-Identifier: Apache-2.0
"""Every statement on the reconciler's own tables: sources, positions, heads, proofs. One statement a function.

Decides nothing. Positions move by compare-and-swap, so that a second reconciler can do no harm: it is told Overtaken.
psycopg's errors pass through to `runtime.db.Database`, which lends the connection and translates them.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, assert_never

from psycopg.rows import dict_row

from reconciler.errors import Contradiction, DistrustLog
from reconciler.model import (
    FileMove,
    FilePosition,
    Head,
    LogMove,
    LogPosition,
    Move,
    SourceSettings,
    SpoolFile,
    SpoolMove,
)
from responder.runtime.db import Connection, Database


class Overtaken(Exception):  # noqa: N818 - it is no fault
    """Another reconciler has moved the position since it was read: nothing was done, read it again."""


# ---------------------------------------------------------------------------------------------------------- sources


async def enter_source(connection: Connection, settings: SourceSettings) -> int:
    """Enter a source of the configuration, or bring its row up to date, and return its number."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.source AS s (name, kind, required, stale_after)
        VALUES (%(name)s, %(kind)s, %(required)s, %(stale_after)s)
        ON CONFLICT (name) DO UPDATE
        SET kind = EXCLUDED.kind, required = EXCLUDED.required, stale_after = EXCLUDED.stale_after, configured = true
        RETURNING source_id
        """,
        {
            "name": settings.name,
            "kind": settings.kind,
            "required": settings.required,
            "stale_after": _interval(settings.stale_after),
        },
    )
    row = await rows.fetchone()
    if row is None:
        raise ValueError("an upsert returned no row")
    return int(row[0])


async def drop_other_sources(connection: Connection, names: Sequence[str]) -> tuple[str, ...]:
    """Take every source out of the configured set that is not among the names; return which ones that were."""
    rows = await connection.execute(
        """
        UPDATE ocsp.source SET configured = false
        WHERE configured AND kind <> 'registration' AND name <> ALL (%(names)s::text[])
        RETURNING name
        """,
        {"names": list(names)},
    )
    return tuple([name async for (name,) in rows])


async def note_attempt(connection: Connection, source_id: int, *, trouble: str | None) -> None:
    """Write down that the source was tried, and what is wrong with it, if anything."""
    await connection.execute(
        """
        UPDATE ocsp.source SET attempted_at = clock_timestamp(), trouble = %(trouble)s
        WHERE source_id = %(source_id)s
        """,
        # A source's own words may be in it, down to octets that no text column takes.
        {
            "source_id": source_id,
            "trouble": None if trouble is None else trouble.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        },
    )


async def vouch(connection: Connection, source_id: int, *, age: timedelta) -> None:
    """Write down that everything the source had shown up to `age` ago is covered. Never moves backwards.

    The age is measured by one machine and subtracted from the clock of another, so their difference does not matter.
    """
    await connection.execute(
        """
        UPDATE ocsp.source SET verified_at = greatest(verified_at, clock_timestamp() - %(age)s::interval)
        WHERE source_id = %(source_id)s
        """,
        {"source_id": source_id, "age": age},
    )


async def distrust(connection: Connection, source_id: int, distrusted: DistrustLog) -> bool:
    """Take our trust from a source, and return whether it still had it."""
    rows = await connection.execute(
        """
        UPDATE ocsp.source SET distrusted_at = clock_timestamp(), distrust_reason = %(reason)s
        WHERE source_id = %(source_id)s AND distrusted_at IS NULL
        """,
        {"source_id": source_id, "reason": f"{distrusted.kind}: {distrusted}"},
    )
    return rows.rowcount == 1


async def has_proof(connection: Connection, source_id: int, *, kind: Contradiction) -> bool:
    """Tell whether evidence of this kind of contradiction is kept already."""
    rows = await connection.execute(
        "SELECT EXISTS (SELECT FROM ocsp.ct_proof WHERE source_id = %(source_id)s AND kind = %(kind)s)",
        {"source_id": source_id, "kind": kind.value},
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def keep_proof(connection: Connection, source_id: int, distrusted: DistrustLog) -> None:
    """Keep the evidence against a log, piece by piece."""
    pieces = [
        (name, content.encode() if isinstance(content, str) else content) for name, content in distrusted.proof.items()
    ]
    await connection.execute(
        """
        INSERT INTO ocsp.ct_proof (source_id, kind, name, content)
        SELECT %(source_id)s, %(kind)s, name, content
        FROM unnest(%(names)s::text[], %(contents)s::bytea[]) AS piece (name, content)
        """,
        {
            "source_id": source_id,
            "kind": distrusted.kind.value,
            "names": [name for name, _ in pieces],
            "contents": [content for _, content in pieces],
        },
    )


async def trust_again(connection: Connection, name: str) -> bool:
    """Give a distrusted source our trust back, and return whether there was such a one."""
    rows = await connection.execute(
        """
        UPDATE ocsp.source SET distrusted_at = NULL, distrust_reason = NULL
        WHERE name = %(name)s AND distrusted_at IS NOT NULL
        """,
        {"name": name},
    )
    return rows.rowcount == 1


async def rewind_log(connection: Connection, name: str) -> None:
    """Put a log's position back to what was verified last, so that everything since is read again."""
    await connection.execute(
        """
        UPDATE ocsp.ct_position SET position = verified_size, range = verified_range
        WHERE source_id = (SELECT source_id FROM ocsp.source WHERE name = %(name)s)
        """,
        {"name": name},
    )


async def exclude(connection: Connection, name: str, *, reason: str, person: str) -> bool:
    """Exclude a source from the required ones for a reason, and return whether there was such a one."""
    rows = await connection.execute(
        """
        UPDATE ocsp.source SET excluded_at = clock_timestamp(), excluded_reason = %(reason)s, excluded_by = %(person)s
        WHERE name = %(name)s
        """,
        {"name": name, "reason": reason, "person": person},
    )
    return rows.rowcount == 1


async def include(connection: Connection, name: str) -> bool:
    """Require an excluded source again, and return whether there was such a one."""
    rows = await connection.execute(
        """
        UPDATE ocsp.source SET excluded_at = NULL, excluded_reason = NULL, excluded_by = NULL
        WHERE name = %(name)s AND excluded_at IS NOT NULL
        """,
        {"name": name},
    )
    return rows.rowcount == 1


async def insert_orphans(connection: Connection, *, after: timedelta) -> tuple[tuple[str, int, str], ...]:
    """Find every orphan not yet reported, and return issuer, serial and the source that showed it.

    An orphan was shown by a CT log `after` ago or longer, and by no record of the CA's own until now. Only what was
    logged since such records have been read can be missing from them; older certificates may be in older records.
    """
    rows = await connection.execute(
        """
        WITH recorded_since AS (
            SELECT min(changed_at) AS moment
            FROM ocsp.source_change JOIN ocsp.source USING (source_id)
            WHERE configured AND kind NOT IN ('static', 'rfc6962', 'registration')
        ), orphan AS (
            SELECT DISTINCT ON (s.issuer_id, s.serial) s.issuer_id, s.serial, s.source_id
            FROM ocsp.sighting s JOIN ocsp.source USING (source_id), recorded_since
            WHERE source.kind IN ('static', 'rfc6962') AND s.logged_at >= recorded_since.moment
                  AND s.seen_at BETWEEN clock_timestamp() - %(after)s::interval - interval '1 day'
                                    AND clock_timestamp() - %(after)s::interval
                  AND NOT EXISTS (SELECT FROM ocsp.sighting t JOIN ocsp.source u USING (source_id)
                                  WHERE t.issuer_id = s.issuer_id AND t.serial = s.serial
                                        AND u.kind NOT IN ('static', 'rfc6962'))
                  AND NOT EXISTS (SELECT FROM ocsp.finding f
                                  WHERE f.kind = 'orphan' AND f.issuer_id = s.issuer_id AND f.serial = s.serial)
            ORDER BY s.issuer_id, s.serial, s.seen_at
        ), found AS (
            INSERT INTO ocsp.finding (kind, severity, source_id, issuer_id, serial, subject, detail)
            SELECT 'orphan', 'critical', source_id, issuer_id, serial, issuer_id || '/' || encode(serial, 'hex'),
                   'in Certificate Transparency, signed by our key, and in no issuance record after ' || %(after)s
            FROM orphan
            ON CONFLICT DO NOTHING
            RETURNING issuer_id, serial, source_id
        )
        SELECT issuer.name, found.serial, source.name
        FROM found JOIN ocsp.issuer USING (issuer_id) JOIN ocsp.source USING (source_id)
        """,
        {"after": _interval(after)},
    )
    return tuple([(issuer, int.from_bytes(serial), source) async for issuer, serial, source in rows])


async def source_states(connection: Connection) -> list[dict[str, Any]]:
    """Return every source with its position, its head and its age in seconds, for people and scripts."""
    rows = await connection.cursor(row_factory=dict_row).execute(
        """
        SELECT s.name, s.kind, s.required, s.configured, s.verified_at, s.attempted_at, s.trouble, s.distrust_reason,
               s.excluded_reason, p.position, p.verified_size, h.tree_size AS head_size, h.signed_at AS head_signed_at,
               extract(epoch FROM clock_timestamp() - s.verified_at)::float8 AS lag_seconds,
               s.verified_at IS NULL OR s.verified_at + s.stale_after < clock_timestamp() AS stale,
               (SELECT count(*) FROM ocsp.quarantine q WHERE q.source_id = s.source_id) AS quarantined
        FROM ocsp.source s
        LEFT JOIN ocsp.ct_position p USING (source_id)
        LEFT JOIN LATERAL (
            SELECT tree_size, signed_at FROM ocsp.ct_head WHERE source_id = s.source_id
            ORDER BY tree_size DESC, signed_at DESC LIMIT 1
        ) h ON true
        WHERE s.kind <> 'registration'
        ORDER BY s.name
        """
    )
    return await rows.fetchall()


# ------------------------------------------------------------------------------------------------------- positions


class DatabaseLedger:
    """The past of one source, as its adapter may ask for it (model.Ledger)."""

    def __init__(self, database: Database, source_id: int) -> None:
        """Answer for the source with this row number."""
        self._database = database
        self._source_id = source_id

    async def log_position(self) -> LogPosition | None:
        """Return how far the log has been read, or None before the first batch."""
        async with self._database.connection() as connection:
            rows = await connection.execute(
                """
                SELECT log_id, started_at, position, range, verified_size, verified_range
                FROM ocsp.ct_position WHERE source_id = %(source_id)s
                """,
                {"source_id": self._source_id},
            )
            row = await rows.fetchone()
        if row is None:
            return None
        log_id, started_at, position, reached, verified_size, verified_range = row
        return LogPosition(
            log_id=log_id,
            started_at=started_at,
            position=position,
            range=reached,
            verified_size=verified_size,
            verified_range=verified_range,
        )

    async def latest_head(self) -> Head | None:
        """Return the largest signed head that the log has shown, or None; of two roots for one size, the first."""
        async with self._database.connection() as connection:
            rows = await connection.execute(
                """
                SELECT tree_size, root, signed_at, raw FROM ocsp.ct_head WHERE source_id = %(source_id)s
                ORDER BY tree_size DESC, first_seen LIMIT 1
                """,
                {"source_id": self._source_id},
            )
            row = await rows.fetchone()
        return None if row is None else Head(tree_size=row[0], root=row[1], signed_at=row[2], raw=row[3])

    async def file_positions(self) -> tuple[FilePosition, ...]:
        """Return every file of the source that is not finished, in the order they were first read."""
        async with self._database.connection() as connection:
            rows = await connection.execute(
                """
                SELECT device, inode, path, position, tail_sha256, tail_octets FROM ocsp.file_position
                WHERE source_id = %(source_id)s AND NOT finished
                ORDER BY first_read
                """,
                {"source_id": self._source_id},
            )
            return tuple(
                [
                    FilePosition(
                        device=device, inode=inode, path=path, position=position, tail_sha256=tail, tail_octets=octets
                    )
                    async for device, inode, path, position, tail, octets in rows
                ]
            )

    async def finished_files(self) -> frozenset[tuple[int, int]]:
        """Return device and inode of the finished files."""
        async with self._database.connection() as connection:
            rows = await connection.execute(
                "SELECT device, inode FROM ocsp.file_position WHERE source_id = %(source_id)s AND finished",
                {"source_id": self._source_id},
            )
            return frozenset([(device, inode) async for device, inode in rows])

    async def not_done(self, files: Iterable[SpoolFile]) -> tuple[SpoolFile, ...]:
        """Return those of the spool's files that are not done yet, in the order given."""
        asked = tuple(files)
        async with self._database.connection() as connection:
            rows = await connection.execute(
                """
                SELECT name, inode, octets, mtime_ns FROM ocsp.spool_file
                WHERE source_id = %(source_id)s AND name = ANY (%(names)s::text[])
                """,
                {"source_id": self._source_id, "names": [file.name for file in asked]},
            )
            done = {row async for row in rows}
        return tuple(file for file in asked if (file.name, file.inode, file.octets, file.mtime_ns) not in done)


async def move(connection: Connection, source_id: int, moved: Move) -> None:
    """Move the position of a source. Raises Overtaken when it no longer stands where the move begins."""
    match moved:
        case LogMove():
            await _enter_head(connection, source_id, moved.head)
            await (_enter_log if moved.old is None else _move_log)(connection, source_id, moved)
        case FileMove():
            await (_enter_file if moved.old is None else _move_file)(connection, source_id, moved)
        case SpoolMove():
            await _enter_spool_files(connection, source_id, moved)
        case _ as never:
            assert_never(never)


async def _enter_head(connection: Connection, source_id: int, head: Head) -> None:
    """Keep a signed head; of heads for one tree, the latest signature is kept."""
    await connection.execute(
        """
        INSERT INTO ocsp.ct_head AS h (source_id, tree_size, root, signed_at, raw)
        VALUES (%(source_id)s, %(tree_size)s, %(root)s, %(signed_at)s, %(raw)s)
        ON CONFLICT (source_id, tree_size, root) DO UPDATE SET signed_at = EXCLUDED.signed_at, raw = EXCLUDED.raw
        WHERE h.signed_at < EXCLUDED.signed_at
        """,
        {
            "source_id": source_id,
            "tree_size": head.tree_size,
            "root": head.root,
            "signed_at": head.signed_at,
            "raw": head.raw,
        },
    )


def _log_columns(source_id: int, position: LogPosition) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "log_id": position.log_id,
        "started_at": position.started_at,
        "position": position.position,
        "range": position.range,
        "verified_size": position.verified_size,
        "verified_range": position.verified_range,
    }


async def _enter_log(connection: Connection, source_id: int, moved: LogMove) -> None:
    rows = await connection.execute(
        """
        INSERT INTO ocsp.ct_position (source_id, log_id, started_at, position, range, verified_size, verified_range)
        VALUES (%(source_id)s, %(log_id)s, %(started_at)s, %(position)s, %(range)s, %(verified_size)s,
                %(verified_range)s)
        ON CONFLICT DO NOTHING
        """,
        _log_columns(source_id, moved.new),
    )
    _moved(rows.rowcount)


async def _move_log(connection: Connection, source_id: int, moved: LogMove) -> None:
    if moved.old is None:
        raise TypeError("a move begins somewhere")
    rows = await connection.execute(
        """
        UPDATE ocsp.ct_position
        SET position = %(position)s, range = %(range)s, verified_size = %(verified_size)s,
            verified_range = %(verified_range)s
        WHERE source_id = %(source_id)s AND position = %(old_position)s AND range = %(old_range)s
              AND verified_size = %(old_verified_size)s
        """,
        _log_columns(source_id, moved.new)
        | {
            "old_position": moved.old.position,
            "old_range": moved.old.range,
            "old_verified_size": moved.old.verified_size,
        },
    )
    _moved(rows.rowcount)


def _file_columns(source_id: int, position: FilePosition) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "device": position.device,
        "inode": position.inode,
        "path": position.path,
        "position": position.position,
        "tail_sha256": position.tail_sha256,
        "tail_octets": position.tail_octets,
        "finished": position.finished,
    }


async def _enter_file(connection: Connection, source_id: int, moved: FileMove) -> None:
    """Enter a file not read before, or one that took over the inode number of a finished one."""
    rows = await connection.execute(
        """
        INSERT INTO ocsp.file_position AS f
               (source_id, device, inode, path, position, tail_sha256, tail_octets, finished)
        VALUES (%(source_id)s, %(device)s, %(inode)s, %(path)s, %(position)s, %(tail_sha256)s, %(tail_octets)s,
                %(finished)s)
        ON CONFLICT (source_id, device, inode) DO UPDATE
        SET path = EXCLUDED.path, position = EXCLUDED.position, tail_sha256 = EXCLUDED.tail_sha256,
            tail_octets = EXCLUDED.tail_octets, finished = EXCLUDED.finished, first_read = EXCLUDED.first_read
        WHERE f.finished
        """,
        _file_columns(source_id, moved.new),
    )
    _moved(rows.rowcount)


async def _move_file(connection: Connection, source_id: int, moved: FileMove) -> None:
    if moved.old is None:
        raise TypeError("a move begins somewhere")
    rows = await connection.execute(
        """
        UPDATE ocsp.file_position
        SET path = %(path)s, position = %(position)s, tail_sha256 = %(tail_sha256)s, tail_octets = %(tail_octets)s,
            finished = %(finished)s, moved_at = clock_timestamp()
        WHERE source_id = %(source_id)s AND device = %(device)s AND inode = %(inode)s
              AND position = %(old_position)s AND tail_sha256 = %(old_tail_sha256)s AND NOT finished
        """,
        _file_columns(source_id, moved.new)
        | {"old_position": moved.old.position, "old_tail_sha256": moved.old.tail_sha256},
    )
    _moved(rows.rowcount)


async def _enter_spool_files(connection: Connection, source_id: int, moved: SpoolMove) -> None:
    await connection.execute(
        """
        INSERT INTO ocsp.spool_file (source_id, name, inode, octets, mtime_ns)
        SELECT %(source_id)s, name, inode, octets, mtime_ns
        FROM unnest(%(names)s::text[], %(inodes)s::bigint[], %(octets)s::bigint[], %(mtimes)s::bigint[])
             AS done (name, inode, octets, mtime_ns)
        ON CONFLICT DO NOTHING
        """,
        {
            "source_id": source_id,
            "names": [file.name for file in moved.done],
            "inodes": [file.inode for file in moved.done],
            "octets": [file.octets for file in moved.done],
            "mtimes": [file.mtime_ns for file in moved.done],
        },
    )


def _interval(period: timedelta) -> timedelta:
    """Return a plain timedelta: the settings' own class is not one that the driver knows."""
    return timedelta(seconds=period.total_seconds())


def _moved(rowcount: int) -> None:
    if rowcount == 0:
        raise Overtaken("another reconciler has moved this position")
