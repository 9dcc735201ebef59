# SPDX-License-Identifier: Apache-2.0
"""Responses made and linted by the thousand: the same octets, and the same rules, as one at a time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import LintError
from responder.ocsp import lint as rules
from responder.ocsp.likeness import STATUS, TIMES, Alike, check_says
from responder.ocsp.request import CertId
from responder.ocsp.response import SingleAnswer
from responder.ocsp.series import CertIds, Series
from responder.status.model import CertStatus, Good, Reason, Revoked, Unknown
from tests.responder.ocsp.test_lint import CA, PUBLIC, World, sign, usual_times
from tests.responder.signing.certificates import DAY, NOW

SERIALS = st.integers(1, 2**160 - 1) | st.integers(1, 300) | st.integers(1, 64).map(lambda n: 2 ** (8 * n) - 1)
MOMENTS = st.datetimes(datetime(1980, 1, 1), NOW.replace(tzinfo=None), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
REASONS = st.sampled_from([Reason.UNSPECIFIED, Reason.KEY_COMPROMISE, Reason.SUPERSEDED])
STATUSES: st.SearchStrategy[Good | Revoked] = st.just(Good()) | st.builds(Revoked, MOMENTS, REASONS)
RSA = rsa.generate_private_key(65537, 2048)
BY_RSA = replace(PUBLIC, certificate=CA.delegate(RSA), key=RSA)


def series(world: World = PUBLIC) -> Series:
    return Series(world.parts, usual_times())


def alike(world: World = PUBLIC) -> Alike:
    return Alike(issuer=world.issuer, signer_certificate=world.certificate, times=usual_times())


def made(world: World, cert_id: CertId, status: Good | Revoked) -> bytes:
    tbs = series(world).tbs(cert_id.raw, status)
    return series(world).assemble(tbs, sign(world.key, tbs))


@given(serial=SERIALS, hash_name=st.sampled_from(["sha1", "sha256"]))
def test_a_cert_id_is_the_one_that_a_client_sends(serial: int, hash_name: str) -> None:
    (asked,) = PUBLIC.asked(serial, hash_name=hash_name)
    assert CertIds(PUBLIC.issuer, hash_name).of(serial) == asked


@given(made_of=st.lists(st.tuples(SERIALS, STATUSES), min_size=1, max_size=8))
def test_a_series_is_octet_for_octet_what_is_made_one_by_one(made_of: list[tuple[int, Good | Revoked]]) -> None:
    many, ids = series(), CertIds(PUBLIC.issuer, "sha1")
    for serial, status in made_of:
        cert_id = ids.of(serial)
        tbs = many.tbs(cert_id.raw, status)
        assert tbs == PUBLIC.parts.tbs([SingleAnswer(cert_id.raw, status)], times=usual_times())
        for signature in (b"\x01" * 256, b"\x30" * 70, b"\x30" * 71):
            assert many.assemble(tbs, signature) == PUBLIC.parts.assemble(tbs, signature)


@given(made_of=st.lists(st.tuples(SERIALS, STATUSES), min_size=1, max_size=12))
def test_right_answers_pass_in_whatever_order_they_come(made_of: list[tuple[int, Good | Revoked]]) -> None:
    checked, ids = alike(), CertIds(PUBLIC.issuer, "sha256")
    for serial, status in made_of:
        cert_id = ids.of(serial)
        checked.check(made(PUBLIC, cert_id, status), cert_id=cert_id, status=status, verify=True)


@pytest.mark.parametrize("world", [PUBLIC, BY_RSA], ids=["P-256", "RSA"])
@pytest.mark.parametrize("status", [Good(), Revoked(NOW - DAY, Reason.KEY_COMPROMISE)], ids=["good", "revoked"])
def test_every_octet_of_a_response_like_another_is_looked_at(world: World, status: Good | Revoked) -> None:
    """Change each octet in turn: with the signature verified none may pass, in the first of its kind or a later one."""
    checked, ids = alike(world), CertIds(world.issuer, "sha1")
    for serial in (0x77AB01, 0x77AB02):
        first = ids.of(serial)
        checked.check(made(world, first, status), cert_id=first, status=status, verify=True)
    cert_id = ids.of(0x77AB03)
    right = made(world, cert_id, status)
    checked.check(right, cert_id=cert_id, status=status, verify=True)
    for at in range(len(right)):
        for change in (0x01, 0x80):
            wrong = right[:at] + bytes([right[at] ^ change]) + right[at + 1 :]
            with pytest.raises(LintError):
                checked.check(wrong, cert_id=cert_id, status=status, verify=True)


def test_what_is_compared_is_found_without_the_signature() -> None:
    """All but the signature is looked at where it is not verified."""
    checked, ids, status = alike(), CertIds(PUBLIC.issuer, "sha1"), Revoked(NOW - DAY, Reason.SUPERSEDED)
    cert_id = ids.of(0x77AB03)
    right = made(PUBLIC, cert_id, status)
    checked.check(right, cert_id=cert_id, status=status, verify=False)
    signed = right.index(series().tbs(cert_id.raw, status))
    for at in range(signed + len(series().tbs(cert_id.raw, status))):
        wrong = right[:at] + bytes([right[at] ^ 0x01]) + right[at + 1 :]
        with pytest.raises(LintError):
            checked.check(wrong, cert_id=cert_id, status=status, verify=False)


OTHERS: list[tuple[Callable[[CertIds], tuple[CertId, Good | Revoked]], str]] = [
    (lambda ids: (ids.of(0x77AB02), Good()), rules.ECHO),
    (lambda ids: (ids.of(0x77AB01), Revoked(NOW - DAY, Reason.SUPERSEDED)), STATUS),
]


@pytest.mark.parametrize(("other", "rule"), OTHERS, ids=["serial", "status"])
def test_an_answer_about_something_else_is_stopped(
    other: Callable[[CertIds], tuple[CertId, Good | Revoked]], rule: str
) -> None:
    checked, ids = alike(), CertIds(PUBLIC.issuer, "sha1")
    cert_id = ids.of(0x77AB01)
    answer = made(PUBLIC, cert_id, Good())
    checked.check(answer, cert_id=cert_id, status=Good(), verify=True)
    wanted, status = other(ids)
    with pytest.raises(LintError) as caught:
        checked.check(answer, cert_id=wanted, status=status, verify=True)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("said", "rule"),
    [(NOW - 2 * DAY, STATUS), (NOW + timedelta(seconds=1), rules.REVOKED_FUTURE)],
    ids=["another moment", "the future"],
)
def test_the_time_of_a_revocation_is_read_in_each_answer(said: datetime, rule: str) -> None:
    checked, ids, usual = alike(), CertIds(PUBLIC.issuer, "sha1"), Revoked(NOW - DAY, Reason.SUPERSEDED)
    cert_id = ids.of(0x77AB01)
    checked.check(made(PUBLIC, cert_id, usual), cert_id=cert_id, status=usual, verify=True)
    wrong = made(PUBLIC, cert_id, replace(usual, at=said))
    wanted = usual if rule == STATUS else replace(usual, at=said)
    with pytest.raises(LintError) as caught:
        checked.check(wrong, cert_id=cert_id, status=wanted, verify=True)
    assert caught.value.rule == rule


@pytest.mark.parametrize("reason", [Reason.CERTIFICATE_HOLD, Reason.AA_COMPROMISE])
def test_a_reason_that_a_public_issuer_must_not_give_is_stopped_each_time(reason: Reason) -> None:
    checked, ids, status = alike(), CertIds(PUBLIC.issuer, "sha1"), Revoked(NOW - DAY, reason)
    for serial in (1, 2, 3):
        cert_id = ids.of(serial)
        with pytest.raises(LintError) as caught:
            checked.check(made(PUBLIC, cert_id, status), cert_id=cert_id, status=status, verify=True)
        assert caught.value.rule == rules.REASON


@pytest.mark.parametrize("said", [Good(), Unknown(), Revoked(NOW, Reason.SUPERSEDED)], ids=["good", "unknown", "other"])
def test_a_response_has_to_say_what_the_table_says(said: CertStatus) -> None:
    (cert_id,) = asked = PUBLIC.asked(5)
    with pytest.raises(LintError) as caught:
        check(PUBLIC.answer(asked, said, times=usual_times()), Revoked(NOW - DAY, Reason.SUPERSEDED))
    assert caught.value.rule == STATUS
    right = PUBLIC.answer((cert_id,), Revoked(NOW - DAY, Reason.UNSPECIFIED))
    check(right, Revoked(NOW - DAY, Reason.UNSPECIFIED))


def test_a_response_has_to_last_as_long_as_planned() -> None:
    asked = PUBLIC.asked(5)
    longer = replace(usual_times(), next_update=usual_times().next_update + timedelta(seconds=1))
    with pytest.raises(LintError) as caught:
        check(PUBLIC.answer(asked, Good(), times=longer), Good())
    assert caught.value.rule == TIMES


def check(answer: bytes, status: Good | Revoked) -> None:
    times = usual_times()
    check_says(answer, status, this_update=times.this_update, next_update=times.next_update)
