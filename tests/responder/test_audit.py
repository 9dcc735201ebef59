# SPDX-License-Identifier: Apache-2.0
"""The audit log: every signed response once, in bundles, also when files are renamed, disks are full or workers end."""

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.ca import Authority
from demo.stage import free_port
from responder.audit import AuditFile, AuditLog, Signed
from responder.counting import Counts
from responder.errors import TryLater
from responder.ocsp.policy import DEFAULT_POLICY, Times
from responder.ocsp.request import CertId, parse_request
from responder.signing.admission import AdmittedSigner, admit
from responder.signing.file import FileSigner
from responder.status.issuers import CaCertificate, Issuer
from responder.status.model import Good, Reason, Revoked, Unknown
from tests.responder import asking
from tests.responder.asking import request_for
from tests.responder.running import Private, Served, World, revoked, running, until
from tests.responder.test_start import refusal

CA = Authority.create("Audited CA")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = Times(NOW, NOW + timedelta(hours=96), NOW + timedelta(hours=36))


def bundles(file: Path) -> list[dict[str, Any]]:
    """Every bundle once: one that was written twice has one name, and what a full disk broke off is no JSON."""
    found = {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with suppress(ValueError):
            bundle = json.loads(line)
            if bundle["event"] == "audit.signed":
                found[bundle["bundle"]] = bundle
    return list(found.values())


def serials(told: Iterable[dict[str, Any]]) -> list[int]:
    return [
        int(certificate["serial"], 16)
        for bundle in told
        for response in bundle["responses"]
        for certificate in response["certificates"]
    ]


def audited(world: World) -> Served:
    return world.add_issuer("ca", CA, signer=CA.issue_responder())


# --------------------------------------------------------------------------------------------- a responder that runs


def test_every_signed_response_is_in_the_log_once_with_what_it_says_and_who_signed_it(world: World) -> None:
    issuer, file = audited(world), world.folder / "audit.jsonl"
    good, gone = world.issue(issuer), world.issue(issuer)
    world.revoke(issuer, gone, revoked(Reason.KEY_COMPROMISE, ca=CA))
    with running(world, more=f'[audit]\nfile = "{file}"') as responder:
        for _ in range(6):
            asking.post(responder.port, request_for(issuer.certificate, good))
        asking.post(responder.port, request_for(issuer.certificate, gone))
        asking.post(responder.port, request_for(issuer.certificate, 0x7E57))
        asking.post(responder.port, request_for(issuer.certificate, good, gone))
        asking.post(responder.port, b"no request")
        until(lambda: file.exists() and len(serials(bundles(file))) >= 5)
    told = {
        tuple((each["serial"], each["status"], each.get("reason")) for each in response["certificates"]): response
        for bundle in bundles(file)
        for response in bundle["responses"]
    }
    one, other = (f"{good:x}", "good", None), (f"{gone:x}", "revoked", "keyCompromise")
    assert set(told) == {(one,), (other,), (("7e57", "unknown", None),), (one, other)}
    # Kept by the one worker or the other, the good one was signed at most once by each.
    assert 5 <= len(serials(bundles(file))) <= 6
    response = told[(other,)]
    assert issuer.signer is not None
    assert (response["issuer"], response["signer"]) == ("ca", f"{issuer.signer.serial_number:x}")
    assert datetime.fromisoformat(response["this_update"]) < datetime.fromisoformat(response["next_update"])
    assert "127.0.0.1" not in file.read_text()


def test_without_a_file_it_is_on_standard_error_whatever_the_level_of_the_log(world: World) -> None:
    issuer = audited(world)
    serial = world.issue(issuer)
    with running(world, more='[log]\nlevel = "error"') as responder:
        assert responder.status(issuer, serial) == "good"
        until(lambda: serials(bundles(responder.log)) == [serial])


def test_it_can_be_left_out(world: World) -> None:
    issuer = audited(world)
    with running(world, more="[audit]\nsignatures = false") as responder:
        assert responder.status(issuer, world.issue(issuer)) == "good"
        time.sleep(1.2)
        assert "audit.signed" not in responder.events()


def test_none_is_missing_when_the_file_is_renamed_under_load_and_the_workers_end(world: World) -> None:
    issuer, file = audited(world), world.folder / "audit.jsonl"
    wanted = [world.issue(issuer) for _ in range(60)]
    with running(world, more=f'[audit]\nfile = "{file}"') as responder, ThreadPoolExecutor(4) as pool:
        for number, serial in enumerate(wanted):
            pool.submit(responder.status, issuer, serial)
            if number % 20 == 19:
                until(file.exists)
                file.rename(file.with_suffix(f".{number}"))
                time.sleep(0.6)
    written = [each for each in world.folder.iterdir() if each.name.startswith("audit.")]
    assert len(written) >= 3
    assert sorted(serials(bundle for each in written for bundle in bundles(each))) == sorted(wanted)


def test_a_killed_worker_loses_at_most_what_it_signed_since_the_last_bundle(world: World) -> None:
    issuer, file = audited(world), world.folder / "audit.jsonl"
    early = [world.issue(issuer) for _ in range(5)]
    with running(world, workers=1, more=f'[audit]\nfile = "{file}"') as responder:
        for serial in early:
            responder.status(issuer, serial)
        until(lambda: len(serials(bundles(file))) == 5)
        os.kill(responder.workers()[0], signal.SIGKILL)
        late = world.issue(issuer)
        until(lambda: responder.status(issuer, late) == "good")
    assert sorted(serials(bundles(file))) == sorted([*early, late])


def test_what_cannot_be_written_stops_signing_only_where_it_is_required(world: World) -> None:
    """A file in a directory that is taken away, and given back."""
    issuer, private = audited(world), Private(free_port())
    folder = world.folder / "audit"
    file = folder / "audit.jsonl"
    for required in (False, True):
        folder.mkdir(exist_ok=True)
        wanted = [world.issue(issuer) for _ in range(3)]
        more = f'[audit]\nfile = "{file}"\nrequired = {str(required).lower()}\n' + private.settings
        with running(world, workers=1, more=more) as responder:
            assert responder.status(issuer, wanted[0]) == "good"
            until(lambda: file.exists() and wanted[0] in serials(bundles(file)))  # noqa: B023
            folder.rename(world.folder / f"away-{required}")
            assert responder.status(issuer, wanted[1]) == "good", "within the half second nobody knows yet"
            until(lambda: private.sum_of("foundling_responder_audit_failures_total") >= 1)
            said = responder.status(issuer, wanted[2])
            assert said == ("try_later" if required else "good")
            assert responder.events().count("audit.failing") == 1
            (world.folder / f"away-{required}").rename(folder)
            until(lambda: "audit.recovered" in responder.events())
            assert responder.status(issuer, wanted[2]) == "good"
            until(lambda: set(wanted) <= set(serials(bundles(file))))  # noqa: B023
            assert private.sum_of("foundling_responder_audit_entries_total") == 3
            assert private.sum_of("foundling_responder_audit_entries_lost_total") == 0


def test_a_file_that_nobody_can_write_is_refused_at_the_start(world: World) -> None:
    assert "[audit] file: /nowhere/at/all cannot be written" in refusal(world, more='[audit]\nfile = "/nowhere/at/all"')
    assert "cannot be written" in refusal(world, more=f'[audit]\nfile = "{world.folder}"')


# --------------------------------------------------------------------------------------------------- a log on its own


@pytest.fixture(scope="module")
def signer() -> AdmittedSigner:
    certificate, key = CA.issue_responder()
    ca = CaCertificate.load(CA.pem())
    issuer = Issuer(1, "ca", public=True, direct_signing=False, policy=DEFAULT_POLICY, certificates=(ca,))
    return admit(FileSigner(key, certificate), issuer=issuer, now=datetime.now(UTC), signer_id=1)


async def becomes(what: Callable[[], bool]) -> None:
    for _ in range(400):
        if what():
            return
        await asyncio.sleep(0.05)
    pytest.fail("waited in vain")


def cert_id(serial: int) -> CertId:
    return parse_request(request_for(CA.certificate, serial)).cert_ids[0]


def entry(signer: AdmittedSigner, serial: int, status: Good | Revoked | Unknown) -> Signed:
    return Signed("ca", signer, [cert_id(serial)], [status], TIMES)


async def test_a_thousand_at_once_are_a_few_lines_short_enough_for_the_journal(
    signer: AdmittedSigner, tmp_path: Path
) -> None:
    file, counts = tmp_path / "audit.jsonl", Counts()
    async with AuditLog(AuditFile(file), counts, required=False, process="test", clock=lambda: NOW) as audit:
        for serial in range(1, 1001):
            audit.note(entry(signer, 2**150 + serial, Revoked(NOW, Reason.CESSATION_OF_OPERATION)))
    lines = file.read_bytes().splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) < 48 * 1024
    assert serials(bundles(file)) == [2**150 + serial for serial in range(1, 1001)]
    assert counts.audit_entries == 1000


