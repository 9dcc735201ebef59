# SPDX-License-Identifier: Apache-2.0
"""`ocsp-responder presign` as people and services run it, and what it has stored."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from demo.stage import command
from responder.status.model import serial_octets
from tests.conftest import as_role
from tests.responder.running import Served, World, environment, stop, write_settings

SECONDS = 60.0
# Serials begin with an octet of their own, so that a stored answer is easily told from chance.
FIRST = 0x51 << 64


def settings(world: World, *, more: str = "", presigned: str = "") -> Path:
    """Write settings with the least rights that signing ahead needs."""
    section = f"[presigned]\n{presigned}\n"
    return write_settings(world.folder, dsn=as_role(world.dsn, "ocsp_responder"), port=1, more=section + more)


def add_issuer(world: World, name: str = "ahead", *, kind: str = "p256", days: float = 30) -> Served:
    ca = Authority.create(f"CA {name}")
    return world.add_issuer(name, ca, signer=ca.issue_responder(key=make_key(kind), days=days))


def fill(world: World, issuer: Served, number: int, *, first: int = FIRST) -> list[int]:
    """Give the issuer so many good rows, and return their serials."""
    world.execute(
        """
        INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)
        SELECT %s, %s || int8send(n), 'good', now() - interval '1 day', now() + interval '80 days', false
        FROM generate_series(0, %s) n
        """,
        issuer.issuer_id,
        serial_octets(first >> 64),
        number - 1,
    )
    return [first + n for n in range(number)]


def revoke_all(world: World, issuer: Served) -> None:
    """Revoke everything at once, as after the loss of a key that generated them."""
    world.execute(
        """
        UPDATE ocsp.certificate SET status = 'revoked', revoked_at = date_trunc('second', now()), reason = 4
        WHERE issuer_id = %s
        """,
        issuer.issuer_id,
    )


def start(world: World, *arguments: str, presigned: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [command("ocsp-responder"), "--config", settings(world, presigned=presigned), "presign", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, summary, and the lines of the log."""

    code: int
    summary: dict[str, Any]
    lines: list[dict[str, Any]]


def ended(process: "subprocess.Popen[str]") -> Ended:
    out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return Ended(process.returncode, json.loads(out) if out.startswith("{") else {}, lines)


def presign(world: World, *arguments: str, presigned: str = "") -> Ended:
    """Sign ahead once, and return how it ended."""
    return ended(start(world, "--json", *arguments, presigned=presigned))


@contextmanager
def watching(world: World, *arguments: str, presigned: str = "") -> "Iterator[subprocess.Popen[bytes]]":
    """Sign ahead as a service does, and stop it kindly afterwards; it may not have logged a traceback."""
    log = world.folder / "watch.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                command("ocsp-responder"),
                "--config",
                settings(world, presigned=presigned),
                "presign",
                "--watch",
                *arguments,
            ],
            stdout=out,
            stderr=out,
            env=environment(),
        )
    try:
        yield process
    finally:
        stop(process)
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def stored(world: World, issuer: Served) -> dict[tuple[int, str], ocsp.OCSPResponse]:
    """Return what is stored for an issuer, by serial and hash."""
    rows = world.execute("SELECT serial, hash, body FROM ocsp.stored_answer WHERE issuer_id = %s", issuer.issuer_id)
    return {(int.from_bytes(serial), name): ocsp.load_der_ocsp_response(body) for serial, name, body in rows}


def count(world: World, condition: str = "true") -> int:
    (row,) = world.execute(f"SELECT count(*) FROM ocsp.stored_answer WHERE {condition}")  # noqa: S608 - our own words
    return int(row[0])


def statuses(answers: dict[tuple[int, str], ocsp.OCSPResponse], serials: Sequence[int], name: str = "sha1") -> set[str]:
    return {answers[serial, name].certificate_status.name for serial in serials}


def octets(serial: int) -> bytes:
    return serial_octets(serial)
