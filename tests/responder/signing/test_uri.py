# SPDX-License-Identifier: Apache-2.0
"""PKCS#11 URIs: what RFC 7512 shows, what is refused with a word to the operator, and there and back again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.signing.uri import KeyUri, UriError

MODULE = "module-path=/usr/lib/libp.so"


def test_every_attribute_is_read_decoded() -> None:
    uri = KeyUri.parse(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=9"
        ";object=my-signing-key;type=private;id=%69%95%3E%5C?module-path=/usr/lib/libp.so&pin-source=file:/etc/token_pin"
    )
    assert uri == KeyUri(
        module_path="/usr/lib/libp.so",
        token="The Software PKCS#11 Softtoken",  # noqa: S106 - its name
        manufacturer="Snake Oil, Inc.",
        model="1.0",
        serial="9",
        label="my-signing-key",
        identity=b"\x69\x95\x3e\x5c",
        pin_source=Path("/etc/token_pin"),
    )


@pytest.mark.parametrize("source", ["file:/etc/pin", "file:///etc/pin", "/etc/pin", "file:%2Fetc%2Fpin"])
def test_a_pin_source_is_a_file(source: str) -> None:
    assert KeyUri.parse(f"pkcs11:token=t;object=k?{MODULE}&pin-source={source}").pin_source == Path("/etc/pin")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file:/etc/key", "begins with pkcs11:"),
        (f"pkcs11:object=k?{MODULE}", "names no token"),
        (f"pkcs11:token=t?{MODULE}", "names no key"),
        ("pkcs11:token=t;object=k", "module-path"),
        ("pkcs11:token=t;object=k?module-path=libp.so", "whole path"),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-value=1234", "belongs into a file"),
        (f"pkcs11:token=t;object=k?{MODULE}&pin-source=|/bin/pin", "whole path of a file"),
        (f"pkcs11:token=t;object=k;colour=red?{MODULE}", "colour= is not known here"),
        (f"pkcs11:token=t;object=k?{MODULE}&x-vendor=1", "x-vendor= is not known here"),
        (f"pkcs11:token=t;object=k;type=cert?{MODULE}", "not private"),
        (f"pkcs11:token=t;token=u;object=k?{MODULE}", "stands twice"),
        (f"pkcs11:token=t;object=%zz?{MODULE}", "no attribute"),
        (f"pkcs11:token=t;object=%ff?{MODULE}", "not UTF-8"),
        (f"pkcs11:token;object=k?{MODULE}", "no attribute"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(UriError, match=words) as caught:
        KeyUri.parse(text)
    assert "1234" not in str(caught.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(token=TEXT, label=st.none() | TEXT, identity=st.binary(max_size=8), module=TEXT, pin=TEXT)
def test_what_is_written_is_read_again(token: str, label: str | None, identity: bytes, module: str, pin: str) -> None:
    pin_source = Path("/" + pin.replace("/", "").replace("\0", ""))
    uri = KeyUri(
        module_path="/" + module, token=token, label=label, identity=identity, serial="1", pin_source=pin_source
    )
    written = str(uri)
    assert KeyUri.parse(written) == uri
    assert written.isascii()
