# SPDX-License-Identifier: Apache-2.0
"""The one routine that writes a certificate's row and its evidence (invariant 4).

The reconciler, the registration API and ocsp-admin all call `record_issued`; recovery has no path of its own. It
inserts and never updates: what is revoked stays revoked, what is known stays known (invariant 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from responder.runtime.db import Connection
from responder.status import store
from responder.status.model import Issued, Quarantined, Sighting, serial_hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What was new: certificates that had no row, facts that were not known, evidence kept, serials used twice."""

    rows: tuple[Issued, ...] = ()
    sightings: int = 0
    quarantined: int = 0
    reused: tuple[store.Key, ...] = ()


async def record_issued(
    connection: Connection, source_id: int, sightings: Sequence[Sighting], quarantined: Sequence[Quarantined] = ()
) -> Recorded:
    """Write rows and sightings for what was proven, and keep what was not. Replaying it changes nothing.

    Runs inside the caller's transaction, so that the caller's position moves with the rows or not at all.
    """
    kept = await store.insert_quarantined(connection, source_id, quarantined) if quarantined else 0
    if not sightings:
        return Recorded(quarantined=kept)
    issued = {(each.issued.issuer_id, each.issued.serial): each.issued for each in sightings}
    await store.insert_documents(connection, {each.issued.sha256: each.issued.der for each in sightings})
    new_rows = await store.insert_rows(connection, issued)
    new_sightings = await store.insert_sightings(connection, source_id, sightings)
    reused = await _report_reuse(connection, source_id, list(issued)) if new_sightings else ()
    return Recorded(
        rows=tuple(issued[key] for key in sorted(new_rows)),
        sightings=new_sightings,
        quarantined=kept,
        reused=reused,
    )


async def _report_reuse(connection: Connection, source_id: int, keys: Sequence[store.Key]) -> tuple[store.Key, ...]:
    """Two different documents of one kind under one serial are misissuance (BR 7.1.2.9): alarm, overwrite nothing.

    Once, however many sources show the two.
    """
    new = []
    for key, kind in await store.reused_serials(connection, keys):
        subject = f"{key[0]}/{serial_hex(key[1])}/{kind}"
        if await store.has_finding(connection, kind="serial_reused", subject=subject):
            continue
        if await store.insert_finding(
            connection,
            source_id,
            kind="serial_reused",
            severity="critical",
            key=key,
            subject=subject,
            detail=f"two different documents of kind {kind} carry serial {serial_hex(key[1])} (BR 7.1.2.9)",
        ):
            new.append(key)
    return tuple(new)
