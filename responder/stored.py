# SPDX-License-Identifier: Apache-2.0
"""Stored answers on their way to a client: may this one be used, and does it keep every rule still?

It was signed by `ocsp-responder presign`, perhaps on another host, and holds a signature, never truth: it is used only
where the table said the same in the same moment. Called by service.py.
"""

import enum
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509

from responder.answer import Answer
from responder.errors import LintError, Refusal, TryLater
from responder.gathering import Gathering
from responder.ocsp.likeness import check_says
from responder.ocsp.lint import lint
from responder.ocsp.policy import Times, nonce_to_echo
from responder.ocsp.request import CertId, OcspRequest
from responder.ocsp.series import CertIds
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import Sparingly, get_logger
from responder.status.issuers import Issuer
from responder.status.model import Good, Policy, is_serial
from responder.status.presigned import HASHES, Form, Stored
from responder.status.presigned_store import look_up_stored

_log = get_logger("stored")

_SECOND: Final = timedelta(seconds=1)
# An answer past its refresh time goes out because there is no better one. There may be soon: it is kept for so long.
_KEPT_WHEN_DUE: Final = timedelta(seconds=60)
_BETWEEN_LINES: Final = 5.0
# Nobody could sign. What else turns into tryLater, such as a stale source, no signature of yesterday can answer.
_NO_SIGNATURE: Final = frozenset({Refusal.SIGNER, Refusal.SIGNER_EXPIRING, Refusal.OVERLOADED})


class Use(enum.StrEnum):
    """When a stored answer is sent; the setting `[presigned] use`."""

    NEVER = "never"
    WHEN_SIGNER_FAILS = "when-signer-fails"  # where nobody can sign, until nextUpdate
    FIRST = "first"  # instead of signing, until it is due to be signed anew; and where nobody can sign


class WhyNot(enum.StrEnum):
    """Why a stored answer is not used."""

    MOVED = "moved"  # the table says something else by now
    SIGNER_RETIRED = "signer_retired"  # whoever signed it never signs again, perhaps because the key is lost
    ENDED = "ended"  # past its nextUpdate
    TOO_LONG = "too_long"  # it lives longer than the issuer's policy lets answers live today
    ANOTHER_CUTOFF = "another_cutoff"  # it vouches for another time past expiry than the policy does today
    DUE = "due"  # it is time for a new one, and somebody can sign it


def why_not(stored: Stored, *, policy: Policy, now: datetime, when_due: bool) -> WhyNot | None:
    """Return why this answer must not be sent now, or None when it may; `when_due` lets it pass its refresh time."""
    if stored.signed != stored.status:
        return WhyNot.MOVED
    if stored.signer_is_retired:
        return WhyNot.SIGNER_RETIRED
    if now >= stored.next_update:
        return WhyNot.ENDED
    if stored.next_update - stored.this_update + _SECOND > policy.validity:
        return WhyNot.TOO_LONG
    if stored.archive_cutoff != policy.archive_cutoff:
        return WhyNot.ANOTHER_CUTOFF
    if not when_due and now >= _refresh_at(stored, policy):
        return WhyNot.DUE
    return None


def times_of(stored: Stored, *, policy: Policy, now: datetime) -> Times:
    """Return the times that a stored answer is kept and sent by."""
    refresh_at = _refresh_at(stored, policy)
    if refresh_at <= now:
        refresh_at = min(now + _KEPT_WHEN_DUE, stored.next_update)
    return Times(stored.this_update, stored.next_update, refresh_at)


def _refresh_at(stored: Stored, policy: Policy) -> datetime:
    return min(stored.refresh_at, stored.this_update + policy.refresh)


