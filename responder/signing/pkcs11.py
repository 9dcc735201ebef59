# SPDX-License-Identifier: Apache-2.0
"""A signer whose key lies on a PKCS#11 token: several sessions, with bounds, that come back by themselves.

Knows how signatures are asked for and what to do when the token is gone; one session is session.py's. Its own process
holds each, so that no library is ever loaded, let alone forked, in a process that answers.
"""

import asyncio
import hashlib
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from responder.errors import Refusal, SignerRefused, SignerUnavailable, TryLater
from responder.runtime.logs import Sparingly, get_logger
from responder.signing import PublicKey, algorithm_for, usable_key
from responder.signing.session import Session, TokenError
from responder.signing.wire import Generate, Open, Opened, Trouble
from responder.status import der

_log = get_logger("signing")

TOKEN_RULE: Final = "PKCS#11 token"  # noqa: S105 - the name of a rule
PROOF_RULE: Final = "a test signature by the key"

# DigestInfo ::= SEQUENCE { digestAlgorithm AlgorithmIdentifier, digest OCTET STRING }, RFC 8017 section 9.2, note 1.
_SHA256_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "06082a8648ce3d030107": ec.SECP256R1(),
    "06052b81040022": ec.SECP384R1(),
    "06052b81040023": ec.SECP521R1(),
}
_DIGESTS: Final[dict[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
# Between attempts to open a session again: from the first, doubled, to the last (seconds).
_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 5.0
_BETWEEN_LINES: Final = 300.0


class WrongPin(SignerRefused):
    """The token does not take the PIN. Trying the same one again brings the token nearer to locking itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one worker asks of one key at once.

    `sessions` signatures are made at a time, `most_waiting` more wait for their turn, and what comes on top is answered
    tryLater at once. `limit` is how long the token may take for a signature, in seconds.
    """

    sessions: int = 2
    most_waiting: int = 256
    limit: float = 2.0


class Pool:
    """The sessions on one key: the first is given; others, and those that are lost, are opened in the background."""

    def __init__(self, place: Open, bounds: Bounds, first: Session) -> None:
        """Begin with a session that was opened and proven."""
        self._place = place
        self._bounds = bounds
        self._opened = first.opened
        self._idle = deque([first])
        self._count = 1
        self._waiting: deque[asyncio.Future[Session]] = deque()
        self._trouble = ""
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._told = Sparingly(seconds=_BETWEEN_LINES)
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._closed = False
        self._opener = asyncio.create_task(self._keep_open())

    async def sign(self, octets: bytes) -> bytes:
        """Return the token's signature. Raises TryLater when it is out of reach, or when too many wait already."""
        session = await self._lend()
        # Whoever waits may be cancelled, and the session is in the middle of a sentence: it finishes on its own.
        task = asyncio.create_task(self._sign_with(session, octets))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    @property
    def has_given_up(self) -> bool:
        """Whether lost sessions are not opened again."""
        return self._opener.done()

    async def close(self) -> None:
        """End every session; signatures in progress are finished first."""
        self._closed = True
        self._opener.cancel()
        with suppress(asyncio.CancelledError):
            await self._opener
        self._fail_waiting("the signer was closed")
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        while self._idle:
            self._count -= 1
            await self._idle.popleft().close()

    async def _lend(self) -> Session:
        if self._closed or self._count == 0:
            raise TryLater(Refusal.SIGNER, self._trouble or "the signer was closed")
        if self._idle:
            return self._idle.pop()
        if len(self._waiting) >= self._bounds.most_waiting:
            raise TryLater(Refusal.OVERLOADED, f"{len(self._waiting)} signatures wait for the token already")
        future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            # Both may have happened in one turn of the loop: a session that was handed over goes to the next in line.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take_back(future.result())
            raise

    def _take_back(self, session: Session) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(session)
                return
        self._idle.append(session)

    async def _sign_with(self, session: Session, octets: bytes) -> bytes:
        try:
            signature = await session.sign(octets)
        except TokenError as exc:
            self._lose(str(exc))
            await session.close()
            raise TryLater(Refusal.SIGNER, str(exc)) from exc
        self._take_back(session)
        return signature

    def _forget(self, task: "asyncio.Task[bytes]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # fetched here too, for whoever waited may be gone

    def _lose(self, why: str) -> None:
        self._count -= 1
        self._trouble = why
        if self._told.unsaid("lost") is not None:
            _log.error("token.lost", token=self._place.token, key=self._place.label, detail=why)
        if self._count == 0:
            self._fail_waiting(why)
        self._wanted.set()

    def _fail_waiting(self, why: str) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(TryLater(Refusal.SIGNER, why))

    async def _keep_open(self) -> None:
        """Open sessions until there are enough, later and later while that fails, until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            if self._count >= self._bounds.sessions:
                self._wanted.clear()
            await self._wanted.wait()
            try:
                session = await self._open_one()
            except TokenError as exc:
                self._trouble = str(exc)
                if exc.trouble is not Trouble.GONE and self._told.unsaid("refused") is not None:
                    _log.error("token.refused", token=self._place.token, key=self._place.label, detail=str(exc))
                if exc.trouble is Trouble.PIN:
                    return  # the same PIN again would lock the token
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            if self._count == 0 and self._trouble:
                _log.info("token.back", token=self._place.token, key=self._place.label)
            self._count += 1
            self._take_back(session)

    async def _open_one(self) -> Session:
        session = await Session.open(self._place, limit=self._bounds.limit)
        if session.opened != self._opened:
            await session.close()
            raise TokenError(Trouble.SETTING, "another key lies there now than was admitted")
        return session


class TokenKey:
    """A private key on a token, which has proven itself."""

    def __init__(self, pool: Pool, *, public_key: PublicKey, hashes_itself: bool) -> None:
        """Sign through this pool; `open` is how to get one."""
        self._pool = pool
        self._hashes_itself = hashes_itself
        self.public_key = public_key
        self.algorithm = algorithm_for(public_key)

    @classmethod
    async def open(
        cls, place: Open, *, bounds: Bounds, otherwise: PublicKeyTypes | None = None, new: Generate | None = None
    ) -> Self:
        """Open the key, or a new one made there, and have it prove itself by a signature that verifies.

        It has to verify under the public half that the token tells, or under `otherwise` where it tells none. Raises
        SignerUnavailable when the token does not answer, SignerRefused with one line for whatever somebody has to put
        right.
        """
        try:
            first = await Session.open(place if new is None else new, limit=bounds.limit)
        except TokenError as exc:
            raise refusal(exc) from exc
        pool = Pool(place, bounds, first)
        try:
            key = cls(pool, public_key=_usable(public_half(first.opened), otherwise), hashes_itself=first.opened.hashes)
            await key.prove()
        except BaseException:
            await pool.close()
            raise
        return key

    async def sign(self, tbs: bytes) -> bytes:
        """Return the signature over these octets. Raises TryLater when the token cannot make it now."""
        match self.public_key:
            case rsa.RSAPublicKey():
                # A token without the mechanism that hashes gets what it would have made of the message.
                return await self._pool.sign(
                    tbs if self._hashes_itself else _SHA256_INFO + hashlib.sha256(tbs).digest()
                )
            case ec.EllipticCurvePublicKey(curve=curve):
                digest = hashlib.new(_DIGESTS[curve.name].name, tbs).digest()
                return _as_der(await self._pool.sign(digest))
            case _:
                raise TryLater(Refusal.SIGNER, "tokens sign with RSA and ECDSA here")

    @property
    def has_given_up(self) -> bool:
        """Whether lost sessions are not opened again, because the token does not take the PIN any more."""
        return self._pool.has_given_up

    async def close(self) -> None:
        """End the sessions."""
        await self._pool.close()

    async def prove(self) -> None:
        """Raise SignerRefused unless a test signature verifies."""
        message = b"foundling: " + os.urandom(32)
        try:
            signature = await self.sign(message)
            _verify(self.public_key, signature, message)
        except TryLater as exc:
            raise SignerUnavailable(TOKEN_RULE, exc.detail) from exc
        except (InvalidSignature, ValueError) as exc:
            raise SignerRefused(PROOF_RULE, "what the token signs does not verify under its public key") from exc


class TokenSigner:
    """Signs with a key on a token. Every signature of it is verified before it is served."""

    verify_always: Final = True

    def __init__(self, key: TokenKey, certificate: x509.Certificate) -> None:
        """Put a key and its certificate together; whether they belong together is admission's to say."""
        self._key = key
        self.certificate = certificate
        self.public_key = key.public_key
        self.algorithm = key.algorithm

    @property
    def has_given_up(self) -> bool:
        """Whether lost sessions are not opened again, because the token does not take the PIN any more."""
        return self._key.has_given_up

    async def sign(self, tbs: bytes) -> bytes:
        """Return the signature over these octets. Raises TryLater when the token cannot make it now."""
        return await self._key.sign(tbs)

    async def close(self) -> None:
        """End the sessions."""
        await self._key.close()


def refusal(exc: TokenError) -> SignerRefused:
    """Return what a token's trouble is to those who admit signers."""
    kinds = {Trouble.GONE: SignerUnavailable, Trouble.PIN: WrongPin, Trouble.SETTING: SignerRefused}
    return kinds[exc.trouble](TOKEN_RULE, str(exc))


def public_half(opened: Opened) -> PublicKeyTypes | None:
    """Return the public key that the token tells, None where it tells none. Raises SignerRefused for nonsense."""
    try:
        if opened.certificate is not None:
            return x509.load_der_x509_certificate(opened.certificate).public_key()
        if opened.modulus is not None and opened.exponent is not None:
            numbers = rsa.RSAPublicNumbers(int.from_bytes(opened.exponent), int.from_bytes(opened.modulus))
            return numbers.public_key()
        if opened.parameters is not None and opened.point is not None:
            curve = _CURVES.get(opened.parameters.hex())
            if curve is None:
                raise SignerRefused(TOKEN_RULE, "the key's curve is none of P-256, P-384 and P-521")
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, _point(opened.point))
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SignerRefused(TOKEN_RULE, f"the token's public key cannot be read: {exc}") from exc
    return None


def _usable(told: PublicKeyTypes | None, otherwise: PublicKeyTypes | None) -> PublicKey:
    found = otherwise if told is None else told
    if found is None:
        raise SignerRefused(TOKEN_RULE, "the token does not tell the public half of the key")
    return usable_key(found)


def _point(value: bytes) -> bytes:
    """Return an ECPoint out of the OCTET STRING that PKCS#11 wants around it; some tokens leave that out."""
    try:
        inner = der.whole(value, der.OCTET_STRING)
    except der.DerError:
        return value
    return value[inner.value : inner.end]


def _as_der(raw: bytes) -> bytes:
    # A token gives r and s in one length, one after the other; Ecdsa-Sig-Value (RFC 3279 section 2.2.3) is DER.
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def _verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    match key:
        case rsa.RSAPublicKey():
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey():
            key.verify(signature, message, ec.ECDSA(_DIGESTS[key.curve.name]))
        case _:
            raise SignerRefused(TOKEN_RULE, "tokens sign with RSA and ECDSA here")
