# SPDX-License-Identifier: Apache-2.0
"""The straight line from the octets of a request to an Answer. The file to read first.

    parse → whose certificates → what the table says → what may be said → sign → lint → keep

Knows no HTTP and no SQL. Whatever goes wrong on the way becomes the OCSP error that RFC 6960 has for it, never a guess.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from responder.answer import Answer
from responder.audit import AuditLog, Signed
from responder.cache import Cache
from responder.counting import NO_HASH, Counts
from responder.demand import Demand
from responder.errors import InternalError, OcspError, Refusal, TryLater, Unauthorized
from responder.feed import Feed
from responder.lookups import Found, LookUps
from responder.maker import MIXED, Maker
from responder.ocsp.forms import Forms
from responder.ocsp.policy import decide
from responder.ocsp.request import CertId, OcspRequest
from responder.ocsp.requester import check_requester
from responder.runtime.logs import Sparingly, get_logger
from responder.signing.keyring import Keyring
from responder.status.issuers import Issuer
from responder.status.model import CertStatus
from responder.status.store import Key
from responder.stored import StoredAnswers

_log = get_logger("service")

# In an outage every request fails for the same reason: one line for each reason in so many seconds says it.
_BETWEEN_LINES: Final = 5.0


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
        audit: AuditLog | None = None,
        demand: Demand | None = None,
    ) -> None:
        """Put the parts together; `keyring` returns the issuers and signers as they are now, or raises TryLater.

        `audit` hears of every signature, and `demand` which certificates are asked for, where somebody wants to know.
        No deadline is kept here: look-ups and tokens, which are all that can take long, keep theirs.
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
        self._maker = Maker(clock=clock, counts=counts)
        self._audit = audit
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
        hash_name = hash_names.pop() if len(hash_names) == 1 else MIXED
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
        if self._audit is not None:
            self._audit.check()
        answer = await self._maker.make(asked, statuses, issuer, signer)
        if self._audit is not None and answer.times is not None:
            self._audit.note(Signed(issuer.name, signer, asked.cert_ids, statuses, answer.times))
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
