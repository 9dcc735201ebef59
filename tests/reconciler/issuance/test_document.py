# SPDX-License-Identifier: Apache-2.0
"""One certificate, bundles of several, keys that must not become evidence, and bytes that are nothing at all."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.ca import Authority, make_key
from reconciler.issuance.document import pem_blocks, printable, read_file, read_pem, without_private_keys
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace, Quarantined, QuarantineReason, Sighting
from tests.reconciler.issuance.conftest import der, pem


def reasons(evidence: tuple[Sighting | Quarantined, ...]) -> list[str]:
    return [each.reason.value if isinstance(each, Quarantined) else "sighting" for each in evidence]


def key_pem() -> bytes:
    return make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("form", [der, pem])
def test_a_certificate_of_ours_is_proven_in_either_form(form: object, ca: Authority, issuers: IssuerSet) -> None:
    assert callable(form)
    precert = ca.precertificate("one.example")
    contents = read_file(form(precert), file="one", issuers=issuers)
    (found,) = contents.evidence
    assert isinstance(found, Sighting)
    assert found.issued.serial == precert.serial_number
    assert found.issued.der == der(precert)
    assert found.place == FilePlace(file="one", offset=0)


def test_the_chain_in_a_fullchain_file_is_passed_over(ca: Authority, issuers: IssuerSet) -> None:
    leaf = ca.issue("chain.example")
    contents = read_file(pem(leaf) + b"".join(pem(each) for each in ca.chain), file="fullchain.pem", issuers=issuers)
    assert reasons(contents.evidence) == ["sighting"]
    assert contents.passed_over == 2


def test_every_certificate_of_ours_in_a_bundle_counts_at_its_own_offset(ca: Authority, issuers: IssuerSet) -> None:
    first, second = pem(ca.issue("first.example")), pem(ca.issue("second.example"))
    text = b"issued today:\n" + first + b"and also\n" + second + b"that is all\n"
    contents = read_file(text, file="bundle.pem", issuers=issuers)
    assert reasons(contents.evidence) == ["sighting", "sighting"]
    offsets = [each.place.offset for each in contents.evidence if isinstance(each.place, FilePlace)]
    assert offsets == [text.index(first), text.index(second)]


def test_a_foreign_subscriber_certificate_in_a_bundle_is_no_chain(
    ca: Authority, stranger: Authority, issuers: IssuerSet
) -> None:
    text = pem(ca.issue("ours.example")) + pem(stranger.issue("theirs.example"))
    assert reasons(read_file(text, file="x", issuers=issuers).evidence) == ["sighting", "foreign"]


def test_a_foreign_certificate_that_comes_first_is_quarantined(stranger: Authority, issuers: IssuerSet) -> None:
    text = pem(stranger.issue("theirs.example")) + stranger.pem()
    contents = read_file(text, file="x", issuers=issuers)
    assert reasons(contents.evidence) == ["foreign"]
    assert contents.passed_over == 1


def test_a_foreign_ca_certificate_that_comes_first_is_no_chain_of_anything(ca: Authority, issuers: IssuerSet) -> None:
    contents = read_file(ca.pem() + pem(ca.issue("after.example")), file="x", issuers=issuers)
    assert reasons(contents.evidence) == ["foreign", "sighting"]


def test_a_chain_certificate_brings_the_proof_of_a_precertificate_signing_ca(ca: Authority, issuers: IssuerSet) -> None:
    signer = ca.precertificate_signing_ca()
    precert = ca.precertificate("signed.example", signer=signer)
    alone = read_file(pem(precert), file="x", issuers=issuers)
    assert reasons(alone.evidence) == ["foreign"]
    together = read_file(pem(precert) + signer.pem(), file="x", issuers=issuers)
    assert [each.issued.serial for each in together.evidence if isinstance(each, Sighting)] == [
        precert.serial_number,
        signer.certificate.serial_number,
    ]


def test_a_forged_signature_is_quarantined_wherever_it_stands(ca: Authority, issuers: IssuerSet) -> None:
    forger = Authority.create("Issuing CA")
    text = pem(ca.issue("ours.example")) + pem(forger.issue("forged.example"))
    assert reasons(read_file(text, file="x", issuers=issuers).evidence) == ["sighting", "signature"]


def test_a_private_key_beside_its_certificate_is_never_evidence(ca: Authority, issuers: IssuerSet) -> None:
    contents = read_file(key_pem() + pem(ca.issue("keyed.example")), file="x", issuers=issuers)
    assert reasons(contents.evidence) == ["sighting"]
    assert contents.passed_over == 1


def test_a_lone_private_key_is_quarantined_by_its_hash_only(issuers: IssuerSet) -> None:
    key = key_pem()
    (found,) = read_file(b"oops\n" + key, file="x", issuers=issuers).evidence
    assert isinstance(found, Quarantined)
    assert found.reason is QuarantineReason.UNPARSABLE
    assert found.raw.startswith(b"oops\n-----BEGIN PRIVATE KEY-----\nwithheld, SHA-256 ")
    assert key.splitlines()[1] not in found.raw


def test_a_private_key_cut_off_in_the_middle_is_withheld_too() -> None:
    key = key_pem()
    assert key.splitlines()[1] not in without_private_keys(key[:150])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "empty"),
        (b"neither here nor there", "not a certificate"),
        (
            b"0 is how this PEM begins\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "not a certificate",
        ),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", "no END line"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END X509 CRL-----\n", "no END line"),
        (b"-----BEGIN CERTIFICATE-----\nM*IB\n-----END CERTIFICATE-----\n", "base64"),
        (
            b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
            "no certificate in this PEM",
        ),
        (b"-----BEGIN CERTIFICATE", "no END line"),
        (b"\x30\x82\x01\x00cut off", "not a certificate"),
    ],
)
def test_what_cannot_be_read_is_kept_with_its_bytes(text: bytes, what: str, issuers: IssuerSet) -> None:
    contents = read_file(text, file="x", issuers=issuers)
    (found,) = contents.evidence
    assert isinstance(found, Quarantined)
    assert found.reason is QuarantineReason.UNPARSABLE
    assert what.lower() in found.detail.lower()
    assert contents.unparsable
    assert found.raw in text or base64.b64encode(found.raw) in text


def test_a_broken_block_hides_no_other(ca: Authority, issuers: IssuerSet) -> None:
    good = pem(ca.issue("after.example"))
    broken = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"
    cut = b"-----BEGIN CERTIFICATE-----\nMIIB\n"
    contents = read_file(broken + good + cut + good, file="x", issuers=issuers)
    assert reasons(contents.evidence) == ["unparsable", "sighting", "unparsable", "sighting"]


_junk = st.binary(max_size=60).filter(lambda junk: b"-" not in junk)


@given(st.lists(st.tuples(_junk, st.binary(min_size=1, max_size=200)), max_size=6), _junk)
def test_blocks_are_found_whatever_stands_between_them(parts: list[tuple[bytes, bytes]], end: bytes) -> None:
    text, starts = b"", []
    for junk, body in parts:
        text += junk
        starts.append(len(text))
        text += b"-----BEGIN CERTIFICATE-----\r\n" + base64.encodebytes(body) + b"-----END CERTIFICATE-----\r\n"
    blocks = list(pem_blocks(text + end))
    assert [block.decode() for block in blocks] == [body for _, body in parts]
    assert [block.offset for block in blocks] == starts


@given(st.lists(st.sampled_from([b"-----", b"-----BEGIN ", b"-----END ", b"CERTIFICATE", b"AAAA", b"\n", b"0"])))
def test_no_text_breaks_the_cutting_and_no_block_overlaps_another(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    end = 0
    for block in pem_blocks(text):
        assert block.offset >= end
        assert text[block.offset :].startswith(block.text)
        end = block.offset + len(block.text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_octets_give_evidence_and_no_error(data: bytes, issuers: IssuerSet) -> None:
    assert len(read_file(data, file="x", issuers=issuers).evidence) == 1
    marked = b"-----BEGIN CERTIFICATE-----" + data
    assert len(read_pem(marked, file="x", issuers=issuers).evidence) >= 1


@given(st.text())
def test_details_fit_into_a_table_and_onto_a_terminal(text: str) -> None:
    shown = printable(text + "\x00\ud800")
    assert shown.isprintable()
    shown.encode()


def test_another_parser_finds_the_same_certificates_in_a_bundle(ca: Authority, issuers: IssuerSet) -> None:
    text = b"".join(pem(ca.issue(f"{number}.example")) for number in range(3))
    theirs = [der(each) for each in x509.load_pem_x509_certificates(text)]
    ours = [e.issued.der for e in read_file(text, file="x", issuers=issuers).evidence if isinstance(e, Sighting)]
    assert ours == theirs
