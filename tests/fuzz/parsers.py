# SPDX-License-Identifier: Apache-2.0
"""Fuzzing the pure parsers: `python -m tests.fuzz.parsers -max_total_time=60 [FOLDER]`.

Each raises its own errors and no others; where cryptography and asn1crypto read a request too, all read the same.
"""

import sys
from collections.abc import Callable
from contextlib import suppress

import atheris
from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ocsp

with atheris.instrument_imports(include=["responder"], enable_loader_override=False):
    from responder.errors import OcspError
    from responder.ocsp.forms import Forms
    from responder.ocsp.octets import read_response
    from responder.ocsp.path import request_in_path
    from responder.ocsp.request import OcspRequest, parse_request
    from responder.status import der
    from tests.fuzz.launch import launch

MOST = 10_000
FORMS = Forms()


def one(data: bytes) -> None:
    """Give the same octets to every parser."""
    ours = outcome(parse_request, data)
    assert outcome(FORMS.parse, data) == ours
    if isinstance(ours, OcspRequest):
        compare(ours, data)
    with suppress(OcspError):
        assert len(request_in_path(b"/" + data, prefix=b"", most_octets=MOST)) <= MOST
    with suppress(der.DerError):
        read_response(data)


def outcome(parse: Callable[[bytes], OcspRequest], data: bytes) -> OcspRequest | type[OcspError]:
    try:
        return parse(data)
    except OcspError as error:
        return type(error)


def compare(ours: OcspRequest, data: bytes) -> None:
    """Compare with what the others read, where they read it at all."""
    try:
        theirs = ocsp.load_der_ocsp_request(data)
        said = theirs.issuer_name_hash, theirs.issuer_key_hash, theirs.serial_number
    except (ValueError, NotImplementedError):
        pass
    else:
        (only,) = ours.cert_ids
        assert (only.name_hash, only.key_hash, only.serial) == said
    try:
        listed = asn1_ocsp.OCSPRequest.load(data, strict=True)["tbs_request"]["request_list"]
        certs = [each["req_cert"] for each in listed]
        read = [(each["issuer_name_hash"].native, each["serial_number"].native) for each in certs]
    except (ValueError, TypeError):
        return
    assert [(each.name_hash, each.serial) for each in ours.cert_ids] == read


def main() -> None:
    """Fuzz until libFuzzer says that it is enough; it ends the process."""
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    launch("tests.fuzz.parsers", main, seeds=lambda fixed: fixed.requests())
