# SPDX-License-Identifier: Apache-2.0
"""Nonce, archive cutoff and extended revoke in responses: asn1crypto makes the same octets, the lint agrees."""

from dataclasses import replace
from datetime import timedelta

import pytest
from asn1crypto import core as asn1_core
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import LintError
from responder.ocsp import lint as rules
from responder.ocsp.lint import lint
from responder.ocsp.policy import DEFAULT_POLICY, EXTENDED_REVOKE, archive_cutoff, nonce_to_echo
from responder.ocsp.response import SingleAnswer
from responder.ocsp.series import CertIds, Series
from responder.status.model import CertStatus, Good, NonceMode, Reason, Revoked, Unknown
from tests.responder.ocsp.test_lint import PRIVATE, PUBLIC, World, sign, usual_times
from tests.responder.signing.certificates import DAY, NOW

NONCES = st.none() | st.binary(min_size=1, max_size=32)
CUTOFFS = st.none() | st.integers(1, 36525 * 86400).map(lambda seconds: timedelta(seconds=seconds))
REVOKED = Revoked(NOW - DAY, Reason.SUPERSEDED)


def keeping(interval: timedelta | None, world: World = PUBLIC) -> World:
    """The same world under a policy with this archive cutoff."""
    policy = replace(DEFAULT_POLICY, archive_cutoff=interval)
    return replace(world, issuer=replace(world.issuer, policy=policy))


def made(world: World, *statuses: CertStatus, nonce: bytes | None = None, extended: bool = False) -> bytes:
    """A response as service.py makes it, signed."""
    times = usual_times(unknown=any(isinstance(each, Unknown) for each in statuses) or EXTENDED_REVOKE in statuses)
    singles = [
        SingleAnswer(
            asked.raw,
            status,
            archive_cutoff=archive_cutoff(status, world.issuer.policy, produced_at=times.this_update),
        )
        for asked, status in zip(world.asked(*range(1, len(statuses) + 1)), statuses, strict=True)
    ]
    tbs = world.parts.tbs(singles, times=times, extended_revoke=extended, nonce=nonce)
    return world.parts.assemble(tbs, sign(world.key, tbs))


def check(world: World, response: bytes, *, certificates: int = 1, nonce: bytes | None = None) -> None:
    lint(
        response,
        asked=world.asked(*range(1, certificates + 1)),
        issuer=world.issuer,
        signer_certificate=world.certificate,
        now=NOW,
        verify=True,
        nonce=nonce,
    )


@given(nonce=NONCES, interval=CUTOFFS, extended=st.booleans())
def test_the_extensions_are_those_of_asn1crypto(
    nonce: bytes | None, interval: timedelta | None, extended: bool
) -> None:
    world = keeping(interval)
    data = asn1_ocsp.OCSPResponse.load(made(world, Good(), nonce=nonce, extended=extended)).response_data
    ours = data["response_extensions"].dump(), data["responses"][0]["single_extensions"].dump()
    wanted = asn1_ocsp.ResponseData()
    listed = [] if nonce is None else [{"extn_id": "nonce", "extn_value": asn1_core.OctetString(nonce)}]
    listed += [{"extn_id": "extended_revoke", "extn_value": asn1_core.Null()}] if extended else []
    if len(listed) > 0:
        wanted["response_extensions"] = listed
    single = asn1_ocsp.SingleResponse()
    if interval is not None:
        single["single_extensions"] = [
            {"extn_id": "archive_cutoff", "extn_value": asn1_core.GeneralizedTime(NOW - interval)}
        ]
    assert ours == (wanted["response_extensions"].dump(), single["single_extensions"].dump())


@given(nonce=NONCES, interval=CUTOFFS, statuses=st.lists(st.sampled_from([Good(), REVOKED]), min_size=1, max_size=4))
def test_what_is_made_for_a_policy_passes_its_lint(
    nonce: bytes | None, interval: timedelta | None, statuses: list[CertStatus]
) -> None:
    world = keeping(interval)
    check(world, made(world, *statuses, nonce=nonce), certificates=len(statuses), nonce=nonce)


def test_cryptography_reads_the_nonce_and_the_cutoff() -> None:
    read = ocsp.load_der_ocsp_response(made(keeping(3 * DAY), Good(), nonce=b"n" * 32))
    assert read.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    (cutoff,) = read.single_extensions
    assert (cutoff.oid.dotted_string, cutoff.critical) == ("1.3.6.1.5.5.7.48.1.6", False)
    assert isinstance(cutoff.value, x509.UnrecognizedExtension)
    said = (NOW - 3 * DAY).strftime("%Y%m%d%H%M%SZ").encode()
    assert cutoff.value.value == b"\x18\x0f" + said


