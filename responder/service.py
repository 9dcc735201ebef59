# SPDX-License-Identifier: Apache-2.0
"""The straight line from the octets of a request to an Answer. The file to read first.

    parse → whose certificates → what the table says → what may be said → sign → lint → keep

Knows no HTTP and no SQL. Whatever goes wrong on the way becomes the OCSP error that RFC 6960 has for it, never a guess.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from responder.answer import Answer
from responder.cache import Cache
from responder.counting import NO_HASH, Counts
from responder.demand import Demand
from responder.errors import InternalError, OcspError, Refusal, TryLater, Unauthorized
from responder.feed import Feed
from responder.lookups import Found, LookUps
from responder.moments import Moments
from responder.ocsp.forms import Forms
from responder.ocsp.lint import lint
from responder.ocsp.policy import EXTENDED_REVOKE, Times, archive_cutoff, decide, nonce_to_echo, plan_times
from responder.ocsp.request import CertId, OcspRequest
from responder.ocsp.requester import check_requester
from responder.ocsp.response import SingleAnswer
from responder.runtime.logs import Sparingly, get_logger
from responder.signing.admission import AdmittedSigner
from responder.signing.keyring import Keyring
from responder.status.issuers import Issuer
from responder.status.model import CertStatus, Good, NonceMode, Policy, Revoked, Unknown
from responder.status.store import Key
from responder.stored import StoredAnswers

_log = get_logger("service")

# In an outage every request fails for the same reason: one line for each reason in so many seconds says it.
_BETWEEN_LINES: Final = 5.0
# ECDSA verifies slower than it signs, so of those signatures only some are verified; RSA ones are all.
_VERIFY_ONE_IN: Final = 64


class Service:
    """Answers requests for one worker."""

    def __init__(
        self,
        *,
        lookups: LookUps,
        cache: Cache,
        feed: Feed,
        keyring: Callable[[], Keyring],
        clock: Callable[[], datetime],
        stored: StoredAnswers,
        counts: Counts,
        demand: Demand | None = None,
    ) -> None:
        """Put the parts together; `keyring` returns the issuers and signers as they are now, or raises TryLater.

        `demand` hears which certificates are asked for, where somebody wants to know. No deadline is kept
        here: look-ups and tokens, which are all that can take long, keep theirs.
        """
        self._lookups = lookups
        self._cache = cache
        self._feed = feed
        self._keyring = keyring
        self._clock = clock
        self._stored = stored
        self._demand = demand
        self._counts = counts
        self._forms = Forms()
        self._moments = Moments()
        self._try_later = Sparingly(seconds=_BETWEEN_LINES)

    async def answer(self, request: bytes) -> Answer:
        """Answer a request. Never raises: what cannot be answered is an Answer too."""
        kept = self.kept(request)
        return await self.work_out(request) if kept is None else kept

    async def work_out(self, request: bytes) -> Answer:
        """Answer a request that no kept answer is for. Never raises either."""
        try:
            return await self._answer(request)
        except OcspError as error:
            return self.refuse(error)
        except Exception:  # noqa: BLE001 - the client gets internalError whatever we got wrong, and a person the traceback
            _log.exception("request.fault", request=request.hex())
            return Answer.refusing(InternalError(Refusal.BUG, "an exception nobody foresaw"))

    def kept(self, request: bytes) -> Answer | None:
        """Return a kept answer to these octets, while the feed vouches for what is kept."""
        return self._cache.get(request, now=self._clock()) if self._feed.is_fresh else None

    def kept_for_path(self, path: bytes) -> Answer | None:
        """Return a kept answer to a GET of this very path, while the feed vouches for what is kept."""
        return self._cache.get_spelled(path, now=self._clock()) if self._feed.is_fresh else None

    def remember_path(self, path: bytes, request: bytes) -> None:
        """Remember that a GET of this path asks for that request."""
        self._cache.spell(path, request)

    async def _answer(self, request: bytes) -> Answer:
        asked = self._forms.parse(request)
        issuer = self._issuer_of(asked)
        if issuer.policy.require_signed:
            check_requester(request, cas=issuer.requester_cas, now=self._clock())
        keys = [(issuer.issuer_id, cert_id.serial) for cert_id in asked.cert_ids]
        read_in = self._cache.readings
        answer = await self._stored.first(asked, issuer)
        if answer is None:
            try:
                answer, read_in = await self._sign_now(asked, issuer, keys, read_in)
            except TryLater as trouble:
                answer = await self._stored.instead(trouble, asked, issuer)
        self._count_as(answer, asked, octets=len(request))
        self._cache.put(request, answer, about=keys, read_in=read_in)
        if self._demand is not None and not answer.doubt:
            self._demand.note(keys)
        return answer

    def _count_as(self, answer: Answer, asked: OcspRequest, *, octets: int) -> None:
        """Have the answer counted, also when it is sent from memory, by its kind and its request's."""
        hash_names = {cert_id.hash_name or NO_HASH for cert_id in asked.cert_ids}
        hash_name = hash_names.pop() if len(hash_names) == 1 else _MIXED
        if answer.times is not None:
            tally = self._counts.tally(
                outcome=answer.outcome, hash_name=hash_name, octets=octets, this_update=answer.times.this_update
            )
            answer.count_as(hash_name, tally)

    async def _sign_now(
        self, asked: OcspRequest, issuer: Issuer, keys: Sequence[Key], read_in: int
    ) -> tuple[Answer, int]:
        """Answer from the table; return also the last of the feed's readings that the answer covers."""
        issuer, signer = self._keyring().who_signs(issuer.issuer_id, preferred=asked.preferred, now=self._clock())
        found = await self._find(keys)
        statuses = self._decide(keys, found, issuer)
        answer = await self._sign(asked, statuses, issuer, signer)
        return answer, min([read_in, *(each.read_in for each in found.values() if each.read_in is not None)])

    def _issuer_of(self, asked: OcspRequest) -> Issuer:
        """Return the one issuer that the request is about.

        Raises Unauthorized for an issuer we do not serve, and for several at once, as one response has one signer.
        """
        keyring = self._keyring()
        issuer_id, *others = [self._issuer(cert_id, keyring) for cert_id in asked.cert_ids]
        if any(other != issuer_id for other in others):
            raise Unauthorized(Refusal.MIXED_ISSUERS, "certificates of several issuers in one request")
        issuer = keyring.issuers.by_id(issuer_id)
        if issuer is None:
            raise Unauthorized(Refusal.FOREIGN_ISSUER, "an issuer that is not served")
        return issuer

    @staticmethod
    def _issuer(cert_id: CertId, keyring: Keyring) -> int:
        if cert_id.hash_name is None:
            raise Unauthorized(Refusal.HASH_ALGORITHM, "a CertID under a hash that is not served")
        issuer = keyring.issuers.by_cert_id(cert_id.hash_name, cert_id.name_hash, cert_id.key_hash)
        if issuer is None:
            raise Unauthorized(Refusal.FOREIGN_ISSUER, "an issuer that is not served")
        return issuer.issuer_id

    async def _find(self, keys: Sequence[Key]) -> dict[Key, Found]:
        """Ask the table, once for each certificate however often the request names it."""
        if len(keys) == 1:
            return {keys[0]: await self._lookups.find_one(keys[0])}
        return await self._lookups.find(set(keys))

    def _decide(self, keys: Sequence[Key], found: dict[Key, Found], issuer: Issuer) -> list[CertStatus]:
        statuses: list[CertStatus] = []
        for key in keys:
            try:
                status = decide(found[key].status, freshness=found[key].freshness, policy=issuer.policy)
            except OcspError as error:
                if found[key].status is None:
                    refused = isinstance(error, Unauthorized)
                    said = issuer.policy.unassigned.value if refused else error.reason.value
                    self._feed.note_unanswered(key, said)
                raise
            if found[key].status is None:
                self._feed.note_unanswered(key, issuer.policy.unassigned.value)
            statuses.append(status)
        return statuses

    async def _sign(
        self,
        asked: OcspRequest,
        statuses: Sequence[CertStatus],
        issuer: Issuer,
        signer: AdmittedSigner,
    ) -> Answer:
        """Assemble, sign and lint. Nothing leaves unlinted (invariant 7)."""
        status = statuses[0]
        if _is_plain(asked, issuer.policy) and isinstance(status, Good | Revoked) and status != EXTENDED_REVOKE:
            return await self._sign_plain(asked.cert_ids[0], status, issuer, signer)
        now = self._clock()
        doubtful = [status is EXTENDED_REVOKE or isinstance(status, Unknown) for status in statuses]
        # An unassigned serial's answer ends sooner than that of a certificate beside it in the same response.
        times, ends = _plan(doubtful, issuer, signer, now)
        singles = [
            SingleAnswer(cert_id.raw, status, end, archive_cutoff(status, issuer.policy, produced_at=times.this_update))
            for cert_id, status, end in zip(asked.cert_ids, statuses, ends, strict=True)
        ]
        nonce = nonce_to_echo(asked.nonce, issuer.policy)
        tbs = signer.parts.tbs(singles, times=times, extended_revoke=EXTENDED_REVOKE in statuses, nonce=nonce)
        body = signer.parts.assemble(tbs, await self._signature(tbs, issuer, signer))
        lint(
            body,
            asked=asked.cert_ids,
            issuer=issuer,
            signer_certificate=signer.certificate,
            now=now,
            verify=_is_verified(signer),
            nonce=nonce,
        )
        return Answer(
            body,
            _outcome(statuses),
            times=times,
            max_age=issuer.policy.max_age,
            doubt=any(doubtful),
            for_one=nonce is not None or issuer.policy.require_signed,
        )

    async def _sign_plain(
        self, cert_id: CertId, status: Good | Revoked, issuer: Issuer, signer: AdmittedSigner
    ) -> Answer:
        """Do the same for one certificate that has a row, with all that such answers of this second have in common."""
        moment = self._moments.of(issuer, signer, self._clock())
        tbs = moment.series.tbs(cert_id.raw, status)
        body = moment.series.assemble(tbs, await self._signature(tbs, issuer, signer))
        moment.alike.check(body, cert_id=cert_id, status=status, verify=_is_verified(signer))
        return Answer(body, _WORDS[type(status)], times=moment.times, max_age=issuer.policy.max_age)

    async def _signature(self, tbs: bytes, issuer: Issuer, signer: AdmittedSigner) -> bytes:
        began = time.perf_counter()
        try:
            signature = await signer.signer.sign(tbs)
        except OcspError:
            self._counts.signing_errors += 1
            raise
        self._counts.signed(issuer.name, time.perf_counter() - began)
        return signature

    def refuse(self, error: OcspError) -> Answer:
        """Return the unsigned answer for an error, and tell of it as it deserves.

        Refusals are what the internet sends; a contradiction of our own is for a person to look at.
        """
        if isinstance(error, InternalError):
            _log.error("answer.contradiction", reason=error.reason.value, detail=error.detail)
        elif isinstance(error, TryLater):
            more = self._try_later.unsaid(error.reason.value)
            if more is not None:
                _log.warning("answer.try_later", reason=error.reason.value, detail=error.detail, more_since=more)
            else:
                self._counts.log_lines_dropped += 1
        else:
            _log.debug("answer.refused", reason=error.reason.value, detail=error.detail)
        return Answer.refusing(error)


