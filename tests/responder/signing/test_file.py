# SPDX-License-Identifier: Apache-2.0
"""Key files: every form and kind that is taken, and one clear line for each that is not."""

from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from responder.errors import SignerRefused
from responder.signing import KEY_RULE, Signer
from responder.signing.file import (
    CERTIFICATE_RULE,
    FORM_RULE,
    MODE_RULE,
    PASSPHRASE_RULE,
    READABLE_RULE,
    FileSigner,
    load_certificate,
)
from tests.responder.signing.certificates import PrivateKey, der_of, make_ca

CA = make_ca(ec.generate_private_key(ec.SECP256R1()))
CERTIFICATE = der_of(CA.certificate)
TBS = b"ResponseData to be signed"
P256 = ec.generate_private_key(ec.SECP256R1())

PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL  # SEC 1 for EC keys, PKCS#1 for RSA


def write(
    path: Path,
    key: PrivateKeyTypes,
    *,
    form: serialization.PrivateFormat = PKCS8,
    passphrase: bytes | None = None,
    mode: int = 0o600,
) -> Path:
    lock = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, lock))
    path.chmod(mode)
    return path


KEYS: dict[str, tuple[PrivateKey, str]] = {
    "RSA 2048": (rsa.generate_private_key(65537, 2048), "300d06092a864886f70d01010b0500"),
    "RSA 4096": (rsa.generate_private_key(65537, 4096), "300d06092a864886f70d01010b0500"),
    "P-256": (P256, "300a06082a8648ce3d040302"),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), "300a06082a8648ce3d040303"),
    "P-521": (ec.generate_private_key(ec.SECP521R1()), "300a06082a8648ce3d040304"),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate(), "300506032b6570"),
}
DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "P-256": hashes.SHA256(),
    "P-384": hashes.SHA384(),
    "P-521": hashes.SHA512(),
}


