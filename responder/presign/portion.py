# SPDX-License-Identifier: Apache-2.0
"""Signs and lints one portion of answers. Nothing is stored unlinted (invariant 7).

Knows no database. Called by worker.py.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import count
from typing import Final

from responder.errors import LintError
from responder.ocsp.likeness import Alike
from responder.ocsp.policy import archive_cutoff, plan_times
from responder.ocsp.series import CertIds, Series
from responder.signing import Signer
from responder.signing.admission import AdmittedSigner
from responder.signing.pkcs11 import TokenSigner
from responder.status.issuers import Issuer
from responder.status.model import Good
from responder.status.presigned import Due, Made

# Where the signer does not ask for more: ECDSA verifies slower than it signs.
_VERIFY_ONE_IN: Final = 64
# Signatures asked of a token at once: enough for any number of sessions, and no more than may wait for one.
AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Portion:
    """What became of a portion: answers to store, and those that broke a rule."""

    made: Made
    refused: Sequence[tuple[Due, LintError]]


async def sign_portion(due: Sequence[Due], *, issuer: Issuer, signer: AdmittedSigner, now: datetime) -> Portion:
    """Sign and lint these answers, all beginning in the same second.

    Raises TryLater when the signer cannot be used, or ends too soon for a lawful answer.
    """
    times = plan_times(issuer.policy, now=now, signer_not_after=signer.not_after, public=issuer.public, unknown=False)
    cutoff = archive_cutoff(Good(), issuer.policy, produced_at=times.this_update)
    series = Series(signer.parts, times, cutoff)
    alike = Alike(issuer=issuer, signer_certificate=signer.certificate, times=times)
    cert_ids = {hash_name: _cert_ids(issuer, hash_name) for hash_name in {each.hash_name for each in due}}
    asked = [cert_ids[each.hash_name].of(each.serial) for each in due]
    signed = [series.tbs(cert_id.raw, each.status) for cert_id, each in zip(asked, due, strict=True)]
    signatures = await _signatures(signer.signer, signed)
    answers: list[tuple[Due, bytes]] = []
    refused: list[tuple[Due, LintError]] = []
    always, turn = signer.signer.verify_always, count()
    for each, cert_id, tbs, signature in zip(due, asked, signed, signatures, strict=True):
        body = series.assemble(tbs, signature)
        verify = always or next(turn) % _VERIFY_ONE_IN == 0
        try:
            alike.check(body, cert_id=cert_id, status=each.status, verify=verify)
        except LintError as exc:
            refused.append((each, exc))
        else:
            answers.append((each, body))
    made = Made(
        issuer_id=issuer.issuer_id,
        signer_id=signer.signer_id,
        this_update=times.this_update,
        next_update=times.next_update,
        refresh_at=times.refresh_at,
        archive_cutoff=issuer.policy.archive_cutoff,
        answers=answers,
    )
    return Portion(made, refused)


async def _signatures(signer: Signer, signed: Sequence[bytes]) -> list[bytes]:
    """Sign each in turn; a token that takes its time gets as many at once as it has sessions. Raises TryLater."""
    if not isinstance(signer, TokenSigner):
        return [await signer.sign(tbs) for tbs in signed]
    signatures: list[bytes] = []
    for start in range(0, len(signed), AT_ONCE):
        signatures += await asyncio.gather(*(signer.sign(tbs) for tbs in signed[start : start + AT_ONCE]))
    return signatures


@lru_cache(maxsize=1024)
def _cert_ids(issuer: Issuer, hash_name: str) -> CertIds:
    return CertIds(issuer, hash_name)
