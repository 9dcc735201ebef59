# SPDX-License-Identifier: Apache-2.0
"""From where a key lies to a signer that was admitted: files by their path, keys on tokens by their PKCS#11 URI.

Knows the forms of `key_location` and what opens a key; which signers there are is keyring.py's. One for a process.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from responder.errors import SignerRefused
from responder.signing import Signer
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.csr import CURVE_OIDS, RSA_BITS, make_key_file
from responder.signing.file import FileKey, FileSigner, load_certificate, read_key
from responder.signing.pkcs11 import TOKEN_RULE, Bounds, TokenKey, TokenSigner, WrongPin
from responder.signing.uri import PKCS11_SCHEME, KeyUri, UriError
from responder.signing.wire import Generate, Open
from responder.status.issuers import Issuer
from responder.status.signers import SignerRecord

FILE_SCHEME: Final = "file:"
LOCATION_RULE: Final = "key location"

# A request that was given its signer just before that was closed may still want a signature (seconds).
_LAST_CALLS: Final = 10.0
# Slow tokens take their time over a new RSA key (seconds).
_MAKING: Final = 60.0


def _nothing() -> None:
    return None


class Keys:
    """Opens the keys of signers, and closes them when nobody needs them any more.

    May be made before a fork: it holds nothing then but the PINs, by their hashes, that a token has refused already. A
    token that is asked too often with a wrong one locks itself.
    """

    def __init__(
        self,
        *,
        passphrase: Callable[[], bytes | None] = _nothing,
        pin: Callable[[], bytes | None] = _nothing,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        """`passphrase` returns what opens encrypted key files, `pin` what tokens get whose URI names no file with one.

        Both are asked whenever a key is opened, and may raise SettingsError.
        """
        self._passphrase = passphrase
        self._pin = pin
        self._bounds = bounds
        self._tokens: dict[int, tuple[str, TokenSigner]] = {}
        self._wrong_pins: set[tuple[str, bytes]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, record: SignerRecord, issuer: Issuer, *, now: datetime) -> AdmittedSigner:
        """Open a signer's key where it lies and admit it. Raises SignerRefused naming the issuer and the rule."""
        try:
            if not record.key_location.startswith(PKCS11_SCHEME):
                signer: Signer = await self.open_file(record.key_location, record.certificate)
                return admit(signer, issuer=issuer, now=now, signer_id=record.signer_id)
            token = await self._kept_token(record)
            try:
                return admit(token, issuer=issuer, now=now, signer_id=record.signer_id)
            except SignerRefused:
                self._tokens.pop(record.signer_id, None)
                await token.close()
                raise
        except SignerRefused as exc:
            why = str(exc).removesuffix(f" ({exc.rule})")
            which = "the signer" if record.signer_id == 0 else f"signer {record.signer_id}"
            raise type(exc)(exc.rule, f"issuer {issuer.name}: {which} is refused: {why}") from exc

    async def rehearse(self, record: SignerRecord, issuer: Issuer, *, now: datetime) -> None:
        """Open and admit a signer that is not to sign yet, and let go of it again. Raises SignerRefused."""
        await self.open(record, issuer, now=now)
        _, token = self._tokens.pop(record.signer_id, (None, None))
        if token is not None:
            await token.close()

    async def open_file(self, location: str, certificate: bytes) -> FileSigner:
        """Open a key file. Raises SignerRefused."""
        if not location.startswith(FILE_SCHEME):
            raise SignerRefused(LOCATION_RULE, f"{location!r} is no place for a key that is known here")
        file = Path(location.removeprefix(FILE_SCHEME))
        # A passphrase is made slow to try on purpose, and other requests are not to wait for it.
        return await asyncio.to_thread(_open_file, file, certificate, self._passphrase())

    async def open_token(self, location: str, certificate: bytes) -> TokenSigner:
        """Open a key on a token, for the caller to close. Raises SignerRefused."""
        place = self.place(location)
        tried = (location, hashlib.sha256((place.pin or "").encode()).digest())
        if tried in self._wrong_pins:
            raise SignerRefused(TOKEN_RULE, "the token does not take the PIN; this one is not tried again")
        try:
            signed_by = load_certificate(certificate)
            key = await TokenKey.open(place, bounds=self._bounds, otherwise=signed_by.public_key())
            return TokenSigner(key, signed_by)
        except WrongPin:
            self._wrong_pins.add(tried)
            raise

    async def make(self, location: str, kind: str) -> FileKey | TokenKey:
        """Make a new key of a kind that csr.py names, where there is none yet; a TokenKey is for the caller to close.

        Raises SignerRefused.
        """
        if location.startswith(PKCS11_SCHEME):
            place = self.place(location)
            new = Generate(place=place, curve=CURVE_OIDS.get(kind), bits=RSA_BITS.get(kind, 0))
            return await TokenKey.open(place, bounds=Bounds(sessions=1, limit=_MAKING), new=new)
        file, passphrase = Path(location.removeprefix(FILE_SCHEME)), self._passphrase()
        await asyncio.to_thread(make_key_file, file, kind, passphrase=passphrase)
        return FileKey(await asyncio.to_thread(read_key, file, passphrase=passphrase))

    def place(self, location: str) -> Open:
        """Return what opens the key that a PKCS#11 URI names. Raises SignerRefused."""
        try:
            uri = KeyUri.parse(location)
        except UriError as exc:
            raise SignerRefused(LOCATION_RULE, f"{location!r}: {exc}") from exc
        return Open(
            module_path=uri.module_path,
            token=uri.token,
            manufacturer=uri.manufacturer,
            serial=uri.serial,
            model=uri.model,
            label=uri.label,
            identity=uri.identity,
            pin=self._pin_for(uri),
        )

    async def close_others(self, signer_ids: Collection[int]) -> None:
        """Close, a little later, whatever is open for signers that are not among these."""
        for signer_id in self._tokens.keys() - set(signer_ids):
            _, token = self._tokens.pop(signer_id)
            task = asyncio.create_task(_close_later(token))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close everything that is open."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        tokens = [token for _, token in self._tokens.values()]
        self._tokens.clear()
        await asyncio.gather(*(token.close() for token in tokens))

    async def _kept_token(self, record: SignerRecord) -> TokenSigner:
        location, token = self._tokens.get(record.signer_id, (None, None))
        if token is not None and location == record.key_location and not token.has_given_up:
            return token
        if token is not None:
            del self._tokens[record.signer_id]
            await token.close()
        opened = await self.open_token(record.key_location, record.certificate)
        self._tokens[record.signer_id] = record.key_location, opened
        return opened

    def _pin_for(self, uri: KeyUri) -> str | None:
        try:
            pin = self._pin() if uri.pin_source is None else uri.pin_source.read_bytes()
            return None if pin is None else pin.rstrip(b"\r\n").decode()
        except OSError as exc:
            raise SignerRefused(TOKEN_RULE, f"pin-source {uri.pin_source}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SignerRefused(TOKEN_RULE, "the file with the PIN is not UTF-8") from exc


async def _close_later(token: TokenSigner) -> None:
    try:
        await asyncio.sleep(_LAST_CALLS)
    finally:
        await token.close()


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
