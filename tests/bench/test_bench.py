# SPDX-License-Identifier: Apache-2.0
"""The measurements measure what they say: real servers and tiny counts. Nothing here is timed."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import ocsp

from bench import answers, healing, machine, reading
from bench.aims import verdicts
from bench.answers import Effort
from bench.cores import Cores, Watch, on
from bench.figures import Figure, Sample, ratio, table
from bench.ground import Issuer, serial_of
from bench.judge import judge_good
from bench.load import Counting, Load, Same, SamePost, fetch, read_counts, read_report
from bench.reading import Sizes
from bench.report import document
from bench.rows import CACHED_KEPT, CFSSL_KEPT, EDGE, NGINX_KEPT, UNCACHED, Size
from demo.ca import Authority

_CORES = Cores.found()


def _figure(name: str, *values: float, against: str | None = None, faults: tuple[str, ...] = ()) -> Figure:
    samples = tuple(Sample(value=value, p50=1.0, p99=2.0, busy=(1.0, 0.5), faults=faults) for value in values)
    return Figure(name=name, unit="requests/s", samples=samples, against=against)


def test_a_ratio_is_taken_within_each_repetition() -> None:
    # The machine was three times as slow in the second repetition: the ratio does not see it.
    peer = _figure("peer", 900, 300, 900)
    ours = _figure("ours", 450, 150, 430, against="peer")
    assert ratio(ours, [peer, ours]) == pytest.approx(0.5)
    assert ours.spread == pytest.approx(300 / 430)


def test_a_row_without_its_peer_has_no_ratio() -> None:
    ours = _figure("ours", 450, against="peer")
    assert ratio(ours, [ours]) is None
    assert ratio(ours, [ours, _figure("peer", 900, faults=("12 errors of kind read",))]) is None


def test_a_row_with_a_fault_shows_no_number() -> None:
    text = table([_figure("right", 1234.5), _figure("wrong", 98765.0, faults=("3 errors of kind status",))])
    assert "1,234" in text
    assert "98,765" not in text
    assert "INVALID  wrong: 3 errors of kind status" in text


def test_the_document_says_how_and_on_what() -> None:
    text = document(
        [_figure("ours", 450)],
        missing=["nginx is missing; on Debian: apt-get install nginx-light"],
        machine={"kernel": "Linux 6.1"},
        load=("0.10, 0.20, 0.30", "1.10, 1.20, 1.30"),
        when=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        method={"connections": 64, "p256": 1_000_000, "rsa2048": 100_000, "warm_up": 1, "seconds": 5, "repetitions": 3},
    )
    for said in (
        "2026-01-02 03:04 UTC",
        "0.10, 0.20, 0.30",
        "Linux 6.1",
        "nginx-light",
        "1,000,000 rows",
        "make bench",
    ):
        assert said in text


def test_the_machine_is_described(server_dsn: str) -> None:
    described = machine.describe(server_dsn)
    assert described["kernel"].startswith("Linux ")
    assert described["PostgreSQL"][:2].isdecimal()
    assert "cryptography" in described["packages"]


def test_a_process_started_on_a_core_stays_there() -> None:
    before = os.sched_getaffinity(0)
    watch = Watch(_CORES)
    with on(_CORES.load):
        assert os.sched_getaffinity(0) == {_CORES.load}
    assert os.sched_getaffinity(0) == before
    assert all(0 <= share <= 1 for share in watch.busy())


def test_wrong_answers_are_told_from_right_ones(tmp_path: Path) -> None:
    issuer = Issuer.create(tmp_path, "p256", key="p256")
    right = _answer(issuer, serial_of(1), ocsp.OCSPCertStatus.GOOD)
    judge_good(right, signer=issuer.signer, serial=serial_of(1))
    with pytest.raises(ValueError, match="another serial"):
        judge_good(right, signer=issuer.signer, serial=serial_of(2))
    with pytest.raises(ValueError, match="does not verify"):
        judge_good(right, signer=Authority.create("another").issue_responder()[0], serial=serial_of(1))
    with pytest.raises(ValueError, match="UNKNOWN"):
        judge_good(
            _answer(issuer, serial_of(1), ocsp.OCSPCertStatus.UNKNOWN), signer=issuer.signer, serial=serial_of(1)
        )
    with pytest.raises(ValueError, match="TRY_LATER"):
        judge_good(bytes.fromhex("30030a0103"), signer=issuer.signer, serial=serial_of(1))


def _answer(issuer: Issuer, serial: int, status: ocsp.OCSPCertStatus) -> bytes:
    """Build an answer of the issuer's signer by another library than ours."""
    key = load_pem_private_key(issuer.key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC).replace(microsecond=0)
    builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
        issuer_name_hash=bytes(32), issuer_key_hash=bytes(32), serial_number=serial, algorithm=hashes.SHA256(),
        cert_status=status, this_update=now, next_update=now + timedelta(hours=8), revocation_time=None,
        revocation_reason=None,
    )  # fmt: skip
    built = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.signer).sign(key, hashes.SHA256())
    return built.public_bytes(Encoding.DER)


