# SPDX-License-Identifier: Apache-2.0
"""A candidate's first answer, made as the responder makes all answers and judged by others, before it may sign any.

Knows how to ask OpenSSL; the rules are lint.py's. Called by rollover.py.
"""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from responder.errors import LintError, SignerRefused, SignerUnavailable, TryLater
from responder.ocsp.lint import lint
from responder.ocsp.policy import plan_times
from responder.ocsp.response import SingleAnswer
from responder.ocsp.series import CertIds
from responder.signing.admission import AdmittedSigner
from responder.status.issuers import Issuer
from responder.status.model import Unknown

TRIAL_RULE: Final = "a trial answer, judged by others"
_PATIENCE: Final = 30.0


async def try_out(candidate: AdmittedSigner, issuer: Issuer, *, now: datetime) -> tuple[str, ...]:
    """Have the candidate sign an answer, and return by whom it was verified.

    The cryptography library reads and verifies it; so does OpenSSL where the program is, as a client that trusts
    nothing but the issuer's certificate. The answer says "unknown" of a serial that nobody will ever use, and lives for
    minutes: nothing else may be signed about what does not exist. Raises SignerRefused.
    """
    # 20 octets, the most that RFC 5280 section 4.1.2.2 lets a serial have; nobody meets this one by chance.
    serial = secrets.randbits(158) | 1 << 157
    cert_id = CertIds(issuer, "sha1").of(serial)
    try:
        times = plan_times(
            issuer.policy, now=now, signer_not_after=candidate.not_after, public=issuer.public, unknown=True
        )
        tbs = candidate.parts.tbs([SingleAnswer(cert_id.raw, Unknown())], times=times)
        response = candidate.parts.assemble(tbs, await candidate.signer.sign(tbs))
        lint(
            response,
            asked=[cert_id],
            issuer=issuer,
            signer_certificate=candidate.certificate,
            now=now,
            verify=True,
        )
    except TryLater as exc:
        raise SignerUnavailable(TRIAL_RULE, f"issuer {issuer.name}: {exc.detail}") from exc
    except LintError as exc:
        raise SignerRefused(TRIAL_RULE, f"issuer {issuer.name}: the trial answer is wrong: {exc.detail}") from exc
    openssl = shutil.which("openssl")
    if openssl is None:
        return ("cryptography",)
    await asyncio.to_thread(_ask_openssl, openssl, response, issuer, serial)
    return "cryptography", "openssl"


def _ask_openssl(openssl: str, response: bytes, issuer: Issuer, serial: int) -> None:
    with tempfile.TemporaryDirectory(prefix="foundling-") as folder:
        ca, answer = Path(folder) / "ca.pem", Path(folder) / "response.der"
        ca.write_bytes(issuer.certificates[0].parsed.public_bytes(Encoding.PEM))
        answer.write_bytes(response)
        try:
            # -verify_other is for a CA that signs by itself: its answers carry no certificate.
            asked: list[str | Path] = ["-respin", answer, "-issuer", ca, "-serial", hex(serial), "-no_nonce"]
            trusted: list[str | Path] = ["-CAfile", ca, "-partial_chain", "-verify_other", ca]
            done = subprocess.run(  # noqa: S603 - a program that was found in the PATH, and files of our own
                [openssl, "ocsp", *asked, *trusted],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise SignerRefused(TRIAL_RULE, f"issuer {issuer.name}: openssl did not judge: {exc}") from exc
    said = done.stdout.decode(errors="replace")
    if done.returncode != 0 or "Response verify OK" not in said or ": unknown" not in said:
        line = " ".join(said.split())[:200]
        raise SignerRefused(TRIAL_RULE, f"issuer {issuer.name}: openssl does not verify the trial answer: {line}")
