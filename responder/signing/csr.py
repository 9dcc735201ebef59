# SPDX-License-Identifier: Apache-2.0
"""A new key's request for a delegate's certificate: PKCS#10 (RFC 2986) with what BR 7.1.2.8 wants in the certificate.

Knows the encoding and how a key file is made; whose key it is, and where else keys lie, its callers know.
"""

import os
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.errors import SignerRefused
from responder.signing import PublicKey, spki
from responder.status import der

NEW_KEY_RULE: Final = "a new key"

# The kinds of keys that can be made: P-256 unless somebody has a reason.
CURVES: Final[dict[str, ec.EllipticCurve]] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
RSA_BITS: Final = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
# Named curves as ECParameters (RFC 5480 section 2.1.1), which is how PKCS#11 takes them.
CURVE_OIDS: Final = {"p256": bytes.fromhex("06082a8648ce3d030107"), "p384": bytes.fromhex("06052b81040022")}

_EXPLICIT_0: Final = 0xA0
_NO_UNUSED_BITS: Final = b"\x00"
_VERSION: Final = bytes.fromhex("020100")
_EXTENSION_REQUEST: Final = bytes.fromhex("06092a864886f70d01090e")
# What the certificate should have (BR 7.1.2.8.2); the CA decides. keyUsage, critical, digitalSignature alone;
# extKeyUsage OCSPSigning; id-pkix-ocsp-nocheck with its NULL (RFC 6960 section 4.2.2.2.1).
_EXTENSIONS: Final = bytes.fromhex(
    "300e0603551d0f0101ff040403020780 30130603551d25040c300a06082b06010505070309 300f06092b060105050730010504020500"
)


class Key(Protocol):
    """A private key without a certificate yet, in a file or on a token."""

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, DER."""

    async def sign(self, tbs: bytes) -> bytes:
        """Return the signature over these octets. Raises TryLater when it cannot."""


async def certification_request(key: Key, *, subject: x509.Name) -> bytes:
    """Return the PKCS#10 request in PEM.

    CertificationRequest ::= SEQUENCE { certificationRequestInfo, signatureAlgorithm, signature BIT STRING }
    CertificationRequestInfo ::= SEQUENCE { version INTEGER { v1(0) }, subject Name, subjectPKInfo,
                                            attributes [0] IMPLICIT SET OF Attribute }
    """
    wanted = der.wrap(der.SEQUENCE, _EXTENSION_REQUEST, der.wrap(der.SET, der.wrap(der.SEQUENCE, _EXTENSIONS)))
    public: PublicKeyTypes = key.public_key
    info = der.wrap(der.SEQUENCE, _VERSION, subject.public_bytes(), spki(public), der.wrap(_EXPLICIT_0, wanted))
    bits = der.wrap(der.BIT_STRING, _NO_UNUSED_BITS, await key.sign(info))
    request = x509.load_der_x509_csr(der.wrap(der.SEQUENCE, info, key.algorithm, bits))
    if not request.is_signature_valid:
        raise SignerRefused(NEW_KEY_RULE, "what the new key signs does not verify under its public key")
    return request.public_bytes(serialization.Encoding.PEM)


def make_key_file(path: Path, kind: str, *, passphrase: bytes | None) -> None:
    """Make a key of this kind and write it (PKCS#8, PEM) for its owner alone, locked where there is a passphrase.

    Never over a file that is there. Raises SignerRefused.
    """
    key = (
        ec.generate_private_key(CURVES[kind])
        if kind in CURVES
        else rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS[kind])
    )
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        lock = serialization.BestAvailableEncryption(passphrase)
    octets = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise SignerRefused(NEW_KEY_RULE, f"{path}: {exc.strerror}") from exc