class _Recorder(BaseHTTPRequestHandler):
    """Answers every request with two octets, and remembers it."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the whole answer at once
    seen: ClassVar[list[tuple[str, str | None, bytes]]]

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.seen.append((self.path, self.headers.get("Connection"), body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the base class
        """Say nothing."""


@contextmanager
def _recording() -> Iterator[tuple[int, list[tuple[str, str | None, bytes]]]]:
    seen: list[tuple[str, str | None, bytes]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Recorder", (_Recorder,), {"seen": seen})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("close", [False, True])
def test_the_load_asks_distinct_questions_in_order(tmp_path: Path, program: Callable[[str], str], close: bool) -> None:
    program("wrk")
    issuer = Issuer.create(tmp_path, "p256", key="p256")
    numbers = 300
    questions = Counting(issuer.request(serial_of(0))[:-4], numbers, at=numbers - 3)
    with _recording() as (port, seen):
        load = Load(tmp_path, core=_CORES.load)
        counted = load.ask(port, questions, seconds=1, close=close, connections=1)
        assert set(counted.errors.values()) == {0}
        octets, body = fetch(port, questions.http(close=close))
    assert counted.requests > 10
    assert counted.requests * octets <= counted.octets <= (counted.requests + 1) * octets
    assert body == b"ok"
    *asked, after = [ocsp.load_der_ocsp_request(body).serial_number for _, _, body in seen]
    # wrk asks its script for one request to look at before the first that it sends.
    order = [serial_of(Counting(b"", numbers, at).number) for at in range(numbers)]
    assert sorted(order) == [serial_of(number) for number in range(numbers)]
    places = [order.index(serial) for serial in asked]
    assert places[0] in {numbers - 3, numbers - 2}
    # A connection that the server ends first takes the question with it that wrk had ready for it.
    steps = [(after - before) % numbers for before, after in pairwise(places)]
    assert steps.count(1) >= len(steps) - 3
    assert set(steps) <= {1, 2}
    assert after not in asked[-(numbers // 2) :]
    assert {connection for _, connection, _ in seen} == {"close" if close else None}


def test_the_load_asks_the_same_question(tmp_path: Path, program: Callable[[str], str]) -> None:
    program("wrk")
    with _recording() as (port, seen):
        load = Load(tmp_path, core=_CORES.load)
        load.ask(port, Same("/MFEw%2Fabc"), seconds=1, close=True, connections=1)
        assert len(seen) > 10
        assert set(seen) == {("/MFEw%2Fabc", "close", b"")}
        seen.clear()
        load.ask(port, SamePost(b"\x30\x03\x0a\x01\x00"), seconds=1, close=False, connections=1)
        assert len(seen) > 10
        assert set(seen) == {("/", None, b"\x30\x03\x0a\x01\x00")}


def test_ab_asks_as_often_as_it_is_told_and_not_once_more(tmp_path: Path, program: Callable[[str], str]) -> None:
    program("ab")
    with _recording() as (port, seen):
        counted = Load(tmp_path, core=_CORES.load).ask_so_often(port, b"\x30\x03", times=300, connections=8)
    assert (counted.requests, len(seen)) == (300, 300)
    assert {body for _, _, body in seen} == {b"\x30\x03"}
    assert set(counted.errors.values()) == {0}
    assert counted.seconds > 0


def test_what_ab_did_not_get_is_counted() -> None:
    said = (
        "Time taken for tests:   2.500 seconds\nComplete requests:      90\nFailed requests:        4\n"
        "Non-2xx responses:      3\nTotal transferred:      4500 bytes\n\n  50%      2\n  99%      8\n"
    )
    counted = read_report(said, asked=100)
    assert (counted.requests, counted.seconds, counted.octets) == (90, 2.5, 4500)
    assert (counted.p50, counted.p99) == (2.0, 8.0)
    assert counted.errors == {"failed": 4, "status": 3, "unanswered": 10}
    assert read_report("", asked=100).errors["unanswered"] == 100


def test_what_wrk_counted_is_read() -> None:
    said = (
        'Running 1s test\n{"requests":10,"duration":2000000,"octets":5,"p50":1500,"p99":2500,'
        '"connect":1,"read":2,"write":3,"status":4,"timeout":5}\n'
    )
    counted = read_counts(said)
    assert (counted.requests, counted.seconds, counted.p50, counted.p99) == (10, 2.0, 1.5, 2.5)
    assert counted.errors == {"connect": 1, "read": 2, "write": 3, "status": 4, "timeout": 5}


_SIZE = Size(p256=30_000, rsa2048=20_000, least=1_000, most=20_000)


def test_every_row_of_answers_is_right(server_dsn: str, tmp_path: Path, program: Callable[[str], str]) -> None:
    for name in ("wrk", "ab", "nginx", "cfssl", "openssl"):
        program(name)
    effort = Effort(warm_up=0, seconds=1, repetitions=1)
    figures, missing = answers.measure(server_dsn, tmp_path, cores=_CORES, effort=effort, size=_SIZE)
    assert missing == []
    assert {figure.name: figure.all_faults for figure in figures if figure.all_faults} == {}
    assert len(figures) == 19 + 4
    by_itself = ("nginx, static", "openssl", "1,000 rows", "memory")
    alone = {figure.name for figure in figures if ratio(figure, figures) is None}
    assert all(name.startswith(by_itself[:2]) or by_itself[2] in name or by_itself[3] in name for name in alone)
    assert len(alone) == 2 + 1 + 1 + 4
    idle, full = (next(each for each in figures if each.name.startswith(what)) for what in _MEMORY)
    assert 20 < idle.value < full.value < 1_000


_MEMORY = ("memory of a worker, idle, PSS", "memory of a worker, 15,000 answers kept, PSS")


def test_answers_from_memory_do_not_pass_as_looked_up(
    server_dsn: str, tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("wrk")
    # Ten serials are answered from memory from the second round on, whatever the row is called.
    effort = Effort(warm_up=0, seconds=1, repetitions=1)
    size = Size(p256=10, rsa2048=10, least=11, most=12)
    figures, _ = answers.measure(
        server_dsn, tmp_path, cores=_CORES, effort=effort, size=size, only="uncached, POST, RSA-2048"
    )
    assert len(figures) == 1
    assert any("looked up in PostgreSQL" in fault for fault in figures[0].all_faults)


def test_an_aim_says_what_was_reached_and_whether_that_is_enough() -> None:
    figures = [
        _figure(NGINX_KEPT, 1000, 1000), _figure(CACHED_KEPT, 450, 450, against=NGINX_KEPT),
        _figure(EDGE.format(method="GET"), 600, 600), _figure(UNCACHED, 9100, 9100),
        _figure(CFSSL_KEPT, 100, faults=("no answers",)),
    ]  # fmt: skip
    said = verdicts(figures).splitlines()[2:]
    assert [line.split()[-1] for line in said] == ["reached", "MISSED", "reached", "reached"]
    assert "0.45" in said[0]
    assert "0.60" in said[1]
    assert "at least 9,000" in said[2]
    assert "below 30 ms" in said[3]
    assert verdicts([]) == ""


def test_the_reconciler_is_measured_to_the_head_of_both_logs(server_dsn: str, tmp_path: Path) -> None:
    sizes = Sizes(foreign=300, ours=7, only_ours=20)
    figures = reading.measure(server_dsn, tmp_path, cores=_CORES, repetitions=1, sizes=sizes)
    assert [figure.name for figure in figures] == [
        "reconciler, static, 307 entries, 7 ours",
        "reconciler, rfc6962, 307 entries, 7 ours",
        "reconciler, static, 20 entries, all ours",
        "reconciler, rfc6962, 20 entries, all ours",
    ]
    assert [figure.all_faults for figure in figures] == [()] * 4


def test_the_incident_is_played_until_good(server_dsn: str, tmp_path: Path) -> None:
    figure = healing.measure(server_dsn, tmp_path, times=1)
    assert figure.all_faults == ()
    assert len(figure.samples) == 1
