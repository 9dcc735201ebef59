# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin check-url: ask through the public address as clients do, and say what is wrong with the answers."""

import argparse
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from rich.console import Console
from rich.table import Table
from rich.text import Text

from admin.context import Context, Refused, issuer_called
from reconciler.watch.asking import Address, AddressError
from reconciler.watch.check_url import Plan, Report, Subject, TooManyError, check
from reconciler.watch.judging import Expected, Judged, directives
from responder.errors import OcspError
from responder.ocsp.policy import decide
from responder.runtime.db import Connection
from responder.runtime.settings import Duration
from responder.status import store
from responder.status.issuer_store import load_issuers
from responder.status.issuers import CaCertificate
from responder.status.model import CertStatus, Freshness, Pending, Policy, Reason, Revoked, Status, serial_from_hex

_MOST_REQUESTS: Final = 200
_SECONDS: Final = Duration(seconds=120)
# Wide enough for a line of the table where no terminal says how wide it is.
_WIDTH: Final = 150


@dataclass(frozen=True, slots=True)
class _Known:
    """The issuer's certificates, whether it is public, and what its table says; no expectation without a table."""

    certificates: tuple[CaCertificate, ...]
    public: bool
    subjects: tuple[Subject, ...]
    nobody: Subject


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check-url`."""
    parser = nouns.add_parser("check-url", help="ask through the public address, in every way that clients do")
    parser.add_argument("url", metavar="URL", type=_address, help="the pointer in certificates: http://ocsp.example/r1")
    issuer = parser.add_mutually_exclusive_group(required=True)
    issuer.add_argument("--issuer", metavar="NAME", help="compare with what the table says")
    issuer.add_argument("--issuer-cert", type=Path, metavar="CA.pem", help="ask no database")
    parser.add_argument("serials", nargs="*", metavar="SERIALHEX", help="default: a good one and a revoked one")
    parser.add_argument(
        "--cert", type=Path, action="append", default=[], metavar="FILE", help="the certificate with the serial"
    )
    parser.add_argument(
        "--most-requests",
        type=int,
        default=_MOST_REQUESTS,
        metavar="N",
        help="refuse to ask more; default: %(default)s",
    )
    parser.add_argument(
        "--timeout", type=_duration, default=_SECONDS, metavar="DURATION", help="for everything together; default: 2m"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(command=_check_url, alone=_is_alone)


def _is_alone(given: argparse.Namespace) -> bool:
    """Tell whether no database is asked: then no settings are needed, and it runs on any machine."""
    return given.issuer_cert is not None


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


async def _check_url(given: argparse.Namespace, context: Context) -> int:
    named = [_certificate(path) for path in given.cert]
    serials = [*map(serial_from_hex, given.serials), *(each.serial_number for each in named)]
    nobody = secrets.randbits(127) | 1 << 126
    if given.issuer is not None:
        async with context.transaction() as connection:
            known = await _from_table(connection, given.issuer, serials, nobody)
    else:
        ours = CaCertificate.load(_read(given.issuer_cert))
        subjects = tuple(Subject(serial, None) for serial in serials)
        known = _Known((ours,), False, subjects, Subject(nobody, None))
    _check_named(named, known.certificates)
    plan = Plan(
        certificates=known.certificates,
        public=known.public,
        subjects=known.subjects,
        nobody=known.nobody,
        foreign=secrets.token_bytes(40),
        most_requests=given.most_requests,
        seconds=given.timeout.total_seconds(),
    )
    try:
        report = await check(given.url, plan)
    except TooManyError as exc:
        raise Refused(f"{exc}; name fewer serials, or raise --most-requests") from exc
    if given.json:
        print(json.dumps(_as_json(report), indent=2))
    else:
        _print(report)
    return 0 if report.is_right else 1


def _check_named(named: Sequence[x509.Certificate], certificates: Sequence[CaCertificate]) -> None:
    for each in named:
        if all(each.issuer != issuer.parsed.subject for issuer in certificates):
            raise Refused(f"{each.subject.rfc4514_string()} was issued by {each.issuer.rfc4514_string()}")


# ------------------------------------------------------------------------------------------- what the table says


async def _from_table(connection: Connection, name: str, serials: Sequence[int], nobody: int) -> _Known:
    issuer_id = await issuer_called(connection, name)
    issuer = (await load_issuers(connection)).by_id(issuer_id)
    if issuer is None:
        raise Refused(f"issuer {name!r} has no certificate")
    asked = serials or await store.example_serials(connection, issuer_id)
    keys = [(issuer_id, serial) for serial in (*asked, nobody)]
    fresh = await store.freshness(connection)
    promised = await store.reserved(connection, keys)
    found = await store.look_up(connection, keys)

    def subject(serial: int) -> Subject:
        key = issuer_id, serial
        status = found.get(key) or (Pending() if key in promised else None)
        return Subject(serial, _expected(status, fresh, issuer.policy))

    return _Known(issuer.certificates, issuer.public, tuple(map(subject, asked)), subject(nobody))


def _expected(status: Status | None, fresh: Freshness, policy: Policy) -> Expected:
    """Return what the responder's own rules make of a row, in the words in which answers are read."""
    try:
        said: CertStatus = decide(status, freshness=fresh, policy=policy)
    except OcspError as error:
        first, *rest = error.status.name.lower().split("_")
        return Expected(first + "".join(map(str.capitalize, rest)))
    if isinstance(said, Revoked):
        return Expected("revoked", said.at, None if said.reason is Reason.UNSPECIFIED else said.reason.words)
    return Expected(type(said).__name__.lower())


# ------------------------------------------------------------------------------------------------------ printing


def _print(report: Report) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table("serial", "request", "way", "HTTP", "answer", "signed", "max-age", "octets", "", box=None)
    last = None
    for each in report.answers:
        serial = "" if each.question.serial == last else f"{each.question.serial:x}"
        last = each.question.serial
        style = "bold red" if each.faults else ""
        cells = (serial, each.question.what, str(each.question.way), *_cells(each), "; ".join(each.faults) or "ok")
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console.print(table)
    for fault in report.faults:
        console.print(Text(f"WRONG  {fault}", style="bold red"))
    wrong = sum(1 for each in report.answers if each.faults) + len(report.faults)
    different = len({each.digest for each in report.answers if each.read is not None})
    verdict = "all is well" if report.is_right else f"{wrong} things are wrong"
    console.print(f"{len(report.answers)} answers, {different} different ones: {verdict}")


def _cells(judged: Judged) -> tuple[str, str, str, str, str]:
    received, found = judged.received, judged.read
    if received is None:
        return "", "", "", "", ""
    signed = "" if found is None or found.signed is None else _time(found.signed.this_update)
    word = "" if found is None else found.word
    # The first digits of the digest: the same ones are the same answer.
    digits = f"{len(received.body)} {(judged.digest or '')[:6]}"
    return str(received.status), word, signed, directives(received).get("max-age", ""), digits


def _time(moment: datetime) -> str:
    return f"{moment:%m-%d %H:%M:%SZ}"


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "right": report.is_right,
        "faults": list(report.faults),
        "answers": [_answer_as_json(each) for each in report.answers],
    }


def _answer_as_json(judged: Judged) -> dict[str, Any]:
    received = judged.received
    signed = None if judged.read is None else judged.read.signed
    return {
        "serial": f"{judged.question.serial:x}",
        "request": judged.question.what,
        "way": str(judged.question.way),
        "http_status": None if received is None else received.status,
        "headers": None if received is None else dict(received.headers),
        "sha256": judged.digest,
        "answer": None if judged.read is None else judged.read.word,
        "this_update": None if signed is None else signed.this_update.isoformat(),
        "next_update": None if signed is None or signed.next_update is None else signed.next_update.isoformat(),
        "faults": list(judged.faults),
    }


def _certificate(path: Path) -> x509.Certificate:
    data = _read(path)
    try:
        return (x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate)(data)
    except ValueError as exc:
        raise Refused(f"{path}: not a certificate in PEM or DER: {exc}") from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc
