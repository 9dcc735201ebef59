# SPDX-License-Identifier: Apache-2.0
"""Which rows of answers there are: who is asked, what, how, and by which answer it is judged.

Starts our responders, nginx and the peers on the server's core. A further row is one more entry here. Called by
answers.py, which measures them.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from bench import ground, peers
from bench.cores import Cores, on
from bench.edge import edge
from bench.figures import Sample
from bench.ground import Issuer, Responding
from bench.judge import judge_good
from bench.load import CONNECTIONS, Counting, MissingPeerError, Questions, Same, SamePost, fetch
from demo.stage import run_admin

Judge = Callable[[bytes, int], None]
#: Yields the port to ask for as long as it is asked.
Where = Callable[[], AbstractContextManager[int]]

NGINX_KEPT: Final = "nginx, static file"
NGINX_CLOSED: Final = "nginx, static file, connection per request"
CACHED_KEPT: Final = "cached, GET, P-256"
CACHED_POST: Final = "cached, POST, P-256"
CACHED_CLOSED: Final = "cached, GET, P-256, connection per request"
CACHED_AB: Final = "cached, POST, P-256, connection per request, asked by ab"
UNCACHED: Final = "uncached, POST, P-256"
# Debian's cfssl refuses every GET with 400: it takes the slash in front for a part of the base64.
CFSSL_KEPT: Final = "cfssl ocspserve, POST"
CFSSL_CLOSED: Final = "cfssl ocspserve, POST, connection per request"
OPENSSL: Final = "openssl ocsp, POST, connection per request, asked by ab"
EDGE: Final = "nginx in front of us, {method}"
EDGE_CLOSED: Final = "nginx in front of us, {method}, connection per request"
LOOKED_UP: Final = "uncached, one connection, {rows:,} rows"

# Index lines that openssl ocsp reads at each of its starts, and answers that cfssl reads at its one.
_OPENSSL_ROWS: Final = 10_000
_CFSSL_ANSWERS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Size:
    """How many rows: of the P-256 issuer, of the RSA-2048 one, and of the smallest and the largest table."""

    p256: int = 1_000_000
    rsa2048: int = 100_000
    least: int = 10_000
    most: int = 10_000_000


@dataclass(slots=True, kw_only=True)
class Row:
    """One row. `judge` raises ValueError for an answer to question `number` that is not right.

    `looks_up` is the database that has to be asked for each answer. With `ab`, the questions are one POST asked again
    and again with that program, over a connection each.
    """

    name: str
    where: Where
    questions: Questions
    judge: Judge
    close: bool = False
    connections: int = CONNECTIONS
    ab: SamePost | None = None
    against: str | None = None
    looks_up: str | None = None
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that was started: the rows, a line for each missing peer, and whose memory is looked at."""

    rows: list[Row]
    missing: list[str]
    responder: Responding
    filling: Counting


@contextmanager
def standing(server: str, folder: Path, *, cores: Cores, size: Size) -> Iterator[Standing]:
    """Start our responder, and the peers that are there, on the server's core; rows of one kind of connection together.

    `server` is the DSN of a PostgreSQL that runs on the load's core.
    """
    with ExitStack() as stack:
        issuers = {kind: Issuer.create(folder, kind, key=kind) for kind in ("p256", "rsa2048")}
        tables = {
            rows: _filled(stack, folder / f"{rows}", server, [(issuers["p256"], rows)])
            for rows in (size.least, size.most)
        }
        both = [(issuers["p256"], size.p256), (issuers["rsa2048"], size.rsa2048)]
        main = _filled(stack, folder / "main", server, both)
        tables[size.p256] = main
        missing: list[str] = []
        with on(cores.server):
            ours = stack.enter_context(ground.responder(folder / "main", main))
            kept = _Kept.of(issuers["p256"], ours.port)
            counting = _counting(issuers, size)
            rows = [*_our_rows(ours.port, issuers, counting, kept, main), *_look_ups(stack, folder, issuers, tables)]
            for peer in (_nginx_rows, _edge_rows, _cfssl_rows, _openssl_rows):
                try:
                    rows += peer(stack, folder, kept)
                except MissingPeerError as exc:
                    missing.append(str(exc))
        yield Standing(sorted(rows, key=lambda row: row.close), missing, ours, counting["p256"])


def _filled(stack: ExitStack, folder: Path, server: str, issuers: Sequence[tuple[Issuer, int]]) -> str:
    """Make a database what an operator's would be, with so many rows for each issuer, and return its DSN."""
    folder.mkdir()
    dsn = stack.enter_context(ground.database(server))
    admin = folder / "admin.toml"
    admin.write_text(ground.settings(dsn))
    run_admin(admin, "migrate")
    for issuer, rows in issuers:
        issuer.add(admin)
        ground.insert_rows(dsn, issuer.name, rows=rows)
    return dsn


def _counting(issuers: dict[str, Issuer], size: Size) -> dict[str, Counting]:
    """Distinct serials, each asked again only when the answer before is long gone from memory."""
    rows = {"p256": size.p256, "rsa2048": size.rsa2048}
    return {name: Counting(issuer.request(ground.serial_of(0))[:-4], rows[name]) for name, issuer in issuers.items()}


