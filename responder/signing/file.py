# SPDX-License-Identifier: Apache-2.0
"""A signer whose key lies in a PEM file: reading it, refusing it in one clear line, signing with it in this process.

Knows nothing of issuers or of what is signed. Called at start-up, and by ocsp-admin when a signer is added.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from responder.errors import SignerRefused
from responder.runtime.logs import get_logger
from responder.signing import PublicKey, algorithm_for, usable_key

_log = get_logger("signing")

READABLE_RULE: Final = "key file readable"
MODE_RULE: Final = "key file writable by its owner only"
FORM_RULE: Final = "key file in PEM: PKCS#8, SEC 1 or PKCS#1"
PASSPHRASE_RULE: Final = "key file and passphrase"  # noqa: S105 - the name of a rule
CERTIFICATE_RULE: Final = "signer certificate in DER or PEM"

# Whoever may write the file chooses who signs, which is refused. Whoever may read it can sign too, which is told at
# every start and not refused: secrets mounted into containers are commonly readable by all who are in there.
_FORBIDDEN_BITS: Final = stat.S_IWOTH | stat.S_IWGRP
_UNWISE_BITS: Final = stat.S_IROTH
# A 4096-bit RSA key takes about 3,300 octets; a file beyond this is something else.
_MOST_OCTETS: Final = 65_536

# Made once: with a fast key, making them for each signature would be noticed.
_PKCS1: Final = padding.PKCS1v15()
_SHA256: Final = hashes.SHA256()
_BY_CURVE: Final = {
    "secp256r1": ec.ECDSA(hashes.SHA256()),
    "secp384r1": ec.ECDSA(hashes.SHA384()),
    "secp521r1": ec.ECDSA(hashes.SHA512()),
}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class FileKey:
    """A key held in memory, without a certificate yet."""

    __slots__ = ("_sign", "algorithm", "public_key")

    def __init__(self, key: PrivateKeyTypes) -> None:
        """Take a key. Raises SignerRefused for a kind that is not used here."""
        self.public_key: PublicKey = usable_key(key.public_key())
        # usable_key() has looked at the public half, and the private half is of the same kind.
        assert isinstance(key, PrivateKey)  # noqa: S101
        self._sign = _signing(key)
        self.algorithm = algorithm_for(self.public_key)

    async def sign(self, tbs: bytes) -> bytes:
        """Return the signature: PKCS #1 v1.5 with SHA-256, ECDSA with the digest of the curve, or Ed25519."""
        return self._sign(tbs)


class FileSigner(FileKey):
    """Signs with a key held in memory. A signature takes microseconds to a few milliseconds and is made right here."""

    __slots__ = ("certificate", "verify_always")

    def __init__(self, key: PrivateKeyTypes, certificate: x509.Certificate) -> None:
        """Take a key and its certificate. Raises SignerRefused for a kind of key that is not used here."""
        super().__init__(key)
        self.certificate = certificate
        # Verifying costs little with RSA and more than signing with ECDSA; a slip in RSA signing gives the key away.
        self.verify_always = isinstance(key, rsa.RSAPrivateKey)

    def __repr__(self) -> str:
        return f"FileSigner({self.certificate.subject.rfc4514_string()!r})"

    @classmethod
    def load(cls, key_file: Path, *, certificate: bytes, passphrase: bytes | None = None) -> Self:
        """Read the key file (PEM) and the certificate (DER or PEM octets).

        Raises SignerRefused with one line for the operator: not readable, open to others, not a key, wrong or missing
        passphrase, a kind of key not used here. Whether key and certificate belong together is admission.py's question.
        """
        return cls(read_key(key_file, passphrase=passphrase), load_certificate(certificate))


def _signing(key: PrivateKey) -> Callable[[bytes], bytes]:
    """Return what signs with this key: to ask for its kind at every signature takes as long as a tenth of one."""
    match key:
        case rsa.RSAPrivateKey():
            return lambda tbs: key.sign(tbs, _PKCS1, _SHA256)
        case ec.EllipticCurvePrivateKey():
            algorithm = _BY_CURVE[key.curve.name]
            return lambda tbs: key.sign(tbs, algorithm)
        case ed25519.Ed25519PrivateKey():
            return key.sign


def read_key(path: Path, *, passphrase: bytes | None) -> PrivateKeyTypes:
    """Read a key file (PEM). Raises SignerRefused."""
    return _private_key(path, _read(path), passphrase)


def load_certificate(data: bytes) -> x509.Certificate:
    """Read a signer's certificate from DER or PEM. Raises SignerRefused."""
    try:
        parse = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
        return parse(data)
    except ValueError as exc:
        raise SignerRefused(CERTIFICATE_RULE, f"the signer's certificate cannot be read: {_one_line(exc)}") from exc


def _read(path: Path) -> bytes:
    """Read the key file, asking the open file for its mode, so that nobody can swap it in between."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & _FORBIDDEN_BITS:
                mode = stat.S_IMODE(found.st_mode)
                raise SignerRefused(MODE_RULE, f"{path} has mode {mode:04o}; run: chmod 600 {path} (or 640)")
            if found.st_mode & _UNWISE_BITS:
                _log.warning("signer.key_readable_by_all", file=str(path), remedy=f"chmod 600 {path} (or 640)")
            data = file.read(_MOST_OCTETS + 1)
    except OSError as exc:
        raise SignerRefused(READABLE_RULE, f"{path}: {exc.strerror}") from exc
    if len(data) > _MOST_OCTETS:
        raise SignerRefused(FORM_RULE, f"{path} has more than {_MOST_OCTETS} octets and is no key")
    return data


def _private_key(path: Path, data: bytes, passphrase: bytes | None) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(data, passphrase)
    except TypeError as exc:
        # What the library raises for none where one is needed, and for one where none is.
        said = "is encrypted: give its passphrase" if passphrase is None else "is not encrypted: give no passphrase"
        raise SignerRefused(PASSPHRASE_RULE, f"{path} {said}") from exc
    except UnsupportedAlgorithm as exc:
        raise SignerRefused(FORM_RULE, f"{path} holds a key of a kind unknown here: {_one_line(exc)}") from exc
    except ValueError as exc:
        if passphrase is not None and b"ENCRYPTED" in data:
            raise SignerRefused(PASSPHRASE_RULE, f"{path} does not open with this passphrase") from exc
        raise SignerRefused(FORM_RULE, f"{path} holds no private key in PEM: {_one_line(exc)}") from exc


def _one_line(exc: Exception) -> str:
    """Return the beginning of what a library says, without line breaks."""
    return " ".join(str(exc).split())[:160]
