# SPDX-License-Identifier: Apache-2.0
"""Signed requests where they are demanded: who may ask, and that nothing less than a proof is taken for one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import pytest
from asn1crypto import algos as asn1_algos
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import MalformedRequest, OcspError, Refusal, SigRequired, Unauthorized
from responder.ocsp.request import parse_request
from responder.ocsp.requester import MOST_CERTIFICATES, check_requester
from tests.responder.ocsp.test_request import PLAIN
from tests.responder.signing.certificates import DAY, NOW, Ca, PrivateKey, der_of, digest_of, key_usage, make_ca, name

CA: Final = make_ca(ec.generate_private_key(ec.SECP256R1()), common_name="Clients")
OTHER: Final = make_ca(ec.generate_private_key(ec.SECP256R1()), common_name="Clients")
KEYS: Final[dict[str, PrivateKey]] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
ALTERNATIVE: Final = x509.SubjectAlternativeName([x509.DNSName("client.example"), x509.RFC822Name("a@client.example")])


def client(
    key: PrivateKey,
    *,
    ca: Ca = CA,
    subject: str = "A client",
    not_after: datetime = NOW + 30 * DAY,
    usage: x509.KeyUsage | None = None,
    is_ca: bool = False,
    extensions: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate for a client, or for a CA between it and the one that is trusted."""
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(key_usage("key_cert_sign") if is_ca else usage or key_usage("digital_signature"), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ca.key, digest_of(ca.key))


