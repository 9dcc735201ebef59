# SPDX-License-Identifier: Apache-2.0
"""From where a key lies to a signer that was admitted: files by their path.

Knows the forms of `key_location` and what opens a key; which signers there are is keyring.py's. One for a process.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from responder.errors import SignerRefused
from responder.signing import Signer
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.file import FileSigner
from responder.status.issuers import Issuer
from responder.status.signers import SignerRecord

FILE_SCHEME: Final = "file:"
LOCATION_RULE: Final = "key location"


class Keys:
    """Opens the keys of signers, and closes them when nobody needs them any more."""

    def __init__(self, *, passphrase: Callable[[], bytes | None]) -> None:
        """`passphrase` returns what opens those key files that are encrypted; it may raise SettingsError."""
        self._passphrase = passphrase

    async def open(self, record: SignerRecord, issuer: Issuer, *, now: datetime) -> AdmittedSigner:
        """Open a signer's key where it lies and admit it. Raises SignerRefused naming the issuer and the rule."""
        try:
            signer = await self._signer(record)
            return admit(signer, issuer=issuer, now=now, signer_id=record.signer_id)
        except SignerRefused as exc:
            why = str(exc).removesuffix(f" ({exc.rule})")
            which = "the signer" if record.signer_id == 0 else f"signer {record.signer_id}"
            raise SignerRefused(exc.rule, f"issuer {issuer.name}: {which} is refused: {why}") from exc

    async def rehearse(self, record: SignerRecord, issuer: Issuer, *, now: datetime) -> None:
        """Open and admit a signer that is not to sign yet, and let go of it again. Raises SignerRefused."""
        await self.open(record, issuer, now=now)

    async def close_others(self, signer_ids: Collection[int]) -> None:
        """Close whatever is open for signers that are not among these, once nothing is being signed with it."""

    async def close(self) -> None:
        """Close everything that is open."""
        await self.close_others(())

    async def _signer(self, record: SignerRecord) -> Signer:
        if record.key_location.startswith(FILE_SCHEME):
            file = Path(record.key_location.removeprefix(FILE_SCHEME))
            # A passphrase is made slow to try on purpose, and other requests are not to wait for it.
            return await asyncio.to_thread(_open_file, file, record.certificate, self._passphrase())
        raise SignerRefused(LOCATION_RULE, f"{record.key_location!r} is no place for a key that is known here")


def _open_file(file: Path, certificate: bytes, passphrase: bytes | None) -> FileSigner:
    return FileSigner.load(file, certificate=certificate, passphrase=_passphrase_for(file, passphrase))


def _passphrase_for(file: Path, passphrase: bytes | None) -> bytes | None:
    """Return the passphrase for a key that needs one: it is configured for all keys, and not all may be encrypted."""
    try:
        with file.open("rb") as opened:
            encrypted = b"ENCRYPTED" in opened.read(4096)
    except OSError:
        return passphrase  # opening it in earnest says what is wrong
    return passphrase if encrypted else None
