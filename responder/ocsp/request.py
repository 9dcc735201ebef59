# SPDX-License-Identifier: Apache-2.0
"""From the octets of an OCSPRequest to the CertIDs in it, with the exact slices that an answer has to echo.

Knows the syntax of RFC 6960 section 4.1 and nothing of issuers, statuses or transports. Called by service.py for every
request whose bytes no cache knows.
"""

from dataclasses import dataclass
from typing import Final

from responder.errors import MalformedRequest, Refusal, Unauthorized
from responder.ocsp.preference import PreferredAlgorithm, read_preferred
from responder.status import der
from responder.status.issuers import HASH_NAMES

# Our own bound against requests made to be expensive (RFC 6960 section 5): a TLS client asks for one certificate, and
# no chain is this long.
MOST_CERTIFICATES: Final = 32
# Nonce ::= OCTET STRING (SIZE(1..128)), RFC 9654 section 2.1.
MOST_NONCE_OCTETS: Final = 128

_EXPLICIT_0: Final = 0xA0
_EXPLICIT_1: Final = 0xA1
_EXPLICIT_2: Final = 0xA2
_CONTEXT_CLASS: Final = 0x80
_CLASS_BITS: Final = 0xC0

_V1: Final = bytes.fromhex("020100")
_NULL: Final = bytes.fromhex("0500")
_HASH_OCTETS: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}

# Extension OIDs as DER content octets: all of RFC 6960 section 4.4 that a request may carry, each where it may. We know
# each well enough to say that leaving it aside does no harm even where it is marked critical; so the values of all but
# two are never read, and cannot be wrong. In another place an extension has no meaning that we could know.
_NONCE: Final = bytes.fromhex("2b0601050507300102")
_PREFERRED: Final = bytes.fromhex("2b0601050507300108")  # preferred signature algorithms
_OF_THE_REQUEST: Final = frozenset(
    {
        _NONCE,
        # Acceptable responses: every client SHALL be able to process the basic kind (RFC 6960 section 4.2.1).
        bytes.fromhex("2b0601050507300104"),
        _PREFERRED,
    }
)
_OF_A_CERTIFICATE: Final = frozenset(
    {
        bytes.fromhex("2b0601050507300107"),  # service locator: we are the authoritative responder, or refuse
    }
)


@dataclass(frozen=True, slots=True)
class CertId:
    """CertID, RFC 6960 section 4.1.1: which certificate is asked about.

    `raw` is its DER as the response has to echo it; `hash_name` is None for an algorithm we do not know.
    """

    raw: bytes
    hash_name: str | None
    name_hash: bytes
    key_hash: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """What a request asks. `nonce` is None where there is none that could be echoed; a signature is only noted.

    `preferred` are the signature algorithms that the client would like best, the best first.
    """

    cert_ids: tuple[CertId, ...]
    nonce: bytes | None
    signed: bool
    preferred: tuple[PreferredAlgorithm, ...] = ()


def parse_request(data: bytes, *, most_certificates: int = MOST_CERTIFICATES) -> OcspRequest:
    """Read an OCSPRequest in DER.

    Raises MalformedRequest for anything that is not that syntax, a version other than v1, an empty list or a nonce of
    an impossible length; Unauthorized for a critical extension we do not know and for too many certificates.
    """
    try:
        return _ocsp_request(data, most_certificates)
    except der.DerError as exc:
        raise MalformedRequest(Refusal.SYNTAX, f"not an OCSPRequest: {exc}") from exc


def _ocsp_request(data: bytes, most: int) -> OcspRequest:
    # OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
    outer = der.whole(data, der.SEQUENCE)
    tbs = der.expect(data, der.SEQUENCE, outer.value, outer.end)
    signed = tbs.end != outer.end
    if signed:
        _signature(data, _only(data, der.expect(data, _EXPLICIT_0, tbs.end, outer.end), outer.end))
    cert_ids, nonce, preferred = _tbs_request(data, tbs, most)
    return OcspRequest(cert_ids, nonce, signed, preferred)


