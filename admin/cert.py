# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin cert: register, reserve, show, revoke and purge certificates, by the same road as everything else."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from admin.context import Context, Refused, issuer_called
from responder.ocsp.policy import purge_before
from responder.runtime.db import Connection
from responder.status import purge, purge_store, revoke, store
from responder.status.issuer_store import load_issuers
from responder.status.issuers import IssuerSet
from responder.status.model import FilePlace, Reason, Sighting, serial_from_hex, serial_hex, whole_second
from responder.status.precert import NotProvenError, prove
from responder.status.record import record_issued


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `cert register`, `cert reserve`, `cert show`, `cert revoke` and `cert purge`."""
    verbs = nouns.add_parser("cert", help="single certificates").add_subparsers(required=True, metavar="VERB")
    register = verbs.add_parser("register", help="make certificates or precertificates known")
    register.add_argument("--issuer", required=True, metavar="NAME")
    register.add_argument("files", nargs="+", type=Path, metavar="FILE", help="DER or PEM")
    register.set_defaults(command=_register)
    reserve = verbs.add_parser("reserve", help="announce a serial before anything is signed: tryLater until then")
    _add_certificate_arguments(reserve)
    reserve.set_defaults(command=_reserve)
    show = verbs.add_parser("show", help="status, times and every sighting")
    _add_certificate_arguments(show)
    show.add_argument("--json", action="store_true", help="for scripts")
    show.set_defaults(command=_show)
    revoking = verbs.add_parser("revoke", help="revoke a certificate, or with --correct mend time or reason")
    _add_certificate_arguments(revoking)
    revoking.add_argument("--reason", required=True, type=_reason, metavar="REASON", help="such as keyCompromise")
    revoking.add_argument("--at", type=_moment, metavar="TIME", help="such as 2026-01-31T12:00:00Z; default: now")
    revoking.add_argument("--correct", action="store_true", help="it is revoked already: correct reason, and --at time")
    revoking.set_defaults(command=_revoke)
    purging = verbs.add_parser("purge", help="let go of rows whose certificates have expired")
    purging.add_argument("--issuer", metavar="NAME", help="of this issuer only; default: of all")
    purging.add_argument("--before", type=_moment, metavar="TIME", help="only where notAfter lies before that")
    purging.add_argument("--dry-run", action="store_true", help="say what would be purged, and change nothing")
    purging.set_defaults(command=_purge)


def _add_certificate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--issuer", required=True, metavar="NAME")
    parser.add_argument("serial", metavar="SERIALHEX", help="any case, with or without leading zeros or colons")


def _reason(text: str) -> Reason:
    try:
        return Reason.from_words(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _moment(text: str) -> datetime:
    try:
        return whole_second(datetime.fromisoformat(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time with its zone, as 2026-01-31T12:00:00Z") from exc


async def _register(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        issuer_id = await issuer_called(connection, given.issuer)
        issuers = await load_issuers(connection)
        sightings = [each for path in given.files for each in _sightings(path, issuers, issuer_id, given.issuer)]
        source_id = await store.source_id(connection, "ocsp-admin")
        if source_id is None:
            raise Refused("the database has no source `ocsp-admin`: was it migrated by hand?")
        recorded = await record_issued(connection, source_id, sightings)
    new = {(issued.issuer_id, issued.serial) for issued in recorded.rows}
    for each in sightings:
        known = "registered" if (each.issued.issuer_id, each.issued.serial) in new else "known already"
        print(f"{serial_hex(each.issued.serial)}: {each.issued.kind.value}, {known}")
    return 0


def _sightings(path: Path, issuers: IssuerSet, issuer_id: int, name: str) -> list[Sighting]:
    """Prove every certificate of a file. Raises Refused for the first that proves nothing; nothing is registered."""
    found = []
    for number, document in enumerate(_documents(path)):
        try:
            issued = prove(document, issuers).issued
        except NotProvenError as exc:
            raise Refused(f"{path}: {exc}") from exc
        if issued.issuer_id != issuer_id:
            raise Refused(f"{path}: signed by another issuer than {name!r}")
        found.append(Sighting(issued=issued, place=FilePlace(file=str(path.resolve()), offset=number)))
    return found


def _documents(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
        if b"-----BEGIN" not in data:
            return [data]
        return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(data)]
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise Refused(f"{path}: not a certificate in PEM: {exc}") from exc


async def _reserve(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        key = await _key(given, connection)
        free = await store.reserve(connection, key)
    print(f"{serial_hex(key[1])}: {'reserved' if free else 'was reserved already'}")
    return 0


async def _show(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        key = await _key(given, connection)
        row = await store.show_row(connection, key)
        pending = row is None and key in await store.reserved(connection, [key])
        shown = {
            "issuer": given.issuer,
            "serial": serial_hex(key[1]),
            **_shown_row(row, pending=pending),
            "sightings": [_shown_sighting(each) for each in await store.show_sightings(connection, key)],
            "changes": [_shown_change(each) for each in await store.show_changes(connection, key)],
        }
    if given.json:
        print(json.dumps(shown, indent=2))
    else:
        _print_shown(shown)
    return 0 if row is not None or pending else 1


def _shown_row(row: dict[str, Any] | None, *, pending: bool) -> dict[str, Any]:
    if row is None:
        return {"status": "pending" if pending else "unknown"}
    return {
        "status": row["status"],
        "revoked_at": _time(row["revoked_at"]),
        "reason": None if row["reason"] is None else Reason(row["reason"]).words,
        "not_before": _time(row["not_before"]),
        "not_after": _time(row["not_after"]),
        "is_ca": row["is_ca"],
        "recorded_at": _time(row["recorded_at"]),
    }


def _shown_sighting(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": row["source"],
        "source_kind": row["source_kind"],
        "document": row["document"],
        "seen_at": _time(row["seen_at"]),
        "log_index": row["log_index"],
        "logged_at": _time(row["logged_at"]),
        "file": row["file"],
        "file_offset": row["file_offset"],
        "sha256": row["sha256"].hex(),
        "der": row["der"].hex(),
    }


def _shown_change(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "at": _time(row["changed_at"]),
        "from": row["old_status"],
        "to": row["new_status"],
        "revoked_at": _time(row["revoked_at"]),
        "reason": None if row["reason"] is None else Reason(row["reason"]).words,
        "by": row["changed_by"],
        "actor": row["actor"],
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _print_shown(shown: dict[str, Any]) -> None:
    print(f"{shown['issuer']} {shown['serial']}: {shown['status']}")
    for name in ("revoked_at", "reason", "not_before", "not_after", "recorded_at"):
        if shown.get(name) is not None:
            print(f"  {name}: {shown[name]}")
    for each in shown["sightings"]:
        where = f"entry {each['log_index']}, logged {each['logged_at']}"
        if each["file"] is not None:
            where = f"{each['file']} at {each['file_offset']}"
        print(f"  seen {each['seen_at']} in {each['source']} ({each['source_kind']}): {each['document']}, {where}")
        print(f"       SHA-256 {each['sha256']}")
    for each in shown["changes"]:
        print(f"  {each['at']}: {each['from'] or 'no row'} → {each['to']}, by {each['actor'] or each['by']}")


async def _revoke(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        key = await _key(given, connection)
        try:
            said = await revoke.revoke(
                connection, key, at=given.at, reason=given.reason, correct=given.correct, now=datetime.now(UTC)
            )
        except revoke.NotRevoked as exc:
            raise Refused(str(exc)) from exc
    print(f"{serial_hex(key[1])}: revoked at {_time(said.at)}, {said.reason.words}")
    return 0


async def _purge(given: argparse.Namespace, context: Context) -> int:
    async with context.connection() as connection:
        wanted = None if given.issuer is None else await issuer_called(connection, given.issuer)
        now = await purge_store.database_time(connection)
        for issuer in (await load_issuers(connection)).all:
            if wanted not in {None, issuer.issuer_id}:
                continue
            until = purge_before(issuer.policy, public=issuer.public, now=now, before=given.before)
            if until is None and wanted is not None:
                raise Refused(
                    f"issuer {issuer.name!r} keeps its rows for ever; see issuer set --retention, or give --before"
                )
            if until is None:
                print(f"{issuer.name}: kept for ever; see issuer set --retention, or give --before")
                continue
            due = await purge_store.count_due(connection, issuer.issuer_id, before=until)
            if not given.dry_run:
                with _progress(issuer.name, due) as advance:
                    due = await purge.purge(
                        connection, issuer.issuer_id, before=until, actor=context.actor, told=advance
                    )
            print(
                f"{issuer.name}: {due} rows {'to purge' if given.dry_run else 'purged'}, expired before {_time(until)}"
            )
    return 0


@contextmanager
def _progress(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is, on a terminal."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(name, total=rows)
        yield lambda more: shown.advance(task, more)


async def _key(given: argparse.Namespace, connection: Connection) -> store.Key:
    serial = serial_from_hex(given.serial)
    return await issuer_called(connection, given.issuer), serial
