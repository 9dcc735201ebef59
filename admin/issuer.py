# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin issuer: add an issuer, another certificate of its key, list them, change how they answer."""

import argparse
import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from admin.context import Context, Refused, issuer_called, read_file
from responder.ocsp.policy import DEFAULT_POLICY, check_policy
from responder.runtime.db import Connection
from responder.runtime.settings import Duration
from responder.signing.file import load_certificate
from responder.signing.keys import FILE_SCHEME
from responder.status import issuer_store
from responder.status.issuers import CaCertificate, Issuer
from responder.status.model import NonceMode, Policy, UnassignedAnswer
from responder.status.signers import SignerRecord, SignerState, key_kind


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `issuer add`, `issuer add-certificate`, `issuer set` and `issuer list`."""
    verbs = nouns.add_parser("issuer", help="the keys that issue certificates").add_subparsers(
        required=True, metavar="VERB"
    )
    add = verbs.add_parser("add", help="serve an issuer; without a signer, only ingest its certificates")
    add.add_argument("name", help="your name for it")
    add.add_argument("--cert", type=Path, required=True, metavar="CA.pem", help="a CA certificate of its key")
    add.add_argument("--signer-cert", type=Path, metavar="S.pem", help="the responder certificate that the CA issued")
    add.add_argument("--signer-key", type=Path, metavar="S.key", help="its private key, PEM; stays where it is")
    add.add_argument("--private", action="store_true", help="not under the Baseline Requirements")
    add.add_argument(
        "--direct-signing", action="store_true", help="allow the CA key itself to sign answers (BR 7.1.2.10.7)"
    )
    _add_policy_options(add)
    add.set_defaults(command=_add)
    more = verbs.add_parser(
        "add-certificate", help="one more CA certificate of an issuer's key: a cross-sign, a renewal"
    )
    more.add_argument("name")
    more.add_argument("--cert", type=Path, required=True, metavar="CA.pem")
    more.set_defaults(command=_add_certificate)
    change = verbs.add_parser("set", help="change how an issuer answers")
    change.add_argument("name")
    bound = change.add_mutually_exclusive_group()
    bound.add_argument("--public", action="store_true", help="under the Baseline Requirements from now on")
    bound.add_argument("--private", action="store_true", help="not under the Baseline Requirements any more")
    _add_policy_options(change)
    change.set_defaults(command=_set)
    listing = verbs.add_parser("list", help="all issuers")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(command=_list)


def _add_policy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how answers are made", 'durations such as "96h"; the last second counts')

    def add(option: str, parse: Callable[[str], object], meaning: str, **more: Any) -> None:
        # What is not given is not there at all, since None is something that can be given.
        group.add_argument(option, type=parse, default=argparse.SUPPRESS, help=meaning, **more)

    add("--validity", _duration, "thisUpdate to nextUpdate", metavar="DURATION")
    add("--refresh", _duration, "age at which an answer is signed anew", metavar="DURATION")
    add("--max-age", _duration, "the most a shared cache may keep it", metavar="DURATION")
    add("--unknown-validity", _duration, "validity of a signed unknown", metavar="DURATION")
    unassigned = list(UnassignedAnswer)
    add("--unassigned", UnassignedAnswer, "the answer for a serial that no source knows", choices=unassigned)
    add("--nonce", NonceMode, "what becomes of a nonce in a request", choices=list(NonceMode))
    add(
        "--archive-cutoff",
        _duration_or("off"),
        "how far back past expiry answers vouch for statuses",
        metavar="DURATION|off",
    )
    add(
        "--retention",
        _duration_or("forever"),
        "how long past expiry rows are kept before cert purge",
        metavar="DURATION|forever",
    )
    add(
        "--signed-requests",
        _is_required,
        "whether only signed requests are answered",
        metavar="ignored|required",
        dest="require_signed",
    )


def _duration_or(none: str) -> Callable[[str], Duration | None]:
    """Return a reader of durations that takes this one word for none at all."""

    def parse(text: str) -> Duration | None:
        try:
            return None if text == none else Duration.parse(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{exc}; or {none}") from exc

    return parse


def _is_required(text: str) -> bool:
    if text not in {"ignored", "required"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither ignored nor required")
    return text == "required"


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _policy(given: argparse.Namespace, before: Policy) -> Policy:
    names = {each.name for each in fields(Policy)}
    return replace(before, **{name: value for name, value in vars(given).items() if name in names})


async def _add(given: argparse.Namespace, context: Context) -> int:
    certificate = CaCertificate.load(read_file(given.cert))
    public = not given.private
    policy = _policy(given, DEFAULT_POLICY)
    check_policy(policy, public=public)
    if (given.signer_cert is None) != (given.signer_key is None):
        raise Refused("--signer-cert and --signer-key belong together")
    async with context.transaction() as connection:
        known = await issuer_store.find_issuer_by_key(connection, certificate.spki_sha256)
        if known is not None:
            raise Refused(f"this key is issuer {known[1]!r} already; for another certificate: issuer add-certificate")
        if await issuer_store.find_issuer(connection, given.name) is not None:
            raise Refused(f"there is an issuer {given.name!r} with another key already")
        issuer_id = await issuer_store.insert_issuer(
            connection, given.name, certificate, public=public, direct_signing=given.direct_signing, policy=policy
        )
        await issuer_store.insert_issuer_certificate(connection, issuer_id, certificate)
        if given.signer_cert is not None:
            issuer = Issuer(issuer_id, given.name, public, given.direct_signing, policy, (certificate,))
            await _add_signer(connection, given, issuer, context)
    answered = "ingest-only" if given.signer_cert is None else f"answered by {given.signer_cert}"
    print(f"issuer {given.name}: key {certificate.spki_sha256.hex()}, {answered}")
    return 0


async def _add_signer(connection: Connection, given: argparse.Namespace, issuer: Issuer, context: Context) -> None:
    """Store a signer that was opened and admitted here: what the responder would refuse is refused at once."""
    certificate = load_certificate(read_file(given.signer_cert)).public_bytes(Encoding.DER)
    record = SignerRecord(
        signer_id=0,
        issuer_id=issuer.issuer_id,
        certificate=certificate,
        key_location=f"{FILE_SCHEME}{given.signer_key.resolve()}",
        kind=key_kind(certificate),
        state=SignerState.ACTIVE,
    )
    await context.keys().open(record, issuer, now=datetime.now(UTC))
    await issuer_store.insert_signer(
        connection,
        issuer.issuer_id,
        certificate=record.certificate,
        key_location=record.key_location,
        state=record.state,
    )


async def _add_certificate(given: argparse.Namespace, context: Context) -> int:
    certificate = CaCertificate.load(read_file(given.cert))
    async with context.transaction() as connection:
        issuer_id = await issuer_called(connection, given.name)
        known = await issuer_store.find_issuer_by_key(connection, certificate.spki_sha256)
        if known is None or known[0] != issuer_id:
            raise Refused(f"the certificate's key is not that of issuer {given.name!r}")
        new = await issuer_store.insert_issuer_certificate(connection, issuer_id, certificate)
    print(f"issuer {given.name}: {'one more certificate' if new else 'this certificate was there already'}")
    return 0


async def _set(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        issuer_id = await issuer_called(connection, given.name)
        issuer = (await issuer_store.load_issuers(connection)).by_id(issuer_id)
        if issuer is None:
            raise Refused(f"issuer {given.name!r} has no certificate")
        policy = _policy(given, issuer.policy)
        public = (issuer.public or given.public) and not given.private
        check_policy(policy, public=public)
        await issuer_store.update_policy(connection, issuer_id, policy, public=public)
    said = ", ".join(f"{option} {value}" for option, value in _shown_options(policy).items())
    print(f"issuer {given.name}: {'public' if public else 'private'}, {said}")
    return 0


def _shown_options(policy: Policy) -> dict[str, str]:
    """Return a policy as the options that make it so, for people."""
    return {
        "validity": str(policy.validity),
        "refresh": str(policy.refresh),
        "max-age": str(policy.max_age),
        "unknown-validity": str(policy.unknown_validity),
        "unassigned": policy.unassigned.value,
        "nonce": policy.nonce.value,
        "archive-cutoff": "off" if policy.archive_cutoff is None else str(policy.archive_cutoff),
        "retention": "forever" if policy.retention is None else str(policy.retention),
        "signed-requests": "required" if policy.require_signed else "ignored",
    }


async def _list(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        issuers = await issuer_store.load_issuers(connection)
        active = await issuer_store.load_signers(connection, {SignerState.ACTIVE})
    signers = {record.issuer_id: record for record in reversed(active)}
    shown = [_shown(issuer, signers.get(issuer.issuer_id)) for issuer in issuers.all]
    if given.json:
        print(json.dumps({"issuers": shown}, indent=2))
        return 0
    for each in shown:
        kind = "public" if each["public"] else "private"
        signer = each["signer"]
        until = "ingest-only" if signer is None else f"signer until {signer['not_after']}"
        print(f"{each['name']}: {kind}, {until}, key {each['spki_sha256']}")
    return 0


def _shown(issuer: Issuer, signer: SignerRecord | None) -> dict[str, Any]:
    return {
        "name": issuer.name,
        "public": issuer.public,
        "spki_sha256": issuer.spki_sha256.hex(),
        "subjects": [each.parsed.subject.rfc4514_string() for each in issuer.certificates],
        "direct_signing": issuer.direct_signing,
        "policy": {
            "validity_seconds": int(issuer.policy.validity.total_seconds()),
            "refresh_seconds": int(issuer.policy.refresh.total_seconds()),
            "max_age_seconds": int(issuer.policy.max_age.total_seconds()),
            "unknown_validity_seconds": int(issuer.policy.unknown_validity.total_seconds()),
            "unassigned": issuer.policy.unassigned.value,
            "nonce": issuer.policy.nonce.value,
            "archive_cutoff_seconds": _seconds(issuer.policy.archive_cutoff),
            "retention_seconds": _seconds(issuer.policy.retention),
            "require_signed": issuer.policy.require_signed,
        },
        "signer": None
        if signer is None
        else {
            "key_location": signer.key_location,
            "not_after": load_certificate(signer.certificate).not_valid_after_utc.isoformat(),
        },
    }


def _seconds(period: timedelta | None) -> int | None:
    return None if period is None else int(period.total_seconds())
