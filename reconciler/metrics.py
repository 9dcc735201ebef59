# SPDX-License-Identifier: Apache-2.0
"""The reconciler's metrics. Never a serial in a label. Served where [metrics] bind says."""

from typing import Final

from prometheus_client import Counter, Gauge

from reconciler.follow import Pass

ENTRIES: Final = Counter("foundling_entries", "Entries read from CT logs and hashed.", ["source"])
UNREADABLE: Final = Counter("foundling_unreadable_entries", "Entries that could not be read; kept.", ["source"])
ROWS: Final = Counter("foundling_rows", "Certificates that had no row before.", ["source"])
SIGHTINGS: Final = Counter("foundling_sightings", "Facts that were not known before.", ["source"])
ORPHANS: Final = Counter("foundling_orphans", "Certificates in CT that no issuance record named in time.", ["issuer"])
QUARANTINED: Final = Counter("foundling_quarantined", "Documents kept as evidence without a row.", ["source"])
TROUBLES: Final = Counter(
    "foundling_troubles", "Passes over a source that failed, by kind of failure.", ["source", "kind"]
)
CAUGHT_UP: Final = Gauge(
    "foundling_source_caught_up_timestamp_seconds", "When a source was last read to its end and verified.", ["source"]
)
DISTRUSTED: Final = Gauge("foundling_source_distrusted", "1 while the last pass found a contradiction.", ["source"])


def count_pass(done: Pass) -> None:
    """Count what a pass did."""
    ENTRIES.labels(source=done.source).inc(done.counts.get("entries", 0))
    UNREADABLE.labels(source=done.source).inc(done.counts.get("unreadable", 0))
    ROWS.labels(source=done.source).inc(done.rows)
    SIGHTINGS.labels(source=done.source).inc(done.sightings)
    QUARANTINED.labels(source=done.source).inc(done.quarantined)
    DISTRUSTED.labels(source=done.source).set(done.distrusted is not None)
    if done.caught_up:
        CAUGHT_UP.labels(source=done.source).set_to_current_time()
