# SPDX-License-Identifier: Apache-2.0
"""The statements of a purge: what is due by now, and letting go of some of it. Decides nothing; called by purge.py and
`ocsp-admin cert purge`.
"""

from datetime import datetime
from typing import Final

from responder.runtime.db import Connection

# Rows in one transaction: each is a change that every responder hears of, and a lock that a revocation would wait for.
MOST_ROWS: Final = 1000


async def database_time(connection: Connection) -> datetime:
    """Return the time by the database's clock, which is also the one that the table's own guard reads."""
    rows = await connection.execute("SELECT clock_timestamp()")
    row = await rows.fetchone()
    if row is None:
        raise ValueError("a SELECT without FROM returned no row")
    now: datetime = row[0]
    return now


async def count_due(connection: Connection, issuer_id: int, *, before: datetime) -> int:
    """Return how many rows of the issuer could be purged whose notAfter lies before that moment."""
    rows = await connection.execute(
        """
        SELECT count(*) FROM ocsp.certificate
        WHERE issuer_id = %(issuer_id)s AND not_after < %(before)s AND status <> 'purged'
        """,
        {"issuer_id": issuer_id, "before": before},
    )
    row = await rows.fetchone()
    return 0 if row is None else int(row[0])


async def purge_some(connection: Connection, issuer_id: int, *, before: datetime) -> int:
    """Purge at most MOST_ROWS, and return how many. One order everywhere, so that two runs at once only wait."""
    rows = await connection.execute(
        """
        WITH due AS (
            SELECT issuer_id, serial FROM ocsp.certificate
            WHERE issuer_id = %(issuer_id)s AND not_after < %(before)s AND status <> 'purged'
            ORDER BY not_after, serial
            LIMIT %(most)s
            FOR NO KEY UPDATE
        )
        UPDATE ocsp.certificate c SET status = 'purged', revoked_at = NULL, reason = NULL
        FROM due WHERE c.issuer_id = due.issuer_id AND c.serial = due.serial
        """,
        {"issuer_id": issuer_id, "before": before, "most": MOST_ROWS},
    )
    return rows.rowcount
