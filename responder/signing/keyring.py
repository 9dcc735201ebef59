# SPDX-License-Identifier: Apache-2.0
"""Issuers with the signers admitted for them: what service.py looks up, loaded anew when the database says so.

Knows where keys lie and in which order signers are preferred; whether one may sign is admission.py's to say.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    """All issuers, for each issuer number the signer that answers for it, and whom we had to refuse."""

    issuers: IssuerSet
    signers: Mapping[int, AdmittedSigner]
    refused: Mapping[int, SignerRefused] = field(default_factory=dict)

    def after(self, former: "Keyring") -> "Keyring":
        """Return this keyring with the former signer of every issuer that has none now because it was refused."""
        kept = {
            issuer_id: former.signers[issuer_id]
            for issuer_id in self.refused
            if issuer_id not in self.signers and issuer_id in former.signers
        }
        return replace(self, signers={**self.signers, **kept})


async def load_keyring(connection: Connection, *, passphrase: bytes | None, now: datetime) -> Keyring:
    """Load issuers and their active signers, and admit each that may sign; one issuer's trouble is not another's.

    Raises IssuerError for a CA certificate that cannot be read.
    """
    issuers = await load_issuers(connection)
    signers: dict[int, AdmittedSigner] = {}
    refused: dict[int, SignerRefused] = {}
    for record in await active_signers(connection):
        issuer = issuers.by_id(record.issuer_id)
        # The latest added comes first; an older one that is still active answers only where that one may not.
        if issuer is None or record.issuer_id in signers:
            continue
        try:
            # A passphrase is made slow to try on purpose, and other requests are not to wait for it.
            admitted = await asyncio.to_thread(open_signer, record, issuer, passphrase=passphrase, now=now)
        except SignerRefused as exc:
            refused.setdefault(record.issuer_id, exc)
        else:
            signers[record.issuer_id] = admitted
    return Keyring(issuers, signers, refused)


def open_signer(record: SignerRecord, issuer: Issuer, *, passphrase: bytes | None, now: datetime) -> AdmittedSigner:
    """Open a signer's key where it lies and admit it. Raises SignerRefused naming the issuer and the rule."""
    try:
        file = _key_file(record.key_location)
        signer = FileSigner.load(file, certificate=record.certificate, passphrase=_passphrase_for(file, passphrase))
        return admit(signer, issuer=issuer, now=now)
    except SignerRefused as exc:
        why = str(exc).removesuffix(f" ({exc.rule})")
        raise SignerRefused(exc.rule, f"issuer {issuer.name}: the signer is refused: {why}") from exc


def _key_file(location: str) -> Path:
    if not location.startswith(FILE_SCHEME):
        raise SignerRefused("key location", f"{location!r} is no place for a key that is known here")
    return Path(location.removeprefix(FILE_SCHEME))


def _passphrase_for(file: Path, passphrase: bytes | None) -> bytes | None:
    """Return the passphrase for a key that needs one: it is configured for all keys, and not all may be encrypted."""
    try:
        with file.open("rb") as opened:
            encrypted = b"ENCRYPTED" in opened.read(4096)
    except OSError:
        return passphrase  # opening it in earnest says what is wrong
    return passphrase if encrypted else None
