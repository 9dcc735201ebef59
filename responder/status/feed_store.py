# SPDX-License-Identifier: Apache-2.0
"""The statements of the change feed, and of how far a replica has come. One statement a function.

Decides nothing. Called by responder/feed.py, on the primary, and by responder/replica.py, on a replica.
"""

from dataclasses import dataclass

from responder.runtime.db import Connection
from responder.status.store import Key


@dataclass(frozen=True, slots=True)
class Lineage:
    """Whose history it is: the cluster's identifier, and its timeline, which every promotion or restore begins anew."""

    system: int
    timeline: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in the primary's history: which changes were visible, and how much of the WAL holds them.

    What was not visible is a change by one of the transactions `running` then, or by one later than `newest`.
    `flushed` is the WAL position behind all that was durable, `inserted` the one behind all that was visible, which is
    further only for what somebody committed without waiting (synchronous_commit = off) or has not committed yet.
    """

    lineage: Lineage
    running: tuple[int, ...]
    newest: int
    flushed: int
    inserted: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the change feed: the certificates that changed since a mark, and the mark to read from next.

    With `too_many`, not all that changed are here.
    """

    mark: Mark
    changed: tuple[Key, ...]
    too_many: bool
    generation: int


async def read_changes(primary: Connection, *, since: Mark | None, most: int) -> Reading:
    """Return every change that became visible since a mark, `most` of them at the most; without a mark, none.

    The mark and the changes come from one snapshot, so nothing falls between two readings however long a transaction
    stays open: it is among `running` until it ends. Later ones are told by their number, which is compared with the
    newest change rather than with the newest transaction: a crash gives the numbers of transactions that left nothing
    durable behind to others. Rows restored from a dump carry numbers of another cluster, which lie ahead of ours.
    Snapshots taken on a replica do not list what was running, which is one reason why only the primary is asked; a
    replica refuses the statement.
    """
    rows = await primary.execute(
        """
        WITH now AS MATERIALIZED (
            SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
                   ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint AS timeline,
                   ARRAY(SELECT xid::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS xid) AS running,
                   (SELECT s.xid::text::bigint FROM ocsp.status_change s
                    WHERE s.xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY s.xid DESC LIMIT 1) AS newest,
                   pg_current_wal_flush_lsn() - '0/0' AS flushed,
                   pg_current_wal_insert_lsn() - '0/0' AS inserted,
                   (SELECT generation FROM ocsp.configuration) AS generation
        ), changed AS (
            (SELECT s.issuer_id, s.serial FROM ocsp.status_change s
             WHERE s.xid > %(newest)s::text::xid8 AND s.xid < pg_snapshot_xmax(pg_current_snapshot())
             ORDER BY s.xid LIMIT %(most)s + 1)
            UNION ALL
            (SELECT s.issuer_id, s.serial
             FROM unnest(%(running)s::text[]) AS running (xid)
             -- Written as a range in order: whatever the planner believes of the numbers, that is the index's work.
             CROSS JOIN LATERAL (
                 SELECT issuer_id, serial FROM ocsp.status_change
                 WHERE xid BETWEEN running.xid::xid8 AND running.xid::xid8 AND xid <= %(newest)s::text::xid8
                 ORDER BY xid LIMIT %(most)s + 1
             ) AS s
             LIMIT %(most)s + 1)
        )
        SELECT now.system, now.timeline, now.running, coalesce(now.newest, 0), now.flushed::bigint,
               now.inserted::bigint, now.generation, changed.issuer_id, changed.serial
        FROM now LEFT JOIN changed ON true
        """,
        {
            "newest": None if since is None else str(since.newest),
            "running": [] if since is None else [str(xid) for xid in since.running],
            "most": most,
        },
    )
    found = await rows.fetchall()
    system, timeline, running, newest, flushed, inserted, generation, _, _ = found[0]
    mark = Mark(Lineage(system, timeline), tuple(running), newest, flushed, inserted)
    changed = tuple((issuer_id, int.from_bytes(serial)) for *_, issuer_id, serial in found if serial is not None)
    return Reading(mark, changed[:most], len(changed) > most, generation)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a server has come: whether it is a replica, in whose history, and the WAL position behind its rows."""

    is_replica: bool
    lineage: Lineage
    replayed: int


async def read_place(server: Connection) -> Place:
    """Return how far a server has come; every row read from it after this is at least as new.

    PostgreSQL moves the position of replay after what it stands for is visible. A replica that follows a promoted
    server tells the new timeline when it has written pages or a restartpoint on it, not before.
    """
    rows = await server.execute(
        """
        SELECT pg_is_in_recovery(), system.system_identifier,
               greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline),
               coalesce(pg_last_wal_replay_lsn() - '0/0', 0)::bigint
        FROM pg_control_system() AS system, pg_control_checkpoint() AS checkpoint, pg_control_recovery() AS recovery
        """
    )
    is_replica, system, timeline, replayed = (await rows.fetchall())[0]
    return Place(is_replica, Lineage(system, timeline), replayed)
