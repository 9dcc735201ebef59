# SPDX-License-Identifier: Apache-2.0
"""Requests that differ from an earlier one in the serial number alone, read without walking through them again.

Most of what clients send is of a few forms: the same hashes of the same issuer, and another number at the end. Called
by service.py in place of `parse_request`, which reads whatever is of no known form. Pure, but for what it remembers.
"""

from typing import Final

from responder.ocsp.request import CertId, OcspRequest, is_padded, parse_request
from responder.status import der

# A form takes about 400 octets. Whoever sends other forms on purpose only has the known ones learnt again.
_MOST_FORMS: Final = 1024
_MOST_NUMBER_OCTETS: Final = 127  # whose length is one octet


class Forms:
    """Reads requests, and remembers their forms."""

    def __init__(self) -> None:
        """Know no form yet."""
        # The octets before the number, to a request of that form; and where numbers begin in requests of a length.
        self._known: dict[bytes, CertId] = {}
        self._begin: dict[int, tuple[int, ...]] = {}

    def parse(self, data: bytes) -> OcspRequest:
        """Read an OCSPRequest. Raises and returns what `parse_request` does.

        Where all octets before the number are those of a request that was read, and as many follow, then every length
        in it is right as well, and only the number is new.
        """
        octets = len(data)
        for begin in self._begin.get(octets, ()):
            known = self._known.get(data[:begin])
            # Another form of this length may have its number begin at the same octet.
            if known is not None and data[begin - 1] == octets - begin:
                number = data[begin:]
                if not is_padded(number):
                    raw = data[octets - len(known.raw) :]
                    serial = int.from_bytes(number, signed=True)
                    cert_id = CertId(raw, known.hash_name, known.name_hash, known.key_hash, serial)
                    return OcspRequest((cert_id,), None, False)
        request = parse_request(data)
        self._remember(data, request)
        return request

    def _remember(self, data: bytes, request: OcspRequest) -> None:
        """Remember the form of a request for one certificate that ends with its CertID, and so with its number."""
        cert_id = request.cert_ids[0]
        if (
            len(request.cert_ids) != 1
            or not data.endswith(cert_id.raw)
            or request != OcspRequest((cert_id,), None, False)
        ):
            return
        serial = cert_id.serial
        length = (serial if serial >= 0 else ~serial).bit_length() // 8 + 1
        begin = len(data) - length
        if length > _MOST_NUMBER_OCTETS or data[begin - 2 : begin] != bytes((der.INTEGER, length)):
            return
        if len(self._known) >= _MOST_FORMS:
            self._known.clear()
            self._begin.clear()
        self._known[data[:begin]] = cert_id
        begins = self._begin.get(len(data), ())
        if begin not in begins:
            self._begin[len(data)] = (*begins, begin)