def verify(key: PrivateKey, name: str, signature: bytes) -> None:
    match key.public_key():
        case rsa.RSAPublicKey() as public:
            public.verify(signature, TBS, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey() as public:
            public.verify(signature, TBS, ec.ECDSA(DIGESTS[name]))
        case ed25519.Ed25519PublicKey() as public:
            public.verify(signature, TBS)


@pytest.mark.parametrize("name", KEYS)
async def test_every_kind_of_key_signs_under_its_algorithm(name: str, tmp_path: Path) -> None:
    key, algorithm = KEYS[name]
    signer: Signer = FileSigner.load(write(tmp_path / "key.pem", key), certificate=CERTIFICATE)
    assert signer.algorithm.hex() == algorithm
    assert signer.public_key == key.public_key()
    assert signer.certificate == CA.certificate
    signature = await signer.sign(TBS)
    verify(key, name, signature)
    other = await signer.sign(TBS + b"x")
    with pytest.raises(InvalidSignature):
        verify(key, name, other)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
@pytest.mark.parametrize(
    ("name", "form"), [("P-256", PKCS8), ("P-256", TRADITIONAL), ("RSA 2048", PKCS8), ("RSA 2048", TRADITIONAL)]
)
def test_every_form_of_pem_is_read(
    name: str, form: serialization.PrivateFormat, passphrase: bytes | None, tmp_path: Path
) -> None:
    key, _ = KEYS[name]
    path = write(tmp_path / "key.pem", key, form=form, passphrase=passphrase)
    assert FileSigner.load(path, certificate=CERTIFICATE, passphrase=passphrase).public_key == key.public_key()


UNUSABLE: dict[str, PrivateKeyTypes] = {
    "RSA 1024": rsa.generate_private_key(65537, 1024),  # noqa: S505 - too small on purpose
    "RSA 2040": rsa.generate_private_key(65537, 2040),  # noqa: S505 - too small on purpose
    "RSA 4104": rsa.generate_private_key(65537, 4104),
    "P-224": ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "DSA": dsa.generate_private_key(2048),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_another_kind_or_size_of_key_is_refused(name: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "key.pem", UNUSABLE[name]), KEY_RULE)


def refused(path: Path, rule: str, *, passphrase: bytes | None = None) -> str:
    with pytest.raises(SignerRefused) as caught:
        FileSigner.load(path, certificate=CERTIFICATE, passphrase=passphrase)
    line = str(caught.value)
    assert caught.value.rule == rule
    assert rule in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
def test_a_wrong_passphrase_is_named_as_such(form: serialization.PrivateFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "key.pem", P256, form=form, passphrase=b"right")
    assert "does not open with this passphrase" in refused(path, PASSPHRASE_RULE, passphrase=b"wrong")


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
def test_a_missing_passphrase_is_named_as_such(form: serialization.PrivateFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "key.pem", P256, form=form, passphrase=b"right")
    assert "is encrypted: give its passphrase" in refused(path, PASSPHRASE_RULE)


def test_a_passphrase_for_a_key_without_one_is_named_as_such(tmp_path: Path) -> None:
    assert "give no passphrase" in refused(write(tmp_path / "key.pem", P256), PASSPHRASE_RULE, passphrase=b"needless")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    assert f"{path}: No such file or directory" in refused(path, READABLE_RULE)


def test_a_directory_is_no_key_file(tmp_path: Path) -> None:
    assert "Is a directory" in refused(tmp_path, READABLE_RULE)


NO_KEYS = {
    "nothing": b"",
    "prose": b"this is no key\n",
    "a certificate": CA.certificate.public_bytes(serialization.Encoding.PEM),
    "a public key": P256.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ),
    "a key in DER": P256.private_bytes(serialization.Encoding.DER, PKCS8, serialization.NoEncryption()),
    "a key cut off": P256.private_bytes(serialization.Encoding.PEM, PKCS8, serialization.NoEncryption())[:60],
    "far too much": b"x" * 70_000,
}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS)
@pytest.mark.parametrize("passphrase", [None, b"needless"])
def test_a_file_without_a_key_is_refused_in_one_line(data: bytes, passphrase: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    assert str(path) in refused(path, FORM_RULE, passphrase=passphrase)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_for_its_owner_and_group_is_read(mode: int, tmp_path: Path) -> None:
    assert FileSigner.load(write(tmp_path / "key.pem", P256, mode=mode), certificate=CERTIFICATE).algorithm


@pytest.mark.parametrize("mode", [0o602, 0o660, 0o620, 0o666, 0o777])
def test_a_file_writable_by_others_is_refused_with_the_remedy(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "key.pem", P256, mode=mode)
    line = refused(path, MODE_RULE)
    assert f"mode {mode:04o}" in line
    assert f"chmod 600 {path}" in line


def test_a_file_readable_by_all_is_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as lines:
        FileSigner.load(write(tmp_path / "key.pem", P256, mode=0o644), certificate=CERTIFICATE)
    assert [line["event"] for line in lines] == ["signer.key_readable_by_all"]


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_a_certificate_is_read_in_either_encoding(encoding: serialization.Encoding) -> None:
    assert load_certificate(CA.certificate.public_bytes(encoding)) == CA.certificate


@pytest.mark.parametrize("data", [b"", b"prose", b"-----BEGIN CERTIFICATE-----\n", CERTIFICATE[:-1]])
def test_what_is_no_certificate_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(SignerRefused) as caught:
        load_certificate(data)
    assert caught.value.rule == CERTIFICATE_RULE
    assert "\n" not in str(caught.value)


def test_a_signer_never_shows_its_key(tmp_path: Path) -> None:
    signer = FileSigner.load(write(tmp_path / "key.pem", P256), certificate=CERTIFICATE)
    assert repr(signer) == "FileSigner('CN=Test CA')"
    assert isinstance(signer.certificate, x509.Certificate)