def _is_plain(asked: OcspRequest, policy: Policy) -> bool:
    """Whether the answer has nothing in it, and nothing about it, but the status of one certificate."""
    return (
        len(asked.cert_ids) == 1
        and (asked.nonce is None or policy.nonce is NonceMode.OFF)
        and not policy.require_signed
    )


def _is_verified(signer: AdmittedSigner) -> bool:
    """Whether the next signature is to be verified."""
    return signer.signer.verify_always or random.randrange(_VERIFY_ONE_IN) == 0  # noqa: S311 - a sample, no secret


def _plan(
    doubtful: Sequence[bool], issuer: Issuer, signer: AdmittedSigner, now: datetime
) -> tuple[Times, list[datetime | None]]:
    """Return the times of the response, and for each certificate its own end where that differs."""

    def plan(*, unknown: bool) -> Times:
        return plan_times(
            issuer.policy, now=now, signer_not_after=signer.not_after, public=issuer.public, unknown=unknown
        )

    if all(doubtful):
        return plan(unknown=True), [None for _ in doubtful]
    times = plan(unknown=False)
    sooner = plan(unknown=True).next_update if any(doubtful) else None
    return times, [sooner if doubt else None for doubt in doubtful]


def _outcome(statuses: Sequence[CertStatus]) -> str:
    """Return one word for the whole answer; several certificates may have several."""
    words = {_WORDS[type(status)] for status in statuses}
    return words.pop() if len(words) == 1 else _MIXED


_MIXED: Final = "mixed"
_WORDS: Final = {Good: "good", Revoked: "revoked", Unknown: "unknown"}
