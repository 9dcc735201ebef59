# SPDX-License-Identifier: Apache-2.0
"""Issuers with the signers admitted for them: what service.py looks up, loaded anew when the database says so.

Knows which signers there are and which of them answers. Where a key lies is keys.py's to know, and whether it may sign
admission.py's.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from responder.errors import Refusal, SignerRefused, SignerUnavailable, TryLater, Unauthorized
from responder.ocsp.preference import PreferredAlgorithm
from responder.runtime.db import Connection
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.keys import FILE_SCHEME, Keys
from responder.status.issuer_store import load_issuers, load_signers
from responder.status.issuers import Issuer, IssuerSet
from responder.status.signers import KeyKind, SignerRecord, SignerState, key_kind

# Where nothing else decides: SHA-256 with RSA is what every client has to take (RFC 6960 section 4.3).
_USUAL_ORDER: Final = (KeyKind.RSA, KeyKind.ECDSA, KeyKind.ED25519)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Until when a signer's certificate may be used, by the words that metrics and alarms go by."""

    issuer: str
    kind: KeyKind
    state: SignerState
    not_after: datetime


@dataclass(frozen=True, slots=True)
class RefusedSigner:
    """A signer that may not sign here, why, and who answers in its place: itself, as long as it has its key in hand."""

    record: SignerRecord
    why: SignerRefused
    stand_in: AdmittedSigner | None = None

    def is_missed_by(self, issuer_id: int) -> bool:
        """Whether this is who should sign for that issuer."""
        return self.record.issuer_id == issuer_id and self.record.state is SignerState.ACTIVE

    @property
    def meaning(self) -> str:
        """What the refusal means for clients, in the words of the log."""
        if self.record.state is SignerState.STAGED:
            return "it would answer nothing here if it were activated"
        return "nobody answers in its place" if self.stand_in is None else f"signer {self.stand_in.signer_id} goes on"


@dataclass(frozen=True, slots=True)
class Keyring:
    """All issuers, who signs for each of them, whom we had to refuse, and when certificates end.

    `admitted` has for each issuer number its signers, at most one of a kind, the usual one first; `signers` only that
    one; `by_signer_id` all of them by their numbers in ocsp.signer.
    """

    issuers: IssuerSet
    admitted: Mapping[int, tuple[AdmittedSigner, ...]]
    refused: tuple[RefusedSigner, ...] = ()
    expiries: tuple[Expiry, ...] = ()
    signers: Mapping[int, AdmittedSigner] = field(init=False)
    by_signer_id: Mapping[int, AdmittedSigner] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signers", {issuer_id: each[0] for issuer_id, each in self.admitted.items()})
        everyone = (signer for each in self.admitted.values() for signer in each)
        object.__setattr__(self, "by_signer_id", {signer.signer_id: signer for signer in everyone})

    def check_usable(self) -> None:
        """Raise the SignerRefused of a signer when all that are meant to sign are refused, for reasons that stay."""
        active = [each.why for each in self.refused if each.record.state is SignerState.ACTIVE]
        lasting = [why for why in active if not isinstance(why, SignerUnavailable)]
        if not self.admitted and lasting and len(lasting) == len(active):
            raise lasting[0]

    def who_signs(
        self, issuer_id: int, *, preferred: Sequence[PreferredAlgorithm] = (), now: datetime
    ) -> tuple[Issuer, AdmittedSigner]:
        """Return an issuer and who signs for it now: the first that the client prefers, else the usual one.

        RFC 6960 section 4.4.7.2.1. A signer whose certificate ends before a full answer would is passed over where
        another one's does not, whatever the client prefers: so it chooses between signatures, and never between the
        times of an answer. Raises Unauthorized for an issuer without signers, TryLater where those it has cannot sign.
        """
        issuer, usable = self.issuers.by_id(issuer_id), self.admitted.get(issuer_id, ())
        if issuer is not None and not usable and any(each.is_missed_by(issuer_id) for each in self.refused):
            raise TryLater(Refusal.SIGNER, f"issuer {issuer.name}: its signers are refused")
        if issuer is None or not usable:
            raise Unauthorized(Refusal.NO_SIGNER, "the issuer is known, and nobody here may sign for it")
        full = [signer for signer in usable if signer.not_after >= now + issuer.policy.validity]
        if not full:
            return issuer, max(usable, key=lambda signer: signer.not_after)
        return issuer, next((signer for wanted in preferred for signer in full if _suits(wanted, signer)), full[0])


@dataclass(frozen=True, slots=True)
class Listed:
    """What the database says: all issuers, and every signer that is not retired, the latest added first."""

    issuers: IssuerSet
    records: tuple[SignerRecord, ...]


def _suits(wanted: PreferredAlgorithm, signer: AdmittedSigner) -> bool:
    return wanted.suits(signature=signer.signer.algorithm, key=signer.key_algorithm)


