# SPDX-License-Identifier: Apache-2.0
"""Which signature algorithms a client would like best: reading the extension of RFC 6960 section 4.4.7, comparing.

Knows AlgorithmIdentifiers and no keys. request.py reads by this, keyring.py chooses by it among signers there are; so
nothing weak can be asked for (section 5.1.2).
"""

from dataclasses import dataclass
from typing import Final

from responder.status import der

_NULL: Final = bytes.fromhex("0500")
# Set in every octet of a number but the last (X.690 section 8.19.2).
_MORE: Final = 0x80


@dataclass(frozen=True, slots=True)
class PreferredAlgorithm:
    """One entry of the list, the best first: AlgorithmIdentifiers (DER) of a signature and, perhaps, of a key."""

    signature: bytes
    key: bytes | None

    def suits(self, *, signature: bytes, key: bytes) -> bool:
        """Whether this is what a signer with these two AlgorithmIdentifiers would give."""
        return _same(self.signature, signature) and (self.key is None or _same(self.key, key))


def read_preferred(value: bytes) -> tuple[PreferredAlgorithm, ...]:
    """Read the value of id-pkix-ocsp-pref-sig-algs. Raises DerError for what is no such list.

    PreferredSignatureAlgorithms ::= SEQUENCE OF PreferredSignatureAlgorithm
    PreferredSignatureAlgorithm ::= SEQUENCE { sigIdentifier AlgorithmIdentifier,
                                               pubKeyAlgIdentifier SMIMECapability OPTIONAL }
    """
    return tuple(_preferred(value, each) for each in der.inside(value, der.whole(value, der.SEQUENCE)))


def _preferred(data: bytes, element: der.Element) -> PreferredAlgorithm:
    if element.tag != der.SEQUENCE:
        raise der.DerError(f"tag {element.tag:#04x} where a PreferredSignatureAlgorithm belongs")
    signature = der.expect(data, der.SEQUENCE, element.value, element.end)
    if signature.end == element.end:
        return PreferredAlgorithm(_algorithm(data, signature), None)
    # SMIMECapability ::= SEQUENCE { capabilityID OBJECT IDENTIFIER, parameters ANY OPTIONAL }: the same syntax.
    key = der.expect(data, der.SEQUENCE, signature.end, element.end)
    if key.end != element.end:
        raise der.DerError("octets after the pubKeyAlgIdentifier")
    return PreferredAlgorithm(_algorithm(data, signature), _algorithm(data, key))


def _algorithm(data: bytes, element: der.Element) -> bytes:
    oid = der.expect(data, der.OID, element.value, element.end)
    if oid.value == oid.end or data[oid.end - 1] & _MORE:
        raise der.DerError("an OBJECT IDENTIFIER that is cut off")
    if oid.end != element.end and der.read(data, oid.end, element.end).end != element.end:
        raise der.DerError("octets after the parameters of an algorithm")
    return data[element.start : element.end]


def _same(one: bytes, other: bytes) -> bool:
    """Whether two AlgorithmIdentifiers mean the same; some leave the NULL out, and some write it where none belongs."""
    return one == other or _without_null(one) == _without_null(other)


def _without_null(algorithm: bytes) -> bytes:
    outer = der.whole(algorithm, der.SEQUENCE)
    return algorithm[outer.value :].removesuffix(_NULL)
