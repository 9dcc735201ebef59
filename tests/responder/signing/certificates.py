# SPDX-License-Identifier: Apache-2.0
"""CAs and responder certificates for tests, right by default and wrong in exactly the way a test asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from responder.ocsp.policy import DEFAULT_POLICY
from responder.status.issuers import CaCertificate, Issuer
from responder.status.model import Policy

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
# An extension and whether it is critical; None takes the usual one away.
Extensions = Mapping[str, tuple[x509.ExtensionType, bool] | None]


def key_usage(*bits: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in bits for name in names})


def digest_of(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Ca:
    """A CA with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    def issuer(
        self,
        *,
        public: bool = True,
        direct: bool = False,
        policy: Policy = DEFAULT_POLICY,
        others: Sequence[x509.Certificate] = (),
    ) -> Issuer:
        return Issuer(
            issuer_id=7,
            name="Test CA",
            public=public,
            direct_signing=direct,
            policy=policy,
            certificates=tuple(CaCertificate.load(der_of(each)) for each in (self.certificate, *others)),
        )

    def delegate(
        self,
        key: PrivateKey,
        changes: Extensions | None = None,
        *,
        not_before: datetime = NOW - DAY,
        not_after: datetime = NOW + 30 * DAY,
        signed_by: PrivateKey | None = None,
    ) -> x509.Certificate:
        """Issue a responder certificate after BR 7.1.2.8, with the changes asked for."""
        extensions: dict[str, tuple[x509.ExtensionType, bool] | None] = {
            "authority_key": (_authority_key(self.certificate), False),
            "usages": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),
            "no_check": (x509.OCSPNoCheck(), False),
            "usage": (key_usage("digital_signature"), True),
            **({} if changes is None else changes),
        }
        builder = (
            x509.CertificateBuilder()
            .subject_name(name("Test OCSP responder"))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(0x51)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        for each in extensions.values():
            if each is not None:
                builder = builder.add_extension(*each)
        signer = self.key if signed_by is None else signed_by
        return builder.sign(signer, digest_of(signer))


def _authority_key(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def make_ca(
    key: PrivateKey,
    *,
    common_name: str = "Test CA",
    usage: x509.KeyUsage | None = None,
    serial: int = 1,
    not_after: datetime = NOW + 3650 * DAY,
) -> Ca:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(common_name))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOW - 365 * DAY)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign") if usage is None else usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Ca(builder.sign(key, digest_of(key)), key)
