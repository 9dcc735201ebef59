# SPDX-License-Identifier: Apache-2.0
"""The assembler: its octets are asn1crypto's octets, and cryptography reads back what was meant."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from asn1crypto import algos as asn1_algos
from asn1crypto import core as asn1_core
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import ResponseStatus
from responder.ocsp.policy import EXTENDED_REVOKE, Times
from responder.ocsp.response import ResponseParts, SingleAnswer, error_response
from responder.status.model import CertStatus, Good, Reason, Revoked, Unknown
from tests.responder.signing.certificates import NOW, der_of, make_ca

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
CA = make_ca(ec.generate_private_key(ec.SECP256R1()))
KEY = ec.generate_private_key(ec.SECP256R1())
DELEGATE = CA.delegate(KEY)
PARTS = ResponseParts.for_signer(der_of(DELEGATE), algorithm=ECDSA_SHA256, embed=True)
DIRECT = ResponseParts.for_signer(der_of(CA.certificate), algorithm=ECDSA_SHA256, embed=False)


GOLDEN = {
    ResponseStatus.MALFORMED_REQUEST: "30030a0101",
    ResponseStatus.INTERNAL_ERROR: "30030a0102",
    ResponseStatus.TRY_LATER: "30030a0103",
    ResponseStatus.SIG_REQUIRED: "30030a0105",
    ResponseStatus.UNAUTHORIZED: "30030a0106",
}


def test_there_is_a_golden_error_for_every_status_but_success() -> None:
    assert set(GOLDEN) == set(ResponseStatus) - {ResponseStatus.SUCCESSFUL}


@pytest.mark.parametrize(("status", "octets"), GOLDEN.items())
def test_an_error_is_its_five_golden_octets(status: ResponseStatus, octets: str) -> None:
    assert error_response(status).hex() == octets
    assert ocsp.load_der_ocsp_response(error_response(status)).response_status.value == status


def test_a_successful_error_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="has an answer in it"):
        error_response(ResponseStatus.SUCCESSFUL)


def cert_id(serial: int, hash_name: str = "sha256") -> bytes:
    length = {"sha1": 20, "sha256": 32}[hash_name]
    encoded: bytes = asn1_ocsp.CertId(
        {
            "hash_algorithm": asn1_algos.DigestAlgorithm({"algorithm": hash_name}),
            "issuer_name_hash": b"n" * length,
            "issuer_key_hash": b"k" * length,
            "serial_number": serial,
        }
    ).dump()
    return encoded


def asn1_status(status: CertStatus) -> asn1_ocsp.CertStatus:
    match status:
        case Good():
            return asn1_ocsp.CertStatus("good", asn1_core.Null())
        case Unknown():
            return asn1_ocsp.CertStatus("unknown", asn1_core.Null())
        case Revoked(at=at, reason=reason):
            info: dict[str, object] = {"revocation_time": at}
            if reason is not Reason.UNSPECIFIED:
                info["revocation_reason"] = REASON_NAMES[reason]
            return asn1_ocsp.CertStatus("revoked", info)


REASON_NAMES = {
    Reason.KEY_COMPROMISE: "key_compromise",
    Reason.CA_COMPROMISE: "ca_compromise",
    Reason.AFFILIATION_CHANGED: "affiliation_changed",
    Reason.SUPERSEDED: "superseded",
    Reason.CESSATION_OF_OPERATION: "cessation_of_operation",
    Reason.CERTIFICATE_HOLD: "certificate_hold",
    Reason.REMOVE_FROM_CRL: "remove_from_crl",
    Reason.PRIVILEGE_WITHDRAWN: "privilege_withdrawn",
    Reason.AA_COMPROMISE: "aa_compromise",
}


def by_asn1crypto(
    singles: list[SingleAnswer],
    *,
    times: Times,
    signer: x509.Certificate,
    signature: bytes,
    embed: bool,
    extended_revoke: bool,
) -> bytes:
    """The same response, encoded by asn1crypto from the same values."""
    certificate = asn1_x509.Certificate.load(der_of(signer))
    data = asn1_ocsp.ResponseData(
        {
            "responder_id": asn1_ocsp.ResponderId("by_key", certificate.public_key.sha1),
            "produced_at": times.this_update,
            "responses": [
                {
                    "cert_id": asn1_ocsp.CertId.load(each.cert_id),
                    "cert_status": asn1_status(each.status),
                    "this_update": times.this_update,
                    "next_update": times.next_update if each.next_update is None else each.next_update,
                }
                for each in singles
            ],
        }
    )
    if extended_revoke:
        data["response_extensions"] = [{"extn_id": "extended_revoke", "extn_value": asn1_core.Null()}]
    basic = asn1_ocsp.BasicOCSPResponse(
        {
            "tbs_response_data": data,
            "signature_algorithm": asn1_algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": signature,
        }
    )
    if embed:
        basic["certs"] = [certificate]
    encoded: bytes = asn1_ocsp.OCSPResponse(
        {
            "response_status": "successful",
            "response_bytes": {
                "response_type": "basic_ocsp_response",
                "response": asn1_core.ParsableOctetString(basic.dump()),
            },
        }
    ).dump()
    return encoded


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
seconds = st.integers(0, 250_000_000_000).map(lambda second: EPOCH + timedelta(seconds=second))
statuses: st.SearchStrategy[CertStatus] = st.one_of(
    st.just(Good()), st.just(Unknown()), st.builds(Revoked, seconds, st.sampled_from(list(Reason)))
)
answers = st.builds(
    SingleAnswer,
    st.builds(cert_id, st.integers(-(2**70), 2**160), st.sampled_from(["sha1", "sha256"])),
    statuses,
    st.none() | seconds,
)


@given(
    singles=st.lists(answers, min_size=1, max_size=4),
    this_update=seconds,
    period=st.integers(1, 10**6),
    signature=st.binary(min_size=1, max_size=300),
    direct=st.booleans(),
    extended=st.booleans(),
)
def test_the_octets_are_those_of_asn1crypto(
    singles: list[SingleAnswer], this_update: datetime, period: int, signature: bytes, direct: bool, extended: bool
) -> None:
    times = Times(this_update, this_update + timedelta(seconds=period), this_update)
    parts, signer = (DIRECT, CA.certificate) if direct else (PARTS, DELEGATE)
    made = parts.assemble(parts.tbs(singles, times=times, extended_revoke=extended), signature)
    expected = by_asn1crypto(
        singles, times=times, signer=signer, signature=signature, embed=not direct, extended_revoke=extended
    )
    assert made == expected
    read = ocsp.load_der_ocsp_response(made)
    assert len(list(read.responses)) == len(singles)
    assert len(read.certificates) == (0 if direct else 1)


TIMES = Times(NOW, NOW + timedelta(hours=96, seconds=-1), NOW + timedelta(hours=36))


@pytest.mark.parametrize(
    ("status", "kind", "at", "reason"),
    [
        (Good(), ocsp.OCSPCertStatus.GOOD, None, None),
        (Unknown(), ocsp.OCSPCertStatus.UNKNOWN, None, None),
        (Revoked(NOW, Reason.UNSPECIFIED), ocsp.OCSPCertStatus.REVOKED, NOW, None),
        (Revoked(NOW, Reason.SUPERSEDED), ocsp.OCSPCertStatus.REVOKED, NOW, x509.ReasonFlags.superseded),
    ],
)
def test_cryptography_reads_back_what_was_meant(
    status: CertStatus, kind: ocsp.OCSPCertStatus, at: datetime | None, reason: x509.ReasonFlags | None
) -> None:
    tbs = PARTS.tbs([SingleAnswer(cert_id(5), status)], times=TIMES)
    read = ocsp.load_der_ocsp_response(PARTS.assemble(tbs, b"signature"))
    assert (read.certificate_status, read.revocation_time_utc, read.revocation_reason) == (kind, at, reason)
    assert (read.produced_at_utc, read.this_update_utc, read.next_update_utc) == (NOW, NOW, TIMES.next_update)
    assert read.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).digest
    assert read.tbs_response_bytes == tbs
    assert read.signature == b"signature"
    assert read.certificates == [DELEGATE]
    assert len(read.extensions) == len(read.single_extensions) == 0


def test_one_answer_of_several_may_end_sooner() -> None:
    sooner = NOW + timedelta(minutes=10)
    singles = [SingleAnswer(cert_id(1), Good()), SingleAnswer(cert_id(2), Unknown(), sooner)]
    read = ocsp.load_der_ocsp_response(PARTS.assemble(PARTS.tbs(singles, times=TIMES), b"s"))
    assert [each.next_update_utc for each in read.responses] == [TIMES.next_update, sooner]


def test_fractions_of_a_second_and_other_time_zones_never_reach_the_wire() -> None:
    fraction = NOW.replace(microsecond=500_000)
    elsewhere = fraction.astimezone(timezone(timedelta(hours=-7)))
    times = Times(elsewhere, TIMES.next_update, TIMES.refresh_at)
    whole = PARTS.tbs([SingleAnswer(cert_id(5), Revoked(NOW, Reason.SUPERSEDED))], times=TIMES)
    assert PARTS.tbs([SingleAnswer(cert_id(5), Revoked(fraction, Reason.SUPERSEDED))], times=times) == whole


def test_extended_revoke_is_announced_in_the_response_extensions_alone() -> None:
    tbs = PARTS.tbs([SingleAnswer(cert_id(5), EXTENDED_REVOKE)], times=TIMES, extended_revoke=True)
    read = ocsp.load_der_ocsp_response(PARTS.assemble(tbs, b"s"))
    assert [(each.oid.dotted_string, each.critical) for each in read.extensions] == [("1.3.6.1.5.5.7.48.1.9", False)]
    assert len(read.single_extensions) == 0
    assert read.revocation_time_utc == EPOCH
    assert read.revocation_reason is x509.ReasonFlags.certificate_hold
