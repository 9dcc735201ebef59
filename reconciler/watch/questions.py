# SPDX-License-Identifier: Apache-2.0
"""The questions by which a responder is tried from outside: every hash, both methods, every spelling of a path. Pure.

Knows how clients and proxies write one and the same request; nothing of answers. Called by check_url.py.
"""

import base64
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from asn1crypto import core, ocsp

from responder.status.issuers import CaCertificate

#: The algorithms a CertID may name its issuer under (RFC 6960 section 4.1.1, RFC 9919 section 3.1.1).
HASH_NAMES: Final = ("sha1", "sha256", "sha384", "sha512")

#: What the questions are called that are about an issuer nobody has.
FOREIGN: Final = "foreign issuer"

_ACCEPTABLE_RESPONSES: Final = "1.3.6.1.5.5.7.48.1.4"
_BASIC: Final = "1.3.6.1.5.5.7.48.1.1"


class Way(enum.StrEnum):
    """How a request travels."""

    POST = "POST"  # as the body
    ESCAPED = "GET"  # in the path, percent-encoded in upper case, as RFC 9919 section 6 has it
    LOWER = "GET, lower case"  # percent-encoded in lower case
    RAW = "GET, raw"  # base64 as it is, with its slashes, pluses and equals signs
    DOUBLED = "GET, doubled slash"  # a pointer that ends with a slash, and a client that adds its own


@dataclass(frozen=True, slots=True)
class Question:
    """One request and the way it goes. `what` says in a word or two which of the requests about a serial it is.

    `cert_id` is the DER of the only CertID in it, which the answer has to echo.
    """

    serial: int
    what: str
    request: bytes
    cert_id: bytes
    way: Way

    def path(self, prefix: str) -> str:
        """Return the path to ask for, below the one that the address has."""
        text = base64.b64encode(self.request).decode()
        escaped = text.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
        below = f"{prefix.rstrip('/')}/"
        match self.way:
            case Way.POST:
                return prefix or "/"
            case Way.ESCAPED:
                return below + escaped
            case Way.LOWER:
                return below + escaped.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")
            case Way.RAW:
                return below + text
            case Way.DOUBLED:
                return f"{below}/{text}"


def questions_about(serial: int, issuer: CaCertificate) -> Iterator[Question]:
    """Yield every question about one certificate."""
    for hash_name in HASH_NAMES:
        for null in (True, False):
            cert_id = _cert_id(issuer, serial, hash_name, null=null)
            what = hash_name if null else f"{hash_name}, no NULL"
            for way in (Way.POST, Way.ESCAPED):
                yield _question(serial, what, cert_id, way)
    cert_id = _cert_id(issuer, serial, HASH_NAMES[0], null=True)
    request = with_every_awkward_sign(cert_id)
    for way in Way:
        yield Question(serial, "awkward path", request, cert_id.dump(), way)


def plain_questions(serial: int, issuer: CaCertificate) -> Iterator[Question]:
    """Yield the two questions that most clients would ask."""
    cert_id = _cert_id(issuer, serial, HASH_NAMES[0], null=True)
    for way in (Way.POST, Way.ESCAPED):
        yield _question(serial, HASH_NAMES[0], cert_id, way)


def foreign_questions(serial: int, octets: bytes) -> Iterator[Question]:
    """Yield two questions about an issuer that nobody has: its hashes are these 40 octets, drawn at random."""
    cert_id = _made(serial, HASH_NAMES[0], octets[:20], octets[20:], null=True)
    for way in (Way.POST, Way.ESCAPED):
        yield _question(serial, FOREIGN, cert_id, way)


def with_every_awkward_sign(cert_id: ocsp.CertId) -> bytes:
    """Return a request whose base64 has `//`, `+` and `=` in it, all of which proxies are known to mangle.

    It accepts basic responses, as any client does, and a kind of response under a UUID's OID whose octets are chosen
    for how they look in base64 (RFC 6960 section 4.4.3): the answer is the same.
    """
    for shift in range(9):
        # An arc is written as octets of seven bits each, all but the last with the highest bit set.
        arc = 0
        for octet in b"\xff" * (6 + shift) + b"\xfb\xef\xbe\xfb\xef\xbe\x7f":
            arc = arc << 7 | octet & 0x7F
        extension = {"extn_id": _ACCEPTABLE_RESPONSES, "extn_value": [_BASIC, f"2.25.{arc}"]}
        request = _request(cert_id, request_extensions=[extension])
        if all(sign in base64.b64encode(request) for sign in (b"//", b"+", b"=")):
            return request
    raise AssertionError("one of nine lengths in a row has all three")  # pragma: no cover - by arithmetic


def _question(serial: int, what: str, cert_id: ocsp.CertId, way: Way) -> Question:
    return Question(serial, what, _request(cert_id), cert_id.dump(), way)


def _request(cert_id: ocsp.CertId, **more: Any) -> bytes:
    made: bytes = ocsp.OCSPRequest({"tbs_request": {"request_list": [{"req_cert": cert_id}], **more}}).dump()
    return made


def _cert_id(issuer: CaCertificate, serial: int, hash_name: str, *, null: bool) -> ocsp.CertId:
    name, key = dict(issuer.name_hashes.items())[hash_name], dict(issuer.key_hashes.items())[hash_name]
    return _made(serial, hash_name, name, key, null=null)


def _made(serial: int, hash_name: str, name: bytes, key: bytes, *, null: bool) -> ocsp.CertId:
    """Return a CertID whose algorithm has NULL for parameters or none: clients send both (RFC 5754 section 2)."""
    return ocsp.CertId(
        {
            "hash_algorithm": {"algorithm": hash_name, "parameters": core.Null() if null else None},
            "issuer_name_hash": name,
            "issuer_key_hash": key,
            "serial_number": serial,
        }
    )
