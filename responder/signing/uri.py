# SPDX-License-Identifier: Apache-2.0
"""PKCS#11 URIs (RFC 7512): which key on which token, through which library, and where its PIN lies. Never the PIN.

Knows the syntax only. keys.py reads them out of ocsp.signer, ocsp-admin writes them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, unquote_to_bytes

PKCS11_SCHEME: Final = "pkcs11:"

# RFC 7512 section 2.3 lets these stand as they are, in the path and in the query; everything else is percent-encoded.
_PATH_SAFE: Final = ":[]@!$'()*+,=&"
_QUERY_SAFE: Final = ":[]@!$'()*+,=/?|"
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TEXT: Final = ("token", "manufacturer", "serial", "model", "object")


class UriError(ValueError):
    """A PKCS#11 URI that cannot be used here, in a few words for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUri:
    """What a URI says of a key: each attribute that is given has to fit, and together they have to fit one key alone.

    `identity` is CKA_ID (the URI's `id`), `label` CKA_LABEL (the URI's `object`); `pin_source` is None where the
    settings name the file with the PIN.
    """

    module_path: str
    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    label: str | None = None
    identity: bytes | None = None
    pin_source: Path | None = None

    def __post_init__(self) -> None:
        if not self.module_path.startswith("/"):
            raise UriError("the URI has no module-path, which is the whole path of the token's library")
        if self.token is None and self.serial is None:
            raise UriError("the URI names no token: give token= or serial=")
        if self.label is None and self.identity is None:
            raise UriError("the URI names no key: give object= or id=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI. Raises UriError for another one, for a PIN inside it, and for what is not known here.

        pk11-URI = "pkcs11:" [ path attributes by ";" ] [ "?" query attributes by "&" ], RFC 7512 section 2.3. An
        attribute that is not understood makes a URI match nothing (section 2.5), so it is refused.
        """
        if not text.startswith(PKCS11_SCHEME):
            raise UriError("a PKCS#11 URI begins with pkcs11: (RFC 7512)")
        path, _, query = text.removeprefix(PKCS11_SCHEME).partition("?")
        given = _attributes(path, ";")
        if given.pop("type", b"private") != b"private":
            raise UriError("type= is not private, and nothing else signs")
        asked = _attributes(query, "&")
        if "pin-value" in asked:
            raise UriError("the URI has a pin-value; a PIN belongs into a file, which pin-source or the settings name")
        unknown = sorted((given.keys() - {*_TEXT, "id"}) | (asked.keys() - {"module-path", "pin-source"}))
        if unknown:
            raise UriError(f"{unknown[0]}= is not known here")
        words = {("label" if name == "object" else name): _text(name, given.get(name)) for name in _TEXT}
        module = _text("module-path", asked.get("module-path"))
        pin_source = _pin_source(_text("pin-source", asked.get("pin-source")))
        return cls(module_path=module or "", identity=given.get("id"), pin_source=pin_source, **words)

    def __str__(self) -> str:
        path = [
            f"{name}={quote(value, safe=_PATH_SAFE)}"
            for name in _TEXT
            if (value := self.label if name == "object" else getattr(self, name)) is not None
        ]
        # RFC 7512 section 2.3 recommends escaping every octet of an id, which is seldom text.
        path += [] if self.identity is None else ["id=" + "".join(f"%{octet:02X}" for octet in self.identity)]
        query = [f"module-path={quote(self.module_path, safe=_QUERY_SAFE)}"]
        query += [] if self.pin_source is None else [f"pin-source=file:{quote(str(self.pin_source), safe=_QUERY_SAFE)}"]
        return f"{PKCS11_SCHEME}{';'.join(path)}?{'&'.join(query)}"


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if not equals or _ESCAPE.search(value):
            raise UriError(f"{part!r} is no attribute: name=value, percent-encoded (RFC 7512 2.3)")
        if name in found:
            raise UriError(f"{name}= stands twice (RFC 7512 2.3)")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as exc:
        raise UriError(f"{name}= is not UTF-8") from exc


def _pin_source(value: str | None) -> Path | None:
    # RFC 7512 section 2.4: a file: URI, and a bare path is taken for one. A command (|…) would be somebody's program.
    if value is None:
        return None
    path = value.removeprefix("file:").removeprefix("//")
    if not path.startswith("/"):
        raise UriError("pin-source is not the whole path of a file: file:/etc/foundling/pin")
    return Path(path)
