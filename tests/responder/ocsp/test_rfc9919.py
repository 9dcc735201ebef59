# SPDX-License-Identifier: Apache-2.0
"""The worked example of RFC 9919 appendix B: our parser, our hashes and our assembler give its octets.

The RFC's example has its producedAt a day before thisUpdate, where we make both one moment; nothing else differs.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from responder.errors import LintError
from responder.ocsp import lint as rules
from responder.ocsp.octets import read_response
from responder.ocsp.policy import DEFAULT_POLICY, Times
from responder.ocsp.request import parse_request
from responder.ocsp.response import ResponseParts, SingleAnswer
from responder.status import der
from responder.status.issuers import CaCertificate, Issuer, IssuerSet
from responder.status.model import Good
from tests.responder.signing.certificates import der_of

ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")


@dataclass(frozen=True)
class Example:
    """The four files of the example."""

    ca: CaCertificate
    end_entity: x509.Certificate
    request: bytes
    response: bytes


@pytest.fixture(scope="module")
def example(ct_corpus: Path) -> Example:
    folder = ct_corpus / "rfc9919"
    return Example(
        CaCertificate.load((folder / "issuing-ca.pem").read_bytes()),
        x509.load_pem_x509_certificate((folder / "end-entity.pem").read_bytes()),
        base64.b64decode((folder / "request.b64").read_text()),
        base64.b64decode((folder / "response.b64").read_text()),
    )


def test_every_file_of_the_example_is_used(ct_corpus: Path) -> None:
    assert sorted(each.name for each in (ct_corpus / "rfc9919").iterdir()) == [
        "end-entity.pem", "issuing-ca.pem", "request.b64", "response.b64",
    ]  # fmt: skip


def test_the_request_asks_for_the_end_entity_certificate_of_the_ca(example: Example) -> None:
    parsed = parse_request(example.request)
    (asked,) = parsed.cert_ids
    assert (parsed.nonce, parsed.signed) == (None, False)
    assert (asked.hash_name, asked.serial) == ("sha256", example.end_entity.serial_number)
    assert (asked.name_hash, asked.key_hash) == (example.ca.name_hashes.sha256, example.ca.key_hashes.sha256)
    assert example.end_entity.issuer.public_bytes() == example.ca.subject
    issuer = Issuer(1, "Certs 'r Us", True, False, DEFAULT_POLICY, (example.ca,))
    assert IssuerSet([issuer]).by_cert_id("sha256", asked.name_hash, asked.key_hash) is issuer


def test_the_request_is_what_anybody_would_make_of_the_two_certificates(example: Example) -> None:
    made = ocsp.OCSPRequestBuilder().add_certificate(example.end_entity, example.ca.parsed, hashes.SHA256()).build()
    assert parse_request(example.request).cert_ids[0].serial == made.serial_number
    assert (made.issuer_name_hash, made.issuer_key_hash) == (
        example.ca.name_hashes.sha256,
        example.ca.key_hashes.sha256,
    )


def test_the_response_is_assembled_octet_for_octet_around_its_signature(example: Example) -> None:
    read = ocsp.load_der_ocsp_response(example.response)
    assert read.this_update_utc is not None
    assert read.next_update_utc is not None
    (signer,) = read.certificates
    parts = ResponseParts.for_signer(der_of(signer), algorithm=ECDSA_SHA384, embed=True)
    times = Times(read.this_update_utc, read.next_update_utc, read.this_update_utc)
    (asked,) = parse_request(example.request).cert_ids
    tbs = parts.tbs([SingleAnswer(asked.raw, Good())], times=times)
    produced_at = der.wrap(der.GENERALIZED_TIME, f"{read.produced_at_utc:%Y%m%d%H%M%SZ}".encode())
    at = tbs.index(parts.responder_id) + len(parts.responder_id)
    of_the_rfc = tbs[:at] + produced_at + tbs[at + len(produced_at) :]
    assert of_the_rfc == read.tbs_response_bytes
    assert parts.assemble(of_the_rfc, read.signature) == example.response


def test_the_responder_was_certified_by_the_ca_and_signed_the_response(example: Example) -> None:
    read = ocsp.load_der_ocsp_response(example.response)
    (signer,) = read.certificates
    signer.verify_directly_issued_by(example.ca.parsed)
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(read.signature, read.tbs_response_bytes, ec.ECDSA(hashes.SHA384()))


def test_our_reader_of_octets_finds_the_fields_of_the_response(example: Example) -> None:
    read = ocsp.load_der_ocsp_response(example.response)
    octets = read_response(example.response)
    assert octets.tbs == read.tbs_response_bytes
    assert octets.algorithm == ECDSA_SHA384
    assert octets.certificates == der.wrap(der.SEQUENCE, der_of(read.certificates[0]))
    assert octets.singles[0].cert_id == parse_request(example.request).cert_ids[0].raw
    assert octets.extensions is None


def test_the_lint_stops_it_for_a_producedat_that_is_not_thisupdate(example: Example) -> None:
    read = ocsp.load_der_ocsp_response(example.response)
    assert read.this_update_utc is not None
    issuer = Issuer(1, "Certs 'r Us", True, False, DEFAULT_POLICY, (example.ca,))
    with pytest.raises(LintError) as refused:
        rules.lint(
            example.response,
            asked=parse_request(example.request).cert_ids,
            issuer=issuer,
            signer_certificate=read.certificates[0],
            now=read.this_update_utc,
            verify=True,
        )
    assert refused.value.rule == rules.PRODUCED_AT
