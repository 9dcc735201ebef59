# SPDX-License-Identifier: Apache-2.0
"""Each issuer's policy from `ocsp-admin issuer set` to the answer over HTTP, changed while the responder runs."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from asn1crypto import core as asn1_core
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags

from demo.ca import Authority, write_certificates, write_key
from demo.stage import StageError, run_admin
from responder.status import der
from responder.status.model import NonceMode, Reason, Revoked, UnassignedAnswer, serial_hex
from tests.conftest import as_role, create_database, drop_database, unused_name
from tests.responder import asking
from tests.responder.asking import MALFORMED, SIG_REQUIRED, UNAUTHORIZED, Reply, cert_id
from tests.responder.running import Running, Served, World, running, until, with_policy

# Invariant 5, and as long for a change of policy.
BOUND: Final = 2.0
PRIVATE_HEADERS: Final = "max-age=0, private, no-transform, must-revalidate"
NONCE: Final = bytes.fromhex("06092b0601050507300102")
METHODS: Final = ["GET", "POST"]


@dataclass
class Office:
    """A responder that runs with the least rights, and ocsp-admin beside it."""

    responder: Running
    config: Path
    made: int = field(default=0)

    @property
    def world(self) -> World:
        return self.responder.world

    def issuer(self, *, public: bool = True, **policy: Any) -> Served:
        """Add an issuer while the responder runs, and wait until every worker knows it."""
        self.made += 1
        ca = Authority.create(f"Office CA {self.made}")
        issuer = self.world.add_issuer(
            f"issuer-{self.made}", ca, signer=ca.issue_responder(), public=public, policy=with_policy(**policy)
        )
        self.everywhere(lambda: self.responder.status(issuer, 1) != "unauthorized", seconds=10)
        return issuer

    def set(self, issuer: Served, *options: str) -> str:
        return run_admin(self.config, "issuer", "set", issuer.name, *options)

    def refused(self, *arguments: str) -> str:
        with pytest.raises(StageError) as refused:
            run_admin(self.config, *arguments)
        return str(refused.value)

    def everywhere(self, what: Callable[[], bool], *, seconds: float = BOUND) -> None:
        """Wait until it is so in every worker."""
        until(lambda: self.responder.everywhere(what), seconds=seconds)


@pytest.fixture(scope="module")
def office(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    name, folder = unused_name("office"), tmp_path_factory.mktemp("office")
    world = World(create_database(server_dsn, name, template=template), folder)
    config = folder / "admin.toml"
    config.write_text(f"[database]\ndsn = {json.dumps(as_role(world.dsn, 'ocsp_admin'))}\n")
    with running(world, dsn=as_role(world.dsn, "ocsp_responder")) as started:
        yield Office(started, config)
    drop_database(server_dsn, name)


def with_nonce(issuer: Served, serial: int, value: bytes) -> bytes:
    """A request with a nonce extension; `value` is the extnValue, whatever old or broken clients put there."""
    listed = der.wrap(der.SEQUENCE, der.wrap(der.SEQUENCE, cert_id(issuer.certificate, serial).dump()))
    extension = der.wrap(der.SEQUENCE, NONCE, der.wrap(der.OCTET_STRING, value))
    extensions = der.wrap(0xA2, der.wrap(der.SEQUENCE, extension))
    return der.wrap(der.SEQUENCE, der.wrap(der.SEQUENCE, listed, extensions))


def inner(nonce: bytes) -> bytes:
    return der.wrap(der.OCTET_STRING, nonce)


def nonce_of(reply: Reply) -> bytes | None:
    try:
        return reply.parsed().extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None


# ----------------------------------------------------------------------------------------------------------- nonce


def test_a_nonce_is_left_aside_until_the_policy_echoes_it_and_again_when_it_no_longer_does(office: Office) -> None:
    issuer = office.issuer()
    serial = office.world.issue(issuer)
    request = with_nonce(issuer, serial, inner(b"n" * 32))
    office.everywhere(lambda: office.responder.status(issuer, serial) == "good")
    without = office.responder.ask(request)
    assert nonce_of(without) is None
    assert "public" in without.headers["cache-control"], "as cacheable as ever"
    assert "nonce echo" in office.set(issuer, "--nonce", "echo")
    office.everywhere(lambda: nonce_of(office.responder.ask(request)) == b"n" * 32)
    office.set(issuer, "--nonce", "off")
    office.everywhere(lambda: nonce_of(office.responder.ask(request)) is None)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_with_a_nonce_is_signed_for_one_request_and_kept_by_nobody(office: Office, method: str) -> None:
    issuer = office.issuer(nonce=NonceMode.ECHO)
    serial = office.world.issue(issuer)
    request = with_nonce(issuer, serial, inner(b"once"))
    office.everywhere(lambda: office.responder.status(issuer, serial) == "good")
    first = office.responder.ask(request, method)
    assert (first.words, nonce_of(first)) == ("good", b"once")
    assert first.headers["cache-control"] == PRIVATE_HEADERS
    assert first.headers["expires"] == first.headers["date"]
    # P-256 signatures are never twice the same: a new one each time means that none was kept.
    replies = [office.responder.ask(request, method) for _ in range(6)]
    assert len({each.body for each in (first, *replies)}) == 7
    plain = asking.request_for(issuer.certificate, serial)
    usual = office.responder.ask(plain, method)
    assert nonce_of(usual) is None
    assert "public" in usual.headers["cache-control"], "a request without a nonce is answered as ever"


@pytest.mark.parametrize(
    ("value", "echoed"),
    [
        (inner(b"n"), b"n"),
        (inner(b"n" * 15), b"n" * 15),
        (inner(b"n" * 32), b"n" * 32),
        (inner(b"n" * 33), None),
        (inner(b"n" * 128), None),
        (b"raw octets of an old client", None),
    ],
    ids=["1", "15", "32", "33", "128", "raw"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_nonce_is_echoed_or_left_aside_by_its_length(
    echoing: tuple[Office, Served, int], value: bytes, echoed: bytes | None, method: str
) -> None:
    office, issuer, serial = echoing
    reply = office.responder.ask(with_nonce(issuer, serial, value), method)
    assert (reply.words, nonce_of(reply)) == ("good", echoed)
    assert ("public" in reply.headers["cache-control"]) is (echoed is None)


@pytest.mark.parametrize("length", [0, 129, 500])
@pytest.mark.parametrize("method", METHODS)
def test_a_nonce_of_an_impossible_length_is_malformed_where_nonces_are_echoed(
    echoing: tuple[Office, Served, int], length: int, method: str
) -> None:
    office, issuer, serial = echoing
    assert office.responder.ask(with_nonce(issuer, serial, inner(b"n" * length)), method).body == MALFORMED


@pytest.fixture(scope="module")
def echoing(office: Office) -> tuple[Office, Served, int]:
    issuer = office.issuer(nonce=NonceMode.ECHO, archive_cutoff=timedelta(days=365))
    serial = office.world.issue(issuer)
    office.everywhere(lambda: office.responder.status(issuer, serial) == "good")
    return office, issuer, serial


def test_openssl_finds_its_own_nonce(
    echoing: tuple[Office, Served, int], program: Callable[[str], str], tmp_path: Path
) -> None:
    office, issuer, serial = echoing
    ca = write_certificates(tmp_path / "ca.pem", issuer.certificate)
    done = subprocess.run(
        [program("openssl"), "ocsp", "-issuer", ca, "-CAfile", ca, "-serial", f"{serial:#x}", "-nonce", "-resp_text",
         "-url", f"http://127.0.0.1:{office.responder.port}/"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "Response verify OK" in done.stdout
    assert "WARNING" not in done.stdout, "OpenSSL warns of a nonce that is missing"
    assert "OCSP Nonce" in done.stdout
    assert "OCSP Archive Cutoff" in done.stdout


# -------------------------------------------------------------------------------------------------- archive cutoff


def cutoff_of(reply: Reply) -> datetime | None:
    for extension in reply.parsed().single_extensions:
        assert (extension.oid.dotted_string, extension.critical) == ("1.3.6.1.5.5.7.48.1.6", False)
        assert isinstance(extension.value, x509.UnrecognizedExtension)
        said: datetime = asn1_core.GeneralizedTime.load(extension.value.value).native
        return said
    return None


def test_an_archive_cutoff_is_said_of_certificates_that_exist_while_the_policy_has_one(office: Office) -> None:
    issuer = office.issuer()
    good, revoked = office.world.issue(issuer), office.world.issue(issuer)
    expired = office.world.issue(issuer, ago=timedelta(days=2))
    at = issuer.certificate.not_valid_before_utc
    office.world.revoke(issuer, revoked, Revoked(at, Reason.SUPERSEDED))
    asked = {name: asking.request_for(issuer.certificate, serial)
             for name, serial in {"good": good, "revoked": revoked, "expired": expired}.items()}  # fmt: skip
    office.everywhere(lambda: all(office.responder.ask(each).words in {"good", "revoked"} for each in asked.values()))
    assert [cutoff_of(office.responder.ask(each)) for each in asked.values()] == [None] * 3
    office.set(issuer, "--archive-cutoff", "30d")
    office.everywhere(lambda: cutoff_of(office.responder.ask(asked["good"])) is not None)
    for request in asked.values():
        reply = office.responder.ask(request)
        produced_at = reply.parsed().produced_at_utc
        assert cutoff_of(reply) == produced_at - timedelta(days=30)
    unknown = office.responder.ask(asking.request_for(issuer.certificate, 0x7E57))
    assert (unknown.words, cutoff_of(unknown)) == ("unknown", None)
    office.set(issuer, "--archive-cutoff", "off")
    office.everywhere(lambda: cutoff_of(office.responder.ask(asked["good"])) is None)


# --------------------------------------------------------------------------------------------------- extended revoke


def test_extended_revoke_is_all_that_rfc_6960_asks_and_stops_with_the_policy(office: Office) -> None:
    """RFC 6960 sections 2.2 and 4.4.8, clause by clause."""
    issuer = office.issuer(public=False, nonce=NonceMode.ECHO, archive_cutoff=timedelta(days=1))
    serial = office.world.issue(issuer)
    request = with_nonce(issuer, 0x7E57, inner(b"n"))
    assert office.responder.ask(request).words == "unknown"
    office.set(issuer, "--unassigned", "extended-revoke")
    office.everywhere(lambda: office.responder.ask(request).words == "revoked")
    reply = office.responder.ask(request)
    read = reply.parsed()
    assert read.revocation_reason is ReasonFlags.certificate_hold
    assert read.revocation_time_utc == datetime(1970, 1, 1, tzinfo=UTC)
    assert len(read.single_extensions) == 0, "neither CRL references nor anything else"
    listed = {each.oid.dotted_string: each.critical for each in read.extensions}
    assert listed == {"1.3.6.1.5.5.7.48.1.2": False, "1.3.6.1.5.5.7.48.1.9": False}
    assert bytes.fromhex("300f06092b060105050730010904020500") in read.tbs_response_bytes, "the value is NULL"
    assert reply.headers["cache-control"] == PRIVATE_HEADERS
    assert office.responder.status(issuer, serial) == "good"
    both = asking.request_for(issuer.certificate, serial, 0x7E57)
    assert [each.certificate_status.name for each in office.responder.ask(both).parsed().responses] == [
        "GOOD",
        "REVOKED",
    ]
    office.set(issuer, "--unassigned", "unauthorized")
    office.everywhere(lambda: office.responder.ask(request).body == UNAUTHORIZED)


def test_a_public_issuer_is_refused_what_the_rules_forbid_and_nothing_changes(office: Office) -> None:
    issuer = office.issuer()
    for options, rule in (
        (("--unassigned", "extended-revoke"), "BR 7.2.2 and RFC 6960 5"),
        (("--signed-requests", "required"), "BR 4.9.9"),
        (("--retention", "23h"), "BR 4.10.1"),
        (("--archive-cutoff", "31d", "--retention", "30d"), "RFC 6960 4.4.4"),
    ):
        assert rule in office.refused("issuer", "set", issuer.name, *options)
    # Private, with something only a private issuer may do: it has to give that up before it turns public.
    office.set(issuer, "--private", "--unassigned", "extended-revoke")
    office.everywhere(lambda: office.responder.status(issuer, 0x7E57) == "revoked")
    assert "BR 7.2.2" in office.refused("issuer", "set", issuer.name, "--public")
    assert "public" in office.set(issuer, "--public", "--unassigned", UnassignedAnswer.UNKNOWN.value)
    office.everywhere(lambda: office.responder.status(issuer, 0x7E57) == "unknown")


# --------------------------------------------------------------------------------------------------- signed requests


@dataclass(frozen=True)
class Client:
    """What `openssl ocsp` needs to sign a request, and the certificate of the CA above."""

    signer: Path
    key: Path
    ca: Path


def make_client(folder: Path, name: str) -> Client:
    ca = Authority.create(f"{name} CA")
    certificate, key = ca.issue_responder()
    return Client(
        write_certificates(folder / f"{name}.pem", certificate),
        write_key(folder / f"{name}.key", key),
        write_certificates(folder / f"{name}-ca.pem", ca.certificate),
    )


def signed_request(openssl: str, issuer: Served, serial: int, client: Client, folder: Path) -> bytes:
    out = folder / "request.der"
    ca = write_certificates(folder / "issuer.pem", issuer.certificate)
    subprocess.run(
        [openssl, "ocsp", "-issuer", ca, "-serial", f"{serial:#x}", "-no_nonce", "-signer", client.signer,
         "-signkey", client.key, "-reqout", out],
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    return out.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_requests_signed_by_openssl_are_answered_where_signatures_are_demanded_and_no_others(
    office: Office, program: Callable[[str], str], tmp_path: Path, method: str
) -> None:
    ask = office.responder.ask
    issuer = office.issuer(public=False)
    serial = office.world.issue(issuer)
    ours, theirs = make_client(tmp_path, "ours"), make_client(tmp_path, "theirs")
    signed, foreign = (signed_request(program("openssl"), issuer, serial, each, tmp_path) for each in (ours, theirs))
    plain = asking.request_for(issuer.certificate, serial)
    office.everywhere(lambda: {ask(each, method).words for each in (plain, signed, foreign)} == {"good"})
    assert "public" in ask(signed, method).headers["cache-control"], "accepted and ignored by default"

    office.set(issuer, "--signed-requests", "required")
    office.everywhere(lambda: ask(plain, method).body == SIG_REQUIRED)
    assert ask(signed, method).body == UNAUTHORIZED, "no CA is named yet"
    run_admin(office.config, "requester", "add", "--issuer", issuer.name, str(ours.ca))
    office.everywhere(lambda: ask(signed, method).words == "good")
    assert ask(signed, method).headers["cache-control"] == PRIVATE_HEADERS
    assert ask(foreign, method).body == UNAUTHORIZED
    assert ask(plain, method).body == SIG_REQUIRED
    broken = bytearray(signed)
    at = signed.index(serial.to_bytes((serial.bit_length() + 7) // 8)) + 3
    broken[at] ^= 1
    assert ask(bytes(broken), method).body == UNAUTHORIZED, "the signature is not over this serial"

    (listed,) = json.loads(run_admin(office.config, "requester", "list", "--json"))["requesters"]
    assert (listed["issuer"], listed["required"], listed["subject"]) == (issuer.name, True, "CN=ours CA")
    run_admin(office.config, "requester", "remove", "--issuer", issuer.name, str(ours.ca))
    office.everywhere(lambda: ask(signed, method).body == UNAUTHORIZED)
    assert "signs no requests" in office.refused("requester", "remove", "--issuer", issuer.name, str(ours.ca))
    office.set(issuer, "--signed-requests", "ignored")
    office.everywhere(lambda: {ask(each, method).words for each in (plain, signed, foreign)} == {"good"})


# ------------------------------------------------------------------------------------------------- retention and purge


@pytest.mark.parametrize("method", METHODS)
def test_a_purged_certificate_is_unauthorized_never_unknown_and_stays_purged_when_seen_again(
    office: Office, method: str
) -> None:
    issuer = office.issuer()
    kept = office.world.issue(issuer, ago=timedelta(days=5))
    made = issuer.ca.issue("old.example", not_before=datetime.now(UTC) - timedelta(days=90),
                           not_after=datetime.now(UTC) - timedelta(days=11))  # fmt: skip
    office.world.register(made)
    serials = kept, made.serial_number
    office.everywhere(lambda: {office.responder.status(issuer, each, method=method) for each in serials} == {"good"})
    purge = "cert", "purge", "--issuer", issuer.name
    assert "keeps its rows for ever" in office.refused(*purge)
    office.set(issuer, "--retention", "10d", "--archive-cutoff", "10d")
    assert ": 1 rows to purge" in run_admin(office.config, *purge, "--dry-run")
    assert office.responder.status(issuer, made.serial_number, method=method) == "good", "a dry run changes nothing"
    assert ": 1 rows purged" in run_admin(office.config, "--actor", "alice", *purge)
    office.everywhere(lambda: office.responder.status(issuer, made.serial_number, method=method) == "unauthorized")
    assert office.responder.status(issuer, kept, method=method) == "good"
    office.world.register(made)
    again = write_certificates(office.world.folder / f"{method}.pem", made)
    assert "known already" in run_admin(office.config, "cert", "register", "--issuer", issuer.name, str(again))
    assert office.responder.status(issuer, made.serial_number, method=method) == "unauthorized"
    shown = json.loads(
        run_admin(office.config, "cert", "show", "--issuer", issuer.name, serial_hex(made.serial_number), "--json")
    )
    assert shown["status"] == "purged"
    assert [(each["to"], each["actor"]) for each in shown["changes"]] == [("good", None), ("purged", "alice")]
    assert len(shown["sightings"]) > 0, "evidence is never let go"
    assert ": 0 rows purged" in run_admin(office.config, *purge)


def test_the_ca_of_clients_is_read_from_der_and_added_once(office: Office) -> None:
    issuer = office.issuer(public=False)
    path = office.world.folder / "clients.der"
    path.write_bytes(Authority.create("Clients in DER").certificate.public_bytes(Encoding.DER))
    assert "may sign" in run_admin(office.config, "requester", "add", "--issuer", issuer.name, str(path))
    assert "there already" in run_admin(office.config, "requester", "add", "--issuer", issuer.name, str(path))
    path.write_bytes(b"no certificate")
    assert "not a certificate" in office.refused("requester", "add", "--issuer", issuer.name, str(path))
