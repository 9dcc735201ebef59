# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin signer as people use it: a new key's request, staging, activating, retiring, and what is refused."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from demo.ca import Authority, make_key, write_certificates, write_key
from tests.admin.test_commands import Desk, desk
from tests.responder.signing.softhsm import PIN, SoftHsm

__all__ = ["desk"]


@pytest.fixture
def hsm(program: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    made = SoftHsm.create(tmp_path / "hsm", program("softhsm2-util"))
    made.add_token("signers")
    monkeypatch.setenv("SOFTHSM2_CONF", str(made.configuration))
    return made


def signer(desk: Desk, name: str, kind: str = "p256", **changes: Any) -> tuple[str, Path, str, Path]:
    """Have the CA issue a signer into files, and return the options that name it."""
    certificate, key = desk.ca.issue_responder(key=make_key(kind), **changes)
    cert = write_certificates(desk.folder / f"{name}.pem", certificate)
    return "--cert", cert, "--key", write_key(desk.folder / f"{name}.key", key)


def listed(desk: Desk) -> dict[int, str]:
    found = json.loads(desk.ok("signer", "list", "--json"))["signers"]
    return {each["signer"]: each["state"] for each in found}


def test_a_signer_is_staged_then_takes_over_then_the_former_is_retired(desk: Desk) -> None:
    desk.add()
    said = desk.ok("signer", "stage", "--issuer", "ca", *signer(desk, "next"))
    assert said == "signer 2 of ca, ecdsa: staged; responders try it from now on\n"
    assert listed(desk) == {1: "active", 2: "staged"}

    said = desk.ok("signer", "activate", "2")
    assert "signer 2: active, its trial answer verified by cryptography" in said
    assert "signer 1 is replaced" in said
    assert listed(desk) == {1: "replaced", 2: "active"}

    assert desk.ok("signer", "retire", "1") == "signer 1: retired\n"
    assert listed(desk) == {1: "retired", 2: "active"}
    assert "is retired; a staged or a replaced one" in desk.refused("signer", "activate", "1")
    assert "is active; a staged or a replaced one" in desk.refused("signer", "activate", "2")
    assert "retired already" in desk.refused("signer", "retire", "1")
    assert "there is no signer 9" in desk.refused("signer", "activate", "9")


def test_openssl_is_among_the_judges_where_it_is(desk: Desk, program: Callable[[str], str]) -> None:
    program("openssl")
    desk.add()
    assert "verified by cryptography and openssl" in desk.ok("signer", "add", "--issuer", "ca", *signer(desk, "next"))


def test_openssl_verifies_for_an_issuer_below_a_root_and_for_a_ca_that_signs_itself(
    desk: Desk, program: Callable[[str], str]
) -> None:
    program("openssl")
    usages = ("keyCertSign", "cRLSign", "digitalSignature")
    ca = Authority.create("Sub CA", issuer=desk.ca, usages=usages)
    cert = write_certificates(desk.folder / "sub.pem", ca.certificate)
    desk.ok("issuer", "add", "sub", "--cert", cert, "--direct-signing")
    certificate, key = ca.issue_responder(key=make_key("rsa2048"))
    delegate = write_certificates(desk.folder / "d.pem", certificate)
    options = ("--cert", delegate, "--key", write_key(desk.folder / "d.key", key))
    assert "openssl" in desk.ok("signer", "add", "--issuer", "sub", *options)
    itself = ("--cert", cert, "--key", write_key(desk.folder / "sub.key", ca.key))
    assert "openssl" in desk.ok("signer", "add", "--issuer", "sub", *itself)


def test_signers_of_different_kinds_are_active_side_by_side(desk: Desk) -> None:
    desk.add()
    said = desk.ok("signer", "add", "--issuer", "ca", *signer(desk, "rsa", "rsa2048"))
    assert "replaced" not in said
    assert listed(desk) == {1: "active", 2: "active"}


def test_activating_the_replaced_one_is_the_way_back(desk: Desk) -> None:
    desk.add()
    desk.ok("signer", "add", "--issuer", "ca", *signer(desk, "next"))
    desk.ok("signer", "activate", "1")
    assert listed(desk) == {1: "active", 2: "replaced"}


def test_the_last_active_one_is_retired_only_on_purpose(desk: Desk) -> None:
    desk.add()
    assert "the only active one of its issuer" in desk.refused("signer", "retire", "1")
    desk.ok("signer", "retire", "1", "--even-the-last")
    assert listed(desk) == {1: "retired"}


def test_what_the_responder_would_refuse_is_refused_and_nothing_is_entered(desk: Desk) -> None:
    desk.add()
    for changes, words in (
        ({"no_check": False}, "lacks ocsp-nocheck"),
        ({"days": 0.01, "not_before": desk.ca.certificate.not_valid_before_utc}, "ended at"),
    ):
        assert words in desk.refused("signer", "stage", "--issuer", "ca", *signer(desk, "bad", **changes))
    wrong = (*signer(desk, "one")[:2], *signer(desk, "two")[2:])
    assert "is not the one of the signer's certificate" in desk.refused("signer", "add", "--issuer", "ca", *wrong)
    assert listed(desk) == {1: "active"}


def test_a_staged_signer_that_became_bad_is_not_activated_and_the_former_stays(desk: Desk) -> None:
    desk.add()
    options = signer(desk, "next")
    desk.ok("signer", "stage", "--issuer", "ca", *options)
    options[3].unlink()
    assert "No such file" in desk.refused("signer", "activate", "2")
    assert listed(desk) == {1: "active", 2: "staged"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "one of --key, --uri and --token"),
        (("--key", "k", "--token", "t"), "one of --key, --uri and --token"),
        (("--key", "k", "--label", "l"), "--label belongs to --token"),
        (("--token", "t", "--label", "l"), "module-path"),
        (("--token", "t", "--module", "/m"), "names no key"),
        (("--token", "t", "--module", "/m", "--id", "xyz"), "not hex"),
        (("--uri", "pkcs11:token=t;object=k?module-path=/m&pin-value=1"), "belongs into a file"),
    ],
)
def test_a_place_that_is_not_clear_is_refused(desk: Desk, options: tuple[str, ...], words: str) -> None:
    desk.add()
    said = desk.refused("signer", "stage", "--issuer", "ca", "--cert", desk.folder / "signer.pem", *options)
    assert words in said


