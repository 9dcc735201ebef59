# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin signer: a new key and its request, staging, activating and retiring signers, and what there is."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from admin.context import Context, Refused, issuer_called, read_file
from responder.signing import rollover
from responder.signing.csr import CURVES, RSA_BITS, certification_request
from responder.signing.file import load_certificate
from responder.signing.keys import FILE_SCHEME
from responder.signing.pkcs11 import TokenKey
from responder.signing.uri import KeyUri, UriError
from responder.status.issuer_store import load_issuers, load_signers
from responder.status.issuers import IssuerSet
from responder.status.signers import SignerRecord, SignerState


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `signer add`, `stage`, `activate`, `retire`, `list` and `csr`."""
    verbs = nouns.add_parser("signer", help="who signs answers for an issuer").add_subparsers(
        required=True, metavar="VERB"
    )
    _add_csr(verbs)
    for name, words, command in (
        ("stage", "enter a signer that every responder tries, and none signs with yet", _stage),
        ("add", "enter a signer and activate it at once", _add),
    ):
        entering = verbs.add_parser(name, help=words)
        entering.add_argument("--issuer", required=True, metavar="NAME", help="your name of the issuer")
        entering.add_argument("--cert", type=Path, required=True, metavar="S.pem", help="what the CA issued for it")
        _add_place(entering)
        entering.set_defaults(command=command)
    activate = verbs.add_parser("activate", help="have a signer sign, in place of the active one of its kind")
    activate.add_argument("number", type=int, help="as `signer list` has it")
    activate.set_defaults(command=_activate)
    retire = verbs.add_parser("retire", help="have a signer never sign again")
    retire.add_argument("number", type=int, help="as `signer list` has it")
    retire.add_argument("--even-the-last", action="store_true", help="though its issuer is left without answers")
    retire.set_defaults(command=_retire)
    listing = verbs.add_parser("list", help="all signers, and until when they may sign")
    listing.add_argument("--issuer", metavar="NAME", help="only those of this issuer")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(command=_list)


def _add_csr(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    csr = verbs.add_parser("csr", help="make a new key, and the request for its certificate")
    csr.add_argument("--kind", choices=[*CURVES, *RSA_BITS], default="p256", help="default: %(default)s")
    csr.add_argument("--subject", default="CN=OCSP responder", metavar="NAME", help="RFC 4514; default: %(default)s")
    csr.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    _add_place(csr)
    csr.set_defaults(command=_csr)


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a key lies: a file, a URI, or a token by labels."""
    place = parser.add_argument_group("where the key lies", "a file, a PKCS#11 URI, or a token by its label")
    place.add_argument("--key", type=Path, metavar="S.key", help="a PEM file; stays where it is")
    place.add_argument("--uri", metavar="pkcs11:…", help="RFC 7512, with module-path and, perhaps, pin-source")
    place.add_argument("--token", metavar="LABEL", help="the token's label")
    place.add_argument("--module", metavar="FILE", help="the token's PKCS#11 library")
    place.add_argument("--label", help="the key's label")
    place.add_argument("--id", metavar="HEX", help="the key's id")
    place.add_argument("--pin-source", type=Path, metavar="FILE", help="a file with the PIN; default: the settings'")


def _location(given: argparse.Namespace) -> str:
    """Return where the key lies, as it is stored. Raises Refused unless exactly one place is given, whole."""
    ways = [way for way in ("key", "uri", "token") if getattr(given, way) is not None]
    if len(ways) != 1:
        raise Refused("say where the key lies: one of --key, --uri and --token")
    details = [name for name in ("module", "label", "id", "pin_source") if getattr(given, name) is not None]
    if details and ways != ["token"]:
        raise Refused(f"--{details[0].replace('_', '-')} belongs to --token")
    if given.key is not None:
        return f"{FILE_SCHEME}{given.key.resolve()}"
    try:
        if given.uri is not None:
            return str(KeyUri.parse(given.uri))
        return str(
            KeyUri(
                module_path=given.module or "",
                token=given.token,
                label=given.label,
                identity=None if given.id is None else bytes.fromhex(given.id),
                pin_source=None if given.pin_source is None else given.pin_source.resolve(),
            )
        )
    except UriError as exc:
        raise Refused(str(exc)) from exc
    except ValueError as exc:
        raise Refused(f"--id {given.id!r} is not hex") from exc