async def test_a_full_disk_loses_nothing_and_breaks_no_other_line(signer: AdmittedSigner, tmp_path: Path) -> None:
    """The largest size of a file that this process may write ends in the middle of a line, and is then raised."""
    file, counts = tmp_path / "audit.jsonl", Counts()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
        async with AuditLog(AuditFile(file), counts, required=True, process="test", clock=lambda: NOW) as audit:
            for serial in range(1, 8):
                audit.note(entry(signer, serial, Good()))
            await becomes(lambda: counts.audit_failures >= 2)
            with pytest.raises(TryLater, match="cannot be written"):
                audit.check()
            resource.setrlimit(resource.RLIMIT_FSIZE, former)
            await becomes(lambda: counts.audit_entries == 7)
            audit.check()
            audit.note(entry(signer, 8, Unknown()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert serials(bundles(file)) == list(range(1, 9))
    assert counts.audit_entries_lost == 0


async def test_what_is_still_unwritten_at_the_end_is_counted_as_lost(signer: AdmittedSigner, tmp_path: Path) -> None:
    counts = Counts()
    place = AuditFile(tmp_path / "nowhere" / "audit.jsonl")
    async with AuditLog(place, counts, required=False, process="test", clock=lambda: NOW) as audit:
        audit.note(entry(signer, 1, Good()))
    assert (counts.audit_entries, counts.audit_entries_lost) == (0, 1)