# ---------------------------------------------------------------------------------------------------------- requests


def check_request(text: str | bytes, public_key: object, subject: str) -> x509.CertificateSigningRequest:
    request = x509.load_pem_x509_csr(text.encode() if isinstance(text, str) else text)
    assert request.is_signature_valid
    assert request.public_key() == public_key
    assert request.subject.rfc4514_string() == subject
    usage = request.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    extended = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(extended.value) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert request.extensions.get_extension_for_class(x509.OCSPNoCheck) is not None
    return request


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_new_key_in_a_file_and_its_request(desk: Desk, passphrase: bytes | None) -> None:
    if passphrase is not None:
        (desk.folder / "passphrase").write_bytes(passphrase + b"\n")
        with (desk.folder / "admin.toml").open("a") as file:
            file.write(f'[signing]\npassphrase_file = "{desk.folder / "passphrase"}"\n')
    path, out = desk.folder / "new.key", desk.folder / "new.csr"
    desk.ok("signer", "csr", "--key", path, "--subject", "CN=R1 OCSP,O=Example", "--out", out)
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_pem_private_key(path.read_bytes(), passphrase)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = check_request(out.read_bytes(), key.public_key(), "CN=R1 OCSP,O=Example")

    # What the CA makes of it signs for the issuer.
    desk.ok("issuer", "add", "ca", "--cert", desk.folder / "ca.pem")
    certificate, _ = desk.ca.issue_responder(key=key)
    assert certificate.public_key() == request.public_key()
    cert = write_certificates(desk.folder / "new.pem", certificate)
    desk.ok("signer", "add", "--issuer", "ca", "--cert", cert, "--key", path)

    before = path.read_bytes()
    assert "File exists" in desk.refused("signer", "csr", "--key", path)
    assert "File exists" in desk.refused("signer", "csr", "--key", desk.folder / "other.key", "--out", out)
    assert not (desk.folder / "other.key").exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize(("kind", "bits"), [("p256", 256), ("p384", 384), ("rsa2048", 2048)])
def test_a_new_key_on_a_token_its_request_and_its_certificate(desk: Desk, hsm: SoftHsm, kind: str, bits: int) -> None:
    place = ("--token", "signers", "--module", hsm.library, "--label", f"new {kind}", "--id", "0f",
             "--pin-source", str(hsm.folder / "pin"))  # fmt: skip
    said = desk.ok("signer", "csr", "--kind", kind, *place)
    read = x509.load_pem_x509_csr(said.encode())
    public = read.public_key()
    assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    assert public.key_size == bits
    check_request(said, public, "CN=OCSP responder")
    assert "already" in desk.refused("signer", "csr", "--kind", kind, *place)

    certificate = certified(desk.ca, public)
    cert = write_certificates(desk.folder / "token.pem", certificate)
    desk.ok("issuer", "add", "ca", "--cert", desk.folder / "ca.pem")
    desk.ok("signer", "add", "--issuer", "ca", "--cert", cert, *place)
    (shown,) = json.loads(desk.ok("signer", "list", "--json"))["signers"]
    assert shown["key_location"].startswith(f"pkcs11:token=signers;object=new%20{kind};id=%0F?module-path=")
    assert PIN not in desk.ok("signer", "list")


def certified(ca: Authority, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> x509.Certificate:
    """A responder certificate for a key whose private half stays where it is."""
    like, _ = ca.issue_responder()
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(like.issuer)
        .public_key(public)
        .serial_number(like.serial_number)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_before_utc + timedelta(days=20))
    )
    for each in like.extensions:
        if not isinstance(each.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(each.value, each.critical)
    assert isinstance(ca.key, ec.EllipticCurvePrivateKey)
    return builder.sign(ca.key, hashes.SHA256())


def test_a_wrong_pin_is_one_line_without_the_pin(desk: Desk, hsm: SoftHsm) -> None:
    (hsm.folder / "wrong").write_text("hunter2-and-so-on")
    desk.add()
    line = desk.refused(
        "signer", "stage", "--issuer", "ca", "--cert", desk.folder / "signer.pem", "--token", "signers",
        "--module", hsm.library, "--label", "x", "--pin-source", hsm.folder / "wrong",
    )  # fmt: skip
    assert "does not take the PIN" in line
    assert "hunter2" not in line
