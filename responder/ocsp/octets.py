# SPDX-License-Identifier: Apache-2.0
"""A finished OCSPResponse taken apart into the octets of its fields, for what a decoder would hide.

Knows where the fields lie and nothing of what may be in them; the rules are lint.py's, which alone calls this.
"""

from dataclasses import dataclass
from typing import Final

from responder.status import der

_EXPLICIT_0: Final = 0xA0
_REVOKED: Final = 0xA1
_SUCCESSFUL: Final = bytes.fromhex("0a0100")
_ID_PKIX_OCSP_BASIC: Final = bytes.fromhex("06092b0601050507300101")
_NO_UNUSED_BITS: Final = b"\x00"


class NotAnsweredError(der.DerError):
    """An OCSPResponse that is not successful, or whose responseType is not id-pkix-ocsp-basic."""


@dataclass(frozen=True, slots=True)
class SingleOctets:
    """The fields of one SingleResponse. Times are whole elements, tag and length included."""

    cert_id: bytes
    revocation_time: bytes | None
    this_update: bytes
    next_update: bytes | None
    extensions: tuple[bytes, ...]  # OIDs of the singleExtensions, content octets
    raw_extensions: bytes | None  # the singleExtensions themselves


@dataclass(frozen=True, slots=True)
class ResponseOctets:
    """The fields of a BasicOCSPResponse. Those under an EXPLICIT tag are given without it."""

    tbs: bytes
    algorithm: bytes
    certificates: bytes | None
    responder_id: bytes
    produced_at: bytes
    singles: tuple[SingleOctets, ...]
    extensions: bytes | None


def read_response(response: bytes) -> ResponseOctets:
    """Take a successful basic response apart. Raises NotAnsweredError for another one, DerError for what is none.

    OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, responseBytes [0] EXPLICIT ResponseBytes OPTIONAL }
    ResponseBytes ::= SEQUENCE { responseType OBJECT IDENTIFIER, response OCTET STRING }
    """
    outer = der.whole(response, der.SEQUENCE)
    parts = list(der.inside(response, outer))
    if len(parts) != 2 or response[parts[0].start : parts[0].end] != _SUCCESSFUL or parts[1].tag != _EXPLICIT_0:
        raise NotAnsweredError("not a successful response with an answer in it")
    wrapped = der.whole(response[parts[1].value : parts[1].end], der.SEQUENCE)
    inner = response[parts[1].value + wrapped.value : parts[1].end]
    kind = der.read(inner)
    if inner[: kind.end] != _ID_PKIX_OCSP_BASIC:
        raise NotAnsweredError("the response type is not id-pkix-ocsp-basic")
    octets = der.whole(inner[kind.end :], der.OCTET_STRING)
    return _basic(inner[kind.end + octets.value :])


def _basic(basic: bytes) -> ResponseOctets:
    # BasicOCSPResponse ::= SEQUENCE { tbsResponseData, signatureAlgorithm, signature, certs [0] EXPLICIT OPTIONAL }
    # ResponseData ::= SEQUENCE { responderID, producedAt, responses, responseExtensions [1] EXPLICIT OPTIONAL }
    outer = der.whole(basic, der.SEQUENCE)
    tbs, algorithm, signature, *rest = der.inside(basic, outer)
    responder_id, produced_at, responses, *extensions = der.inside(basic, tbs)
    if len(rest) > 1 or len(extensions) > 1 or responses.tag != der.SEQUENCE:
        raise der.DerError("parts of a BasicOCSPResponse that do not belong")
    if signature.tag != der.BIT_STRING or basic[signature.value : signature.value + 1] != _NO_UNUSED_BITS:
        # Decoders pass this over where the last bits happen to be zero.
        raise der.DerError("the signature is not a BIT STRING of whole octets")
    return ResponseOctets(
        basic[tbs.start : tbs.end],
        basic[algorithm.start : algorithm.end],
        basic[rest[0].value : rest[0].end] if len(rest) == 1 else None,
        basic[responder_id.start : responder_id.end],
        basic[produced_at.start : produced_at.end],
        tuple(_single(basic, each) for each in der.inside(basic, responses)),
        basic[extensions[0].value : extensions[0].end] if len(extensions) == 1 else None,
    )


def _single(data: bytes, element: der.Element) -> SingleOctets:
    # SingleResponse ::= SEQUENCE { certID, certStatus, thisUpdate, nextUpdate [0] EXPLICIT OPTIONAL,
    #                               singleExtensions [1] EXPLICIT OPTIONAL }
    # RevokedInfo ::= SEQUENCE { revocationTime, revocationReason [0] EXPLICIT OPTIONAL }
    cert_id, status, this_update, *rest = der.inside(data, element)
    revocation_time = next_update = None
    if status.tag == _REVOKED:
        time = der.read(data, status.value, status.end)
        revocation_time = data[time.start : time.end]
    if len(rest) > 0 and rest[0].tag == _EXPLICIT_0:
        next_update = data[rest[0].value : rest[0].end]
        del rest[0]
    extensions: list[bytes] = []
    raw_extensions = None
    if len(rest) > 0:
        listed = der.expect(data, der.SEQUENCE, rest[0].value, rest[0].end)
        raw_extensions = data[rest[0].value : rest[0].end]
        for each in der.inside(data, listed):
            oid = der.expect(data, der.OID, each.value, each.end)
            extensions.append(data[oid.value : oid.end])
    return SingleOctets(
        data[cert_id.start : cert_id.end],
        revocation_time,
        data[this_update.start : this_update.end],
        next_update,
        tuple(extensions),
        raw_extensions,
    )
