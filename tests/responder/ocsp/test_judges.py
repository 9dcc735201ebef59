# SPDX-License-Identifier: Apache-2.0
"""Finished answers before two judges of other people's making: OpenSSL's client and pkilint."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from responder.ocsp.policy import DEFAULT_POLICY, EXTENDED_REVOKE, plan_times
from responder.status.model import CertStatus, Good, Reason, Revoked, Unknown
from tests.responder.ocsp.test_lint import CA, DIRECT, KEY, PRIVATE, PUBLIC, World
from tests.responder.signing.certificates import DAY

SERIAL = 0x1234


def answer(world: World, status: CertStatus, *, now: datetime, extended_revoke: bool = False) -> bytes:
    """An answer of this very moment, because OpenSSL's client goes by its own clock."""
    unknown = extended_revoke or isinstance(status, Unknown)
    end = world.certificate.not_valid_after_utc
    times = plan_times(DEFAULT_POLICY, now=now, signer_not_after=end, public=world.issuer.public, unknown=unknown)
    asked = world.asked(SERIAL, hash_name="sha1")
    made = world.answer(asked, status, times=times, extended_revoke=extended_revoke)
    world.lint(made, asked, now=now)
    return made


def at_this_moment(world: World, now: datetime) -> World:
    if world is DIRECT:
        return world
    return replace(world, certificate=CA.delegate(KEY, not_before=now - DAY, not_after=now + 30 * DAY))


@pytest.mark.parametrize("world", [PUBLIC, DIRECT], ids=["delegate", "direct"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Good(), f"{SERIAL:#x}: good"),
        (Revoked(datetime(2026, 5, 1, tzinfo=UTC), Reason.SUPERSEDED), "Reason: superseded"),
        (Revoked(datetime(2026, 5, 1, tzinfo=UTC), Reason.UNSPECIFIED), "Revocation Time: May  1 00:00:00 2026 GMT"),
        (Unknown(), f"{SERIAL:#x}: unknown"),
    ],
    ids=["good", "superseded", "revoked", "unknown"],
)
def test_openssl_verifies_and_reads_the_answer(world: World, status: CertStatus, words: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    response, ca = tmp_path / "response.der", tmp_path / "ca.pem"
    response.write_bytes(answer(at_this_moment(world, now), status, now=now))
    ca.write_bytes(CA.certificate.public_bytes(serialization.Encoding.PEM))
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", response, "-issuer", ca, "-serial", f"{SERIAL:#x}", "-CAfile", ca, "-no_nonce"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Response verify OK" in done.stderr
    assert words in done.stdout
    assert "WARNING" not in done.stdout


ANSWERS: dict[str, tuple[World, CertStatus]] = {
    "good": (PUBLIC, Good()),
    "good, from the CA itself": (DIRECT, Good()),
    "revoked": (PUBLIC, Revoked(datetime(2026, 5, 1, tzinfo=UTC), Reason.KEY_COMPROMISE)),
    "unknown": (PUBLIC, Unknown()),
    "extended revoke": (PRIVATE, EXTENDED_REVOKE),
}


def pkilint(path: Path) -> str:
    """What pkilint has to say, in a process of its own because it leaves files open."""
    command = [sys.executable, "-m", "pkilint.bin.lint_ocsp_response", "lint", "-s", "NOTICE", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert (done.returncode == 0) is (done.stdout.strip() == "")
    return done.stdout.strip()


@pytest.mark.parametrize(("world", "status"), ANSWERS.values(), ids=ANSWERS)
def test_pkilint_finds_nothing(world: World, status: CertStatus, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    path = tmp_path / "response.der"
    extended = status is EXTENDED_REVOKE
    path.write_bytes(answer(at_this_moment(world, now), status, now=now, extended_revoke=extended))
    assert pkilint(path) == ""


def test_pkilint_does_find_what_is_wrong(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    right = answer(at_this_moment(PUBLIC, now), Good(), now=now)
    path = tmp_path / "response.der"
    # The last two fields of a SingleResponse: thisUpdate, and nextUpdate moved to before it.
    path.write_bytes(right.replace(b"\xa0\x11\x18\x0f20", b"\xa0\x11\x18\x0f19"))
    assert "pkix.ocsp_negative_validity_period" in pkilint(path)
