# SPDX-License-Identifier: Apache-2.0
"""What all plain answers of one signer in one second share: their times, their octets but for a few, and their lint.

Knows no request and signs nothing. Called by maker.py for answers about one certificate that has a row.
"""

from dataclasses import dataclass, field
from datetime import datetime

from responder.ocsp.likeness import Alike
from responder.ocsp.policy import Times, archive_cutoff, plan_times
from responder.ocsp.series import Series
from responder.signing.admission import AdmittedSigner
from responder.status.issuers import Issuer
from responder.status.model import Good


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """One second of one signer's work for its issuer."""

    now: datetime
    issuer: Issuer
    signer: AdmittedSigner
    times: Times
    series: Series = field(init=False)
    alike: Alike = field(init=False)

    def __post_init__(self) -> None:
        # That a certificate is good or revoked makes no difference to it.
        cutoff = archive_cutoff(Good(), self.issuer.policy, produced_at=self.times.this_update)
        object.__setattr__(self, "series", Series(self.signer.parts, self.times, cutoff))
        alike = Alike(issuer=self.issuer, signer_certificate=self.signer.certificate, times=self.times)
        object.__setattr__(self, "alike", alike)


class Moments:
    """The present second of every signer."""

    def __init__(self) -> None:
        """Prepare nothing yet."""
        self._present: dict[tuple[int, int], Moment] = {}

    def of(self, issuer: Issuer, signer: AdmittedSigner, now: datetime) -> Moment:
        """Return what the plain answers of this second share. Raises TryLater when the signer's end is too near."""
        key = issuer.issuer_id, signer.signer_id
        present = self._present.get(key)
        # An issuer's policy and a signer's certificate may have changed within the second: objects made anew say so.
        if present is None or present.now != now or present.issuer is not issuer or present.signer is not signer:
            signer.check_begun(now)
            times = plan_times(
                issuer.policy, now=now, signer_not_after=signer.not_after, public=issuer.public, unknown=False
            )
            present = self._present[key] = Moment(now, issuer, signer, times)
        return present