async def _csr(given: argparse.Namespace, context: Context) -> int:
    try:
        subject = x509.Name.from_rfc4514_string(given.subject)
    except ValueError as exc:
        raise Refused(f"--subject {given.subject!r} is no name as RFC 4514 writes them: {exc}") from exc
    if given.out is not None and given.out.exists():
        raise Refused(f"{given.out}: File exists")
    location = _location(given)
    key = await context.keys().make(location, given.kind)
    try:
        request = await certification_request(key, subject=subject)
    finally:
        if isinstance(key, TokenKey):
            await key.close()
    if given.out is None:
        sys.stdout.write(request.decode())
        return 0
    given.out.write_bytes(request)
    print(f"{given.out}: request for a {given.kind} key at {location}")
    return 0


async def _entered(given: argparse.Namespace, context: Context, *, activate: bool) -> int:
    certificate = load_certificate(read_file(given.cert)).public_bytes(Encoding.DER)
    location, keys, now = _location(given), context.keys(), datetime.now(UTC)
    async with context.transaction() as connection:
        issuer_id = await issuer_called(connection, given.issuer)
        issuer = (await load_issuers(connection)).by_id(issuer_id)
        if issuer is None:
            raise Refused(f"issuer {given.issuer!r} has no certificate")
        record = await rollover.stage(connection, keys, issuer, certificate=certificate, key_location=location, now=now)
        said = "staged; responders try it from now on"
        if activate:
            said = _activated(*await rollover.activate(connection, keys, record, now=now))
    print(f"signer {record.signer_id} of {given.issuer}, {record.kind}: {said}")
    return 0


async def _stage(given: argparse.Namespace, context: Context) -> int:
    return await _entered(given, context, activate=False)


async def _add(given: argparse.Namespace, context: Context) -> int:
    return await _entered(given, context, activate=True)


async def _activate(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        record = await rollover.signer_called(connection, given.number)
        said = _activated(*await rollover.activate(connection, context.keys(), record, now=datetime.now(UTC)))
    print(f"signer {given.number}: {said}")
    return 0


def _activated(judges: tuple[str, ...], replaced: tuple[int, ...]) -> str:
    former = "".join(f"; signer {number} is replaced, and signs only where this one is refused" for number in replaced)
    return f"active, its trial answer verified by {' and '.join(judges)}{former}"


async def _retire(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        record = await rollover.signer_called(connection, given.number)
        await rollover.retire(connection, record, even_the_last=given.even_the_last)
    print(f"signer {given.number}: retired")
    return 0


async def _list(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        wanted = None if given.issuer is None else await issuer_called(connection, given.issuer)
        issuers = await load_issuers(connection)
        records = await load_signers(connection, SignerState)
    shown = [_shown(each, issuers) for each in reversed(records) if wanted is None or each.issuer_id == wanted]
    if given.json:
        print(json.dumps({"signers": shown}, indent=2))
        return 0
    for each in shown:
        print(
            f"{each['signer']}: {each['issuer']}, {each['kind']}, {each['state']}, until {each['not_after']}, "
            f"{each['key_location']}"
        )
    return 0


def _shown(record: SignerRecord, issuers: IssuerSet) -> dict[str, Any]:
    issuer, certificate = issuers.by_id(record.issuer_id), load_certificate(record.certificate)
    return {
        "signer": record.signer_id,
        "issuer": None if issuer is None else issuer.name,
        "kind": record.kind.value,
        "state": record.state.value,
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key_location": record.key_location,
    }
