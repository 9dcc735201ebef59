# SPDX-License-Identifier: Apache-2.0
"""Issuers with the signers admitted for them: what service.py looks up, loaded anew when the database says so.

Knows where keys lie and in which order signers are preferred; whether one may sign is admission.py's to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from responder.errors import SignerRefused
from responder.runtime.db import Connection
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.file import FileSigner
from responder.status.issuer_store import active_signers, load_issuers
from responder.status.issuers import Issuer, IssuerSet
from responder.status.model import SignerRecord

FILE_SCHEME: Final = "file:"


@dataclass(frozen=True, slots=True)
class Keyring:
    """All issuers, and for each issuer number the signer that answers for it."""

    issuers: IssuerSet
    signers: Mapping[int, AdmittedSigner]


async def load_keyring(connection: Connection, *, passphrase: bytes | None, now: datetime) -> Keyring:
    """Load issuers and their active signers, and admit each. Raises SignerRefused naming issuer and rule."""
    issuers = await load_issuers(connection)
    signers: dict[int, AdmittedSigner] = {}
    for record in await active_signers(connection):
        issuer = issuers.by_id(record.issuer_id)
        # The latest added comes first; an older one that is still active does not answer any more.
        if issuer is not None and record.issuer_id not in signers:
            signers[record.issuer_id] = open_signer(record, issuer, passphrase=passphrase, now=now)
    return Keyring(issuers, signers)


def open_signer(record: SignerRecord, issuer: Issuer, *, passphrase: bytes | None, now: datetime) -> AdmittedSigner:
    """Open a signer's key where it lies and admit it. Raises SignerRefused naming the issuer and the rule."""
    try:
        signer = FileSigner.load(_key_file(record.key_location), certificate=record.certificate, passphrase=passphrase)
        return admit(signer, issuer=issuer, now=now)
    except SignerRefused as exc:
        raise SignerRefused(exc.rule, f"issuer {issuer.name}: the signer is refused: {exc}") from exc


def _key_file(location: str) -> Path:
    if not location.startswith(FILE_SCHEME):
        raise SignerRefused("key location", f"{location!r} is no place for a key that is known here")
    return Path(location.removeprefix(FILE_SCHEME))