@dataclass(frozen=True)
class Asking:
    """A signed request to be, right by default."""

    key: PrivateKey
    certificates: tuple[x509.Certificate, ...]
    name: asn1_x509.GeneralName | None
    algorithm: str = ""
    change: Callable[[asn1_ocsp.OCSPRequest], None] | None = None

    @classmethod
    def by(cls, kind: str = "p256", **more: object) -> "Asking":
        certificate = client(KEYS[kind], **more)  # type: ignore[arg-type] # what the test asks for
        return cls(KEYS[kind], (certificate,), directory_name(certificate))

    def encoded(self) -> bytes:
        request = asn1_ocsp.OCSPRequest.load(PLAIN).copy()
        tbs = request["tbs_request"]
        if self.name is not None:
            tbs["requestor_name"] = self.name
        algorithm, signature = self._sign(tbs.dump(force=True))
        request["optional_signature"] = {"signature_algorithm": {"algorithm": algorithm}, "signature": signature}
        if len(self.certificates) > 0:
            request["optional_signature"]["certs"] = [
                asn1_x509.Certificate.load(der_of(each)) for each in self.certificates
            ]
        if self.change is not None:
            self.change(request)
        made: bytes = request.dump(force=True)
        parse_request(made)
        return made

    def _sign(self, tbs: bytes) -> tuple[str, bytes]:
        match self.key:
            case rsa.RSAPrivateKey():
                digest = hashes.SHA1() if self.algorithm == "sha1_rsa" else hashes.SHA256()  # noqa: S303 - refused
                return self.algorithm or "sha256_rsa", self.key.sign(tbs, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePrivateKey():
                return self.algorithm or "sha256_ecdsa", self.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
            case ed25519.Ed25519PrivateKey():
                return self.algorithm or "ed25519", self.key.sign(tbs)


def directory_name(certificate: x509.Certificate) -> asn1_x509.GeneralName:
    subject = asn1_x509.Name.load(certificate.subject.public_bytes())
    return asn1_x509.GeneralName("directory_name", subject)


def check(request: bytes, *cas: Ca, now: datetime = NOW) -> x509.Certificate:
    return check_requester(request, cas=[der_of(each.certificate) for each in cas], now=now)


def refused(request: bytes, *cas: Ca, now: datetime = NOW) -> OcspError:
    with pytest.raises(OcspError) as raised:
        check(request, *cas, now=now)
    return raised.value


@pytest.mark.parametrize("kind", KEYS)
def test_a_client_of_the_ca_may_ask(kind: str) -> None:
    asking = Asking.by(kind)
    assert check(asking.encoded(), CA) == asking.certificates[0]
    assert check(asking.encoded(), OTHER, CA) == asking.certificates[0]


def test_a_client_may_have_a_name_of_another_kind() -> None:
    asking = Asking.by(extensions=[ALTERNATIVE])
    for general in (
        asn1_x509.GeneralName("dns_name", "client.example"),
        asn1_x509.GeneralName("rfc822_name", "a@client.example"),
    ):
        assert check(replace(asking, name=general).encoded(), CA) == asking.certificates[0]


def test_a_client_below_an_intermediate_ca_may_ask() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    between = Ca(client(key, subject="Between", is_ca=True), key)
    certificate = client(KEYS["p256"], ca=between)
    asking = Asking(KEYS["p256"], (certificate, between.certificate), directory_name(certificate))
    assert check(asking.encoded(), CA) == certificate
    assert isinstance(refused(replace(asking, certificates=(certificate,)).encoded(), CA), Unauthorized)


def test_an_unsigned_request_is_answered_that_a_signature_is_required() -> None:
    error = refused(PLAIN, CA)
    assert isinstance(error, SigRequired)
    assert error.reason is Refusal.UNSIGNED


def another_certificate() -> Asking:
    good = Asking.by()
    other = client(KEYS["p384"])
    return replace(good, certificates=(other, *good.certificates), name=directory_name(other))


def change_the_request(request: asn1_ocsp.OCSPRequest) -> None:
    request["tbs_request"]["request_list"][0]["req_cert"]["serial_number"] = 6


def change_the_algorithm(request: asn1_ocsp.OCSPRequest) -> None:
    request["optional_signature"]["signature_algorithm"] = asn1_algos.SignedDigestAlgorithm(
        {"algorithm": "sha384_ecdsa"}
    )


UNPROVEN: Final[dict[str, Callable[[], Asking]]] = {
    "no certificate": lambda: replace(Asking.by(), certificates=()),
    "an empty list of certificates": lambda: replace(
        Asking.by(), change=lambda request: request["optional_signature"].__setitem__("certs", [])
    ),
    "signed by another key than the first certificate's": another_certificate,
    "another request than the one signed": lambda: replace(Asking.by(), change=change_the_request),
    "another algorithm than the one used": lambda: replace(Asking.by(), change=change_the_algorithm),
    "SHA-1": lambda: replace(Asking.by("rsa"), algorithm="sha1_rsa"),
    "an algorithm for another kind of key": lambda: replace(Asking.by("rsa"), algorithm="sha256_ecdsa"),
    "a CA of the same name with another key": lambda: Asking.by(ca=OTHER),
    "a client that issued its own certificate": lambda: Asking.by(ca=make_ca(KEYS["p256"], common_name="A client")),
    "a certificate that has ended": lambda: Asking.by(not_after=NOW - DAY / 2),
    "a key that signs nothing": lambda: Asking.by(usage=key_usage("key_agreement")),
    "another name": lambda: replace(Asking.by(), name=asn1_x509.GeneralName("dns_name", "client.example")),
    "another's directory name": lambda: replace(Asking.by(), name=directory_name(CA.certificate)),
    "too many certificates": lambda: replace(
        Asking.by(), certificates=(client(KEYS["p256"]), *[CA.certificate] * MOST_CERTIFICATES)
    ),
}


@pytest.mark.parametrize("asking", UNPROVEN.values(), ids=UNPROVEN)
def test_a_signature_that_proves_nothing_is_unauthorized(asking: Callable[[], Asking]) -> None:
    error = refused(asking().encoded(), CA)
    assert isinstance(error, Unauthorized), error
    assert error.reason is Refusal.REQUESTER


def test_nobody_may_ask_where_no_ca_is_named() -> None:
    assert isinstance(refused(Asking.by().encoded()), Unauthorized)


def test_a_certificate_may_ask_from_its_first_second_to_its_last() -> None:
    request = Asking.by(not_after=NOW).encoded()
    assert check(request, CA, now=NOW).not_valid_after_utc == NOW
    assert isinstance(refused(request, CA, now=NOW + DAY), Unauthorized)
    assert isinstance(refused(request, CA, now=NOW - 2 * DAY), Unauthorized)


def test_a_signature_without_a_name_is_malformed() -> None:
    """RFC 6960 section 4.1.2: the requestor SHALL specify its name."""
    assert isinstance(refused(replace(Asking.by(), name=None).encoded(), CA), MalformedRequest)


def test_certificates_that_cannot_be_read_are_malformed() -> None:
    asking = Asking.by()
    certificate = der_of(asking.certificates[0])
    # Certificate ::= SEQUENCE { tbsCertificate SEQUENCE …: a SET in its place.
    garbled = certificate[:4] + b"\x31" + certificate[5:]
    request = asking.encoded().replace(certificate, garbled)
    assert isinstance(refused(request, CA), MalformedRequest)


@given(at=st.integers(0, 2000), octet=st.integers(1, 255))
def test_a_request_with_an_octet_changed_proves_nothing(at: int, octet: int) -> None:
    """Whatever is not covered by the signature is covered by the CA's, or by the form of both."""
    request = bytearray(REQUEST)
    request[at % len(request)] ^= octet
    changed = bytes(request)
    try:
        parse_request(changed)
    except OcspError:
        return
    with pytest.raises(OcspError):
        check(changed, CA)


REQUEST: Final = Asking.by("rsa").encoded()
