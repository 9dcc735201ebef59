# SPDX-License-Identifier: Apache-2.0
"""A throwaway CA: authorities, OCSP responder certificates, precertificates and the certificates that follow them.

Knows the profiles of RFC 5280, RFC 6962 §3 and BR 7.1.2, and how to break them one rule at a time. It imports nothing
of the product, so that it can bear witness against it. Called by the demonstration and by tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from demo import der

Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

PRECERTIFICATE_SIGNING = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.4")  # RFC 6962 §3.1
CA_USAGES = frozenset({"keyCertSign", "cRLSign"})
# Validity of a subscriber's certificate issued from 2026-03-15 on is at most 200 days (BR 6.3.2).
SUBSCRIBER_LIFE = timedelta(days=90)

_CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
_CURVE_DIGESTS: dict[str, Digest] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


def make_key(kind: str = "p256") -> PrivateKey:
    """Make a key: p256, p384, p521, rsa2048, rsa3072, rsa4096 or ed25519; raises ValueError for any other word."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    if kind in ("rsa2048", "rsa3072", "rsa4096"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("rsa")))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"no such kind of key: {kind}")


def digest_for(key: PrivateKey) -> Digest | None:
    """Return the digest BR 7.1.3.2 ties to the key: by curve for ECDSA, SHA-256 for RSA, none for Ed25519."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVE_DIGESTS[key.curve.name]
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign `data` as an X.509 signature of this key would be made."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    digest = digest_for(key)
    assert digest is not None  # noqa: S101 - only Ed25519 goes without, and it left above
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest)
    return key.sign(data, ec.ECDSA(digest))


def spki_sha256(key: x509.Certificate | PrivateKey) -> bytes:
    """SHA-256 of the DER SubjectPublicKeyInfo: the issuer_key_hash of RFC 6962 §3.2, not the one of OCSP."""
    spki, form = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.DER
    return sha256(key.public_key().public_bytes(form, spki)).digest()


def tbs_without_poison(precert: x509.Certificate) -> bytes:
    """Return the precertificate's TBSCertificate without the poison, all else as it was (RFC 6962 §3.2).

    Raises ValueError when there is no poison to take out.
    """
    return der.Tbs.parse(precert.tbs_certificate_bytes).swap(der.POISON, None).encode()


def leaf_tbs(precert: x509.Certificate, *, signing_certificate: x509.Certificate | None = None) -> bytes:
    """Return the TBSCertificate a log puts into the leaf (RFC 6962 §3.2).

    With a Precertificate Signing Certificate, issuer and authority key identifier are rewritten to those of the
    final issuer, both taken from the signing certificate, where they say who issued it.
    """
    return _final_parts(precert, signing_certificate).swap(der.POISON, None).encode()


def _final_parts(precert: x509.Certificate, signing_certificate: x509.Certificate | None) -> der.Tbs:
    """Return the parts as the final issuer would sign them, with the poison still marking its place."""
    tbs = der.Tbs.parse(precert.tbs_certificate_bytes)
    if signing_certificate is None:
        return tbs
    tbs = replace(tbs, issuer=signing_certificate.issuer.public_bytes())
    if tbs.find(der.AUTHORITY_KEY_IDENTIFIER) is None:
        return tbs
    signer = der.Tbs.parse(signing_certificate.tbs_certificate_bytes)
    return tbs.swap(der.AUTHORITY_KEY_IDENTIFIER, signer.find(der.AUTHORITY_KEY_IDENTIFIER))


def is_precertificate_signing(certificate: x509.Certificate) -> bool:
    """Say whether the certificate carries the extended key usage of RFC 6962 §3.1."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return PRECERTIFICATE_SIGNING in usages


def key_usage(names: Iterable[str]) -> x509.KeyUsage:
    """Build a KeyUsage from the bit names of RFC 5280 §4.2.1.3; the key agreement bits are not for us."""
    wanted = frozenset(names)
    return x509.KeyUsage(
        digital_signature="digitalSignature" in wanted,
        content_commitment="nonRepudiation" in wanted,
        key_encipherment="keyEncipherment" in wanted,
        data_encipherment="dataEncipherment" in wanted,
        key_agreement="keyAgreement" in wanted,
        key_cert_sign="keyCertSign" in wanted,
        crl_sign="cRLSign" in wanted,
        encipher_only=False,
        decipher_only=False,
    )


