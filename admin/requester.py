# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin requester: under which CAs clients sign their requests, for issuers that answer only signed ones."""

import argparse
import json
from pathlib import Path

from admin.context import Context, Refused, issuer_called, read_file
from responder.status import issuer_store
from responder.status.issuers import CaCertificate, IssuerError


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `requester add`, `requester remove` and `requester list`."""
    verbs = nouns.add_parser("requester", help="who may ask, where requests must be signed").add_subparsers(
        required=True, metavar="VERB"
    )
    for verb, meaning, command in (
        ("add", "let clients of this CA sign requests about an issuer", _add),
        ("remove", "let them sign no longer", _remove),
    ):
        parser = verbs.add_parser(verb, help=meaning)
        parser.add_argument("--issuer", required=True, metavar="NAME")
        parser.add_argument("cert", type=Path, metavar="CA.pem", help="the CA certificate, PEM or DER")
        parser.set_defaults(command=command)
    listing = verbs.add_parser("list", help="the CAs of all issuers")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(command=_list)


async def _add(given: argparse.Namespace, context: Context) -> int:
    ca = _load(given.cert)
    async with context.transaction() as connection:
        new = await issuer_store.insert_requester_ca(connection, await issuer_called(connection, given.issuer), ca.der)
    print(f"{given.issuer}: {_name(ca)} {'may sign requests' if new else 'was there already'}")
    return 0


async def _remove(given: argparse.Namespace, context: Context) -> int:
    ca = _load(given.cert)
    async with context.transaction() as connection:
        issuer_id = await issuer_called(connection, given.issuer)
        if not await issuer_store.remove_requester_ca(connection, issuer_id, ca.der):
            raise Refused(f"{_name(ca)} signs no requests about {given.issuer!r}; see requester list")
    print(f"{given.issuer}: {_name(ca)} may not sign requests any more")
    return 0


async def _list(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        issuers = (await issuer_store.load_issuers(connection)).all
    shown = [
        {
            "issuer": issuer.name,
            "required": issuer.policy.require_signed,
            "subject": _name(ca),
            "not_after": ca.parsed.not_valid_after_utc.isoformat(),
            "der": ca.der.hex(),
        }
        for issuer in issuers
        for ca in map(CaCertificate.load, issuer.requester_cas)
    ]
    if given.json:
        print(json.dumps({"requesters": shown}, indent=2))
        return 0
    for each in shown:
        required = "signed requests required" if each["required"] else "signatures ignored"
        print(f"{each['issuer']}: {each['subject']}, until {each['not_after']}, {required}")
    return 0


def _load(path: Path) -> CaCertificate:
    try:
        return CaCertificate.load(read_file(path))
    except IssuerError as exc:
        raise Refused(f"{path}: {exc}") from exc


def _name(ca: CaCertificate) -> str:
    return ca.parsed.subject.rfc4514_string()
