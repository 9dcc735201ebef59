# SPDX-License-Identifier: Apache-2.0
"""The running responder's answers before judges of other people's making: OpenSSL, GnuTLS, cryptography, pkilint."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from pkilint import loader, pkix, report
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as lint_ocsp
from pkilint.validation import ValidationFindingSeverity

from responder.status.model import Reason
from tests.responder import asking
from tests.responder.asking import HASHES, MALFORMED, UNAUTHORIZED, cert_id, request_of, target_of
from tests.responder.conftest import KINDS, Town
from tests.responder.running import Served

SIGNING = (*KINDS, "ed25519", "direct", "locked")
STATUSES = ("good", "revoked", "revoked without reason", "expired", "unknown")


def serial_for(town: Town, issuer: str, status: str) -> int:
    rows = town.rows[issuer]
    return {
        "good": rows.good,
        "revoked": rows.revoked[Reason.KEY_COMPROMISE],
        "revoked without reason": rows.revoked[Reason.UNSPECIFIED],
        "expired": rows.expired,
        "unknown": rows.unassigned,
    }[status]


def written(issuer: Served, folder: Path) -> Path:
    path = folder / "ca.pem"
    path.write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    return path


def run(*command: str | Path) -> str:
    """Run a judge, have it succeed, and return what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


# ----------------------------------------------------------------------------------------------------------- OpenSSL


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
@pytest.mark.parametrize("issuer", SIGNING)
def test_openssl_asks_by_post_and_verifies(
    town: Town, program: Callable[[str], str], tmp_path: Path, issuer: str, hash_name: str
) -> None:
    ca = written(town.issuers[issuer], tmp_path)
    words = {"good": ": good", "revoked": "Reason: keyCompromise", "unknown": ": unknown"}
    asked = [part for status in words for part in ("-serial", f"{serial_for(town, issuer, status):#x}")]
    # OpenSSL takes the digest for the certificates that follow it.
    said = run(
        program("openssl"), "ocsp", "-issuer", ca, "-CAfile", ca, f"-{hash_name}", *asked, "-no_nonce",
        "-url", f"http://127.0.0.1:{town.port}/",
    )  # fmt: skip
    assert "Response verify OK" in said
    for status, word in words.items():
        assert word in said, status
    assert "WARNING" not in said
    assert "not in response" not in said.lower()


@pytest.mark.parametrize("status", STATUSES)
def test_openssl_verifies_what_comes_by_get(
    town: Town, program: Callable[[str], str], tmp_path: Path, status: str
) -> None:
    ca, asked, answered = written(town.issuers["p256"], tmp_path), tmp_path / "asked", tmp_path / "answered"
    serial = serial_for(town, "p256", status)
    for hash_name in ("sha1", "sha256"):
        common = ("-issuer", ca, f"-{hash_name}", "-serial", f"{serial:#x}", "-no_nonce")
        run(program("openssl"), "ocsp", *common, "-reqout", asked)
        answered.write_bytes(asking.get(town.port, target_of(asked.read_bytes())).body)
        said = run(program("openssl"), "ocsp", *common, "-CAfile", ca, "-respin", answered)
        assert "Response verify OK" in said
        word = {"expired": "good", "revoked without reason": "revoked"}.get(status, status)
        assert f"{serial:#x}: {word}" in said
        assert ("Reason:" in said) is (status == "revoked")


def test_openssl_sends_a_nonce_and_is_answered_without(
    town: Town, program: Callable[[str], str], tmp_path: Path
) -> None:
    ca = written(town.issuers["p256"], tmp_path)
    said = run(
        program("openssl"), "ocsp", "-issuer", ca, "-CAfile", ca, "-nonce",
        "-serial", f"{serial_for(town, 'p256', 'good'):#x}", "-url", f"http://127.0.0.1:{town.port}/",
    )  # fmt: skip
    assert "Response verify OK" in said
    assert ": good" in said


# ------------------------------------------------------------------------------------------------------------ GnuTLS


@pytest.mark.parametrize("issuer", SIGNING)
def test_gnutls_asks_and_verifies(town: Town, program: Callable[[str], str], tmp_path: Path, issuer: str) -> None:
    served = town.issuers[issuer]
    ca, subject = written(served, tmp_path), tmp_path / "subject.pem"
    made = served.ca.issue("judged.example")
    town.responder.world.register(made)
    subject.write_bytes(made.public_bytes(Encoding.PEM))
    answered = tmp_path / "answered"
    # GnuTLS looks for a signer known by its key among the embedded certificates only, so the CA itself is named to it.
    trusted = "--load-signer" if issuer == "direct" else "--load-trust"
    said = run(
        program("ocsptool"), f"--ask=http://127.0.0.1:{town.port}/", "--load-cert", subject, "--load-issuer", ca,
        trusted, ca, "--outfile", answered, "--no-nonce",
    )  # fmt: skip
    assert "Success" in said
    verified = run(program("ocsptool"), "--verify-response", "--load-response", answered, trusted, ca, "--inder")
    assert "Success" in verified


# ------------------------------------------------------------------------------------------------------ cryptography


def verify(response: ocsp.OCSPResponse, issuer: Served) -> None:
    """Verify the signature, and the signer's certificate, without any code of ours."""
    certificate = issuer.certificate
    if response.certificates:
        (certificate,) = response.certificates
        certificate.verify_directly_issued_by(issuer.certificate)
    assert response.responder_name is None
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    digest = response.signature_hash_algorithm
    match certificate.public_key():
        case rsa.RSAPublicKey() as key if digest is not None:
            key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
        case ec.EllipticCurvePublicKey() as key if digest is not None:
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
        case ed25519.Ed25519PublicKey() as key:
            key.verify(response.signature, response.tbs_response_bytes)
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("issuer", SIGNING)
@pytest.mark.parametrize("status", STATUSES)
def test_cryptography_reads_every_answer_and_verifies_its_signature(town: Town, issuer: str, status: str) -> None:
    served = town.issuers[issuer]
    for hash_name in HASHES:
        request = asking.request_for(served.certificate, serial_for(town, issuer, status), hash_name=hash_name)
        verify(town.responder.ask(request).parsed(), served)
    with pytest.raises((InvalidSignature, ValueError, AssertionError)):
        verify(town.responder.ask(request).parsed(), town.issuers["p384" if issuer != "p384" else "p256"])


@pytest.mark.parametrize("kind", [*KINDS, "ed25519"])
def test_an_embedded_certificate_is_the_signers_and_alone(town: Town, kind: str) -> None:
    served = town.issuers[kind]
    read = town.responder.ask(asking.request_for(served.certificate, town.rows[kind].good)).parsed()
    assert read.certificates == [served.signer]


def test_a_ca_that_signs_itself_embeds_nothing(town: Town) -> None:
    served = town.issuers["direct"]
    assert (
        town.responder.ask(asking.request_for(served.certificate, town.rows["direct"].good)).parsed().certificates == []
    )


# ----------------------------------------------------------------------------------------------------------- pkilint


def pkilint(response: bytes) -> list[str]:
    """Every finding of pkilint's OCSP lint, from notices on."""
    judge = lint_ocsp.create_pkix_ocsp_response_validator_container(
        [
            lint_ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
    document = loader.RFC6960OCSPResponseDocumentLoader().load_document(response, "answer")
    results: Any = judge.validate(document.root)
    if report.get_findings_count(results, ValidationFindingSeverity.NOTICE) == 0:
        return []
    return [str(found) for result in results for found in result.finding_descriptions]


@pytest.mark.parametrize("issuer", SIGNING)
@pytest.mark.parametrize("status", STATUSES)
def test_pkilint_finds_nothing(town: Town, issuer: str, status: str) -> None:
    served = town.issuers[issuer]
    for hash_name in ("sha1", "sha256"):
        request = asking.request_for(served.certificate, serial_for(town, issuer, status), hash_name=hash_name)
        assert pkilint(town.responder.ask(request).body) == []


@pytest.mark.parametrize("issuer", SIGNING)
def test_pkilint_finds_nothing_in_an_answer_about_several(town: Town, issuer: str) -> None:
    served = town.issuers[issuer]
    asked = [
        cert_id(served.certificate, serial_for(town, issuer, status), hash_name=hash_name)
        for status in STATUSES
        for hash_name in HASHES
    ]
    assert pkilint(town.responder.ask(request_of(*asked)).body) == []


def test_pkilint_finds_nothing_in_an_extended_revoke_nor_in_errors(town: Town) -> None:
    extended = asking.request_for(town.issuers["extended-revoke"].certificate, 0x7E57)
    pending = asking.request_for(town.issuers["p256"].certificate, town.rows["p256"].pending)
    for request in (extended, pending, b"?"):
        assert pkilint(town.responder.ask(request).body) == []


def test_pkilint_does_find_what_is_wrong(town: Town) -> None:
    right = town.responder.ask(asking.request_for(town.issuers["p256"].certificate, town.rows["p256"].good)).body
    assert "ocsp_negative_validity_period" in str(pkilint(right.replace(b"\xa0\x11\x18\x0f20", b"\xa0\x11\x18\x0f19")))


# ------------------------------------------------------------------------------------------- other people's requests

# Requests of the cryptography project, none of whose issuers we serve: what is syntax is unauthorized, what is not is
# malformed.
VECTORS = {
    "ocsp-army.inapplicable-req.der": UNAUTHORIZED,
    "ocsp-army.revoked-req.der": UNAUTHORIZED,
    "ocsp-army.valid-req.der": UNAUTHORIZED,
    "req-acceptable-responses.der": UNAUTHORIZED,
    "req-duplicate-ext.der": MALFORMED,  # the same extension twice
    "req-ext-nonce.der": UNAUTHORIZED,
    "req-ext-unknown-oid.der": UNAUTHORIZED,
    "req-invalid-hash-alg.der": UNAUTHORIZED,  # an algorithm nobody knows, in right syntax
    "req-invalid-version.der": MALFORMED,
    "req-multi-sha1.der": UNAUTHORIZED,
    "req-sha1.der": UNAUTHORIZED,
}
FOLDER = Path(cryptography_vectors.__file__).parent / "x509" / "ocsp"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("file", "answer"), VECTORS.items())
def test_every_request_vector_has_its_answer(town: Town, file: str, answer: bytes, method: str) -> None:
    assert town.responder.ask((FOLDER / file).read_bytes(), method).body == answer


def test_every_response_sent_as_a_request_is_malformed(town: Town) -> None:
    for path in FOLDER.glob("*resp*.der"):
        if path.name not in VECTORS:
            assert town.responder.ask(path.read_bytes()).body == MALFORMED, path.name


def test_no_request_vector_is_left_out() -> None:
    assert {path.name for path in FOLDER.glob("*req*.der") if not path.name.startswith("resp-")} == set(VECTORS)