def common(name: str) -> x509.Name:
    """Make a Name of one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate with its key, and the authority above it (None for a root)."""

    certificate: x509.Certificate
    key: PrivateKey
    issuer: Authority | None = None

    @classmethod
    def create(
        cls,
        common_name: str,
        *,
        key: PrivateKey | str = "p256",
        issuer: Authority | None = None,
        serial: int | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        usages: Iterable[str] = CA_USAGES,
        extended: Sequence[ObjectIdentifier] = (),
    ) -> Authority:
        """Make a self-signed root, or an intermediate under `issuer`.

        Give the key of another authority, or its name, to make cross-signs: one key under two names, one name with
        two keys, one name and key under two issuers. Valid from yesterday for ten years unless told otherwise.
        """
        own = make_key(key) if isinstance(key, str) else key
        start = _now() - timedelta(days=1) if not_before is None else not_before
        builder = (
            x509.CertificateBuilder()
            .subject_name(common(common_name))
            .issuer_name(common(common_name) if issuer is None else issuer.certificate.subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number() if serial is None else serial)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650) if not_after is None else not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_usage(usages), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        )
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if issuer is not None:
            builder = builder.add_extension(issuer.key_identifier, critical=False)
        signer = own if issuer is None else issuer.key
        return cls(builder.sign(signer, digest_for(signer)), own, issuer)

    @property
    def spki_sha256(self) -> bytes:
        """The issuer_key_hash Certificate Transparency knows this CA by."""
        return spki_sha256(self.certificate)

    @property
    def chain(self) -> list[x509.Certificate]:
        """The certificates from this authority up to its root."""
        return [self.certificate] + ([] if self.issuer is None else self.issuer.chain)

    @property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """What certificates issued here say about this CA's key: the key identifier alone."""
        subject = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)

    def pem(self) -> bytes:
        """The CA certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def precertificate_signing_ca(self, common_name: str = "Precertificate signing") -> Authority:
        """Make the CA of RFC 6962 §3.1 that signs precertificates in this one's name.

        Its key is of this CA's kind, because RFC 6962 §3.2 rewrites issuer and key identifier but not the signature
        algorithm inside the TBSCertificate, which therefore must be the same for both.
        """
        key = _like(self.key)
        return Authority.create(common_name, key=key, issuer=self, extended=[PRECERTIFICATE_SIGNING])

    def issue_responder(
        self,
        *,
        key: PrivateKey | None = None,
        days: float = 30,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        no_check: bool = True,
        extended: Sequence[ObjectIdentifier] | None = (ExtendedKeyUsageOID.OCSP_SIGNING,),
        usages: Iterable[str] | None = ("digitalSignature",),
        ca: bool | None = None,
        key_identifiers: bool = True,
        issuer_name: x509.Name | None = None,
        signed_by: PrivateKey | None = None,
    ) -> tuple[x509.Certificate, PrivateKey]:
        """Issue a delegated OCSP responder certificate (BR 7.1.2.8), or one that breaks a rule on purpose.

        The defaults are right. `no_check=False` leaves out ocsp-nocheck; `extended` and `usages` replace those
        extensions, or leave them out when None or empty; `ca` adds basicConstraints; `key_identifiers=False` leaves
        out both; `issuer_name` and `signed_by` make it somebody else's. `days` counts from `not_before`, an hour ago.
        """
        own = make_key() if key is None else key
        start = _now() - timedelta(hours=1) if not_before is None else not_before
        builder = (
            x509.CertificateBuilder()
            .subject_name(common("OCSP responder"))
            .issuer_name(self.certificate.subject if issuer_name is None else issuer_name)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=days) if not_after is None else not_after)
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if usages is not None:
            builder = builder.add_extension(key_usage(usages), critical=True)
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        if no_check:
            builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
        if key_identifiers:
            builder = builder.add_extension(self.key_identifier, critical=False)
            subject = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
            builder = builder.add_extension(subject, critical=False)
        signer = self.key if signed_by is None else signed_by
        return builder.sign(signer, digest_for(signer)), own

    def precertificate(
        self,
        name: str,
        *,
        serial: int | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        key: PrivateKey | None = None,
        ocsp_url: str | None = None,
        signer: Authority | None = None,
    ) -> x509.Certificate:
        """Sign a precertificate (RFC 6962 §3.1) for a DNS name; `signer` may be a precertificate signing CA of ours.

        `serial` may be anything RFC 5280 §4.1.2.2 allows: positive, at most 20 octets. From here on it is assigned,
        whatever becomes of the certificate (BR 4.9.9).
        """
        author = self if signer is None else signer
        builder = self._subscriber(
            name, serial=serial, not_before=not_before, not_after=not_after, key=key, ocsp_url=ocsp_url, author=author
        )
        poisoned = builder.add_extension(x509.PrecertPoison(), critical=True)
        return poisoned.sign(author.key, digest_for(author.key))

    def certificate_from(
        self, precert: x509.Certificate, scts: Sequence[bytes] = (), *, signer: Authority | None = None
    ) -> x509.Certificate:
        """Issue the certificate a precertificate announced: same contents, the SCT list where the poison was.

        `scts` are encoded SignedCertificateTimestamps (RFC 6962 §3.2); with none, the poison is only taken out.
        """
        tbs = _final_parts(precert, None if signer is None else signer.certificate)
        return self._sign(tbs.swap(der.POISON, sct_list_extension(scts) if scts else None))

    def issue(
        self,
        name: str,
        *,
        serial: int | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        key: PrivateKey | None = None,
        ocsp_url: str | None = None,
    ) -> x509.Certificate:
        """Issue a certificate that no precertificate announced."""
        builder = self._subscriber(
            name, serial=serial, not_before=not_before, not_after=not_after, key=key, ocsp_url=ocsp_url, author=self
        )
        return builder.sign(self.key, digest_for(self.key))

    def _subscriber(
        self,
        name: str,
        *,
        serial: int | None,
        not_before: datetime | None,
        not_after: datetime | None,
        key: PrivateKey | None,
        ocsp_url: str | None,
        author: Authority,
    ) -> x509.CertificateBuilder:
        """Lay out a subscriber's certificate (BR 7.1.2.7) as `author` will sign it."""
        own = make_key() if key is None else key
        start = _now() - timedelta(minutes=5) if not_before is None else not_before
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(author.certificate.subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number() if serial is None else serial)
            .not_valid_before(start)
            .not_valid_after(start + SUBSCRIBER_LIFE if not_after is None else not_after)
            .add_extension(key_usage(["digitalSignature"]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(author.key_identifier, critical=False)
            # The subject is empty, so the alternative name must be critical (RFC 5280 §4.2.1.6).
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        )
        if ocsp_url is None:
            return builder
        pointer = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))
        return builder.add_extension(x509.AuthorityInformationAccess([pointer]), critical=False)

    def _sign(self, tbs: der.Tbs) -> x509.Certificate:
        """Sign a TBSCertificate put together by hand. Its algorithm must already be the one of our key."""
        body = tbs.encode()
        signature = der.wrap(der.BIT_STRING, b"\x00" + sign(self.key, body))
        return x509.load_der_x509_certificate(der.wrap(der.SEQUENCE, body + tbs.algorithm + signature))


