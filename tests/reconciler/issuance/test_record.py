# SPDX-License-Identifier: Apache-2.0
"""One line of JSON: about an issuance or not, and the certificate in it, in the encoding that was configured."""

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.ca import Authority
from reconciler.issuance.lines import Line
from reconciler.issuance.record import Encoding, RecordSettings, look_up, read_line
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace, Quarantined, Sighting
from tests.reconciler.issuance.conftest import der, pem

PLAIN = RecordSettings(certificate_field="certificate", encoding="base64")
EVENTS = RecordSettings(
    certificate_field="response.data.certificate", encoding="base64", where={"event": "issued", "request.dry": False}
)


def line(data: bytes | dict[str, Any]) -> Line:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Line(1000, text, len(text), 1000 + len(text) + 1, b"")


def read(data: bytes | dict[str, Any], record: RecordSettings, issuers: IssuerSet) -> list[str] | None:
    contents = read_line(line(data), record, file="log", issuers=issuers)
    if contents is None:
        return None
    return [each.detail if isinstance(each, Quarantined) else str(each.issued.serial) for each in contents.evidence]


@pytest.mark.parametrize("encoding", ["base64", "hex", "pem"])
def test_each_encoding_is_read(encoding: Encoding, ca: Authority, issuers: IssuerSet) -> None:
    certificate = ca.precertificate("encoded.example")
    written = {
        "base64": base64.b64encode(der(certificate)).decode(),
        "hex": der(certificate).hex().upper(),
        "pem": (pem(certificate) + ca.pem()).decode(),
    }
    record = RecordSettings(certificate_field="certificate", encoding=encoding)
    contents = read_line(line({"certificate": written[encoding]}), record, file="log", issuers=issuers)
    assert contents is not None
    (found,) = contents.evidence
    assert isinstance(found, Sighting)
    assert found.issued.der == der(certificate)
    assert found.place == FilePlace(file="log", offset=1000)
    for other in written.keys() - {encoding}:
        (problem,) = read({"certificate": written[other]}, record, issuers) or []
        assert problem.startswith((f"the field certificate is not {encoding}", "not a cert", "there is no cert"))


@pytest.mark.parametrize(
    ("record", "chosen"),
    [
        ({"event": "issued", "request": {"dry": False}}, True),
        ({"event": "issued", "request.dry": False}, True),
        ({"event": "issued", "request": {"dry": 0}}, False),
        ({"event": "issued", "request": {"dry": True}}, False),
        ({"event": "issued", "request": "dry"}, False),
        ({"event": "issued"}, False),
        ({"event": ["issued"], "request": {"dry": False}}, False),
        ({"event": "login"}, False),
    ],
)
def test_only_lines_that_match_are_about_an_issuance(record: dict[str, Any], chosen: bool, issuers: IssuerSet) -> None:
    found = read(record, EVENTS, issuers)
    assert found == (["the field response.data.certificate is not there"] if chosen else None)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"plain text", "not JSON"),
        (b'{"event": "issued"', "not JSON"),
        (b'{"event": "caf\xe9"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'["issued"]', "not an object"),
        (b'{"certificate": null}', "is not a string"),
        (b'{"certificate": {"der": "AAAA"}}', "is not a string"),
        (b'{"certificate": "not base64!"}', "is not base64"),
        (b'{"certificate": "\\ud800"}', "is not base64"),
        (b'{"certificate": "AAAA"}', "not a certificate"),
        (b'{"certificate": ""}', "not a certificate"),
    ],
)
def test_what_cannot_be_read_is_quarantined_in_words(data: bytes, what: str, issuers: IssuerSet) -> None:
    (detail,) = read(data, PLAIN, issuers) or []
    assert what in detail


def test_a_byte_order_mark_is_stepped_over(ca: Authority, issuers: IssuerSet) -> None:
    certificate = ca.issue("mark.example")
    data = json.dumps({"certificate": base64.b64encode(der(certificate)).decode()}).encode()
    assert read(b"\xef\xbb\xbf" + data + b"\r", PLAIN, issuers) == [str(certificate.serial_number)]


def test_a_private_key_in_a_line_is_withheld(issuers: IssuerSet) -> None:
    data = b'{"key": "-----BEGIN PRIVATE KEY-----\\nc2VjcmV0\\n-----END PRIVATE KEY-----\\n"}'
    contents = read_line(line(data), PLAIN, file="log", issuers=issuers)
    assert contents is not None
    (found,) = contents.evidence
    assert isinstance(found, Quarantined)
    assert b"c2VjcmV0" not in found.raw
    assert found.raw.startswith(b'{"key": "-----BEGIN PRIVATE KEY-----')


@pytest.mark.parametrize(
    ("path", "found"),
    [("a", 1), ("b.c", 2), ("b.d.e", 3), ("f.g", 4), ("b.h.i", 5)],
)
def test_dots_lead_into_objects_and_keys_with_dots_are_found(path: str, found: int) -> None:
    assert look_up({"a": 1, "b": {"c": 2, "d": {"e": 3}, "h.i": 5}, "f.g": 4}, path) == found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=100), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_line_gives_evidence_and_no_error(data: bytes, issuers: IssuerSet) -> None:
    contents = read_line(line(data), PLAIN, file="log", issuers=issuers)
    assert contents is not None
    assert len(contents.evidence) == 1


def test_record_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="certificate_field"):
        RecordSettings(certificate_field="", encoding="pem")
    with pytest.raises(ValueError, match="encoding"):
        RecordSettings(certificate_field="a", encoding="guess")  # type: ignore[arg-type]  # as from a settings file