def _tbs_request(
    data: bytes, tbs: der.Element, most: int
) -> tuple[tuple[CertId, ...], bytes | None, tuple[PreferredAlgorithm, ...]]:
    # TBSRequest ::= SEQUENCE { version [0] EXPLICIT Version DEFAULT v1,
    #                           requestorName [1] EXPLICIT GeneralName OPTIONAL,
    #                           requestList SEQUENCE OF Request,
    #                           requestExtensions [2] EXPLICIT Extensions OPTIONAL }
    part = der.read(data, tbs.value, tbs.end)
    if part.tag == _EXPLICIT_0:
        # DER leaves a DEFAULT out; a client that writes v1 all the same has said nothing wrong.
        if data[part.value : part.end] != _V1:
            raise MalformedRequest(Refusal.VERSION, "the version of the request is not v1 (RFC 6960 4.1.1)")
        part = der.read(data, part.end, tbs.end)
    if part.tag == _EXPLICIT_1:
        # A name without a signature to prove it counts as absent (RFC 9919 section 3.1.2); signatures are ignored.
        if data[_only(data, part, part.end).start] & _CLASS_BITS != _CONTEXT_CLASS:
            raise der.DerError("requestorName is not a GeneralName")
        part = der.read(data, part.end, tbs.end)
    if part.tag != der.SEQUENCE:
        raise der.DerError(f"tag {part.tag:#04x} where requestList belongs")
    cert_ids = _request_list(data, part, most)
    if part.end == tbs.end:
        return cert_ids, None, ()
    extensions = der.expect(data, _EXPLICIT_2, part.end, tbs.end)
    return cert_ids, *_extensions(data, _only(data, extensions, tbs.end), known=_OF_THE_REQUEST)


def _request_list(data: bytes, listed: der.Element, most: int) -> tuple[CertId, ...]:
    cert_ids: list[CertId] = []
    at = listed.value
    while at < listed.end:
        if len(cert_ids) == most:
            raise Unauthorized(Refusal.TOO_MANY, f"more than {most} certificates in one request")
        request = der.expect(data, der.SEQUENCE, at, listed.end)
        cert_ids.append(_request(data, request))
        at = request.end
    if len(cert_ids) == 0:
        raise MalformedRequest(Refusal.EMPTY, "a request for no certificate at all (RFC 6960 4.1.1)")
    return tuple(cert_ids)


def _request(data: bytes, request: der.Element) -> CertId:
    # Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }
    cert_id = der.expect(data, der.SEQUENCE, request.value, request.end)
    if cert_id.end != request.end:
        extensions = der.expect(data, _EXPLICIT_0, cert_id.end, request.end)
        _extensions(data, _only(data, extensions, request.end), known=_OF_A_CERTIFICATE)
    return _cert_id(data, cert_id)


def _cert_id(data: bytes, element: der.Element) -> CertId:
    # CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING, issuerKeyHash OCTET STRING,
    #                       serialNumber INTEGER }
    end = element.end
    algorithm = der.expect(data, der.SEQUENCE, element.value, end)
    name = der.expect(data, der.OCTET_STRING, algorithm.end, end)
    key = der.expect(data, der.OCTET_STRING, name.end, end)
    serial = der.expect(data, der.INTEGER, key.end, end)
    if serial.end != end:
        raise der.DerError("octets after the serial number of a CertID")
    if serial.value == serial.end:
        raise der.DerError("a serial number without octets")
    hash_name = _hash_name(data, algorithm)
    name_hash, key_hash = data[name.value : name.end], data[key.value : key.end]
    if hash_name is not None and not len(name_hash) == len(key_hash) == _HASH_OCTETS[hash_name]:
        raise MalformedRequest(
            Refusal.HASH_LENGTH, f"hashes of {len(name_hash)} and {len(key_hash)} octets, {hash_name}"
        )
    number = data[serial.value : serial.end]
    raw = data[element.start : end]
    if is_padded(number):
        raw = _without_padding(data[element.value : serial.start], number)
    return CertId(raw, hash_name, name_hash, key_hash, int.from_bytes(number, signed=True))


def _hash_name(data: bytes, algorithm: der.Element) -> str | None:
    """Return the hash that an AlgorithmIdentifier names, None for one we do not know.

    AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY DEFINED BY algorithm OPTIONAL }
    """
    oid = der.expect(data, der.OID, algorithm.value, algorithm.end)
    hash_name = HASH_NAMES.get(_oid(data, oid))
    if oid.end == algorithm.end:
        return hash_name
    # RFC 5754 section 2: NULL and nothing mean the same.
    if hash_name is not None and data[oid.end : algorithm.end] != _NULL:
        raise der.DerError(f"parameters of {hash_name} that are neither NULL nor absent")
    if der.read(data, oid.end, algorithm.end).end != algorithm.end:
        raise der.DerError("octets after the parameters of the hash algorithm")
    return hash_name


def is_padded(number: bytes) -> bool:
    """Whether an INTEGER has a first octet that says nothing (X.690 section 8.3.2)."""
    return len(number) > 1 and number[0] in {0x00, 0xFF} and number[0] >> 7 == number[1] >> 7


