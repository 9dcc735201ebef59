# SPDX-License-Identifier: Apache-2.0
"""The running responder with its keys on a token: judged by others, pulled out under load, away when we start."""

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from tests.responder import asking
from tests.responder.running import Running, Served, World, running, until
from tests.responder.signing.softhsm import PIN, SoftHsm
from tests.responder.test_start import refusal

KINDS = ("rsa2048", "p256", "p384")


@pytest.fixture
def hsm(program: Callable[[str], str], tmp_path: Path) -> SoftHsm:
    made = SoftHsm.create(tmp_path / "hsm", program("softhsm2-util"))
    made.add_token("signers")
    return made


def add(world: World, hsm: SoftHsm, kind: str) -> Served:
    """Add an issuer whose signer has a key of this kind on the token."""
    ca = Authority.create(f"Token CA {kind}")
    certificate, key = ca.issue_responder(key=make_key(kind))
    hsm.add_key("signers", key, label=kind, identity=f"{KINDS.index(kind):02x}")
    issuer = world.add_issuer(kind, ca, signer=None)
    world.insert_signer(issuer, certificate, f"pkcs11:token=signers;object={kind}?module-path={hsm.library}")
    return Served(issuer.name, issuer.issuer_id, ca, certificate)


@contextmanager
def signing(world: World, hsm: SoftHsm, more: str = "") -> Iterator[Running]:
    """Start a responder that finds the token, and keeps no answer."""
    with running(world, more=settings(hsm) + more, variables=environment(hsm)) as started:
        yield started
    assert PIN not in started.log.read_text()


def settings(hsm: SoftHsm) -> str:
    return f'[cache]\nmost_answers = 0\n[signing]\npin_file = "{hsm.folder / "pin"}"\n'


def environment(hsm: SoftHsm) -> dict[str, str]:
    return {"SOFTHSM2_CONF": str(hsm.configuration)}


def asked(issuer: Served, world: World) -> bytes:
    return asking.request_for(issuer.certificate, world.issue(issuer))


def verified(issuer: Served, read: ocsp.OCSPResponse) -> x509.Certificate:
    """Verify the chain and the signature as a client of the cryptography library would, and return who signed."""
    (signer,) = read.certificates
    signer.verify_directly_issued_by(issuer.certificate)
    digest, key = read.signature_hash_algorithm, signer.public_key()
    assert digest is not None
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(read.signature, read.tbs_response_bytes, padding.PKCS1v15(), digest)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(digest))
    return signer


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_and_cryptography_verify_what_a_token_signs(
    kind: str, world: World, hsm: SoftHsm, program: Callable[[str], str]
) -> None:
    issuer = add(world, hsm, kind)
    serial = world.issue(issuer)
    (world.folder / "ca.pem").write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    with signing(world, hsm) as responder:
        done = subprocess.run(
            [program("openssl"), "ocsp", "-issuer", world.folder / "ca.pem", "-CAfile", world.folder / "ca.pem",
             "-serial", hex(serial), "-url", f"http://127.0.0.1:{responder.port}/", "-no_nonce"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=True,
        )  # fmt: skip
        assert "Response verify OK" in done.stdout
        assert f"{hex(serial)}: good" in done.stdout
        read = responder.ask(asking.request_for(issuer.certificate, serial)).parsed()
        assert read.certificates == [issuer.signer]
        verified(issuer, read)


class Load:
    """Threads that ask without pause, and count what they were told."""

    def __init__(self, responder: Running, requests: list[bytes]) -> None:
        self._responder = responder
        self._requests = requests
        self._stop = threading.Event()
        self.words: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(8)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            for request in self._requests:
                self.words[self._responder.ask(request).words] += 1


def test_a_token_pulled_out_under_load_means_try_later_and_nothing_else_until_it_is_back(
    world: World, hsm: SoftHsm
) -> None:
    requests = [asked(add(world, hsm, kind), world) for kind in ("rsa2048", "p256")]
    with signing(world, hsm) as responder:
        with Load(responder, requests) as load:
            until(lambda: load.words["good"] > 100)
            for _ in range(2):
                hsm.pull_out()
                before = load.words["try_later"]
                until(lambda: load.words["try_later"] > before + 100)  # noqa: B023 - called right here
                hsm.put_back()
                good = load.words["good"]
                until(lambda: load.words["good"] > good + 100)  # noqa: B023 - called right here
        assert set(load.words) == {"good", "try_later"}
        until(lambda: {responder.ask(request).words for request in requests for _ in range(10)} == {"good"})
        lost = [line for line in responder.lines() if line["event"] == "token.lost"]
        # Two workers, two keys: each says so once, however many signatures failed.
        assert 1 <= len(lost) <= 4
        assert "token.back" in responder.events()


def test_a_token_that_is_away_at_the_start_is_taken_up_when_it_comes(world: World, hsm: SoftHsm) -> None:
    request = asked(add(world, hsm, "p256"), world)
    hsm.pull_out()
    with signing(world, hsm) as responder:
        assert responder.ask(request).words == "try_later"
        hsm.put_back()
        until(lambda: {responder.ask(request).words for _ in range(10)} == {"good"})


def test_a_wrong_pin_keeps_from_starting_when_nobody_else_could_sign(world: World, hsm: SoftHsm) -> None:
    add(world, hsm, "p256")
    (hsm.folder / "pin").write_text("wrong-pin-1")
    said = refusal(world, more=settings(hsm), variables=environment(hsm))
    assert "the token does not take the PIN" in said
    assert "wrong-pin-1" not in said


def test_too_many_at_once_are_told_to_come_later(world: World, hsm: SoftHsm) -> None:
    request = asked(add(world, hsm, "rsa2048"), world)
    with signing(world, hsm, "sessions = 1\nmost_waiting = 0\n") as responder:
        with Load(responder, [request]) as load:
            until(lambda: load.words["try_later"] > 5 and load.words["good"] > 5)
        assert set(load.words) == {"good", "try_later"}
        assert {line["reason"] for line in responder.lines() if line["event"] == "answer.try_later"} == {"overloaded"}
