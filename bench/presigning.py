# SPDX-License-Identifier: Apache-2.0
"""Signing ahead against the bare sign() loop of the cryptography library, by processor time; and a mass revocation.

Knows what is compared with what; signing itself is responder/presign's, and the second half runs its very command.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bench import ground
from bench.cores import Cores, on
from bench.figures import Figure, Sample
from bench.ground import serial_of
from demo.stage import command, run_admin
from responder.ocsp.policy import DEFAULT_POLICY
from responder.presign.conductor import PORTION
from responder.presign.portion import sign_portion
from responder.signing.admission import admit
from responder.signing.file import FileSigner
from responder.status.issuers import CaCertificate, Issuer
from responder.status.model import Good
from responder.status.presigned import Due

KINDS: Final = {"p256": "P-256", "rsa2048": "RSA-2048"}
BARE: Final = "sign() of the cryptography library alone, {kind}"
PRESIGNED: Final = "pre-signing, {kind}, one core"
#: Answers of one repetition: about half a second of processor time.
_ANSWERS: Final = {"p256": 80 * PORTION, "rsa2048": 8 * PORTION}
#: What a bare loop signs has the length of a ResponseData.
_OCTETS: Final = os.urandom(190)
_ROWS: Final = {"p256": 40_000, "rsa2048": 6_000}

#: Certificates of the mass revocation, and how many each UPDATE revokes.
MASS: Final = 1_000_000
_REVOKED_AT_ONCE: Final = 20_000
_PATIENCE: Final = 7200.0


def measure(server: str, folder: Path, *, cores: Cores, repetitions: int) -> list[Figure]:
    """Measure each kind of key three ways, in turns: bare, in memory, and from the queue to the table."""
    figures: list[Figure] = []
    for kind, name in KINDS.items():
        (folder / kind).mkdir()
        issuer = ground.Issuer.create(folder / kind, kind, key=kind)
        bare, ahead, whole = [], [], []
        with ExitStack() as stack:
            loop_of_signatures, loop_of_answers = _bare(issuer), _ahead(issuer)
            dsn, settings = _database(stack, server, folder / kind, issuer, rows=_ROWS[kind])
            for _ in range(repetitions):
                with on(cores.server):
                    bare.append(_timed(loop_of_signatures, answers=_ANSWERS[kind]))
                    ahead.append(_timed(loop_of_answers, answers=_ANSWERS[kind]))
                whole.append(_whole(dsn, settings, cores=cores, answers=_ROWS[kind]))
        loop = BARE.format(kind=name)
        figures += [
            Figure(name=loop, unit="signatures/s", samples=tuple(bare)),
            Figure(name=PRESIGNED.format(kind=name), unit="answers/s", samples=tuple(ahead), against=loop),
            Figure(
                name=f"pre-signing, {name}, from queue to table", unit="answers/s", samples=tuple(whole), against=loop
            ),
        ]
    return figures


def _timed(act: Callable[[], None], *, answers: int) -> Sample:
    began = time.process_time()
    act()
    return Sample(value=answers / (time.process_time() - began))


def _bare(issuer: ground.Issuer) -> Callable[[], None]:
    """Return the loop of nothing but sign(), with everything it needs made beforehand."""
    key, times = load_pem_private_key(issuer.key_file.read_bytes(), None), range(_ANSWERS[issuer.name])
    pkcs1, sha256, ecdsa = padding.PKCS1v15(), hashes.SHA256(), ec.ECDSA(hashes.SHA256())

    def sign_with_rsa(key: rsa.RSAPrivateKey) -> None:
        for _ in times:
            key.sign(_OCTETS, pkcs1, sha256)

    def sign_with_ecdsa(key: ec.EllipticCurvePrivateKey) -> None:
        for _ in times:
            key.sign(_OCTETS, ecdsa)

    if isinstance(key, rsa.RSAPrivateKey):
        return partial(sign_with_rsa, key)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - KINDS has no other
    return partial(sign_with_ecdsa, key)


def _ahead(issuer: ground.Issuer) -> Callable[[], None]:
    """Return the loop that assembles, signs and lints as a worker does, portion by portion."""
    certificates = (CaCertificate.load(issuer.certificate_file.read_bytes()),)
    ours = Issuer(1, issuer.name, True, False, DEFAULT_POLICY, certificates)
    signer = FileSigner.load(issuer.key_file, certificate=issuer.signer_file.read_bytes())
    admitted = admit(signer, issuer=ours, now=datetime.now(UTC))
    due = [Due(serial_of(number), "sha1", Good()) for number in range(_ANSWERS[issuer.name])]

    async def sign_all() -> None:
        for start in range(0, len(due), PORTION):
            now = datetime.now(UTC)
            portion = await sign_portion(due[start : start + PORTION], issuer=ours, signer=admitted, now=now)
            if len(portion.made.answers) != PORTION:
                raise RuntimeError(f"the lint refused an answer: {portion.refused[0]}")

    return lambda: asyncio.run(sign_all())


def _whole(dsn: str, settings: Path, *, cores: Cores, answers: int) -> Sample:
    """Run the command with one worker on an empty table, and divide by that worker's processor time."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE ocsp.stored_answer, ocsp.presign_job")
    with on(cores.server):
        summary = _presign(settings, "--workers", "1")
    faults = [] if summary["signed"] == answers else [f"{summary['signed']} signed where {answers} were due"]
    return Sample(value=answers / summary["cpu_seconds"], faults=tuple(faults))


