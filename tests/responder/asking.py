# SPDX-License-Identifier: Apache-2.0
"""OCSP requests made with asn1crypto, and sent over sockets of our own so that no client makes them nicer."""

import base64
import hashlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from asn1crypto import core
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

HASHES: Final = ("sha1", "sha256", "sha384", "sha512")
TIMEOUT: Final = 10.0

MALFORMED: Final = bytes.fromhex("30030a0101")
INTERNAL_ERROR: Final = bytes.fromhex("30030a0102")
TRY_LATER: Final = bytes.fromhex("30030a0103")
SIG_REQUIRED: Final = bytes.fromhex("30030a0105")
UNAUTHORIZED: Final = bytes.fromhex("30030a0106")
ERRORS: Final = frozenset({MALFORMED, INTERNAL_ERROR, TRY_LATER, SIG_REQUIRED, UNAUTHORIZED})


def key_bits(certificate: x509.Certificate) -> bytes:
    """The value of the key's bit string, which is what issuerKeyHash hashes (RFC 6960 section 4.1.1)."""
    parsed = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
    bits: bytes = parsed["tbs_certificate"]["subject_public_key_info"]["public_key"].contents
    return bits[1:]


def cert_id(ca: x509.Certificate, serial: int, *, hash_name: str = "sha1", parameters: bool = True) -> asn1_ocsp.CertId:
    """A CertID; the parameters of its algorithm are NULL or absent."""
    return asn1_ocsp.CertId(
        {
            "hash_algorithm": {"algorithm": hash_name, "parameters": core.Null() if parameters else None},
            "issuer_name_hash": hashlib.new(hash_name, ca.subject.public_bytes()).digest(),
            "issuer_key_hash": hashlib.new(hash_name, key_bits(ca)).digest(),
            "serial_number": serial,
        }
    )


def request_of(*cert_ids: asn1_ocsp.CertId, extensions: Iterable[dict[str, Any]] = ()) -> bytes:
    """An OCSPRequest for these certificates."""
    tbs: dict[str, Any] = {"request_list": [{"req_cert": each} for each in cert_ids]}
    listed = list(extensions)
    if listed:
        tbs["request_extensions"] = listed
    made: bytes = asn1_ocsp.OCSPRequest({"tbs_request": tbs}).dump()
    return made


def request_for(ca: x509.Certificate, *serials: int, hash_name: str = "sha1") -> bytes:
    """An OCSPRequest for these serials of one CA."""
    return request_of(*(cert_id(ca, serial, hash_name=hash_name) for serial in serials))


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def parsed(self) -> ocsp.OCSPResponse:
        """The answer, read by the cryptography library."""
        assert self.status == 200, self
        assert self.headers["content-type"] == "application/ocsp-response"
        return ocsp.load_der_ocsp_response(self.body)

    @property
    def words(self) -> str:
        """The status in a word: good, revoked, unknown, or the name of the error."""
        read = self.parsed()
        if read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL:
            return read.certificate_status.name.lower()
        assert self.body in ERRORS
        return read.response_status.name.lower()


class Line:
    """A connection to the responder, and nothing between us and it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def finish_sending(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reply(self) -> Reply:
        """Read one reply. Raises ConnectionError when there is none."""
        first = self._file.readline()
        if not first:
            raise ConnectionError("the connection was closed")
        status = int(first.split()[1])
        headers = {}
        while (line := self._file.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            raise AssertionError("every reply knows its length")
        bodiless = status in {100, 304}
        return Reply(status, headers, b"" if bodiless else self._file.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Wait for the other side to close, and tell whether it did."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True


def head(method: str, target: bytes, *headers: tuple[str, str]) -> bytes:
    """The head of an HTTP request."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"Host: ocsp.example"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
    return b"\r\n".join([*lines, b"", b""])


def exchange(port: int, octets: bytes) -> Reply:
    """Send octets over a connection of their own, and return the first reply."""
    with Line(port) as line:
        line.send(octets)
        return line.reply()


def get(port: int, target: bytes, *headers: tuple[str, str]) -> Reply:
    """Ask with GET for this very target."""
    return exchange(port, head("GET", target, ("Connection", "close"), *headers))


def target_of(request: bytes) -> bytes:
    """The target of a GET as RFC 9919 section 6.1 has it: base64, percent-encoded."""
    return b"/" + base64.b64encode(request).replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")


def post(port: int, request: bytes, *headers: tuple[str, str]) -> Reply:
    """Ask with POST."""
    usual = ("Content-Type", "application/ocsp-request"), ("Content-Length", str(len(request))), ("Connection", "close")
    return exchange(port, head("POST", b"/", *usual, *headers) + request)


def ask(port: int, request: bytes, method: str) -> Reply:
    """Ask with GET or POST over a connection of its own."""
    return get(port, target_of(request)) if method == "GET" else post(port, request)
