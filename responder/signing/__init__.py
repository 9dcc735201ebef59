# SPDX-License-Identifier: Apache-2.0
"""Who may sign for which issuer, and until when: what a signer is, and which algorithm goes with which key.

Knows keys and certificates; no policy of answers, no database. service.py signs through this; ocsp-admin admits by it.
"""

from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from responder.errors import SignerRefused
from responder.status import der

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

KEY_RULE: Final = "BR 6.1.5, kind and size of key"
LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 4096

# The octets of BR 7.1.3.2. SHA-256 with RSA is what every client has to take (RFC 6960 section 4.3).
SHA256_WITH_RSA: Final = bytes.fromhex("300d06092a864886f70d01010b0500")
ED25519: Final = bytes.fromhex("300506032b6570")
ECDSA_BY_CURVE: Final = {
    "secp256r1": bytes.fromhex("300a06082a8648ce3d040302"),  # with SHA-256
    "secp384r1": bytes.fromhex("300a06082a8648ce3d040303"),  # with SHA-384
    "secp521r1": bytes.fromhex("300a06082a8648ce3d040304"),  # with SHA-512
}


class Signer(Protocol):
    """A private key that signs responses, wherever it lies, with the certificate that goes with it."""

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that responses embed, or the CA's own."""

    @property
    def algorithm(self) -> bytes:
        """The signature's AlgorithmIdentifier, DER."""

    @property
    def public_key(self) -> PublicKey:
        """The public half of the key that signs: what the key itself says, not what the certificate says."""

    @property
    def verify_always(self) -> bool:
        """Whether each single signature is verified before it is served, and not only some."""

    async def sign(self, tbs: bytes) -> bytes:
        """Return the signature over these octets as the BIT STRING is to hold it. Raises TryLater when it cannot."""


def usable_key(key: PublicKeyTypes) -> PublicKey:
    """Return the key if responses may be signed with its kind: RSA of 2048 to 4096 bits, P-256, P-384, P-521, Ed25519.

    Raises SignerRefused otherwise.
    """
    match key:
        case rsa.RSAPublicKey() if LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS:
            return key
        case rsa.RSAPublicKey():
            raise SignerRefused(
                KEY_RULE, f"an RSA key of {key.key_size} bits; {LEAST_RSA_BITS} to {MOST_RSA_BITS} are taken"
            )
        case ec.EllipticCurvePublicKey() if key.curve.name in ECDSA_BY_CURVE:
            return key
        case ec.EllipticCurvePublicKey():
            raise SignerRefused(KEY_RULE, f"a key on the curve {key.curve.name}; P-256, P-384 and P-521 are taken")
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise SignerRefused(KEY_RULE, f"a key of the kind {type(key).__name__}; RSA, ECDSA and Ed25519 are taken")


def algorithm_for(key: PublicKey) -> bytes:
    """Return the AlgorithmIdentifier that responses signed with this key carry (BR 7.1.3.2, RFC 8410 section 3)."""
    match key:
        case rsa.RSAPublicKey():
            return SHA256_WITH_RSA
        case ec.EllipticCurvePublicKey():
            return ECDSA_BY_CURVE[key.curve.name]
        case ed25519.Ed25519PublicKey():
            return ED25519


def spki(key: PublicKeyTypes) -> bytes:
    """Return the key as DER SubjectPublicKeyInfo, which is how keys are compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_algorithm(spki_der: bytes) -> bytes:
    """Return the AlgorithmIdentifier inside a SubjectPublicKeyInfo, DER. Raises DerError for anything else."""
    outer = der.whole(spki_der, der.SEQUENCE)
    algorithm = der.expect(spki_der, der.SEQUENCE, outer.value, outer.end)
    return spki_der[algorithm.start : algorithm.end]
