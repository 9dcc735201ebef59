# SPDX-License-Identifier: Apache-2.0
"""Issuers, identified by key, and every hash by which others name them.

An issuer is a key pair. Several CA certificates may share it (cross-signs, renewals), and one name may have several
keys (re-keying): so OCSP's two hashes are looked up together, and CT's one hash leads to the key.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from responder.status import der
from responder.status.model import Policy

# The hashes a CertID may use, RFC 6960 section 4.1.1 with RFC 9919 section 3.1.1: OID (as DER content octets) → name.
HASH_NAMES: Final = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


class IssuerError(ValueError):
    """A CA certificate that cannot stand for an issuer: unreadable, or no CA at all."""


@dataclass(frozen=True, slots=True)
class Hashes:
    """One value under the four hashes that CertIDs use."""

    sha1: bytes
    sha256: bytes
    sha384: bytes
    sha512: bytes

    @classmethod
    def of(cls, value: bytes) -> "Hashes":
        """Hash the value. SHA-1 is a name here, not a safeguard: clients of RFC 6960 send it."""
        return cls(
            hashlib.sha1(value, usedforsecurity=False).digest(),
            hashlib.sha256(value).digest(),
            hashlib.sha384(value).digest(),
            hashlib.sha512(value).digest(),
        )

    def items(self) -> tuple[tuple[str, bytes], ...]:
        """Return the pairs (hash name, digest)."""
        return ("sha1", self.sha1), ("sha256", self.sha256), ("sha384", self.sha384), ("sha512", self.sha512)


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """A CA certificate, and the parts of it that others hash."""

    der: bytes
    subject: bytes
    spki: bytes
    parsed: x509.Certificate = field(compare=False, repr=False)

    @classmethod
    def load(cls, data: bytes) -> "CaCertificate":
        """Read a CA certificate from DER or PEM. Raises IssuerError saying what is wrong with it."""
        try:
            parse = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
            parsed = parse(data)
            constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
            spki = parsed.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except x509.ExtensionNotFound:
            raise IssuerError("the certificate has no basicConstraints, so it is no CA (RFC 5280 4.2.1.9)") from None
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
            raise IssuerError(f"not a certificate that can be read: {exc}") from exc
        if not constraints.ca:
            raise IssuerError("the certificate's basicConstraints say that it is no CA (RFC 5280 4.2.1.9)")
        return cls(parsed.public_bytes(serialization.Encoding.DER), parsed.subject.public_bytes(), spki, parsed)

    @property
    def spki_sha256(self) -> bytes:
        """What CT hashes: the whole SubjectPublicKeyInfo (RFC 6962 section 3.2)."""
        return hashlib.sha256(self.spki).digest()

    @property
    def key_hashes(self) -> Hashes:
        """What OCSP hashes: the bit string's value without tag, length and unused bits (RFC 6960 section 4.1.1)."""
        return Hashes.of(key_bits(self.spki))

    @property
    def name_hashes(self) -> Hashes:
        """What OCSP hashes of the name: the DER of the subject (RFC 6960 section 4.1.1)."""
        return Hashes.of(self.subject)


def key_bits(spki: bytes) -> bytes:
    """Return the value of the subjectPublicKey BIT STRING, without its unused-bits octet. Raises DerError."""
    outer = der.whole(spki, der.SEQUENCE)
    algorithm = der.expect(spki, der.SEQUENCE, outer.value, outer.end)
    bits = der.expect(spki, der.BIT_STRING, algorithm.end, outer.end)
    return spki[bits.value + 1 : bits.end]


@dataclass(frozen=True)
class Issuer:
    """One key that issues certificates, every CA certificate known for it, and how its answers are made."""

    issuer_id: int
    name: str
    public: bool
    direct_signing: bool
    policy: Policy
    certificates: tuple[CaCertificate, ...]
    # DER of the CAs under which clients sign their requests, where the policy asks for signed ones.
    requester_cas: tuple[bytes, ...] = ()

    @property
    def spki(self) -> bytes:
        """The key as DER SubjectPublicKeyInfo. Every certificate of the issuer carries this one."""
        return self.certificates[0].spki

    @cached_property
    def spki_sha256(self) -> bytes:
        """The issuer_key_hash of CT (RFC 6962 section 3.2)."""
        return self.certificates[0].spki_sha256


class IssuerSet:
    """All issuers we serve, findable by each name the world has for them. Built anew when one changes."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self.all: tuple[Issuer, ...] = tuple(issuers)
        self._by_id = {issuer.issuer_id: issuer for issuer in self.all}
        self._by_spki = {issuer.spki_sha256: issuer for issuer in self.all}
        self._by_cert_id: dict[tuple[str, bytes, bytes], Issuer] = {}
        self._by_name: dict[bytes, list[tuple[Issuer, CaCertificate]]] = {}
        for issuer in self.all:
            for certificate in issuer.certificates:
                self._index(issuer, certificate)

    def _index(self, issuer: Issuer, certificate: CaCertificate) -> None:
        for (hash_name, name), (_, key) in zip(
            certificate.name_hashes.items(), certificate.key_hashes.items(), strict=True
        ):
            self._by_cert_id[hash_name, name, key] = issuer
        known = self._by_name.setdefault(certificate.subject, [])
        if all(issuer is not other for other, _ in known):
            known.append((issuer, certificate))

    def by_id(self, issuer_id: int) -> Issuer | None:
        """Return the issuer with this row number."""
        return self._by_id.get(issuer_id)

    def by_cert_id(self, hash_name: str, name_hash: bytes, key_hash: bytes) -> Issuer | None:
        """Return the issuer that both hashes of a CertID name together (RFC 6960 section 4.1.1), if we serve it."""
        return self._by_cert_id.get((hash_name, name_hash, key_hash))

    def by_key_hash(self, spki_sha256: bytes) -> Issuer | None:
        """Return the issuer that CT's issuer_key_hash names (RFC 6962 section 3.2), if it is ours."""
        return self._by_spki.get(spki_sha256)

    def by_name(self, name: bytes) -> Sequence[tuple[Issuer, CaCertificate]]:
        """Return every issuer whose subject is exactly this DER Name, each with one certificate that says so."""
        return self._by_name.get(name, ())

    @property
    def key_hashes(self) -> frozenset[bytes]:
        """Every issuer_key_hash that is ours."""
        return frozenset(self._by_spki)

    @property
    def names(self) -> frozenset[bytes]:
        """Every DER Name that is ours."""
        return frozenset(self._by_name)
