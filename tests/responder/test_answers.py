# SPDX-License-Identifier: Apache-2.0
"""What the running responder answers, in every case, by GET and POST and under every hash."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product

import psycopg
import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ReasonFlags, ocsp

from demo.ca import Authority
from responder.status.model import Reason, Revoked
from tests.responder import asking
from tests.responder.asking import HASHES, INTERNAL_ERROR, MALFORMED, TRY_LATER, UNAUTHORIZED, cert_id, request_of
from tests.responder.conftest import KINDS, REASONS, Town
from tests.responder.proxy import Proxy
from tests.responder.running import Running, Served, World, revoked, running, until

WAYS = list(product(("GET", "POST"), HASHES))
SIGNING = (*KINDS, "ed25519", "direct", "locked")


def singles(body: bytes) -> list[asn1_ocsp.SingleResponse]:
    basic = asn1_ocsp.OCSPResponse.load(body, strict=True)["response_bytes"]["response"].parsed
    return list(basic["tbs_response_data"]["responses"])


def statuses(body: bytes) -> list[str]:
    return [single["cert_status"].name for single in singles(body)]


def echoed(body: bytes) -> list[bytes]:
    return [single["cert_id"].dump() for single in singles(body)]


# ------------------------------------------------------------------------------------------------- the table's lines


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_a_registered_certificate_is_good(town: Town, method: str, hash_name: str) -> None:
    for name in SIGNING:
        found = town.responder.status(town.issuers[name], town.rows[name].good, method=method, hash_name=hash_name)
        assert found == "good", name


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_a_revoked_certificate_is_revoked_with_its_time_and_reason(town: Town, method: str, hash_name: str) -> None:
    issuer = town.issuers["p256"]
    for reason, serial in town.rows["p256"].revoked.items():
        request = asking.request_for(issuer.certificate, serial, hash_name=hash_name)
        read = town.responder.ask(request, method).parsed()
        assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert read.revocation_time_utc == revoked(reason, ca=issuer.ca).at
        told = None if reason is Reason.UNSPECIFIED else ReasonFlags(reason.words)
        assert read.revocation_reason is told
        assert len(read.single_extensions) == 0


@pytest.mark.parametrize("name", SIGNING)
def test_every_kind_of_signer_says_revoked(town: Town, name: str) -> None:
    for serial in town.rows[name].revoked.values():
        assert town.responder.status(town.issuers[name], serial) == "revoked"


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_a_reserved_serial_is_answered_try_later_and_never_cached(town: Town, method: str, hash_name: str) -> None:
    request = asking.request_for(town.issuers["p256"].certificate, town.rows["p256"].pending, hash_name=hash_name)
    reply = town.responder.ask(request, method)
    assert reply.body == TRY_LATER
    assert "no-store" in reply.headers["cache-control"]


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_an_expired_certificate_is_answered_until_its_row_is_purged(town: Town, method: str, hash_name: str) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    assert town.responder.status(issuer, rows.expired, method=method, hash_name=hash_name) == "good"
    purged = asking.request_for(issuer.certificate, rows.purged, hash_name=hash_name)
    assert town.responder.ask(purged, method).body == UNAUTHORIZED


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_a_serial_in_no_source_is_signed_unknown_and_short_lived(town: Town, method: str, hash_name: str) -> None:
    issuer, serial = town.issuers["p256"], town.rows["p256"].unassigned
    read = town.responder.ask(asking.request_for(issuer.certificate, serial, hash_name=hash_name), method).parsed()
    assert read.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    assert read.next_update_utc is not None
    assert read.next_update_utc - read.this_update_utc == timedelta(minutes=10, seconds=-1)


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_unknown_issuer_is_refused_not_answered(town: Town, method: str, hash_name: str) -> None:
    foreign = Authority.create("Somebody else").certificate
    request = asking.request_for(foreign, 1, hash_name=hash_name)
    assert town.responder.ask(request, method).body == UNAUTHORIZED


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_the_name_of_one_issuer_with_the_key_of_another_is_refused(town: Town, method: str, hash_name: str) -> None:
    asked = cert_id(town.issuers["p256"].certificate, town.rows["p256"].good, hash_name=hash_name)
    asked["issuer_key_hash"] = cert_id(town.issuers["p384"].certificate, 1, hash_name=hash_name)[
        "issuer_key_hash"
    ].native
    assert town.responder.ask(request_of(asked), method).body == UNAUTHORIZED


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_issuer_without_signer_is_refused(town: Town, method: str) -> None:
    issuer, rows = town.issuers["ingest-only"], town.rows["ingest-only"]
    for serial in (rows.good, *rows.revoked.values(), rows.unassigned):
        assert town.responder.ask(asking.request_for(issuer.certificate, serial), method).body == UNAUTHORIZED


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("request_octets", "golden"),
    [
        (b"", MALFORMED),
        (b"\x30\x00", MALFORMED),
        (b"hello", MALFORMED),
        (request_of(), MALFORMED),
    ],
    ids=["nothing", "an empty sequence", "text", "no certificate"],
)
def test_what_is_no_request_is_malformed(town: Town, method: str, request_octets: bytes, golden: bytes) -> None:
    reply = town.responder.ask(request_octets, method)
    assert (reply.status, reply.body) == (200, golden)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("octets", "golden"), [(0, MALFORMED), (1, None), (32, None), (128, None), (129, MALFORMED)])
def test_a_nonce_of_impossible_length_is_malformed_and_any_other_is_left_aside(
    town: Town, method: str, octets: int, golden: bytes | None
) -> None:
    asked = cert_id(town.issuers["p256"].certificate, town.rows["p256"].good)
    nonce = {"extn_id": "nonce", "critical": False, "extn_value": b"n" * octets}
    reply = town.responder.ask(request_of(asked, extensions=[nonce]), method)
    if golden is not None:
        assert reply.body == golden
    else:
        assert reply.parsed().certificate_status is ocsp.OCSPCertStatus.GOOD
        assert len(reply.parsed().extensions) == 0


@pytest.mark.parametrize(("critical", "word"), [(False, "good"), (True, "unauthorized")])
def test_an_extension_nobody_knows_is_ignored_unless_it_is_critical(town: Town, critical: bool, word: str) -> None:
    asked = cert_id(town.issuers["p256"].certificate, town.rows["p256"].good)
    strange = {"extn_id": "1.2.3.4.5", "critical": critical, "extn_value": b"?"}
    assert town.responder.ask(request_of(asked, extensions=[strange])).words == word


def test_a_hash_that_is_not_served_is_unauthorized(town: Town) -> None:
    asked = cert_id(town.issuers["p256"].certificate, town.rows["p256"].good)
    asked["hash_algorithm"]["algorithm"] = "md5"
    assert town.responder.ask(request_of(asked)).body == UNAUTHORIZED


@pytest.mark.parametrize("serial", [0, -1, 2**159, 2**600, -(2**200)])
def test_a_number_no_certificate_can_have_is_unknown_and_no_fault(town: Town, serial: int) -> None:
    for method in ("GET", "POST"):
        assert town.responder.status(town.issuers["p256"], serial, method=method) == "unknown"


# ---------------------------------------------------------------------------------------- several certificates, echo


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_several_certificates_are_answered_one_by_one_and_in_order(town: Town, method: str) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    serials = [rows.good, rows.revoked[Reason.SUPERSEDED], rows.good, rows.unassigned, rows.unassigned, rows.expired]
    asked = [
        cert_id(issuer.certificate, serial, hash_name=hash_name)
        for serial, hash_name in zip(serials, [*HASHES, "sha1", "sha1"], strict=True)
    ]
    body = town.responder.ask(request_of(*asked), method).body
    assert statuses(body) == ["good", "revoked", "good", "unknown", "unknown", "good"]
    assert echoed(body) == [each.dump() for each in asked]


def test_an_unknown_beside_a_good_ends_sooner_and_makes_the_whole_uncacheable(town: Town) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    reply = town.responder.ask(asking.request_for(issuer.certificate, rows.good, rows.unassigned))
    good, unknown = (single["next_update"].native - single["this_update"].native for single in singles(reply.body))
    assert good == timedelta(hours=96, seconds=-1)
    assert unknown == timedelta(minutes=10, seconds=-1)
    assert reply.headers["cache-control"].startswith("max-age=0, private")


def test_one_certificate_that_cannot_be_answered_keeps_all_from_being_answered(town: Town) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    for serials in ((rows.good, rows.pending), (rows.pending, rows.good)):
        assert town.responder.ask(asking.request_for(issuer.certificate, *serials)).body == TRY_LATER


def test_certificates_of_several_issuers_are_refused(town: Town) -> None:
    asked = [cert_id(town.issuers[name].certificate, town.rows[name].good) for name in ("p256", "p384")]
    assert town.responder.ask(request_of(*asked)).body == UNAUTHORIZED


def test_thirty_two_certificates_are_answered_and_thirty_three_refused(town: Town) -> None:
    issuer, good = town.issuers["p256"], town.rows["p256"].good
    assert statuses(town.responder.ask(asking.request_for(issuer.certificate, *[good] * 32)).body) == ["good"] * 32
    assert town.responder.ask(asking.request_for(issuer.certificate, *[good] * 33)).body == UNAUTHORIZED


@pytest.mark.parametrize(("method", "hash_name"), WAYS)
def test_the_cert_id_comes_back_octet_for_octet_with_and_without_parameters(
    town: Town, method: str, hash_name: str
) -> None:
    for parameters in (True, False):
        asked = cert_id(
            town.issuers["p256"].certificate, town.rows["p256"].good, hash_name=hash_name, parameters=parameters
        )
        assert echoed(town.responder.ask(request_of(asked), method).body) == [asked.dump()]


def test_get_and_post_and_every_hash_agree(town: Town) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    for serial in (rows.good, rows.revoked[Reason.KEY_COMPROMISE], rows.pending, rows.purged, rows.unassigned):
        said = {town.responder.status(issuer, serial, method=method, hash_name=name) for method, name in WAYS}
        assert len(said) == 1


# ------------------------------------------------------------------------------------------------ unassigned policies


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_issuer_may_say_unauthorized_of_an_unassigned_serial(town: Town, method: str) -> None:
    request = asking.request_for(town.issuers["unauthorized"].certificate, 0x7E57)
    assert town.responder.ask(request, method).body == UNAUTHORIZED


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_extended_revoke_is_exactly_what_rfc_6960_says(town: Town, method: str) -> None:
    issuer = town.issuers["extended-revoke"]
    reply = town.responder.ask(asking.request_for(issuer.certificate, 0x7E57), method)
    read = reply.parsed()
    assert read.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert read.revocation_time_utc == datetime(1970, 1, 1, tzinfo=UTC)
    assert read.revocation_reason is ReasonFlags.certificate_hold
    assert len(read.single_extensions) == 0
    (extension,) = read.extensions
    assert extension.oid.dotted_string == "1.3.6.1.5.5.7.48.1.9"
    assert extension.critical is False
    assert bytes.fromhex("300f06092b060105050730010904020500") in read.tbs_response_bytes
    assert reply.headers["cache-control"].startswith("max-age=0, private")


def test_an_extended_revoke_is_not_said_of_certificates_that_exist(town: Town) -> None:
    issuer, rows = town.issuers["extended-revoke"], town.rows["extended-revoke"]
    for serial in (rows.good, *rows.revoked.values()):
        read = town.responder.ask(asking.request_for(issuer.certificate, serial)).parsed()
        assert len(read.extensions) == 0
        assert read.revocation_time_utc != datetime(1970, 1, 1, tzinfo=UTC)


def test_what_was_not_known_is_written_down_for_the_reconciler_to_hunt(town: Town) -> None:
    world, serial = town.responder.world, 0xDECAF
    query = "SELECT answer, times FROM ocsp.unanswered WHERE issuer_id = %s AND serial = %s"
    names = {"p384": "unknown", "unauthorized": "unauthorized", "extended-revoke": "extended-revoke"}
    for name in names:
        for _ in range(3):
            town.responder.ask(asking.request_for(town.issuers[name].certificate, serial))

    def noted() -> dict[str, list[tuple[object, ...]]]:
        return {name: world.execute(query, town.issuers[name].issuer_id, b"\x0d\xec\xaf") for name in names}

    until(lambda: noted() == {name: [(answer, 3)] for name, answer in names.items()}, seconds=5)


# --------------------------------------------------------------------------------------------------- what backs unknown


@pytest.fixture
def required_source(town: Town) -> Iterator[str]:
    """A required source that was never read; afterwards it is no longer configured."""
    name = f"log-{time.monotonic_ns()}"
    town.responder.world.execute("INSERT INTO ocsp.source (name, kind, required) VALUES (%s, 'static', true)", name)
    yield name
    town.responder.world.execute("UPDATE ocsp.source SET configured = false WHERE name = %s", name)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stale_required_source_means_try_later_never_unknown(town: Town, required_source: str, method: str) -> None:
    """Unknown means foreign (invariant 1)."""
    world, issuer, rows = town.responder.world, town.issuers["p256"], town.rows["p256"]
    verified = "UPDATE ocsp.source SET verified_at = clock_timestamp() - %s::interval WHERE name = %s"
    unassigned = asking.request_for(issuer.certificate, rows.unassigned)
    assert town.responder.ask(unassigned, method).body == TRY_LATER, "never read"
    world.execute(verified, "16 minutes", required_source)
    assert town.responder.ask(unassigned, method).body == TRY_LATER, "silent for too long"
    for name in ("unauthorized", "extended-revoke"):
        other = asking.request_for(town.issuers[name].certificate, rows.unassigned)
        assert town.responder.ask(other, method).body == TRY_LATER, name
    assert town.responder.status(issuer, rows.good, method=method) == "good", "what is known does not wait"
    world.execute(verified, "14 minutes", required_source)
    assert town.responder.ask(unassigned, method).words == "unknown"
    world.execute(
        "UPDATE ocsp.source SET distrusted_at = now(), distrust_reason = 'fork' WHERE name = %s", required_source
    )
    assert town.responder.ask(unassigned, method).body == TRY_LATER, "distrusted"


def test_an_excluded_source_is_not_waited_for(town: Town, required_source: str) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    assert town.responder.status(issuer, rows.unassigned) == "try_later"
    town.responder.world.execute(
        "UPDATE ocsp.source SET excluded_at = now(), excluded_reason = 'gone', excluded_by = 'me' WHERE name = %s",
        required_source,
    )
    assert town.responder.status(issuer, rows.unassigned) == "unknown"


def test_a_source_that_is_not_required_is_not_waited_for(town: Town, required_source: str) -> None:
    town.responder.world.execute("UPDATE ocsp.source SET required = false WHERE name = %s", required_source)
    assert town.responder.status(town.issuers["p256"], town.rows["p256"].unassigned) == "unknown"


# ------------------------------------------------------------------------------------------------- what changes, when


def seen_by_all(responder: Running, issuer: Served, serial: int, word: str, *, since: float) -> None:
    """Ask over fresh connections until two seconds have passed, and then only the new answer may come."""
    request = asking.request_for(issuer.certificate, serial)
    while time.monotonic() < since + 2.0:
        responder.ask(request)
        time.sleep(0.02)
    assert {responder.ask(request, method).words for method in ("GET", "POST") * 15} == {word}


def test_a_revocation_is_visible_in_every_worker_within_two_seconds(town: Town) -> None:
    """A revocation is visible everywhere within two seconds of its commit, and no cached answer outlives it
    (invariant 5)."""
    world, issuer = town.responder.world, town.issuers["p256"]
    serial = world.issue(issuer)
    request = asking.request_for(issuer.certificate, serial)
    before = {town.responder.ask(request, method).words for method in ("GET", "POST") * 15}
    assert before == {"good"}
    world.revoke(issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=issuer.ca))
    seen_by_all(town.responder, issuer, serial, "revoked", since=time.monotonic())


def test_a_corrected_revocation_is_visible_as_soon(town: Town) -> None:
    world, issuer = town.responder.world, town.issuers["p256"]
    serial = world.issue(issuer)
    world.revoke(issuer, serial, revoked(Reason.SUPERSEDED, ca=issuer.ca))
    request = asking.request_for(issuer.certificate, serial)
    assert town.responder.ask(request).parsed().revocation_reason is ReasonFlags.superseded
    corrected = Revoked(revoked(Reason.SUPERSEDED, ca=issuer.ca).at - timedelta(days=3), Reason.KEY_COMPROMISE)
    world.revoke(issuer, serial, corrected)
    seen_by_all(town.responder, issuer, serial, "revoked", since=time.monotonic())
    for _ in range(10):
        read = town.responder.ask(request).parsed()
        assert (read.revocation_time_utc, read.revocation_reason) == (corrected.at, ReasonFlags.key_compromise)


def test_a_change_in_a_transaction_that_stays_open_long_is_not_missed(town: Town) -> None:
    """A later change that commits first must not make the feed pass over the earlier one."""
    world, issuer = town.responder.world, town.issuers["p256"]
    slow, quick = world.issue(issuer), world.issue(issuer)
    for serial in (slow, quick):
        assert town.responder.status(issuer, serial) == "good"
    wanted = revoked(Reason.SUPERSEDED, ca=issuer.ca)
    with psycopg.connect(world.dsn) as open_for_long:
        open_for_long.execute(
            "UPDATE ocsp.certificate SET status = 'revoked', revoked_at = %s, reason = 4"
            " WHERE issuer_id = %s AND serial = %s",
            (wanted.at, issuer.issuer_id, slow.to_bytes((slow.bit_length() + 7) // 8)),
        )
        world.revoke(issuer, quick, wanted)
        seen_by_all(town.responder, issuer, quick, "revoked", since=time.monotonic())
        assert town.responder.status(issuer, slow) == "good"
        open_for_long.commit()
        since = time.monotonic()
    seen_by_all(town.responder, issuer, slow, "revoked", since=since)


def test_a_certificate_registered_after_unknown_was_said_is_good_at_once(town: Town) -> None:
    issuer = town.issuers["p256"]
    serial = 0xBEEF00 + time.monotonic_ns() % 256
    assert town.responder.status(issuer, serial) == "unknown"
    town.responder.world.reserve(issuer, serial)
    for _ in range(10):
        assert town.responder.status(issuer, serial) == "try_later"
    town.responder.world.issue(issuer, serial=serial)
    for method in ("GET", "POST") * 5:
        assert town.responder.status(issuer, serial, method=method) == "good"


# ------------------------------------------------------------------------------------------------------ what is broken


def one_issuer(world: World) -> tuple[Served, int]:
    ca = Authority.create("CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    return issuer, world.issue(issuer)


def test_a_cut_line_to_the_database_means_try_later_and_recovery_comes_by_itself(world: World) -> None:
    """Also for a worker that starts meanwhile, and soon: not after as long again."""
    issuer, good = one_issuer(world)
    proxy = Proxy(world.dsn)
    with running(world, dsn=proxy.dsn) as responder:
        assert responder.status(issuer, good) == "good"
        proxy.cut()
        mend_at = time.monotonic() + 8.0
        before = responder.workers()
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(responder.workers()) == 2 and before[0] not in responder.workers())
        while time.monotonic() < mend_at - 6.0:
            assert responder.status(issuer, good) in {"good", "try_later"}
        while time.monotonic() < mend_at:
            assert responder.status(issuer, good) == "try_later"
            assert responder.status(issuer, 0x7E57) == "try_later"
            assert responder.ask(b"").body == MALFORMED
            time.sleep(0.1)
        proxy.mend()
        time.sleep(4.0)
        assert {responder.status(issuer, good) for _ in range(10)} == {"good"}
        assert {responder.status(issuer, 0x7E57) for _ in range(10)} == {"unknown"}
        assert responder.process.poll() is None
    proxy.close()


def test_a_database_that_does_not_move_means_try_later_within_the_time_clients_have(world: World) -> None:
    issuer, good = one_issuer(world)
    proxy = Proxy(world.dsn)
    with running(world, dsn=proxy.dsn, workers=1) as responder:
        assert responder.status(issuer, good) == "good"
        proxy.freeze()
        since = time.monotonic()
        while time.monotonic() < since + 2.0:
            assert responder.status(issuer, good) in {"good", "try_later"}
        began = time.monotonic()
        assert responder.status(issuer, good) == "try_later"
        assert time.monotonic() - began < 9.0, "BR 4.10.2 gives ten seconds"
        proxy.thaw()
        until(lambda: responder.status(issuer, good) == "good", seconds=10)
    proxy.close()


def test_a_contradiction_in_the_table_is_an_internal_error_and_is_logged(world: World) -> None:
    ca = Authority.create("CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    serial = world.issue(issuer)
    world.execute("ALTER TABLE ocsp.certificate DISABLE TRIGGER guard")
    world.revoke(issuer, serial, revoked(Reason.CERTIFICATE_HOLD, ca=ca))
    with running(world, workers=1) as responder:
        reply = responder.ask(asking.request_for(issuer.certificate, serial))
        assert reply.body == INTERNAL_ERROR
        assert "no-store" in reply.headers["cache-control"]
        (line,) = (line for line in responder.lines() if line["event"] == "answer.contradiction")
        assert line["level"] == "error"
        assert "BR 7.2.2" in line["detail"]
        world.revoke(issuer, serial, revoked(Reason.SUPERSEDED, ca=ca, ago=timedelta(days=-1)))
        assert responder.ask(asking.request_for(issuer.certificate, serial)).body == INTERNAL_ERROR


def test_a_row_that_is_revoked_without_a_time_is_an_internal_error(world: World) -> None:
    issuer, serial = one_issuer(world)
    world.execute("ALTER TABLE ocsp.certificate DISABLE TRIGGER guard")
    for (name,) in world.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'ocsp.certificate'::regclass AND contype = 'c'"
    ):
        world.execute(f'ALTER TABLE ocsp.certificate DROP CONSTRAINT "{name}"')
    world.execute("UPDATE ocsp.certificate SET status = 'revoked'")
    with running(world, workers=1) as responder:
        assert responder.ask(asking.request_for(issuer.certificate, serial)).body == INTERNAL_ERROR
        healthy = world.issue(issuer)
        both = [cert_id(issuer.certificate, each) for each in (serial, healthy)]
        assert responder.ask(request_of(*both)).body == INTERNAL_ERROR
        assert responder.status(issuer, healthy) == "good"


def test_a_signer_about_to_end_means_try_later_rather_than_an_unlawful_answer(world: World) -> None:
    ca = Authority.create("CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder(days=0.3))
    serial = world.issue(issuer)
    with running(world, workers=1) as responder:
        assert responder.status(issuer, serial) == "try_later"
        assert responder.status(issuer, 0x7E57) == "unknown"


def test_reasons_of_the_shared_rows_are_those_that_the_rules_allow() -> None:
    assert {reason.value for reason in REASONS} == {0, 1, 3, 4, 5, 9}
