# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin issuer: add an issuer, another certificate of its key, list them, change how they answer."""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from admin.context import Context, Refused, issuer_called
from responder.ocsp.policy import DEFAULT_POLICY, check_policy
from responder.runtime.db import Connection
from responder.runtime.settings import Duration
from responder.signing.file import load_certificate
from responder.signing.keys import FILE_SCHEME, Keys
from responder.status import issuer_store
from responder.status.issuers import CaCertificate, Issuer
from responder.status.model import Policy, UnassignedAnswer
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
    _add_policy_options(change)
    change.set_defaults(command=_set)
    listing = verbs.add_parser("list", help="all issuers")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(command=_list)


def _add_policy_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how answers are timed", 'durations such as "96h"; the last second counts')
    group.add_argument("--validity", type=_duration, metavar="DURATION", help="thisUpdate to nextUpdate")
    group.add_argument("--refresh", type=_duration, metavar="DURATION", help="age at which an answer is signed anew")
    group.add_argument("--max-age", type=_duration, metavar="DURATION", help="the most a shared cache may keep it")
    group.add_argument("--unknown-validity", type=_duration, metavar="DURATION", help="validity of a signed unknown")
    group.add_argument(
        "--unassigned",
        type=UnassignedAnswer,
        choices=list(UnassignedAnswer),
        help="the answer for a serial that no source knows",
    )


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _policy(given: argparse.Namespace, before: Policy) -> Policy:
    names = ("validity", "refresh", "max_age", "unknown_validity", "unassigned")
    changes = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return replace(before, **changes)


async def _add(given: argparse.Namespace, context: Context) -> int:
    certificate = CaCertificate.load(_read(given.cert))
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
    certificate = load_certificate(_read(given.signer_cert)).public_bytes(Encoding.DER)
    record = SignerRecord(
        signer_id=0,
        issuer_id=issuer.issuer_id,
        certificate=certificate,
        key_location=f"{FILE_SCHEME}{given.signer_key.resolve()}",
        kind=key_kind(certificate),
        state=SignerState.ACTIVE,
    )
    passphrase = _read(Path(context.passphrase_file)).rstrip(b"\r\n") if context.passphrase_file else None
    await Keys(passphrase=lambda: passphrase).open(record, issuer, now=datetime.now(UTC))
    await issuer_store.insert_signer(
        connection,
        issuer.issuer_id,
        certificate=record.certificate,
        key_location=record.key_location,
        state=record.state,
    )


async def _add_certificate(given: argparse.Namespace, context: Context) -> int:
    certificate = CaCertificate.load(_read(given.cert))
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
        check_policy(policy, public=issuer.public)
        await issuer_store.update_policy(connection, issuer_id, policy)
    print(f"issuer {given.name}: validity {policy.validity}, refresh {policy.refresh}, max-age {policy.max_age}")
    return 0


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
        },
        "signer": None
        if signer is None
        else {
            "key_location": signer.key_location,
            "not_after": load_certificate(signer.certificate).not_valid_after_utc.isoformat(),
        },
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc
