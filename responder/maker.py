# SPDX-License-Identifier: Apache-2.0
"""From statuses to a signed Answer: times, octets, signature, lint, in this order and never without the last.

Knows who signs and what is to be said; not why, and no table. Called by service.py.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from responder.answer import Answer
from responder.counting import Counts
from responder.errors import OcspError
from responder.moments import Moments
from responder.ocsp.lint import lint
from responder.ocsp.policy import EXTENDED_REVOKE, Times, archive_cutoff, nonce_to_echo, plan_times
from responder.ocsp.request import CertId, OcspRequest
from responder.ocsp.response import SingleAnswer
from responder.signing.admission import AdmittedSigner
from responder.status.issuers import Issuer
from responder.status.model import CertStatus, Good, NonceMode, Policy, Revoked, Unknown

#: The outcome, or the hash, of an answer about certificates that differ in it.
MIXED: Final = "mixed"
_OUTCOMES: Final = {Good: "good", Revoked: "revoked", Unknown: "unknown"}
# ECDSA verifies slower than it signs, so of those signatures only some are verified; RSA ones are all.
_VERIFY_ONE_IN: Final = 64


class Maker:
    """Makes the answers of one worker."""

    def __init__(self, *, clock: Callable[[], datetime], counts: Counts) -> None:
        """Make nothing yet."""
        self._clock = clock
        self._counts = counts
        self._moments = Moments()

    async def make(
        self,
        asked: OcspRequest,
        statuses: Sequence[CertStatus],
        issuer: Issuer,
        signer: AdmittedSigner,
    ) -> Answer:
        """Return the answer that says these statuses of the certificates asked for. Nothing leaves unlinted.

        Raises TryLater where nobody can sign now, LintError for an answer that breaks a rule.
        """
        status = statuses[0]
        if _is_plain(asked, issuer.policy) and isinstance(status, Good | Revoked) and status != EXTENDED_REVOKE:
            return await self._make_plain(asked.cert_ids[0], status, issuer, signer)
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

    async def _make_plain(
        self, cert_id: CertId, status: Good | Revoked, issuer: Issuer, signer: AdmittedSigner
    ) -> Answer:
        """Do the same for one certificate that has a row, with all that such answers of this second have in common."""
        moment = self._moments.of(issuer, signer, self._clock())
        tbs = moment.series.tbs(cert_id.raw, status)
        body = moment.series.assemble(tbs, await self._signature(tbs, issuer, signer))
        moment.alike.check(body, cert_id=cert_id, status=status, verify=_is_verified(signer))
        return Answer(body, _OUTCOMES[type(status)], times=moment.times, max_age=issuer.policy.max_age)

    async def _signature(self, tbs: bytes, issuer: Issuer, signer: AdmittedSigner) -> bytes:
        began = time.perf_counter()
        try:
            signature = await signer.signer.sign(tbs)
        except OcspError:
            self._counts.signing_errors += 1
            raise
        self._counts.signed(issuer.name, time.perf_counter() - began)
        return signature


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
    signer.check_begun(now)

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
    words = {_OUTCOMES[type(status)] for status in statuses}
    return words.pop() if len(words) == 1 else MIXED
