# SPDX-License-Identifier: Apache-2.0
"""What fuzzing needs to stand on: a database with one issuer, certificates of every status, and real requests for them.

Knows no fuzzer. Used by the targets' parent process and by the property tests.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cryptography_vectors
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from demo.postgres import throwaway_server
from responder.runtime.db import connect_once
from responder.status.migrate import grant_roles, migrate
from responder.status.model import Reason
from tests.conftest import create_database
from tests.responder import asking
from tests.responder.asking import ERRORS, Reply, head, target_of
from tests.responder.running import World, revoked

# What a responder may say over HTTP, whatever it is sent.
STATUSES: Final = frozenset({100, 200, 304, 400, 405, 417, 431})
_VECTORS: Final = Path(cryptography_vectors.__file__).parent / "x509" / "ocsp"


@dataclass(frozen=True)
class Fixed:
    """What stays the same for a whole run: who signs, and what every serial's answer has to be."""

    dsn: str
    ca: x509.Certificate
    signer: x509.Certificate
    words: dict[int, str]

    def dump(self) -> str:
        pems = [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in (self.ca, self.signer)]
        return json.dumps([self.dsn, *pems, list(self.words.items())])

    @classmethod
    def load(cls, text: str) -> "Fixed":
        dsn, ca, signer, words = json.loads(text)
        loaded = [x509.load_der_x509_certificate(base64.b64decode(each)) for each in (ca, signer)]
        return cls(dsn, loaded[0], loaded[1], dict(words))

    def requests(self) -> list[bytes]:
        """Requests in DER, the usual ones first."""
        ours = [
            asking.request_for(self.ca, serial, hash_name=name) for serial in self.words for name in asking.HASHES[:2]
        ]
        several = asking.request_for(self.ca, *self.words)
        return [*ours, several, *(path.read_bytes() for path in sorted(_VECTORS.glob("req*.der")))]

    def seeds(self) -> list[bytes]:
        """What clients send over a connection."""
        found = []
        for request in self.requests():
            length = "Content-Length", str(len(request))
            found += [
                head("GET", target_of(request)),
                head("POST", b"/", length) + request,
                head("POST", b"/", ("Transfer-Encoding", "chunked"))
                + b"%x\r\n%b\r\n0\r\n\r\n" % (len(request), request),
                head("POST", b"/", length, ("Expect", "100-continue")) + request,
                head("POST", b"/", length, ("Connection", "close")) + request + head("GET", target_of(request)),
                head("GET", target_of(request)) * 3,
            ]
        return found

    def judge(self, reply: Reply) -> None:
        """Fail where this may not be said to anybody."""
        assert reply.status in STATUSES, reply
        if reply.status != 200:
            assert reply.headers.get("content-type") != "application/ocsp-response", reply
            return
        assert reply.headers["content-type"] == "application/ocsp-response"
        if reply.body in ERRORS:
            return
        read = ocsp.load_der_ocsp_response(reply.body)
        assert read.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, "an error is five octets of ours"
        key, digest = self.signer.public_key(), read.signature_hash_algorithm
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert digest is not None
        key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(digest))
        for single in read.responses:
            said = single.certificate_status.name.lower()
            assert said == self.words.get(single.serial_number, "unknown"), (single.serial_number, said)


def build(world: World) -> Fixed:
    """Fill a database with one issuer and a certificate of every status that is answered with a signature."""
    ca = Authority.create("Fuzzed CA")
    signer = ca.issue_responder(key=make_key("p256"))
    issuer = world.add_issuer("fuzzed", ca, signer=signer)
    words = {world.issue(issuer): "good" for _ in range(3)}
    for reason in (Reason.UNSPECIFIED, Reason.KEY_COMPROMISE):
        serial = world.issue(issuer)
        world.revoke(issuer, serial, revoked(reason, ca=ca))
        words[serial] = "revoked"
    return Fixed(world.dsn, ca.certificate, signer[0], words | {0x7E57: "unknown"})


@contextmanager
def town(folder: Path) -> Iterator[Fixed]:
    """A PostgreSQL of its own, with all that in it."""
    with throwaway_server() as server:
        dsn = create_database(server, "fuzz")
        migrated(dsn)
        yield build(World(dsn, folder))


def migrated(dsn: str) -> None:
    async def prepare() -> None:
        async with connect_once(dsn, application="fuzz") as connection:
            await migrate(connection)
            await grant_roles(connection)

    asyncio.run(prepare())
