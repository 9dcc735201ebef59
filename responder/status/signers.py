# SPDX-License-Identifier: Apache-2.0
"""A signer as the table holds it: its certificate, the kind of its key, where the key lies, and whether it may sign.

Knows no key and no rule of admission. issuer_store.py reads and writes these; signing/ opens and admits them.
"""

import enum
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


class KeyKind(enum.StrEnum):
    """What an issuer may have one active signer of."""

    RSA = "rsa"  # 2048 to 4096 bits
    ECDSA = "ecdsa"  # P-256, P-384 and P-521
    ED25519 = "ed25519"  # for issuers that the Baseline Requirements do not bind


class SignerState(enum.StrEnum):
    """What a signer may do. It goes from the first to the last; the one way back is from replaced to active."""

    STAGED = "staged"  # every responder tries it, and none signs with it
    ACTIVE = "active"  # signs; one of each kind for an issuer
    REPLACED = "replaced"  # another took over: signs only in a responder that has to refuse that one
    RETIRED = "retired"  # never signs again


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerRecord:
    """A row of ocsp.signer: the certificate to embed, and where its private key lies."""

    signer_id: int
    issuer_id: int
    certificate: bytes
    key_location: str
    kind: KeyKind
    state: SignerState


def key_kind(certificate: bytes) -> KeyKind:
    """Return the kind of the key in a certificate (DER). Raises ValueError for one that signs no responses here."""
    match x509.load_der_x509_certificate(certificate).public_key():
        case rsa.RSAPublicKey():
            return KeyKind.RSA
        case ec.EllipticCurvePublicKey():
            return KeyKind.ECDSA
        case ed25519.Ed25519PublicKey():
            return KeyKind.ED25519
        case other:
            raise ValueError(f"a key of the kind {type(other).__name__} signs no responses here")
