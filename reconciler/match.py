# SPDX-License-Identifier: Apache-2.0
"""Is this log entry ours, by which issuer, and what does it prove? From an entry to a sighting, or to quarantine.

Pure. The leaf is what the log vouches for; the precertificate and the chain beside it are hearsay until a signature of
ours verifies and the contents equal the leaf. Called for the entries whose issuer_key_hash or issuer name is ours.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from reconciler.ct.entry import Entry, Unreadable, Wanted
from responder.status.der import DerError
from responder.status.issuers import IssuerSet
from responder.status.model import Kind, LogPlace, Quarantined, QuarantineReason, Sighting
from responder.status.precert import NotProvenError, Proven, leaf_tbs, prove

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MOMENT_MS: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds() * 1000)


def wanted(issuers: IssuerSet) -> Wanted:
    """Return whose entries to look at: by key for precertificates, by name for certificates (RFC 6962 section 3.4)."""
    return Wanted(issuer_key_hashes=issuers.key_hashes, issuer_names=issuers.names)


def judge(entry: Entry, issuers: IssuerSet, *, chain: Sequence[bytes] = ()) -> Sighting | Quarantined:
    """Decide what a candidate entry proves. `chain` is what came along, next certificate first (DER)."""
    place = place_of(entry.index, entry.timestamp_ms)
    try:
        if entry.certificate is not None:
            proven = prove(entry.certificate, issuers)
        else:
            proven = _prove_precertificate(entry, issuers, chain)
    except NotProvenError as exc:
        return Quarantined(place=place, reason=exc.reason, detail=exc.detail, raw=_raw(entry))
    return Sighting(issued=proven.issued, place=place)


def needs_chain(verdict: Sighting | Quarantined) -> bool:
    """Tell whether a chain certificate could still prove it: a Precertificate Signing Certificate may have signed."""
    return isinstance(verdict, Quarantined) and verdict.reason in {
        QuarantineReason.SIGNATURE,
        QuarantineReason.ISSUER_NAME,
    }


def unreadable(found: Unreadable, *, timestamp_ms: int | None) -> Quarantined:
    """Keep an entry that could not be read: stored and counted, and reading goes on."""
    return Quarantined(
        place=place_of(found.index, timestamp_ms or 0),
        reason=QuarantineReason.UNPARSABLE,
        detail=found.reason,
        raw=found.raw,
    )


def place_of(index: int, timestamp_ms: int) -> LogPlace:
    """Return the place of an entry. A timestamp beyond the calendar is cut to its last day: logs may send any u64."""
    return LogPlace(index=index, logged_at=_EPOCH + timedelta(milliseconds=min(timestamp_ms, _LAST_MOMENT_MS)))


def _prove_precertificate(entry: Entry, issuers: IssuerSet, chain: Sequence[bytes]) -> Proven:
    """Prove the precertificate beside the leaf, and that it says what the leaf says (RFC 6962 section 3.2)."""
    if entry.precertificate is None:
        raise NotProvenError(QuarantineReason.MISSING, "the log sent no precertificate with the leaf")
    try:
        proven = prove(entry.precertificate, issuers, chain=chain)
    except NotProvenError as exc:
        if exc.reason is QuarantineReason.FOREIGN:
            raise NotProvenError(
                QuarantineReason.ISSUER_NAME, f"the leaf names a key of ours, but it is {exc}"
            ) from exc
        raise
    issuer = issuers.by_key_hash(entry.issuer_key_hash or b"")
    if issuer is None or issuer.issuer_id != proven.issued.issuer_id:
        raise NotProvenError(QuarantineReason.CONTENTS, "signed by another key of ours than the leaf names")
    if proven.issued.kind is not Kind.PRECERTIFICATE:
        raise NotProvenError(QuarantineReason.CONTENTS, "what should be a precertificate carries no poison")
    if _leaf_tbs(proven) != entry.tbs:
        raise NotProvenError(QuarantineReason.CONTENTS, "the precertificate does not say what the leaf says")
    return proven


def _leaf_tbs(proven: Proven) -> bytes | None:
    try:
        return leaf_tbs(proven.outline, signing=proven.signing)
    except DerError:
        return None


def _raw(entry: Entry) -> bytes:
    """Return the entry as evidence, laid out as a data tile would: the leaf, then the precertificate with its length.

    C2SP static-ct-api, TileLeaf: TimestampedEntry, then for precertificates `ASN.1Cert pre_certificate<1..2^24-1>`.
    """
    if entry.precertificate is None:
        return entry.leaf
    return entry.leaf + len(entry.precertificate).to_bytes(3) + entry.precertificate