def sct_list_extension(scts: Sequence[bytes]) -> bytes:
    """Encode the SignedCertificateTimestampList extension (RFC 6962 §3.3).

    opaque SerializedSCT<1..2^16-1>; struct { SerializedSCT sct_list <1..2^16-1>; }, inside an OCTET STRING.
    """
    packed = b"".join(len(sct).to_bytes(2, "big") + sct for sct in scts)
    value = der.wrap(der.OCTET_STRING, len(packed).to_bytes(2, "big") + packed)
    return der.extension(der.SCT_LIST, value)


def _like(key: PrivateKey) -> PrivateKey:
    """Make a new key of the same kind."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return ec.generate_private_key(key.curve)
    return make_key(f"rsa{key.key_size}") if isinstance(key, rsa.RSAPrivateKey) else make_key("ed25519")


def write_certificates(path: Path, *certificates: x509.Certificate) -> Path:
    """Write certificates: one in DER when the name ends in .der, any number in PEM otherwise."""
    form = serialization.Encoding.DER if path.suffix == ".der" else serialization.Encoding.PEM
    path.write_bytes(b"".join(each.public_bytes(form) for each in certificates))
    return path


def write_key(path: Path, key: PrivateKey, *, passphrase: bytes | None = None) -> Path:
    """Write a key as PKCS#8, readable by its owner only; DER when the name ends in .der, PEM otherwise."""
    form = serialization.Encoding.DER if path.suffix == ".der" else serialization.Encoding.PEM
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        lock = serialization.BestAvailableEncryption(passphrase)
    encoded = key.private_bytes(form, serialization.PrivateFormat.PKCS8, lock)
    # Made anew with its mode, so that at no moment anybody else could have opened it.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(encoded)
    return path
