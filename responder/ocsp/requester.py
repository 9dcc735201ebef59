# SPDX-License-Identifier: Apache-2.0
"""Who signed a request, for issuers whose operator answers nobody else (RFC 6960 section 4.1.2).

Knows signatures, certificates and the names in them; not which issuer asks for this, nor where its CAs are kept. Called
by service.py for requests about such an issuer; all others' signatures are never looked at (RFC 9919 section 3.1.2).
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from responder.errors import MalformedRequest, Refusal, SigRequired, Unauthorized
from responder.status import der

# A client, its CA and what stands between them. Every one more is work that a stranger can ask for.
MOST_CERTIFICATES: Final = 6

_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1
_DIRECTORY_NAME: Final = 0xA4
_NO_UNUSED_BITS: Final = b"\x00"

# AlgorithmIdentifiers as RFC 8017, RFC 5758 and RFC 8410 have them. SHA-1 proves nothing any more.
_RSA: Final[dict[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("300d06092a864886f70d01010b0500"): hashes.SHA256(),
    bytes.fromhex("300d06092a864886f70d01010c0500"): hashes.SHA384(),
    bytes.fromhex("300d06092a864886f70d01010d0500"): hashes.SHA512(),
}
_ECDSA: Final[dict[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("300a06082a8648ce3d040302"): hashes.SHA256(),
    bytes.fromhex("300a06082a8648ce3d040303"): hashes.SHA384(),
    bytes.fromhex("300a06082a8648ce3d040304"): hashes.SHA512(),
}
_ED25519: Final = bytes.fromhex("300506032b6570")


# DerError is a ValueError; the others are what the library says of certificates that are none.
_UNREADABLE: Final = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def check_requester(request: bytes, *, cas: Sequence[bytes], now: datetime) -> x509.Certificate:
    """Return the certificate of whoever signed this request, which parse_request has read, under one of the CAs (DER).

    The signature has to verify under the first certificate that it carries, the name in the request has to be that
    certificate's, and the certificate has to lead to one of the CAs by RFC 5280. Whether it was revoked is not asked.

    Raises SigRequired where there is no signature, MalformedRequest for one without a name or with certificates that
    cannot be read, Unauthorized for every signature that proves nothing.
    """
    try:
        return _check(request, tuple(cas), now)
    except _UNREADABLE as exc:
        raise MalformedRequest(Refusal.SYNTAX, f"a signature that cannot be read: {exc}") from exc


def _check(request: bytes, cas: tuple[bytes, ...], now: datetime) -> x509.Certificate:
    # OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
    # Signature ::= SEQUENCE { signatureAlgorithm AlgorithmIdentifier, signature BIT STRING,
    #                          certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
    tbs, *optional = der.inside(request, der.whole(request, der.SEQUENCE))
    if len(optional) == 0:
        raise SigRequired(Refusal.UNSIGNED, "the issuer answers signed requests only (RFC 6960 2.3)")
    signature = der.expect(request, der.SEQUENCE, optional[0].value, optional[0].end)
    algorithm, bits, *certs = der.inside(request, signature)
    if len(certs) == 0:
        raise _unauthorized("a signature without the certificate that it was made with")
    signer, *others = _certificates(request, certs[0])
    octets = request[bits.value : bits.end]
    if octets[:1] != _NO_UNUSED_BITS:
        raise der.DerError("a signature of half octets")
    _verify(signer, octets[1:], request[tbs.start : tbs.end], algorithm=request[algorithm.start : algorithm.end])
    name = _requestor_name(request, tbs)
    _check_path(signer, others, cas=cas, now=now)
    _check_name(name, signer)
    return signer


def _certificates(request: bytes, wrapped: der.Element) -> list[x509.Certificate]:
    listed = der.expect(request, der.SEQUENCE, wrapped.value, wrapped.end)
    found = list(der.inside(request, listed))
    if not 1 <= len(found) <= MOST_CERTIFICATES:
        raise _unauthorized(f"{len(found)} certificates with a signature, not 1 to {MOST_CERTIFICATES}")
    return [x509.load_der_x509_certificate(request[each.start : each.end]) for each in found]


def _verify(signer: x509.Certificate, signature: bytes, tbs: bytes, *, algorithm: bytes) -> None:
    try:
        match signer.public_key():
            case rsa.RSAPublicKey() as key if algorithm in _RSA:
                key.verify(signature, tbs, padding.PKCS1v15(), _RSA[algorithm])
            case ec.EllipticCurvePublicKey() as key if algorithm in _ECDSA:
                key.verify(signature, tbs, ec.ECDSA(_ECDSA[algorithm]))
            case ed25519.Ed25519PublicKey() as key if algorithm == _ED25519:
                key.verify(signature, tbs)
            case _:
                raise _unauthorized(f"AlgorithmIdentifier {algorithm.hex()} is not taken with such a key")
    except InvalidSignature as exc:
        raise _unauthorized("the signature does not verify under the first certificate that it carries") from exc
    except UnsupportedAlgorithm as exc:
        raise _unauthorized(f"the first certificate that the signature carries: {exc}") from exc


def _requestor_name(request: bytes, tbs: der.Element) -> bytes:
    # TBSRequest ::= SEQUENCE { version [0] EXPLICIT, requestorName [1] EXPLICIT GeneralName OPTIONAL, … }
    for part in der.inside(request, tbs):
        if part.tag == _EXPLICIT_1:
            return request[part.value : part.end]
    raise MalformedRequest(Refusal.SYNTAX, "a signed request without requestorName, which SHALL be there (4.1.2)")


def _check_name(name: bytes, signer: x509.Certificate) -> None:
    """Check that a GeneralName is the subject of the certificate, or one of its subjectAltNames, octet for octet."""
    # GeneralName ::= CHOICE { …, directoryName [4] Name, … }: EXPLICIT, since Name is a CHOICE itself.
    names = {der.wrap(_DIRECTORY_NAME, signer.subject.public_bytes())}
    try:
        alternative = signer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        encoded = alternative.public_bytes()
        names |= {encoded[each.start : each.end] for each in der.inside(encoded, der.whole(encoded, der.SEQUENCE))}
    if name not in names:
        raise _unauthorized("requestorName is no name of the certificate that the signature was made with")


def _check_path(
    signer: x509.Certificate, others: list[x509.Certificate], *, cas: tuple[bytes, ...], now: datetime
) -> None:
    if len(cas) == 0:
        raise _unauthorized("no CA is named under which requests could be signed")
    builder = PolicyBuilder().store(_store(cas)).time(now).max_chain_depth(MOST_CERTIFICATES - 1)
    builder = builder.extension_policies(ca_policy=_CA, ee_policy=_CLIENT)
    try:
        builder.build_client_verifier().verify(signer, others)
    except VerificationError as exc:
        raise _unauthorized(f"the certificate of the signature leads to no CA that may ask: {exc}") from exc


@lru_cache(maxsize=64)
def _store(cas: tuple[bytes, ...]) -> Store:
    return Store([x509.load_der_x509_certificate(each) for each in cas])


def _may_sign(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    # RFC 5280 section 4.2.1.3: a key with a keyUsage signs only where digitalSignature is among its bits.
    if usage is not None and not usage.digital_signature:
        raise ValueError("its keyUsage lacks digitalSignature")


# RFC 5280 leaves extendedKeyUsage and subjectAltName of such clients open: the operator's CA says who may ask.
_CA: Final = ExtensionPolicy.webpki_defaults_ca()
_CLIENT: Final = ExtensionPolicy.permit_all().may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)


def _unauthorized(detail: str) -> Unauthorized:
    return Unauthorized(Refusal.REQUESTER, detail)