async def list_signers(connection: Connection) -> Listed:
    """Read issuers and signers. Raises IssuerError for a CA certificate that cannot be read."""
    issuers = await load_issuers(connection)
    return Listed(issuers, await load_signers(connection, set(SignerState) - {SignerState.RETIRED}))


async def admit_listed(listed: Listed, keys: Keys, *, now: datetime, former: Keyring | None = None) -> Keyring:
    """Open and admit every signer that may sign; one issuer's trouble is not another's.

    Whom the former keyring has goes on when its key file does not do any more: it has been read. No connection is held
    meanwhile: a token may take its time.
    """
    found = await asyncio.gather(
        *(_of_issuer(listed, issuer, keys, now=now, former=former) for issuer in listed.issuers.all)
    )
    admitted = {
        issuer.issuer_id: usable for issuer, (usable, _) in zip(listed.issuers.all, found, strict=True) if usable
    }
    refused = tuple(each for _, trouble in found for each in trouble)
    return Keyring(listed.issuers, admitted, refused, tuple(_expiries(listed)))


async def _of_issuer(
    listed: Listed, issuer: Issuer, keys: Keys, *, now: datetime, former: Keyring | None
) -> tuple[tuple[AdmittedSigner, ...], list[RefusedSigner]]:
    records = [record for record in listed.records if record.issuer_id == issuer.issuer_id]
    usable: list[AdmittedSigner] = []
    refused: list[RefusedSigner] = []
    for kind in _order(issuer):
        of_kind = [each for each in records if each.kind is kind]
        signer, trouble = await _of_kind(of_kind, issuer, keys, now=now, former=former)
        usable += [] if signer is None else [signer]
        refused += trouble
    return tuple(usable), refused


async def load_keyring(connection: Connection, keys: Keys, *, now: datetime) -> Keyring:
    """Read issuers and signers, and admit each that may sign. Raises IssuerError."""
    return await admit_listed(await list_signers(connection), keys, now=now)


async def _of_kind(
    records: Sequence[SignerRecord], issuer: Issuer, keys: Keys, *, now: datetime, former: Keyring | None
) -> tuple[AdmittedSigner | None, list[RefusedSigner]]:
    """Admit the active one of an issuer's signers of one kind, or the one that it replaced, and try the staged ones."""
    active: AdmittedSigner | None = None
    refused: list[RefusedSigner] = []
    for record in (each for each in records if each.state is SignerState.ACTIVE):
        try:
            active = await keys.open(record, issuer, now=now)
        except SignerRefused as exc:
            active = _in_hand(former, record, issuer, now=now) or await _stand_in(records, issuer, keys, now=now)
            refused.append(RefusedSigner(record, exc, active))
    for record in (each for each in records if each.state is SignerState.STAGED):
        try:
            await keys.rehearse(record, issuer, now=now)
        except SignerRefused as exc:
            refused.append(RefusedSigner(record, exc))
    return active, refused


def _in_hand(former: Keyring | None, record: SignerRecord, issuer: Issuer, *, now: datetime) -> AdmittedSigner | None:
    """Admit a signer with the key that was read from its file before; of a token no key is ever held."""
    held = None if former is None else former.by_signer_id.get(record.signer_id)
    if held is None or held.certificate_der != record.certificate or not record.key_location.startswith(FILE_SCHEME):
        return None
    try:
        return admit(held.signer, issuer=issuer, now=now, signer_id=record.signer_id)
    except SignerRefused:
        return None


async def _stand_in(
    records: Sequence[SignerRecord], issuer: Issuer, keys: Keys, *, now: datetime
) -> AdmittedSigner | None:
    for record in (each for each in records if each.state is SignerState.REPLACED):
        try:
            return await keys.open(record, issuer, now=now)
        except SignerRefused:
            # That its successor is refused is what has to be told; a former one may well have ended.
            return None
    return None


def _order(issuer: Issuer) -> Sequence[KeyKind]:
    """Return the kinds of keys in the order in which they sign where a request names no preference.

    RFC 6960 section 4.4.7.2.1 has the algorithm of the issuer's CRLs come first among what a responder may know by
    itself, for whoever takes those takes it here too. Of the CA's key the same holds with more reason: a client has
    verified, or will, a certificate that this key signed. Then RSA, which every client has to take (section 4.3).
    """
    try:
        own = key_kind(issuer.certificates[0].der)
    except ValueError:
        return _USUAL_ORDER
    return (own, *(kind for kind in _USUAL_ORDER if kind is not own))


def _expiries(listed: Listed) -> Iterable[Expiry]:
    for record in listed.records:
        issuer = listed.issuers.by_id(record.issuer_id)
        if issuer is not None:
            not_after = x509.load_der_x509_certificate(record.certificate).not_valid_after_utc
            yield Expiry(issuer.name, record.kind, record.state, not_after)
