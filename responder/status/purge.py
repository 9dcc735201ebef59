# SPDX-License-Identifier: Apache-2.0
"""Letting go of rows whose certificates have expired (RFC 9919 section 3.2.3), a bounded batch in each transaction.

Knows the pace; not how long an issuer keeps its rows: that is its policy, which the table enforces as well. Called by
`ocsp-admin cert purge`. Stopped anywhere, the next run goes on from there.
"""

from collections.abc import Callable
from datetime import datetime

from responder.runtime.db import Connection
from responder.status.purge_store import MOST_ROWS, purge_some
from responder.status.store import act_for


async def purge(
    connection: Connection, issuer_id: int, *, before: datetime, actor: str, told: Callable[[int], None]
) -> int:
    """Purge the issuer's rows whose notAfter lies before that moment; return how many. `told` hears of each batch.

    What each said before stays in the history of its status. The connection must not be in a transaction.
    """
    purged = 0
    while True:
        async with connection.transaction():
            await act_for(connection, actor)
            rows = await purge_some(connection, issuer_id, before=before)
        told(rows)
        purged += rows
        if rows < MOST_ROWS:
            return purged