def _without_padding(before: bytes, number: bytes) -> bytes:
    """Return the CertID with the shortest form of its serial number.

    The one echo that differs from what was sent: we understand a padded serial, but an answer that repeated it would
    carry a DER error over our signature. Whoever pads serials compares them as numbers.
    """
    at = next((i for i in range(len(number) - 1) if not is_padded(number[i : i + 2])), len(number) - 1)
    return der.wrap(der.SEQUENCE, before, der.wrap(der.INTEGER, number[at:]))


def _extensions(
    data: bytes, listed: der.Element, *, known: frozenset[bytes]
) -> tuple[bytes | None, tuple[PreferredAlgorithm, ...]]:
    """Walk Extensions, of which these are `known` where they stand.

    Return the nonce, if there is one to echo, and the preferred algorithms.
    """
    if listed.tag != der.SEQUENCE:
        raise der.DerError(f"tag {listed.tag:#04x} where Extensions belong")
    seen: set[bytes] = set()
    nonce: bytes | None = None
    preferred: tuple[PreferredAlgorithm, ...] = ()
    for element in der.inside(data, listed):
        oid, critical, value = _extension(data, element)
        if oid in seen:
            raise der.DerError("the same extension twice")
        seen.add(oid)
        if critical and oid not in known:
            # RFC 6960 section 4.1.2: ignored unless critical. The syntax is fine, so it is not malformed.
            raise Unauthorized(Refusal.CRITICAL_EXTENSION, f"a critical extension not known here, OID {oid.hex()}")
        if oid == _NONCE and oid in known:
            nonce = _nonce(value)
        elif oid == _PREFERRED and oid in known:
            preferred = read_preferred(value)
    return nonce, preferred


def _extension(data: bytes, element: der.Element) -> tuple[bytes, bool, bytes]:
    # Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    if element.tag != der.SEQUENCE:
        raise der.DerError(f"tag {element.tag:#04x} where an Extension belongs")
    oid = der.expect(data, der.OID, element.value, element.end)
    part = der.read(data, oid.end, element.end)
    critical = False
    if part.tag == der.BOOLEAN:
        said = data[part.value : part.end]
        # As with the version, a DEFAULT that is written out is let pass; other octets than these two are not DER.
        if said not in {b"\x00", b"\xff"}:
            raise der.DerError("a BOOLEAN that is neither TRUE nor FALSE")
        critical = said == b"\xff"
        part = der.read(data, part.end, element.end)
    if part.tag != der.OCTET_STRING or part.end != element.end:
        raise der.DerError("not an Extension")
    return _oid(data, oid), critical, data[part.value : part.end]


def _oid(data: bytes, element: der.Element) -> bytes:
    """Return the content octets of an OBJECT IDENTIFIER, which end with the last octet of a number (X.690 8.19.2)."""
    content = data[element.value : element.end]
    if len(content) == 0 or content[-1] & 0x80:
        raise der.DerError("an OBJECT IDENTIFIER that is cut off")
    return content


def _nonce(value: bytes) -> bytes | None:
    """Return the nonce inside extnValue, None where it lacks its OCTET STRING, as clients before RFC 8954 may send it.

    RFC 9654 section 2.1: a nonce of 0 or of more than 128 octets is refused as malformed.
    """
    try:
        inner = der.whole(value, der.OCTET_STRING)
    except der.DerError:
        nonce, octets = None, len(value)
    else:
        nonce = value[inner.value : inner.end]
        octets = len(nonce)
    if not 1 <= octets <= MOST_NONCE_OCTETS:
        raise MalformedRequest(Refusal.NONCE_LENGTH, f"a nonce of {octets} octets (RFC 9654 2.1)")
    return nonce


def _signature(data: bytes, signature: der.Element) -> None:
    # Signature ::= SEQUENCE { signatureAlgorithm AlgorithmIdentifier, signature BIT STRING,
    #                          certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
    # RFC 9919 section 3.1.2 lets us ignore it, so only its outline has to be right.
    if signature.tag != der.SEQUENCE:
        raise der.DerError(f"tag {signature.tag:#04x} where a Signature belongs")
    algorithm = der.expect(data, der.SEQUENCE, signature.value, signature.end)
    bits = der.expect(data, der.BIT_STRING, algorithm.end, signature.end)
    if bits.end != signature.end:
        certificates = der.expect(data, _EXPLICIT_0, bits.end, signature.end)
        if _only(data, certificates, signature.end).tag != der.SEQUENCE:
            raise der.DerError("the certificates of the signature are not a SEQUENCE")


def _only(data: bytes, wrapper: der.Element, ends: int) -> der.Element:
    """Return the one element inside an EXPLICIT tag, which itself must reach to `ends`."""
    inner = der.read(data, wrapper.value, wrapper.end)
    if inner.end != wrapper.end or wrapper.end != ends:
        raise der.DerError(f"octets left over at octet {min(inner.end, wrapper.end)}")
    return inner