@dataclass(frozen=True, slots=True)
class _Kept:
    """The certificate whose answer is kept. The counting rows come by it too, and leave it as it is."""

    issuer: Issuer
    port: int
    serial: int
    request: bytes
    get: Same

    @classmethod
    def of(cls, issuer: Issuer, port: int) -> "_Kept":
        serial = ground.serial_of(7)
        request = issuer.request(serial)
        return cls(issuer, port, serial, request, Same("/" + quote(b64encode(request).decode(), safe="")))

    @property
    def post(self) -> SamePost:
        return SamePost(self.request)

    def judge(self, body: bytes, _: int) -> None:
        judge_good(body, signer=self.issuer.signer, serial=self.serial)

    def fetch(self) -> bytes:
        """Have our responder answer."""
        return fetch(self.port, self.get.http(close=False))[1]


def _at(port: int) -> Where:
    return lambda: nullcontext(port)


def _counted(issuer: Issuer, questions: Counting) -> Judge:
    def judge(body: bytes, at: int) -> None:
        number = Counting(questions.beginning, questions.numbers, at).number
        judge_good(body, signer=issuer.signer, serial=ground.serial_of(number))

    return judge


def _our_rows(port: int, issuers: dict[str, Issuer], counting: dict[str, Counting], kept: _Kept, dsn: str) -> list[Row]:
    where = _at(port)

    def uncached(name: str, kind: str, *, close: bool = False) -> Row:
        against = NGINX_CLOSED if close else NGINX_KEPT
        judge = _counted(issuers[kind], counting[kind])
        return Row(
            name=name, where=where, questions=counting[kind], judge=judge, close=close, against=against, looks_up=dsn
        )

    def cached(name: str, asked: Questions, *, close: bool = False, ab: SamePost | None = None, against: str) -> Row:
        return Row(name=name, where=where, questions=asked, judge=kept.judge, close=close, ab=ab, against=against)

    return [
        cached(CACHED_KEPT, kept.get, against=NGINX_KEPT),
        cached(CACHED_POST, kept.post, against=NGINX_KEPT),
        uncached(UNCACHED, "p256"),
        uncached("uncached, POST, RSA-2048", "rsa2048"),
        cached(CACHED_CLOSED, kept.get, close=True, against=NGINX_CLOSED),
        uncached("uncached, POST, P-256, connection per request", "p256", close=True),
        cached(CACHED_AB, kept.post, close=True, ab=kept.post, against=OPENSSL),
    ]


def _look_ups(stack: ExitStack, folder: Path, issuers: dict[str, Issuer], tables: dict[int, str]) -> list[Row]:
    """Tables of each size, asked by responders that keep nothing: one question at a time, so that its time is all."""
    issuer, rows = issuers["p256"], []
    least = LOOKED_UP.format(rows=min(tables))
    for number, dsn in sorted(tables.items()):
        of_size = folder / f"look-ups-{number}"
        of_size.mkdir()
        started = stack.enter_context(ground.responder(of_size, dsn, kept=0))
        questions = Counting(issuer.request(ground.serial_of(0))[:-4], number)
        row = Row(
            name=LOOKED_UP.format(rows=number),
            where=_at(started.port),
            questions=questions,
            judge=_counted(issuer, questions),
            connections=1,
            against=None if number == min(tables) else least,
            looks_up=dsn,
        )
        rows.append(row)
    return rows


def _nginx_rows(stack: ExitStack, folder: Path, kept: _Kept) -> list[Row]:
    answer = kept.fetch()
    where = _at(stack.enter_context(peers.nginx(folder / "nginx", answer)))

    def judge(body: bytes, _: int) -> None:
        if body != answer:
            raise ValueError("nginx serves something else than the file")

    file = Same(peers.STATIC_PATH)
    return [
        Row(name=NGINX_KEPT, where=where, questions=file, judge=judge),
        Row(name=NGINX_CLOSED, where=where, questions=file, judge=judge, close=True),
    ]


def _edge_rows(stack: ExitStack, folder: Path, kept: _Kept) -> list[Row]:
    where = _at(stack.enter_context(edge(folder / "edge", upstream=kept.port)))
    asked: dict[str, Questions] = {"GET": kept.get, "POST": kept.post}
    return [
        Row(
            name=(EDGE_CLOSED if close else EDGE).format(method=method),
            where=where,
            questions=questions,
            judge=kept.judge,
            close=close,
            against=NGINX_CLOSED if close else NGINX_KEPT,
        )
        for close in (False, True)
        for method, questions in asked.items()
    ]


def _cfssl_rows(stack: ExitStack, folder: Path, kept: _Kept) -> list[Row]:
    others = Counting(kept.issuer.request(ground.serial_of(0))[:-4], _CFSSL_ANSWERS)
    answers = [kept.fetch()]
    for others.at in range(_CFSSL_ANSWERS):
        answers.append(fetch(kept.port, others.http(close=True))[1])
    where = _at(stack.enter_context(peers.cfssl(folder / "cfssl", answers)))
    return [
        Row(name=CFSSL_KEPT, where=where, questions=kept.post, judge=kept.judge, against=NGINX_KEPT),
        Row(name=CFSSL_CLOSED, where=where, questions=kept.post, judge=kept.judge, close=True, against=NGINX_CLOSED),
    ]


def _openssl_rows(_: ExitStack, folder: Path, kept: _Kept) -> list[Row]:
    for program, package in (("openssl", "openssl"), ("ab", "apache2-utils")):
        peers.find(program, package=package)
    serials = {*map(ground.serial_of, range(_OPENSSL_ROWS)), kept.serial}

    def where() -> AbstractContextManager[int]:
        # Started anew each time: a connection that ended without a request has it spin ever after.
        return peers.openssl(folder / "openssl", kept.issuer, serials)

    return [Row(name=OPENSSL, where=where, questions=kept.post, judge=kept.judge, close=True, ab=kept.post)]