class StoredAnswers:
    """Finds stored answers for one worker."""

    def __init__(self, database: Database, use: Use, *, clock: Callable[[], datetime]) -> None:
        """`database` is the primary: what a replica says may be older than the signature."""
        self._database = database
        self._use = use
        self._clock = clock
        self._gathering = Gathering(self._ask)
        self._told = Sparingly(seconds=_BETWEEN_LINES)

    async def first(self, asked: OcspRequest, issuer: Issuer) -> Answer | None:
        """Return a stored answer that is not due yet, where the setting wants those before any signature.

        A client that prefers a signature algorithm gets one that is made for it: what is stored has only one signer.
        """
        if self._use is not Use.FIRST or len(asked.preferred) > 0:
            return None
        return await self._find(asked, issuer, when_due=False)

    async def instead(self, trouble: TryLater, asked: OcspRequest, issuer: Issuer) -> Answer:
        """Return a stored answer because nobody could sign. Raises the trouble again where there is none to send.

        Whatever algorithm the client prefers: RFC 6960 section 4.4.7.2 lets a responder sign as it can.
        """
        if self._use is Use.NEVER or trouble.reason not in _NO_SIGNATURE:
            raise trouble
        answer = await self._find(asked, issuer, when_due=True)
        if answer is None:
            raise trouble
        self._tell("stored.sent", trouble.reason.value, detail=trouble.detail, meaning="nobody can sign")
        return answer

    async def _find(self, asked: OcspRequest, issuer: Issuer, *, when_due: bool) -> Answer | None:
        form = form_of(asked, issuer)
        if form is None:
            return None
        try:
            stored = await self._gathering.ask(form)
        except (DatabaseError, ValueError) as exc:
            self._tell("stored.unreachable", "database", detail=str(exc))
            return None
        now = self._clock()
        if stored is None or why_not(stored, policy=issuer.policy, now=now, when_due=when_due) is not None:
            return None
        return self._checked(stored, asked.cert_ids[0], issuer, now)

    def _checked(self, stored: Stored, cert_id: CertId, issuer: Issuer, now: datetime) -> Answer | None:
        """Lint it once more, signature and all: who may write that table is not who may sign (invariant 7)."""
        try:
            lint(
                stored.body,
                asked=[cert_id],
                issuer=issuer,
                signer_certificate=_certificate(stored.signer_certificate),
                now=now,
                verify=True,
            )
            check_says(stored.body, stored.signed, this_update=stored.this_update, next_update=stored.next_update)
        except LintError as exc:
            self._tell("stored.refused", exc.rule, detail=exc.detail, meaning="it is not sent; somebody must look")
            return None
        return Answer(
            stored.body,
            "good" if isinstance(stored.signed, Good) else "revoked",
            times=times_of(stored, policy=issuer.policy, now=now),
            max_age=issuer.policy.max_age,
            for_one=issuer.policy.require_signed,
        )

    def _tell(self, event: str, word: str, **more: str) -> None:
        unsaid = self._told.unsaid(f"{event} {word}")
        if unsaid is not None:
            _log.error(event, reason=word, more_since=unsaid, **more)

    async def _ask(self, forms: list[Form]) -> dict[Form, Stored | None]:
        async with self._database.connection() as connection:
            found = await look_up_stored(connection, forms)
        return {form: found.get(form) for form in forms}


def form_of(asked: OcspRequest, issuer: Issuer) -> Form | None:
    """Return what a stored answer to this request would be found by; None for a request that none can answer.

    One response answers one certificate, repeats no nonce, and has the very octets of the CertID that was asked for.
    """
    if len(asked.cert_ids) != 1 or nonce_to_echo(asked.nonce, issuer.policy) is not None:
        return None
    (cert_id,) = asked.cert_ids
    if cert_id.hash_name not in HASHES or not is_serial(cert_id.serial):
        return None
    if _cert_ids(issuer, cert_id.hash_name).of(cert_id.serial).raw != cert_id.raw:
        return None
    return issuer.issuer_id, cert_id.serial, cert_id.hash_name


@lru_cache(maxsize=256)
def _certificate(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


@lru_cache(maxsize=1024)
def _cert_ids(issuer: Issuer, hash_name: str) -> CertIds:
    return CertIds(issuer, hash_name)
