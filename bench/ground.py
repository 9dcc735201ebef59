# SPDX-License-Identifier: Apache-2.0
"""What the measurements stand on: databases, authorities with signers, rows in bulk, the responder as a process.

Knows how our own side is set up; nothing of how it is asked. Called by answers.py, reading.py and healing.py.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from psycopg import conninfo, sql

from demo.ca import Authority, make_key, write_certificates, write_key
from demo.stage import free_port, process, run_admin, wait_for_port

#: Serials of the rows in bulk: these octets and a number of four. A real one is as long: 64 random bits at least.
_SERIAL_BEGINS: Final = bytes.fromhex("4f0b5e8d3c7a192864d1f0a9")
_numbers = count(1)


@contextmanager
def database(server: str, *, template: str = "template1") -> Iterator[str]:
    """Yield the DSN of a database of our own on the server; afterwards it is gone."""
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        try:
            yield conninfo.make_conninfo(server, dbname=name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def name_of(dsn: str) -> str:
    """Return the name of the database of a DSN."""
    return str(conninfo.conninfo_to_dict(dsn)["dbname"])


def settings(dsn: str) -> str:
    """Return the [database] table of a settings file."""
    return f"[database]\ndsn = {json.dumps(dsn)}\n"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of ours: its name, its CA and its signer, with the files they lie in."""

    name: str
    ca: Authority
    signer: x509.Certificate
    folder: Path

    @classmethod
    def create(cls, folder: Path, name: str, *, key: str) -> "Issuer":
        """Make a CA and a delegated signer of one kind of key, and write them down."""
        ca = Authority.create(f"Benchmark {name}", key=key)
        signer, signer_key = ca.issue_responder(key=make_key(key))
        write_certificates(folder / f"{name}.pem", ca.certificate)
        write_certificates(folder / f"{name}-signer.pem", signer)
        write_key(folder / f"{name}-signer.key", signer_key)
        return cls(name, ca, signer, folder)

    @property
    def certificate_file(self) -> Path:
        """The CA certificate."""
        return self.folder / f"{self.name}.pem"

    @property
    def signer_file(self) -> Path:
        """The certificate of the signer."""
        return self.folder / f"{self.name}-signer.pem"

    @property
    def key_file(self) -> Path:
        """The key of the signer."""
        return self.folder / f"{self.name}-signer.key"

    def add(self, admin: Path) -> None:
        """Add the issuer and its signer to the database, as an operator does."""
        run_admin(
            admin, "issuer", "add", self.name, "--cert", str(self.certificate_file),
            "--signer-cert", str(self.signer_file), "--signer-key", str(self.key_file),
        )  # fmt: skip

    def request(self, serial: int) -> bytes:
        """Return an OCSPRequest as most clients send it: SHA-1 CertID, no extensions. The serial is at its end."""
        name = hashes.Hash(hashes.SHA1())  # noqa: S303 - how RFC 9919 names issuers, no safeguard
        name.update(self.ca.certificate.subject.public_bytes())
        key = x509.SubjectKeyIdentifier.from_public_key(self.ca.certificate.public_key()).digest
        asked = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name.finalize(), key, serial, hashes.SHA1())  # noqa: S303
        return asked.build().public_bytes(Encoding.DER)


def serial_of(number: int) -> int:
    """Return the serial of a row in bulk."""
    return int.from_bytes(_SERIAL_BEGINS + number.to_bytes(4))


def insert_rows(dsn: str, issuer: str, *, rows: int) -> None:
    """Insert so many good certificates, numbered from 0, and leave the table as autovacuum would.

    As its owner and without the table's triggers, as a restored dump would: with them, 10 million rows and the change
    of status that is kept of each would take eight minutes. Every check and index of the table holds all the same.
    """
    middle = rows // 2
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda part: _insert_part(dsn, issuer, *part), [(0, middle), (middle, rows)]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE, FREEZE) ocsp.certificate")
        # What is not measured is not to be in the way later: the pages are written now.
        connection.execute("CHECKPOINT")


def _insert_part(dsn: str, issuer: str, first: int, end: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        everywhere(connection.info.backend_pid)
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            """
            INSERT INTO ocsp.certificate (issuer_id, serial, status, not_before, not_after, is_ca)
            SELECT i.issuer_id, %(begins)s::bytea || int4send(n), 'good', now() - interval '1 day',
                   now() + interval '89 days', false
            FROM ocsp.issuer i, generate_series(%(first)s::integer, %(end)s::integer - 1) AS n
            WHERE i.name = %(issuer)s
            """,
            {"begins": _SERIAL_BEGINS, "first": first, "end": end, "issuer": issuer},
        )


def everywhere(process_id: int) -> None:
    """Let a backend of PostgreSQL run on any core while nothing is measured; on another machine it is not ours."""
    with suppress(OSError):
        os.sched_setaffinity(process_id, range(os.cpu_count() or 1))


def rows_looked_up(dsn: str) -> int:
    """Return how many rows of the status table PostgreSQL has fetched by index, as far as its counters are written."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE schemaname = 'ocsp' AND relname = 'certificate'"
        ).fetchone()
    return 0 if found is None else int(found[0])


@dataclass(frozen=True, slots=True)
class Responding:
    """A responder with one worker: where it listens, and the number of its first process."""

    port: int
    pid: int

    @property
    def worker(self) -> int:
        """The process number of the worker."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])


@contextmanager
def responder(folder: Path, dsn: str, *, kept: int | None = None) -> Iterator[Responding]:
    """Start the responder with one worker, which keeps so many answers, or as many as it does by itself."""
    port = free_port()
    config = folder / f"responder-{port}.toml"
    cache = "" if kept is None else f"[cache]\nmost_answers = {kept}\n"
    config.write_text(f'{settings(dsn)}\n[http]\nbind = "127.0.0.1:{port}"\nworkers = 1\n{cache}')
    with ExitStack() as stack:
        started = stack.enter_context(process(folder, "ocsp-responder", "--config", str(config), "serve"))
        wait_for_port(port)
        yield Responding(port, started.pid)
