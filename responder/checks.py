# SPDX-License-Identifier: Apache-2.0
"""What /readyz is about: may a balancer send requests here? Asked periodically, in each worker, never by a request.

Knows which trouble is to take this host out of rotation and which is not; the reasons stand in docs/operating.md.
readiness.py makes one word of what all workers say.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from responder.errors import OcspError, Refusal, TryLater
from responder.metrics import Series, gauge
from responder.ocsp.policy import plan_times
from responder.readiness import State
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import get_logger
from responder.signing import PublicKey
from responder.signing.admission import AdmittedSigner
from responder.signing.keyring import Keyring
from responder.snapshots import Verdict
from responder.status.issuers import Issuer
from responder.status.model import Freshness
from responder.status.signers import key_kind
from responder.status.store import freshness

_log = get_logger("checks")

# Between two rounds (seconds). A database that goes away is noticed after at most two of them.
_INTERVAL: Final = 2.0
# What answers slower than this is as good as away.
_PATIENCE: Final = 2.0
# A token's queue is longer than that at times.
_PATIENCE_WITH_KEYS: Final = 5.0
# Signers that work are tried this often (seconds), as every trial is a signature of the token's; others in every round.
_BETWEEN_TRIALS: Final = 30.0
# From here on a person has to do something about a signer, and can still do it at leisure.
_NEAR_THE_END: Final = timedelta(days=14)

_CURVE_DIGESTS: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class FeedState:
    """How the change feed stands in this worker."""

    age: float
    fresh: bool


class Checks:
    """The checks of one worker."""

    def __init__(
        self,
        database: Database,
        *,
        feed: Callable[[], FeedState],
        keyring: Callable[[], Keyring],
        clock: Callable[[], datetime],
    ) -> None:
        """Check nothing yet; `keyring` raises TryLater until issuers and signers have been loaded."""
        self._database = database
        self._feed = feed
        self._keyring = keyring
        self._clock = clock
        self._trouble: str | None = "not asked yet"
        self._backing: Freshness | None = None
        self._trials: dict[str, _Trial] = {}

    async def run(self) -> None:
        """Check for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_INTERVAL)

    async def look(self) -> None:
        """Ask the database, and try the signers whose turn it is."""
        await self._ask_database()
        signers = {_name(issuer, signer): signer for issuer, signer in _signers(self._current())}
        self._trials = {name: trial for name, trial in self._trials.items() if trial.signer is signers.get(name)}
        due = [name for name in signers if name not in self._trials or self._trials[name].is_due]
        for name, trial in zip(due, await asyncio.gather(*(_try(signers[name]) for name in due)), strict=True):
            self._trials[name] = trial

    async def _ask_database(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), self._database.connection() as connection:
                self._backing = await freshness(connection)
            self._trouble = None
        except (DatabaseError, TimeoutError) as exc:
            self._trouble = str(exc) or f"no answer within {_PATIENCE:g} seconds"

    def verdicts(self) -> dict[str, Verdict]:
        """Return what is to be said of each check now."""
        return {
            "database": Verdict(State.OK if self._trouble is None else State.FAILING, self._trouble or "answers"),
            "feed": self._of_feed(),
            "signers": self._of_trials(),
            "signer_expiry": self._of_expiry(),
            "sources": self._of_sources(),
        }

    def gauges(self) -> dict[Series, float]:
        """Return the gauges that these checks have found out."""
        found = {gauge("feed_age_seconds"): self._feed().age}
        if self._backing is not None:
            found[gauge("sources_required")] = self._backing.required
            found[gauge("sources_stale")] = len(self._backing.stale)
        now = self._clock()
        keyring = self._current()
        for expiry in () if keyring is None else keyring.expiries:
            series = gauge("signer_remaining_seconds", expiry.issuer, expiry.kind.value, expiry.state.value)
            remaining = (expiry.not_after - now).total_seconds()
            found[series] = min(remaining, found.get(series, remaining))
        return found

    def _current(self) -> Keyring | None:
        try:
            return self._keyring()
        except TryLater:
            return None

    def _of_feed(self) -> Verdict:
        feed = self._feed()
        return Verdict(State.OK if feed.fresh else State.FAILING, f"read {feed.age:.1f} seconds ago")

    def _of_trials(self) -> Verdict:
        keyring = self._current()
        if keyring is None:
            return Verdict(State.FAILING, "issuers and signers could not be loaded yet")
        bad = {name: trial.trouble for name, trial in self._trials.items() if trial.trouble is not None}
        bad |= {
            f"{issuer.name} {refused.record.kind.value}": f"refused: {refused.why.rule}"
            for refused in keyring.refused
            for issuer in keyring.issuers.all
            if refused.is_missed_by(issuer.issuer_id) and refused.stand_in is None
        }
        # One bad signer must not take the answers of all other issuers away with it.
        good = [name for name, trial in self._trials.items() if trial.trouble is None]
        return _some(bad, good, "sign, and their signatures verify")

    def _of_expiry(self) -> Verdict:
        ending, ended, fine = dict[str, str](), dict[str, str](), list[str]()
        now = self._clock()
        for issuer, signer in _signers(self._current()):
            name = _name(issuer, signer)
            if not _is_lawful(issuer, signer, now):
                ended[name] = "no lawful answer any more"
            else:
                fine.append(name)
                if signer.not_after - now < _NEAR_THE_END:
                    ending[name] = f"ends at {signer.not_after.isoformat()}"
        verdict = _some(ended, fine, "have certificates that last")
        return Verdict(State.DEGRADED, _listed(ending)) if verdict.state == State.OK and ending else verdict

    def _of_sources(self) -> Verdict:
        """A stale source is a matter of the log or of the reconciler, and the same on every host."""
        if self._backing is None:
            return Verdict(State.DEGRADED, "not asked yet")
        if self._backing.stale:
            return Verdict(State.DEGRADED, f"stale, so `unknown` is withheld: {', '.join(self._backing.stale)}")
        if self._backing.required == 0:
            return Verdict(State.DEGRADED, "no source is required, so nothing backs an `unknown`")
        return Verdict(State.OK, f"{self._backing.required} required, all fresh")


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of asking a signer for a signature; `trouble` is None where it verified."""

    signer: AdmittedSigner
    at: float
    trouble: str | None

    @property
    def is_due(self) -> bool:
        return self.trouble is not None or time.monotonic() - self.at > _BETWEEN_TRIALS


async def _try(signer: AdmittedSigner) -> _Trial:
    # No ResponseData begins like this, so what is signed here can never be passed off as an answer.
    octets = b"foundling: is this key there? " + os.urandom(32)
    trouble = None
    try:
        async with asyncio.timeout(_PATIENCE_WITH_KEYS):
            signature = await signer.signer.sign(octets)
        verify(signer.signer.public_key, signature, octets)
    except InvalidSignature:
        trouble = "signs, and its signature does not verify"
    except OcspError as exc:
        # A key that has too much to do is there. To send its clients elsewhere would only move the load.
        trouble = None if exc.reason is Refusal.OVERLOADED else str(exc)
    except TimeoutError:
        trouble = f"no signature within {_PATIENCE_WITH_KEYS:g} seconds"
    except Exception as exc:  # noqa: BLE001 - whatever a token's library does, the other signers are to be tried too
        trouble = repr(exc)
    if trouble is not None:
        _log.debug("signer.trial_failed", signer=repr(signer.signer), detail=trouble)
    return _Trial(signer, time.monotonic(), trouble)


def verify(key: PublicKey, signature: bytes, octets: bytes) -> None:
    """Verify a signature by the digest that goes with the key. Raises InvalidSignature."""
    match key:
        case rsa.RSAPublicKey():
            key.verify(signature, octets, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey():
            key.verify(signature, octets, ec.ECDSA(_CURVE_DIGESTS[key.curve.name]))
        case ed25519.Ed25519PublicKey():
            key.verify(signature, octets)


def _name(issuer: Issuer, signer: AdmittedSigner) -> str:
    """Return how a signer is told of; an issuer has at most one that signs of each kind of key."""
    return f"{issuer.name} {key_kind(signer.certificate_der).value}"


def _signers(keyring: Keyring | None) -> Iterable[tuple[Issuer, AdmittedSigner]]:
    """Yield every signer that may answer, with its issuer, which may have several."""
    if keyring is not None:
        for issuer in keyring.issuers.all:
            for signer in keyring.admitted.get(issuer.issuer_id, ()):
                yield issuer, signer


def _is_lawful(issuer: Issuer, signer: AdmittedSigner, now: datetime) -> bool:
    try:
        signer.check_begun(now)
        plan_times(issuer.policy, now=now, signer_not_after=signer.not_after, public=issuer.public, unknown=False)
    except OcspError:
        return False
    return True


def _some(bad: Mapping[str, str], good: Iterable[str], words: str) -> Verdict:
    """Fail where all are bad, and only degrade where some are."""
    well = list(good)
    if bad:
        return Verdict(State.DEGRADED if well else State.FAILING, _listed(bad))
    return (
        Verdict(State.OK, f"{', '.join(well)} {words}") if well else Verdict(State.DEGRADED, "no issuer has a signer")
    )


def _listed(troubles: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {trouble}" for name, trouble in troubles.items())
