# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an issuance log to evidence: one certificate, or a PEM text of several, proven or quarantined.

Knows what a CA puts into a file; never opens one, and never decides what a proof is (precert.py does). Called by the
adapters beside it.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from reconciler.model import Batch, Finding, Move
from responder.status import der
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace, Quarantined, QuarantineReason, Sighting
from responder.status.precert import NotProvenError, outline, prove

Evidence = Sighting | Quarantined

# A batch is one transaction. 256 documents keep it in the tens of milliseconds, and 4 MiB keep what waits in memory
# small even where every document is as large as it may be.
MOST_DOCUMENTS: Final = 256
MOST_OCTETS: Final = 4 * 1024 * 1024
# What is too large to be a certificate is kept by its beginning: enough to tell what somebody put there.
PREFIX_OCTETS: Final = 64 * 1024
# A sentence for a person. A foreign issuer's name can be of any length.
_MOST_DETAIL: Final = 500

# RFC 7468 sections 5 and 5.1, with the label that OpenSSL gives to a certificate followed by trust settings.
_CERTIFICATE_LABELS: Final = frozenset(
    {b"CERTIFICATE", b"X509 CERTIFICATE", b"X.509 CERTIFICATE", b"TRUSTED CERTIFICATE"}
)
_BEGIN: Final = b"-----BEGIN "
_DASHES: Final = b"-----"
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(.*?)(?:-----END \1-----|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PemBlock:
    """One block of RFC 7468: where it begins, its label, its text from BEGIN to END, and its base64 in between.

    `base64` is None where the END line is missing or names another label.
    """

    offset: int
    label: bytes
    text: bytes
    base64: bytes | None

    @property
    def is_certificate(self) -> bool:
        """Whether the label says that a certificate is inside."""
        return self.label in _CERTIFICATE_LABELS

    def decode(self) -> bytes:
        """Return the bytes inside. Raises ValueError where the block is not whole or not base64."""
        if self.base64 is None:
            raise ValueError("the PEM block has no END line of its own")
        return base64.b64decode(b"".join(self.base64.split()), validate=True)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a text held: its evidence in order, and how many blocks were passed over as none of our business."""

    evidence: tuple[Evidence, ...]
    passed_over: int = 0

    @property
    def unparsable(self) -> bool:
        """Whether some of it could not be read at all, as in a file that is still being written."""
        return any(
            isinstance(each, Quarantined) and each.reason is QuarantineReason.UNPARSABLE for each in self.evidence
        )


@dataclass(slots=True)
class Gathering:
    """A batch in the making."""

    sightings: list[Sighting] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    octets: int = 0

    @property
    def full(self) -> bool:
        """Whether the batch has reached one of its bounds."""
        return len(self.sightings) + len(self.quarantined) >= MOST_DOCUMENTS or self.octets >= MOST_OCTETS

    def add(self, contents: Contents) -> None:
        """Take in what a file or a line held."""
        self.sightings += [each for each in contents.evidence if isinstance(each, Sighting)]
        self.quarantined += [each for each in contents.evidence if isinstance(each, Quarantined)]
        if contents.passed_over > 0:
            self.counts["passed_over"] += contents.passed_over

    def batch(
        self, *, move: Move | None, findings: Iterable[Finding] = (), caught_up_at: datetime | None = None
    ) -> Batch:
        """Close it."""
        return Batch(
            sightings=tuple(self.sightings),
            quarantined=tuple(self.quarantined),
            findings=tuple(findings),
            move=move,
            caught_up_at=caught_up_at,
            counts=dict(self.counts),
        )


def read_certificate(document: bytes, *, place: FilePlace, issuers: IssuerSet, chain: Sequence[bytes] = ()) -> Evidence:
    """Prove one certificate in DER, or say why it proves nothing."""
    try:
        proven = prove(document, issuers, chain=chain)
    except NotProvenError as exc:
        return Quarantined(place=place, reason=exc.reason, detail=printable(exc.detail), raw=document)
    return Sighting(issued=proven.issued, place=place)


def unparsable(raw: bytes, *, place: FilePlace, detail: str) -> Quarantined:
    """Keep what cannot be read, as it stands but for private keys."""
    kept = without_private_keys(raw)
    return Quarantined(place=place, reason=QuarantineReason.UNPARSABLE, detail=printable(detail), raw=kept)


def read_file(data: bytes, *, file: str, issuers: IssuerSet) -> Contents:
    """Read a whole file: one certificate in DER, or PEM, told apart by what is inside and not by the file's name."""
    start = FilePlace(file=file, offset=0)
    if not data:
        return Contents((unparsable(data, place=start, detail="the file is empty"),))
    if _BEGIN in data and not _is_one_sequence(data):
        return read_pem(data, file=file, issuers=issuers)
    return Contents((read_certificate(data, place=start, issuers=issuers),))


def read_pem(data: bytes, *, file: str, issuers: IssuerSet, offset: int | None = None) -> Contents:
    """Read every certificate of a PEM text. Their places count from the text's start, or all are at `offset`.

    The first certificate is what the file is about. Those after it usually are its chain (fullchain.pem): they prove
    issuance where our key signed them, and CA certificates of others are passed over. Blocks with another label are
    passed over too, keys above all.
    """
    blocks = list(pem_blocks(data))
    certificates = [block for block in blocks if block.is_certificate]
    if not certificates:
        place = FilePlace(file=file, offset=0 if offset is None else offset)
        return Contents((unparsable(data, place=place, detail="there is no certificate in this PEM text"),))
    decoded = [_decoded(block) for block in certificates]
    evidence: list[Evidence] = []
    for number, (block, document) in enumerate(zip(certificates, decoded, strict=True)):
        place = FilePlace(file=file, offset=block.offset if offset is None else offset)
        if isinstance(document, ValueError):
            evidence.append(unparsable(block.text, place=place, detail=str(document)))
            continue
        chain = [each for each in decoded[number + 1 :] if isinstance(each, bytes)]
        found = read_certificate(document, place=place, issuers=issuers, chain=chain[:1])
        if number == 0 or not _is_foreign_ca(found):
            evidence.append(found)
    return Contents(tuple(evidence), passed_over=len(blocks) - len(evidence))


def pem_blocks(data: bytes) -> Iterator[PemBlock]:
    """Cut a text into its PEM blocks (RFC 7468 section 2), stepping over whatever stands between them.

    One pass over the text: five dashes end a body, whatever follows them, because base64 has none.
    """
    start = data.find(_BEGIN)
    while start >= 0:
        label_ends = data.find(_DASHES, start + len(_BEGIN))
        if label_ends < 0:
            yield PemBlock(start, data[start + len(_BEGIN) : start + len(_BEGIN) + 64], data[start:], None)
            return
        label = data[start + len(_BEGIN) : label_ends]
        body = label_ends + len(_DASHES)
        body_ends = data.find(_DASHES, body)
        end_line = b"-----END " + label + _DASHES
        if body_ends >= 0 and data.startswith(end_line, body_ends):
            after = body_ends + len(end_line)
            yield PemBlock(start, label, data[start:after], data[body:body_ends])
        else:
            after = len(data) if body_ends < 0 else body_ends
            yield PemBlock(start, label, data[start:after], None)
        start = data.find(_BEGIN, after)


def without_private_keys(data: bytes) -> bytes:
    """Return the text with the body of every private key replaced by its hash: evidence must not become a leak."""
    return _PRIVATE_KEY.sub(_withheld, data)


def printable(text: str) -> str:
    """Return the text as a table and a terminal can hold it: no control characters, no half characters, not endless."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MOST_DETAIL])


def _withheld(found: re.Match[bytes]) -> bytes:
    digest = hashlib.sha256(found[2]).hexdigest().encode()
    return b"-----BEGIN " + found[1] + b"-----\nwithheld, SHA-256 " + digest + b"\n-----END " + found[1] + b"-----"


def _decoded(block: PemBlock) -> bytes | ValueError:
    try:
        return block.decode()
    except ValueError as exc:
        return exc


def _is_one_sequence(data: bytes) -> bool:
    """Whether it is one DER element from end to end; a PEM text may well begin with the character 0, which is 0x30."""
    try:
        der.whole(data, der.SEQUENCE)
    except der.DerError:
        return False
    return True


def _is_foreign_ca(found: Evidence) -> bool:
    """Whether it is a CA certificate that another CA issued: what a chain is made of."""
    return isinstance(found, Quarantined) and found.reason is QuarantineReason.FOREIGN and outline(found.raw).is_ca
