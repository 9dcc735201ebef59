# SPDX-License-Identifier: Apache-2.0
"""Many responses of one signer in one second: put together by response.py once, and cut where the others differ.

Knows where a CertID, a signature and nothing else has to be exchanged. Called by responder/presign/. Pure.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from responder.ocsp.policy import Times
from responder.ocsp.request import CertId
from responder.ocsp.response import ResponseParts, SingleAnswer
from responder.status import der
from responder.status.issuers import HASH_NAMES, Issuer
from responder.status.model import CertStatus

_NULL: Final = bytes.fromhex("0500")
_OIDS: Final = {hash_name: oid for oid, hash_name in HASH_NAMES.items()}
# Forms to remember: revocations of a whole portion may each have a time of their own.
_MOST_FORMS: Final = 4096


class CertIds:
    """The CertIDs of one issuer under one hash, in the form that most clients send: parameters NULL.

    An issuer known under several names is named by that of the certificate it was added with.
    """

    def __init__(self, issuer: Issuer, hash_name: str) -> None:
        """Prepare what all of them begin with. Raises KeyError for a hash that CertIDs do not use."""
        certificate = issuer.certificates[0]
        self._hash_name = hash_name
        self._name_hash = dict(certificate.name_hashes.items())[hash_name]
        self._key_hash = dict(certificate.key_hashes.items())[hash_name]
        # AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters NULL }
        algorithm = der.wrap(der.SEQUENCE, der.wrap(der.OID, _OIDS[hash_name]), _NULL)
        hashes = der.wrap(der.OCTET_STRING, self._name_hash), der.wrap(der.OCTET_STRING, self._key_hash)
        self._before = b"".join((algorithm, *hashes))
        self._headers: dict[int, bytes] = {}

    def of(self, serial: int) -> CertId:
        """Return the CertID of this serial.

        CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING,
                              issuerKeyHash OCTET STRING, serialNumber CertificateSerialNumber }
        """
        number = serial.to_bytes(serial.bit_length() // 8 + 1, signed=True)
        header = self._headers.get(len(number))
        if header is None:
            whole = der.wrap(der.SEQUENCE, self._before, der.wrap(der.INTEGER, number))
            header = self._headers[len(number)] = whole[: -len(number)]
        return CertId(header + number, self._hash_name, self._name_hash, self._key_hash, serial)


@dataclass(slots=True)
class Series:
    """Responses about one certificate each, with the same times. Byte for byte what ResponseParts would make."""

    parts: ResponseParts
    times: Times
    archive_cutoff: datetime | None = None  # as policy.archive_cutoff has it for these times
    _tbs: dict[tuple[int, CertStatus], tuple[bytes, bytes]] = field(default_factory=dict)
    _whole: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = field(default_factory=dict)

    def tbs(self, cert_id: bytes, status: CertStatus) -> bytes:
        """Return the ResponseData to sign."""
        form = len(cert_id), status
        around = self._tbs.get(form)
        if around is None:
            whole = self.parts.tbs(
                [SingleAnswer(cert_id, status, archive_cutoff=self.archive_cutoff)], times=self.times
            )
            before, _, after = whole.partition(cert_id)
            if len(self._tbs) >= _MOST_FORMS:
                self._tbs.clear()
            around = self._tbs[form] = before, after
        return around[0] + cert_id + around[1]

    def assemble(self, tbs: bytes, signature: bytes) -> bytes:
        """Return the finished OCSPResponse around the ResponseData and its signature."""
        form = len(tbs), len(signature)
        around = self._whole.get(form)
        if around is None:
            before, _, rest = self.parts.assemble(tbs, signature).partition(tbs)
            between, _, after = rest.partition(signature)
            around = self._whole[form] = before, between, after
        return b"".join((around[0], tbs, around[1], signature, around[2]))
