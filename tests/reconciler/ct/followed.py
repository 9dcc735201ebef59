# SPDX-License-Identifier: Apache-2.0
"""A log over loopback, followed into PostgreSQL as the reconciler does it, and what must hold after each step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import aiohttp

from demo.leaf import ENTRY_OFFSET, PRECERT_ENTRY
from demo.log import Log
from demo.tree import Tree, leaf_hash
from reconciler import follow, store
from reconciler.ct.fetch import Fetcher
from reconciler.ct.head import LogKey
from reconciler.ct.reader import LogReader
from reconciler.ct.rfc6962 import Rfc6962Log
from reconciler.ct.source import CtSource, Start
from reconciler.ct.tiled import TiledLog
from reconciler.model import SourceSettings
from reconciler.supervisor import Patience, Watched
from responder.runtime.db import Database
from tests import served

Protocol = Literal["static", "rfc6962"]
PROTOCOLS: Sequence[Protocol] = ("static", "rfc6962")
QUICK = Patience(least=0.01, most=0.05, once_most=0.05)
TIMEOUT = aiohttp.ClientTimeout(total=1.0, sock_read=0.3)


def source(
    log: Log, url: str, protocol: Protocol, *, name: str | None = None, start: Start = "beginning", **options: Any
) -> CtSource:
    """Return the source that the command would build for this log, in a hurry."""
    fetcher = Fetcher(url, user_agent="foundling tests", timeout=options.pop("timeout", TIMEOUT))
    key = LogKey.from_base64(log.key_b64)
    reader: LogReader = (
        TiledLog(fetcher, key=key, origin=None) if protocol == "static" else Rfc6962Log(fetcher, key=key)
    )
    settings = SourceSettings(name=name or protocol, kind=protocol, required=True, stale_after=timedelta(minutes=15))
    options.setdefault("merge_delay", timedelta(hours=24))
    return CtSource(settings, reader, log_id=key.log_id, start=start, between_opinions=0.0, **options)


def watched(log: Log, url: str, protocol: Protocol, **options: Any) -> Watched:
    return Watched(source(log, url, protocol, **options), timedelta(seconds=0.02))


@dataclass
class Followed:
    """One source on one database, pass by pass, with the invariants checked after each."""

    database: Database
    source: CtSource
    log: Log
    source_id: int = 0
    seen: dict[str, Any] = field(default_factory=dict)

    async def step(self) -> follow.Pass:
        """Make a pass; check what must hold after it however it went."""
        async with self.database.connection() as connection:
            self.source_id = await store.enter_source(connection, self.source.settings)
        try:
            return await follow.follow(
                self.source, self.database, await served.served(self.database), source_id=self.source_id
            )
        finally:
            await self.source.close()
            await self.check_invariants()

    async def check_invariants(self) -> None:
        self.seen = await check_invariants(self.database, self.log, self.source_id, before=self.seen)

    async def row(self) -> dict[str, Any]:
        """Return what status says of the source."""
        async with self.database.connection() as connection:
            states = await store.source_states(connection)
        return next(state for state in states if state["name"] == self.source.settings.name)

    async def distrusted(self) -> str | None:
        """Return the kind of contradiction that cost the log our trust, if one did."""
        reason = (await self.row())["distrust_reason"]
        return None if reason is None else reason.partition(":")[0]

    async def proofs(self) -> dict[str, bytes]:
        return dict(
            await served.rows(
                self.database,
                "SELECT kind || '/' || name, content FROM ocsp.ct_proof WHERE source_id = %(id)s",
                {"id": self.source_id},
            )
        )

    async def serials(self) -> set[int]:
        return {
            int.from_bytes(row[0]) for row in await served.rows(self.database, "SELECT serial FROM ocsp.certificate")
        }

    async def quarantined(self) -> list[tuple[Any, ...]]:
        return await served.rows(
            self.database,
            "SELECT log_index, reason, detail, raw FROM ocsp.quarantine ORDER BY log_index, quarantine_id",
        )


def own_serials(log: Log, key_hashes: frozenset[bytes], *, until: int) -> dict[int, bytes]:
    """Return the indices of precertificates under our keys below `until`, each with its leaf: the log's own truth."""
    return {
        index: entry.leaf_input
        for index, entry in enumerate(log.entries[:until])
        if int.from_bytes(entry.leaf_input[10:12]) == PRECERT_ENTRY
        and entry.leaf_input[ENTRY_OFFSET : ENTRY_OFFSET + 32] in key_hashes
    }


async def check_invariants(database: Database, log: Log, source_id: int, *, before: dict[str, Any]) -> dict[str, Any]:
    """Each precertificate of ours below the verified position has a row or is evidence; nothing revoked became good;
    no position went back; every row has its sighting; what is verified is what the log holds.

    Returns what the next check compares with.
    """
    statuses = dict(await served.rows(database, "SELECT (issuer_id, serial)::text, status FROM ocsp.certificate"))
    for key, status in before.get("statuses", {}).items():
        assert key in statuses, "a row disappeared"
        assert not (status == "revoked" and statuses[key] != "revoked"), "a revocation was undone"
    positions = await served.rows(
        database,
        "SELECT position, verified_size, verified_range, started_at FROM ocsp.ct_position WHERE source_id = %(id)s",
        {"id": source_id},
    )
    unproven = await served.rows(
        database,
        "SELECT count(*) FROM ocsp.certificate c WHERE NOT EXISTS"
        " (SELECT FROM ocsp.sighting s WHERE (s.issuer_id, s.serial) = (c.issuer_id, c.serial))",
    )
    assert unproven == [(0,)], "a row that nothing justifies"
    if not positions:
        return {"statuses": statuses}
    ((position, verified, verified_range, started),) = positions
    assert verified >= before.get("verified", 0), "the verified position went back"
    assert position >= verified
    issuers = await served.served(database)
    known = {
        index
        for (index,) in await served.rows(
            database,
            "SELECT log_index FROM ocsp.sighting WHERE source_id = %(id)s UNION"
            " SELECT log_index FROM ocsp.quarantine WHERE source_id = %(id)s",
            {"id": source_id},
        )
    }
    missing = {i for i in own_serials(log, issuers.key_hashes, until=verified) if i >= started} - known
    assert not missing, f"precertificates of ours below the verified position {verified} without a row: {missing}"
    tree = Tree()
    for entry in log.entries[:verified]:
        tree.append(leaf_hash(entry.leaf_input))
    assert verified_range == b"".join(peaks(tree, verified)), "what is verified is not what the log holds"
    return {"statuses": statuses, "verified": verified}


def peaks(tree: Tree, size: int) -> list[bytes]:
    """Return the roots of the perfect subtrees that `size` leaves consist of, the largest first."""
    found = list[bytes]()
    at = 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append(tree.hashes(level, start=at >> level, count=1))
            at += 1 << level
    return found