def _database(stack: ExitStack, server: str, folder: Path, issuer: ground.Issuer, *, rows: int) -> tuple[str, Path]:
    dsn = stack.enter_context(ground.database(server))
    admin, settings = folder / "admin.toml", folder / "responder.toml"
    admin.write_text(ground.settings(dsn))
    settings.write_text(ground.settings(dsn))
    run_admin(admin, "migrate")
    issuer.add(admin)
    ground.insert_rows(dsn, issuer.name, rows=rows)
    return dsn, settings


def _presign(settings: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [command("ocsp-responder"), "--config", settings, "presign", "--json", *arguments],
        capture_output=True, text=True, check=False, timeout=_PATIENCE,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"presign failed: {done.stdout}{done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


# ---------------------------------------------------------------------------------------------- a mass revocation


def measure_mass(server: str, folder: Path, *, kind: str, certificates: int) -> list[Figure]:
    """Sign so many ahead, revoke all of them, and sign all anew while one more revocation cuts the queue."""
    issuer = ground.Issuer.create(folder, kind, key=kind)
    scale = f"{certificates:,} certificates, {KINDS[kind]}, {os.cpu_count()} workers"
    with ExitStack() as stack:
        dsn, settings = _database(stack, server, folder, issuer, rows=certificates)
        first = _presign(settings)
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        (octets,) = _row(connection, "SELECT pg_total_relation_size('ocsp.stored_answer')")
        revoking = _revoke_all(connection)
        again = _presign(settings)
        (right,) = _row(connection, "SELECT count(*) FROM ocsp.stored_answer WHERE status = 'revoked' AND reason = 1")
        (octets_after,) = _row(connection, "SELECT pg_total_relation_size('ocsp.stored_answer')")
    faults = () if right == certificates else (f"{right} of {certificates} answers say revoked",)

    def row(what: str, value: float, unit: str) -> Figure:
        return Figure(name=f"{what}: {scale}", unit=unit, samples=(Sample(value=value, faults=faults),))

    return [
        row("signed ahead", first["signed"] / first["seconds"], "answers/s"),
        row("revoked", certificates / revoking, "rows/s"),
        row("signed anew", again["signed"] / again["seconds"], "answers/s"),
        row("from the first revocation to the last answer", revoking + again["seconds"], "seconds"),
        row("table after the first signing", octets / 2**20, "MiB"),
        row("table after the second", octets_after / 2**20, "MiB"),
    ]


def _revoke_all(connection: "psycopg.Connection[tuple[Any, ...]]") -> float:
    """Revoke in steps, as a script would that lets other transactions breathe, and return the seconds it took."""
    began, last = time.monotonic(), b""
    while True:
        done = connection.execute(
            """
            WITH portion AS (
                SELECT issuer_id, serial FROM ocsp.certificate WHERE serial > %(last)s
                ORDER BY issuer_id, serial LIMIT %(most)s
            ), revoked AS (
                UPDATE ocsp.certificate c
                SET status = 'revoked', revoked_at = date_trunc('second', clock_timestamp()), reason = 1
                FROM portion p WHERE (c.issuer_id, c.serial) = (p.issuer_id, p.serial) RETURNING c.serial
            )
            SELECT serial FROM revoked ORDER BY serial DESC LIMIT 1
            """,
            {"last": last, "most": _REVOKED_AT_ONCE},
        ).fetchone()
        if done is None:
            return time.monotonic() - began
        (last,) = done


def _row(connection: "psycopg.Connection[tuple[Any, ...]]", query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - an aggregate returns a row
    return row