@pytest.mark.parametrize(
    ("sent", "asked_for"),
    [(None, b"n"), (b"n", None), (b"n", b"m"), (b"nn", b"n"), (b"n" * 32, b"n" * 31)],
    ids=["missing", "not asked for", "another", "longer", "longer by one"],
)
def test_a_nonce_that_is_not_exactly_the_one_asked_for_is_stopped(sent: bytes | None, asked_for: bytes | None) -> None:
    for world, statuses, extended in (
        (PUBLIC, [Good()], False),
        (PRIVATE, [EXTENDED_REVOKE], True),
    ):
        with pytest.raises(LintError) as refused:
            check(world, made(world, *statuses, nonce=sent, extended=extended), nonce=asked_for)
        assert refused.value.rule == (rules.EXTENSIONS if asked_for is None else rules.NONCE)


def test_a_nonce_and_an_extended_revoke_stand_beside_each_other() -> None:
    answer = made(PRIVATE, EXTENDED_REVOKE, nonce=b"n" * 16, extended=True)
    check(PRIVATE, answer, nonce=b"n" * 16)
    with pytest.raises(LintError) as refused:
        check(PUBLIC, answer, nonce=b"n" * 16)
    assert refused.value.rule == rules.EXTENDED


@pytest.mark.parametrize("nonce", [None, b"n"])
def test_an_extended_revoke_is_announced_where_it_is_said_and_nowhere_else(nonce: bytes | None) -> None:
    with pytest.raises(LintError) as refused:
        check(PRIVATE, made(PRIVATE, Good(), nonce=nonce, extended=True), nonce=nonce)
    assert refused.value.rule == rules.EXTENSIONS
    with pytest.raises(LintError) as refused:
        check(PRIVATE, made(PRIVATE, EXTENDED_REVOKE, nonce=nonce), nonce=nonce)
    assert refused.value.rule == rules.EXTENDED


def test_each_certificate_has_its_own_cutoff_and_an_unassigned_serial_none() -> None:
    world = keeping(DAY, PRIVATE)
    asked = world.asked(1, 2, 3)
    times, sooner = usual_times(), usual_times(unknown=True).next_update
    cutoff = NOW - DAY
    singles = [
        SingleAnswer(asked[0].raw, Good(), None, cutoff),
        SingleAnswer(asked[1].raw, EXTENDED_REVOKE, sooner),
        SingleAnswer(asked[2].raw, REVOKED, None, cutoff),
    ]
    tbs = world.parts.tbs(singles, times=times, extended_revoke=True)
    check(world, world.parts.assemble(tbs, sign(world.key, tbs)), certificates=3)
    tbs = world.parts.tbs([*singles[:2], SingleAnswer(asked[2].raw, REVOKED)], times=times, extended_revoke=True)
    with pytest.raises(LintError) as refused:
        check(world, world.parts.assemble(tbs, sign(world.key, tbs)), certificates=3)
    assert refused.value.rule == rules.ARCHIVE_CUTOFF


def test_a_series_carries_the_cutoff_of_its_times() -> None:
    many = Series(PUBLIC.parts, usual_times(), NOW - DAY)
    for serial in (1, 2):
        cert_id = CertIds(PUBLIC.issuer, "sha256").of(serial)
        single = SingleAnswer(cert_id.raw, Good(), archive_cutoff=NOW - DAY)
        assert many.tbs(cert_id.raw, Good()) == PUBLIC.parts.tbs([single], times=usual_times())


@pytest.mark.parametrize(
    ("octets", "mode", "echoed"),
    [
        (1, NonceMode.ECHO, True),
        (15, NonceMode.ECHO, True),
        (16, NonceMode.ECHO, True),
        (32, NonceMode.ECHO, True),
        (33, NonceMode.ECHO, False),
        (128, NonceMode.ECHO, False),
        (32, NonceMode.OFF, False),
    ],
)
def test_a_nonce_is_echoed_up_to_32_octets_and_only_where_that_is_on(
    octets: int, mode: NonceMode, echoed: bool
) -> None:
    nonce = bytes(octets)
    assert nonce_to_echo(nonce, replace(DEFAULT_POLICY, nonce=mode)) == (nonce if echoed else None)
    assert nonce_to_echo(None, replace(DEFAULT_POLICY, nonce=mode)) is None


@pytest.mark.parametrize(
    ("status", "said"), [(Good(), True), (REVOKED, True), (Unknown(), False), (EXTENDED_REVOKE, False)]
)
def test_the_cutoff_is_producedat_minus_the_interval_for_certificates_that_exist(
    status: CertStatus, said: bool
) -> None:
    policy = replace(DEFAULT_POLICY, archive_cutoff=7 * 365 * DAY)
    at = NOW.replace(microsecond=999_999)
    assert archive_cutoff(status, policy, produced_at=at) == (NOW - 7 * 365 * DAY if said else None)
    assert archive_cutoff(status, DEFAULT_POLICY, produced_at=at) is None
