# SPDX-License-Identifier: Apache-2.0
"""The request that a GET's path holds, in any spelling that clients and proxies are known to use (RFC 6960 A.1).

Knows base64 and percent-escapes, nothing of ASN.1 or HTTP. Called by fastpath.py and app.py.
"""

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from responder.errors import MalformedRequest, Refusal

_ESCAPED: Final = re.compile(rb"%[0-9A-Fa-f]{2}")


def request_in_path(path: bytes, *, prefix: bytes, most_octets: int) -> bytes:
    """Return the octets of the request.

    Percent-escapes in either case, whole, partial or doubled; `+` as it is, escaped, or turned into a blank; padding
    or none; further slashes in front. Base64 of an OCSPRequest begins with M, so a leading slash is never its own.
    Raises MalformedRequest when it is not base64, or more than `most_octets`.
    """
    text = path.lstrip(b"/")
    if prefix and (text == prefix or text.startswith(prefix + b"/")):
        text = text[len(prefix) :]
    # One escaping by the client, one by a proxy; a third time nobody has seen.
    for _ in range(2):
        if _ESCAPED.search(text):
            text = unquote_to_bytes(text)
    text = text.replace(b" ", b"+").lstrip(b"/").rstrip(b"=")
    if len(text) > 2 * most_octets:
        raise too_large(most_octets)
    try:
        request = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise MalformedRequest(Refusal.ENCODING, f"the path is not base64: {exc}") from exc
    if len(request) > most_octets:
        raise too_large(most_octets)
    return request


def too_large(most_octets: int) -> MalformedRequest:
    """Return the refusal of a request with more octets than one may have, in a path or in a body."""
    return MalformedRequest(Refusal.TOO_LARGE, f"a request has at most {most_octets} octets")
