# SPDX-License-Identifier: Apache-2.0
"""The lint: right answers pass, and each wrong answer that CAs have given in public is stopped by its rule.

Wrong answers are forged with asn1crypto from right ones and signed again, so that nothing else is wrong with them.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from asn1crypto import core as asn1_core
from asn1crypto import ocsp as asn1_ocsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from responder.errors import LintError, PolicyError, Refusal, ResponseStatus, TryLater
from responder.ocsp import lint as rules
from responder.ocsp.lint import lint
from responder.ocsp.policy import DEFAULT_POLICY, EXTENDED_REVOKE, Times, check_policy, plan_times
from responder.ocsp.request import CertId, parse_request
from responder.ocsp.response import ResponseParts, SingleAnswer, error_response
from responder.signing import algorithm_for, usable_key
from responder.status import der
from responder.status.issuers import Issuer
from responder.status.model import CertStatus, Good, Policy, Reason, Revoked, UnassignedAnswer, Unknown
from tests.responder.signing.certificates import DAY, NOW, Ca, PrivateKey, der_of, make_ca

S, H = timedelta(seconds=1), timedelta(hours=1)
CURVE_DIGESTS: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
ALGORITHMS = {"sha1": "300906052b0e03021a0500", "sha256": "300d06096086480165030402010500"}


def sign(key: PrivateKey, tbs: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            return key.sign(tbs, ec.ECDSA(CURVE_DIGESTS[key.curve.key_size]))
        case ed25519.Ed25519PrivateKey():
            return key.sign(tbs)


@dataclass(frozen=True)
class World:
    """An issuer, who signs for it, and with what."""

    ca: Ca
    issuer: Issuer
    certificate: x509.Certificate
    key: PrivateKey

    @property
    def parts(self) -> ResponseParts:
        algorithm = algorithm_for(usable_key(self.key.public_key()))
        embed = self.certificate != self.ca.certificate
        return ResponseParts.for_signer(der_of(self.certificate), algorithm=algorithm, embed=embed)

    def asked(self, *serials: int, hash_name: str = "sha256") -> tuple[CertId, ...]:
        own = self.issuer.certificates[0]
        algorithm = bytes.fromhex(ALGORITHMS[hash_name])
        name = der.wrap(der.OCTET_STRING, getattr(own.name_hashes, hash_name))
        key = der.wrap(der.OCTET_STRING, getattr(own.key_hashes, hash_name))
        singles = [
            der.wrap(der.SEQUENCE, der.wrap(der.SEQUENCE, algorithm, name, key, asn1_core.Integer(serial).dump()))
            for serial in serials
        ]
        listed = der.wrap(der.SEQUENCE, *singles)
        return parse_request(der.wrap(der.SEQUENCE, der.wrap(der.SEQUENCE, listed))).cert_ids

    def answer(
        self,
        asked: Sequence[CertId],
        *statuses: CertStatus,
        times: Times | None = None,
        extended_revoke: bool = False,
    ) -> bytes:
        singles = [SingleAnswer(each.raw, status) for each, status in zip(asked, statuses, strict=True)]
        usual = usual_times(unknown=Unknown() in statuses or extended_revoke)
        tbs = self.parts.tbs(singles, times=usual if times is None else times, extended_revoke=extended_revoke)
        return self.parts.assemble(tbs, sign(self.key, tbs))

    def lint(self, response: bytes, asked: Sequence[CertId], *, now: datetime = NOW, verify: bool = True) -> None:
        lint(response, asked=asked, issuer=self.issuer, signer_certificate=self.certificate, now=now, verify=verify)


def usual_times(*, unknown: bool = False) -> Times:
    return plan_times(DEFAULT_POLICY, now=NOW, signer_not_after=NOW + 365 * DAY, public=True, unknown=unknown)


CA = make_ca(ec.generate_private_key(ec.SECP256R1()))
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = World(CA, CA.issuer(public=True), CA.delegate(KEY), KEY)
PRIVATE = replace(PUBLIC, issuer=CA.issuer(public=False))
DIRECT = replace(PUBLIC, issuer=CA.issuer(direct=True), certificate=CA.certificate, key=CA.key)
REVOKED = Revoked(NOW - DAY, Reason.KEY_COMPROMISE)


@pytest.mark.parametrize("world", [PUBLIC, PRIVATE, DIRECT], ids=["public", "private", "direct"])
@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize(
    "status", [Good(), REVOKED, Revoked(NOW, Reason.UNSPECIFIED), Unknown()], ids=["good", "revoked", "bare", "unknown"]
)
def test_a_right_answer_passes(world: World, hash_name: str, status: CertStatus) -> None:
    asked = world.asked(0x1234, hash_name=hash_name)
    world.lint(world.answer(asked, status), asked)


@pytest.mark.parametrize("serial", [0, -1, 2**159, 2**400])
def test_an_unknown_for_a_serial_that_nobody_has_passes(serial: int) -> None:
    asked = PUBLIC.asked(serial)
    PUBLIC.lint(PUBLIC.answer(asked, Unknown()), asked)


def test_several_answers_in_order_pass_even_for_the_same_certificate_twice() -> None:
    asked = PUBLIC.asked(1, 2, 1)
    PUBLIC.lint(PUBLIC.answer(asked, Good(), REVOKED, Good()), asked)


def test_a_good_and_a_shorter_unknown_in_one_response_pass() -> None:
    asked = PUBLIC.asked(1, 2)
    until = usual_times(unknown=True).next_update
    singles = [SingleAnswer(asked[0].raw, Good()), SingleAnswer(asked[1].raw, Unknown(), until)]
    tbs = PUBLIC.parts.tbs(singles, times=usual_times())
    PUBLIC.lint(PUBLIC.parts.assemble(tbs, sign(KEY, tbs)), asked)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
    ids=["RSA", "P-384", "P-521"],
)
def test_every_algorithm_of_the_baseline_requirements_passes(key: PrivateKey) -> None:
    world = replace(PUBLIC, certificate=CA.delegate(key), key=key)
    asked = world.asked(1)
    world.lint(world.answer(asked, Good()), asked)


def test_ed25519_passes_for_a_private_issuer_alone() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private = replace(PRIVATE, certificate=CA.delegate(key), key=key)
    asked = private.asked(1)
    answer = private.answer(asked, Good())
    private.lint(answer, asked)
    refused(replace(private, issuer=PUBLIC.issuer), answer, asked, rules.ALGORITHM)


def test_extended_revoke_passes_for_a_private_issuer_alone() -> None:
    asked = PRIVATE.asked(1)
    answer = PRIVATE.answer(asked, EXTENDED_REVOKE, extended_revoke=True)
    PRIVATE.lint(answer, asked)
    refused(PUBLIC, answer, asked, rules.EXTENDED)


def test_a_hold_passes_for_a_private_issuer_alone() -> None:
    asked = PRIVATE.asked(1)
    answer = PRIVATE.answer(asked, Revoked(NOW - DAY, Reason.CERTIFICATE_HOLD))
    PRIVATE.lint(answer, asked)
    refused(PUBLIC, answer, asked, rules.REASON)


def refused(
    world: World, response: bytes, asked: Sequence[CertId], rule: str, *, now: datetime = NOW, verify: bool = True
) -> None:
    with pytest.raises(LintError) as caught:
        world.lint(response, asked, now=now, verify=verify)
    assert caught.value.rule == rule
    assert caught.value.reason is Refusal.LINT
    assert rule in str(caught.value)


def period(seconds: timedelta) -> Times:
    """Times that BR 4.9.9 counts as this period: the last second is in it."""
    return Times(NOW, NOW + seconds - S, NOW)


@pytest.mark.parametrize("seconds", [8 * H, 16 * H, 7 * DAY])
def test_the_least_and_the_most_period_pass_to_the_second(seconds: timedelta) -> None:
    asked = PUBLIC.asked(1)
    for status in (Good(), REVOKED):
        PUBLIC.lint(PUBLIC.answer(asked, status, times=period(seconds)), asked)


@pytest.mark.parametrize("seconds", [8 * H - S, 7 * DAY + S, 10 * DAY, 10 * DAY + S, 30 * DAY, 2 * S])
def test_a_period_outside_the_bounds_is_refused_for_a_public_issuer(seconds: timedelta) -> None:
    asked = PUBLIC.asked(1)
    for status in (Good(), REVOKED):
        answer = PUBLIC.answer(asked, status, times=period(seconds))
        refused(PUBLIC, answer, asked, rules.INTERVAL)
        PRIVATE.lint(answer, asked)


@pytest.mark.parametrize(("world", "most"), [(PUBLIC, timedelta(minutes=15)), (PRIVATE, H)], ids=["public", "private"])
def test_an_unknown_is_short_lived(world: World, most: timedelta) -> None:
    asked = world.asked(1)
    world.lint(world.answer(asked, Unknown(), times=period(most)), asked)
    refused(world, world.answer(asked, Unknown(), times=period(most + S)), asked, rules.UNKNOWN_INTERVAL)
    refused(world, world.answer(asked, Unknown(), times=usual_times()), asked, rules.UNKNOWN_INTERVAL)


def test_an_extended_revoke_is_as_short_lived_as_an_unknown() -> None:
    asked = PRIVATE.asked(1)
    answer = PRIVATE.answer(asked, EXTENDED_REVOKE, times=period(H + S), extended_revoke=True)
    refused(PRIVATE, answer, asked, rules.UNKNOWN_INTERVAL)


Change = Callable[[asn1_ocsp.ResponseData], None]


def forge(change: Change, *, status: CertStatus, world: World = PUBLIC, serials: Sequence[int] = (1,)) -> bytes:
    """Take a right answer, change its ResponseData, and sign it again."""
    asked = world.asked(*serials)
    data = asn1_ocsp.OCSPResponse.load(world.answer(asked, *[status] * len(asked))).response_data.copy()
    change(data)
    tbs = data.dump(force=True)
    return world.parts.assemble(tbs, sign(world.key, tbs))


def single(data: asn1_ocsp.ResponseData) -> asn1_ocsp.SingleResponse:
    return data["responses"][0]


def setting(field: str, value: object) -> Change:
    def change(data: asn1_ocsp.ResponseData) -> None:
        single(data)[field] = value

    return change


def both_times(text: object) -> Change:
    def change(data: asn1_ocsp.ResponseData) -> None:
        data["produced_at"] = text
        single(data)["this_update"] = text

    return change


def produced_at(value: object) -> Change:
    def change(data: asn1_ocsp.ResponseData) -> None:
        data["produced_at"] = value

    return change


def by_name(data: asn1_ocsp.ResponseData) -> None:
    subject = asn1_x509.Certificate.load(der_of(PUBLIC.certificate)).subject
    data["responder_id"] = asn1_ocsp.ResponderId("by_name", subject)


def by_sha256(data: asn1_ocsp.ResponseData) -> None:
    key = asn1_x509.Certificate.load(der_of(PUBLIC.certificate)).public_key
    data["responder_id"] = asn1_ocsp.ResponderId("by_key", key.sha256)


def by_another_key(data: asn1_ocsp.ResponseData) -> None:
    data["responder_id"] = asn1_ocsp.ResponderId(
        "by_key", asn1_x509.Certificate.load(der_of(CA.certificate)).public_key.sha1
    )


def revoked(**info: object) -> Change:
    return setting("cert_status", asn1_ocsp.CertStatus("revoked", info))


def single_extension(oid: str, value: asn1_core.Asn1Value) -> Change:
    return setting("single_extensions", [{"extn_id": oid, "extn_value": asn1_core.ParsableOctetString(value.dump())}])


def response_extension(oid: str, value: asn1_core.Asn1Value, *, critical: bool = False) -> Change:
    def change(data: asn1_ocsp.ResponseData) -> None:
        extension = {"extn_id": oid, "critical": critical, "extn_value": asn1_core.ParsableOctetString(value.dump())}
        data["response_extensions"] = [extension]

    return change


def twice(data: asn1_ocsp.ResponseData) -> None:
    data["responses"].append(single(data).copy())


def none_at_all(data: asn1_ocsp.ResponseData) -> None:
    data["responses"] = []


def reason(value: int) -> asn1_core.Enumerated:
    """CRLReason of any number, whatever asn1crypto thinks of it."""
    made = asn1_ocsp.CRLReason()
    made.contents = bytes((value,))
    return made


def time(text: str) -> asn1_core.GeneralizedTime:
    return asn1_core.GeneralizedTime(contents=text.encode("ascii"))


YESTERDAY = NOW - DAY
FORGED: dict[str, tuple[Change, CertStatus, str]] = {
    "valid for thirty days": (setting("next_update", NOW + 30 * DAY - S), Good(), rules.INTERVAL),
    "fractional seconds in thisUpdate": (both_times(time("20260601120000.5Z")), Good(), rules.TIME_FORM),
    "fractional seconds in nextUpdate": (setting("next_update", time("20260605115959.5Z")), Good(), rules.TIME_FORM),
    "fractional seconds in producedAt": (produced_at(time("20260601120000.25Z")), Good(), rules.TIME_FORM),
    "fractional seconds in revocationTime": (
        revoked(revocation_time=time("20260531120000.5Z")), REVOKED, rules.TIME_FORM,
    ),
    "no nextUpdate": (setting("next_update", None), Good(), rules.NEXT_UPDATE),
    "thisUpdate in the future": (both_times(NOW + S), Good(), rules.FUTURE),
    "producedAt before thisUpdate": (produced_at(NOW - S), Good(), rules.PRODUCED_AT),
    "producedAt after thisUpdate": (produced_at(NOW + S), Good(), rules.PRODUCED_AT),
    "nextUpdate now": (setting("next_update", NOW), Good(), rules.EXPIRED),
    "nextUpdate before thisUpdate": (setting("next_update", YESTERDAY), Good(), rules.EXPIRED),
    "nextUpdate past the signer": (setting("next_update", NOW + 30 * DAY + S), Good(), rules.PAST_SIGNER),
    "byName": (by_name, Good(), rules.BY_KEY),
    "byKey with SHA-256": (by_sha256, Good(), rules.BY_KEY),
    "byKey of another key": (by_another_key, Good(), rules.BY_KEY),
    "certificateHold": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(6)), REVOKED, rules.REASON),
    "removeFromCRL": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(8)), REVOKED, rules.REASON),
    "unspecified written out": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(0)), REVOKED, rules.REASON),
    "aACompromise": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(10)), REVOKED, rules.REASON),
    "revoked tomorrow": (revoked(revocation_time=NOW + DAY), REVOKED, rules.REVOKED_FUTURE),
    "a reasonCode extension": (single_extension("2.5.29.21", reason(1)), REVOKED, rules.REASON_EXTENSION),
    "extended revoke for the single response": (
        single_extension("1.3.6.1.5.5.7.48.1.9", asn1_core.Null()), Good(), rules.EXTENDED,
    ),
    "a nonce": (
        response_extension("1.3.6.1.5.5.7.48.1.2", asn1_core.OctetString(b"n" * 16)), Good(), rules.EXTENSIONS,
    ),
    "an answer twice": (twice, Good(), rules.ONE_EACH),
    "no answer": (none_at_all, Good(), rules.ONE_EACH),
}  # fmt: skip


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(("change", "status", "rule"), FORGED.values(), ids=FORGED)
def test_a_wrong_answer_is_refused_by_its_rule(change: Change, status: CertStatus, rule: str, verify: bool) -> None:
    refused(PUBLIC, forge(change, status=status), PUBLIC.asked(1), rule, verify=verify)


FORGED_PRIVATE: dict[str, tuple[Change, CertStatus, str]] = {
    "extended revoke without its extension": (
        revoked(revocation_time=EXTENDED_REVOKE.at, revocation_reason=reason(6)), Unknown(), rules.EXTENDED,
    ),
    "its extension without an extended revoke": (
        response_extension("1.3.6.1.5.5.7.48.1.9", asn1_core.Null()), Good(), rules.EXTENSIONS,
    ),
    "its extension, critical": (
        response_extension("1.3.6.1.5.5.7.48.1.9", asn1_core.Null(), critical=True), Good(), rules.EXTENSIONS,
    ),
    "removeFromCRL": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(8)), REVOKED, rules.REASON),
    "unspecified written out": (revoked(revocation_time=YESTERDAY, revocation_reason=reason(0)), REVOKED, rules.REASON),
    "a reasonCode extension": (single_extension("2.5.29.21", reason(1)), REVOKED, rules.REASON_EXTENSION),
}  # fmt: skip


@pytest.mark.parametrize(("change", "status", "rule"), FORGED_PRIVATE.values(), ids=FORGED_PRIVATE)
def test_a_wrong_answer_is_refused_for_a_private_issuer_too(change: Change, status: CertStatus, rule: str) -> None:
    refused(PRIVATE, forge(change, status=status, world=PRIVATE), PRIVATE.asked(1), rule)


def test_an_extended_revoke_with_extensions_of_its_own_is_refused() -> None:
    asked = PRIVATE.asked(1)
    right = PRIVATE.answer(asked, EXTENDED_REVOKE, extended_revoke=True)
    data = asn1_ocsp.OCSPResponse.load(right).response_data.copy()
    single_extension("1.3.6.1.5.5.7.48.1.6", time("20200101000000Z"))(data)
    tbs = data.dump(force=True)
    refused(PRIVATE, PRIVATE.parts.assemble(tbs, sign(KEY, tbs)), asked, rules.EXTENDED)


def test_an_archive_cutoff_passes_where_the_policy_has_that_very_one_and_nothing_else_does() -> None:
    cutoff = datetime(2020, 1, 1, tzinfo=UTC)
    policy = replace(DEFAULT_POLICY, archive_cutoff=NOW - cutoff)
    world = replace(PUBLIC, issuer=CA.issuer(policy=policy))
    right = forge(single_extension("1.3.6.1.5.5.7.48.1.6", time("20200101000000Z")), status=Good())
    world.lint(right, world.asked(1))
    refused(PUBLIC, right, PUBLIC.asked(1), rules.ARCHIVE_CUTOFF)
    refused(world, world.answer(world.asked(1), Good()), world.asked(1), rules.ARCHIVE_CUTOFF)
    for oid, value in (("1.3.6.1.5.5.7.48.1.6", "20200101000001Z"), ("1.2.3.4", "20200101000000Z")):
        wrong = forge(single_extension(oid, time(value)), status=Good())
        refused(world, wrong, world.asked(1), rules.ARCHIVE_CUTOFF)


def test_an_unassigned_serial_is_answered_without_an_archive_cutoff() -> None:
    world = replace(PUBLIC, issuer=CA.issuer(policy=replace(DEFAULT_POLICY, archive_cutoff=DAY)))
    world.lint(world.answer(world.asked(1), Unknown()), world.asked(1))
    yesterday = (NOW - DAY).strftime("%Y%m%d%H%M%SZ")
    wrong = forge(single_extension("1.3.6.1.5.5.7.48.1.6", time(yesterday)), status=Unknown())
    refused(world, wrong, world.asked(1), rules.ARCHIVE_CUTOFF)


def general_time(text: str) -> bytes:
    return der.wrap(der.GENERALIZED_TIME, text.encode("ascii"))


# What asn1crypto will not encode: a field of the SingleResponse, and its octets.
BY_HAND: dict[str, tuple[str, bytes, str]] = {
    "revoked without a time": ("cert_status", der.wrap(0xA1), rules.SYNTAX),
    "revoked for a reason without a time": ("cert_status", bytes.fromhex("a105a0030a0101"), rules.TIME_FORM),
    "revoked for reason 7, which does not exist": (
        "cert_status", der.wrap(0xA1, general_time("20260531120000Z"), bytes.fromhex("a0030a0107")), rules.SYNTAX,
    ),
    "a time without seconds": ("this_update", general_time("202606011200Z"), rules.TIME_FORM),
    "a local time": ("next_update", der.wrap(0xA0, general_time("20260605115959")), rules.TIME_FORM),
    "a time with an offset": ("next_update", der.wrap(0xA0, general_time("20260605115959+0000")), rules.TIME_FORM),
    "a UTCTime": ("this_update", der.wrap(0x17, b"260601120000Z"), rules.TIME_FORM),
    "a day that does not exist": ("next_update", der.wrap(0xA0, general_time("20260631000000Z")), rules.SYNTAX),
}  # fmt: skip


@pytest.mark.parametrize(("field", "octets", "rule"), BY_HAND.values(), ids=BY_HAND)
def test_a_field_in_a_wrong_form_is_refused(field: str, octets: bytes, rule: str) -> None:
    asked = PUBLIC.asked(1)
    data = asn1_ocsp.OCSPResponse.load(PUBLIC.answer(asked, Good())).response_data
    only = data["responses"][0]
    fields = {name: only[name].dump() for name in ("cert_id", "cert_status", "this_update", "next_update")}
    fields[field] = octets
    responses = der.wrap(der.SEQUENCE, der.wrap(der.SEQUENCE, *fields.values()))
    tbs = der.wrap(der.SEQUENCE, data["responder_id"].dump(), data["produced_at"].dump(), responses)
    refused(PUBLIC, PUBLIC.parts.assemble(tbs, sign(KEY, tbs)), asked, rule)


def test_unused_bits_in_the_signature_are_refused() -> None:
    asked = PUBLIC.asked(1)
    tbs = PUBLIC.parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    signature = sign(KEY, tbs)
    right = PUBLIC.parts.assemble(tbs, signature)
    refused(PUBLIC, right.replace(b"\x00" + signature, b"\x01" + signature), asked, rules.SYNTAX)


def test_a_version_written_out_is_refused() -> None:
    asked = PUBLIC.asked(1)
    data = asn1_ocsp.OCSPResponse.load(PUBLIC.answer(asked, Good())).response_data
    tbs = der.wrap(der.SEQUENCE, bytes.fromhex("a003020100"), data.dump()[3:])
    refused(PUBLIC, PUBLIC.parts.assemble(tbs, sign(KEY, tbs)), asked, rules.SYNTAX)


def test_an_expired_signer_is_refused_and_so_is_one_not_yet_valid() -> None:
    asked = PUBLIC.asked(1)
    answer = PUBLIC.answer(asked, Good())
    refused(PUBLIC, answer, asked, rules.SIGNER_WINDOW, now=NOW + 30 * DAY + S)
    refused(PUBLIC, answer, asked, rules.SIGNER_WINDOW, now=NOW - DAY - S)


def test_next_update_at_the_very_end_of_the_signer_passes() -> None:
    ending = CA.delegate(KEY, not_after=NOW + 8 * H - S)
    world = replace(PUBLIC, certificate=ending)
    asked = world.asked(1)
    world.lint(world.answer(asked, Good(), times=period(8 * H)), asked)


def test_a_stored_answer_passes_until_its_last_second() -> None:
    asked = PUBLIC.asked(1)
    answer = PUBLIC.answer(asked, Good())
    PUBLIC.lint(answer, asked, now=NOW + 96 * H - 2 * S)
    refused(PUBLIC, answer, asked, rules.EXPIRED, now=NOW + 96 * H - S)


def test_an_answer_under_another_hash_than_was_asked_is_refused() -> None:
    answer = PUBLIC.answer(PUBLIC.asked(1, hash_name="sha256"), Good())
    refused(PUBLIC, answer, PUBLIC.asked(1, hash_name="sha1"), rules.ECHO)


def test_an_answer_for_another_serial_is_refused() -> None:
    refused(PUBLIC, PUBLIC.answer(PUBLIC.asked(2), Good()), PUBLIC.asked(1), rules.ECHO)


def test_answers_out_of_order_are_refused() -> None:
    refused(PUBLIC, PUBLIC.answer(PUBLIC.asked(1, 2), Good(), REVOKED), PUBLIC.asked(2, 1), rules.ECHO)


def test_more_or_fewer_answers_than_were_asked_for_are_refused() -> None:
    refused(PUBLIC, PUBLIC.answer(PUBLIC.asked(1, 2), Good(), Good()), PUBLIC.asked(1), rules.ONE_EACH)
    refused(PUBLIC, PUBLIC.answer(PUBLIC.asked(1), Good()), PUBLIC.asked(1, 2), rules.ONE_EACH)


def test_a_cert_id_without_its_null_is_another_cert_id() -> None:
    asked = PUBLIC.asked(1)
    bare = asked[0].raw.replace(
        bytes.fromhex("300d06096086480165030402010500"), bytes.fromhex("300b0609608648016503040201")
    )
    without = replace(asked[0], raw=der.wrap(der.SEQUENCE, bare[2:]))
    PUBLIC.lint(PUBLIC.answer([without], Good()), [without])
    refused(PUBLIC, PUBLIC.answer(asked, Good()), [without], rules.ECHO)


def test_what_was_looked_up_has_to_be_what_the_cert_id_says() -> None:
    asked = PUBLIC.asked(1)
    mistaken = replace(asked[0], serial=2)
    refused(PUBLIC, PUBLIC.answer(asked, Good()), [mistaken], rules.ECHO)


def test_the_record_of_another_issuer_is_refused() -> None:
    other = make_ca(ec.generate_private_key(ec.SECP256R1()), common_name="Other CA")
    asked = replace(PUBLIC, issuer=other.issuer()).asked(1)
    refused(PUBLIC, PUBLIC.answer(asked, Good()), asked, rules.ISSUER)


def test_the_name_of_one_certificate_with_the_key_of_another_issuer_is_refused() -> None:
    rekeyed = make_ca(ec.generate_private_key(ec.SECP256R1()))  # the same name under another key
    asked = replace(PUBLIC, issuer=rekeyed.issuer()).asked(1)
    refused(PUBLIC, PUBLIC.answer(asked, Good()), asked, rules.ISSUER)


def test_a_cross_signed_issuer_answers_under_either_name() -> None:
    cross = make_ca(CA.key, common_name="Test CA under its old name")
    world = replace(PUBLIC, issuer=CA.issuer(others=[cross.certificate]))
    asked = replace(PUBLIC, issuer=cross.issuer()).asked(1)
    world.lint(world.answer(asked, Good()), asked)


def test_a_corrupted_signature_is_refused_when_it_is_verified() -> None:
    asked = PUBLIC.asked(1)
    parts = PUBLIC.parts
    tbs = parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    refused(PUBLIC, parts.assemble(tbs, sign(KEY, tbs + b"x")), asked, rules.SIGNATURE)
    refused(PUBLIC, parts.assemble(tbs, b"no signature"), asked, rules.SIGNATURE)
    refused(PUBLIC, parts.assemble(tbs, sign(CA.key, tbs)), asked, rules.SIGNATURE)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_a_corrupted_signature_of_another_kind_is_refused(key: PrivateKey) -> None:
    world = replace(PRIVATE, certificate=CA.delegate(key), key=key)
    asked = world.asked(1)
    answer = world.answer(asked, Good())
    signature = asn1_ocsp.OCSPResponse.load(answer).basic_ocsp_response["signature"].native
    spoilt = answer.replace(signature, signature[:-1] + bytes((signature[-1] ^ 1,)))
    refused(world, spoilt, asked, rules.SIGNATURE)


WRONG_ALGORITHMS = {
    "SHA-1 with ECDSA": "300906072a8648ce3d0401",
    "SHA-384 with P-256": "300a06082a8648ce3d040303",
    "ECDSA with NULL parameters": "300c06082a8648ce3d0403020500",
    "RSA under an EC key": "300d06092a864886f70d01010b0500",
    "Ed25519 under an EC key": "300506032b6570",
}


@pytest.mark.parametrize("algorithm", WRONG_ALGORITHMS.values(), ids=WRONG_ALGORITHMS)
def test_another_algorithm_than_the_keys_own_is_refused(algorithm: str) -> None:
    asked = PUBLIC.asked(1)
    parts = replace(PUBLIC.parts, algorithm=bytes.fromhex(algorithm))
    tbs = parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    refused(PUBLIC, parts.assemble(tbs, sign(KEY, tbs)), asked, rules.ALGORITHM)


RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "algorithm", ["300d06092a864886f70d0101050500", "300b06092a864886f70d01010b"], ids=["SHA-1", "no NULL"]
)
def test_another_rsa_algorithm_is_refused(algorithm: str) -> None:
    world = replace(PUBLIC, certificate=CA.delegate(RSA_KEY), key=RSA_KEY)
    asked = world.asked(1)
    parts = replace(world.parts, algorithm=bytes.fromhex(algorithm))
    tbs = parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    refused(world, parts.assemble(tbs, sign(RSA_KEY, tbs)), asked, rules.ALGORITHM)


def test_a_missing_a_foreign_and_a_superfluous_certificate_are_refused() -> None:
    asked = PUBLIC.asked(1)
    tbs = PUBLIC.parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    others = {
        "missing": b"",
        "foreign": _certs(CA.certificate),
        "of the same key, but not the one": _certs(CA.delegate(KEY, not_after=NOW + 60 * DAY)),
        "one too many": _certs(PUBLIC.certificate, CA.certificate),
        "none in a list": _certs(),
    }
    for certificates in others.values():
        parts = replace(PUBLIC.parts, certificates=certificates)
        refused(PUBLIC, parts.assemble(tbs, sign(KEY, tbs)), asked, rules.SIGNER_CERTIFICATE)


def test_a_certificate_embedded_by_the_ca_itself_is_refused() -> None:
    asked = DIRECT.asked(1)
    parts = replace(DIRECT.parts, certificates=_certs(CA.certificate))
    tbs = parts.tbs([SingleAnswer(asked[0].raw, Good())], times=usual_times())
    refused(DIRECT, parts.assemble(tbs, sign(CA.key, tbs)), asked, rules.SIGNER_CERTIFICATE)


def _certs(*certificates: x509.Certificate) -> bytes:
    return der.wrap(0xA0, der.wrap(der.SEQUENCE, *(der_of(each) for each in certificates)))


@pytest.mark.parametrize("status", set(ResponseStatus) - {ResponseStatus.SUCCESSFUL})
def test_an_error_is_no_answer(status: ResponseStatus) -> None:
    refused(PUBLIC, error_response(status), PUBLIC.asked(1), rules.SUCCESSFUL)


def test_another_response_type_than_basic_is_refused() -> None:
    asked = PUBLIC.asked(1)
    answer = PUBLIC.answer(asked, Good()).replace(
        bytes.fromhex("2b0601050507300101"), bytes.fromhex("2b060105050730010a")
    )
    refused(PUBLIC, answer, asked, rules.SUCCESSFUL)


@pytest.mark.parametrize("cut", [0, 1, 5, 40, 200, -1])
def test_octets_that_are_cut_off_or_left_over_are_refused(cut: int) -> None:
    asked = PUBLIC.asked(1)
    answer = PUBLIC.answer(asked, Good())
    refused(PUBLIC, answer[:cut], asked, rules.SYNTAX)
    refused(PUBLIC, answer + b"\x00", asked, rules.SYNTAX)


def test_every_single_octet_of_an_answer_matters() -> None:
    asked = PUBLIC.asked(0x1234)
    answer = PUBLIC.answer(asked, Revoked(YESTERDAY, Reason.SUPERSEDED))
    for at in range(len(answer)):
        spoilt = answer[:at] + bytes((answer[at] ^ 0x01,)) + answer[at + 1 :]
        with pytest.raises(LintError):
            PUBLIC.lint(spoilt, asked)


@given(data=st.binary(max_size=400))
def test_arbitrary_octets_raise_nothing_but_lint_errors(data: bytes) -> None:
    with pytest.raises(LintError):
        PUBLIC.lint(data, PUBLIC.asked(1))


@given(at=st.integers(0, 700), octet=st.integers(0, 255))
def test_a_damaged_answer_raises_nothing_but_lint_errors_even_unverified(at: int, octet: int) -> None:
    asked = PUBLIC.asked(1)
    right = PUBLIC.answer(asked, REVOKED)
    damaged = right[:at] + bytes((octet,)) + right[at + 1 :]
    with suppress(LintError):
        PUBLIC.lint(damaged, asked, verify=False)


hours = st.integers(1, 24 * 8).map(lambda count: count * H)
minutes = st.integers(1, 70).map(lambda count: timedelta(minutes=count))


@given(
    policy=st.builds(
        Policy,
        validity=hours,
        refresh=hours,
        max_age=st.just(S),
        unassigned=st.just(UnassignedAnswer.UNKNOWN),
        unknown_validity=minutes,
    ),
    status=st.sampled_from([Good(), REVOKED, Unknown()]),
    world=st.sampled_from([PUBLIC, PRIVATE]),
    left=st.integers(0, 40 * 86_400),
    fraction=st.integers(0, 999_999),
)
def test_whatever_the_policy_lets_through_the_lint_lets_through(
    policy: Policy, status: CertStatus, world: World, left: int, fraction: int
) -> None:
    now = NOW + 30 * DAY - left * S + timedelta(microseconds=fraction)
    if now < NOW - DAY or now > NOW + 30 * DAY:
        return
    public, unknown = world.issuer.public, isinstance(status, Unknown)
    end = world.certificate.not_valid_after_utc
    try:
        check_policy(policy, public=public)
        times = plan_times(policy, now=now, signer_not_after=end, public=public, unknown=unknown)
    except (PolicyError, TryLater):
        return
    asked = world.asked(1)
    said = Revoked(now, Reason.SUPERSEDED) if status == REVOKED else status
    world.lint(world.answer(asked, said, times=times), asked, now=now, verify=False)
