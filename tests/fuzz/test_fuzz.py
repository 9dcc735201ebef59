# SPDX-License-Identifier: Apache-2.0
"""Every fuzz target for some seconds, and what holds of whole connections however their octets are cut."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import create_database, drop_database, missing_component, unused_name
from tests.fuzz.town import Fixed, build
from tests.responder.asking import Reply, head, target_of
from tests.responder.running import World
from tests.responder.within import Within, read_replies, within

SECONDS = 10


@pytest.mark.parametrize("target", ["http", "parsers"])
def test_a_target_survives_some_seconds_of_fuzzing(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        missing_component("atheris, which there is for Linux only")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{target}", f"-max_total_time={SECONDS}", "-print_final_stats=1"],
        env={**os.environ, "FUZZ_FINDINGS": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, check=False,
    )  # fmt: skip
    told = done.stdout.decode(errors="replace")
    assert done.returncode == 0, told[-6000:]
    assert "stat::number_of_executed_units" in told


@pytest.fixture(scope="module")
def fuzzed(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Within, Fixed]]:
    name, folder = unused_name("fuzz"), tmp_path_factory.mktemp("fuzz")
    fixed = build(World(create_database(server_dsn, name, template=template), folder))
    with within(fixed.dsn, folder) as responder:
        yield responder, fixed
    drop_database(server_dsn, name)


BOUNDED = settings(
    max_examples=60, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def asked(fixed: Fixed, number: int, way: int) -> bytes:
    """One request in one of the ways that clients have."""
    requests = fixed.requests()
    request = requests[number % len(requests)]
    match way:
        case 0:
            return head("GET", target_of(request))
        case 1:
            return head("POST", b"/", ("Content-Length", str(len(request)))) + request
        case 2:
            chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(request), request)
            return head("POST", b"/", ("Transfer-Encoding", "chunked")) + chunk
        case 3:
            return head("GET", target_of(request)).replace(b"/1.1", b"/1.0", 1)[:-2] + b"Connection: keep-alive\r\n\r\n"
        case _:
            return head("DELETE", b"/")


def said(reply: Reply) -> tuple[int, str]:
    """What a reply says, but for its signature and its moment."""
    if reply.status != 200:
        return reply.status, ""
    read = reply.parsed()
    if reply.body[4] != 0 and len(reply.body) == 5:
        return 200, reply.words
    return 200, " ".join(f"{each.serial_number}:{each.certificate_status.name}" for each in read.responses)


ways = st.integers(0, 4)
questions = st.lists(st.tuples(st.integers(0, 40), ways.filter(lambda way: way != 3)), min_size=1, max_size=6)


@given(questions=questions, cuts=st.lists(st.integers(0, 4000), max_size=12))
@BOUNDED
def test_the_same_octets_are_answered_alike_however_they_are_cut(
    fuzzed: tuple[Within, Fixed], questions: list[tuple[int, int]], cuts: list[int]
) -> None:
    responder, fixed = fuzzed
    each = [asked(fixed, number, way) for number, way in questions]
    octets = b"".join(each)
    alone = [said(read_replies(responder.exchange(one))[0]) for one in each]
    ends = sorted({cut % len(octets) for cut in cuts} - {0})
    pieces = [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True)]
    replies = read_replies(responder.exchange(*pieces))
    for reply in replies:
        fixed.judge(reply)
    assert [said(reply) for reply in replies] == alone


@given(number=st.integers(0, 40), way=ways, end=st.integers(1, 4000))
@BOUNDED
def test_no_part_of_a_request_is_answered(fuzzed: tuple[Within, Fixed], number: int, way: int, end: int) -> None:
    responder, fixed = fuzzed
    whole = asked(fixed, number, way if way < 4 else 0)
    assert responder.exchange(whole[: end % len(whole)]) == b""


@given(octets=st.lists(st.binary(max_size=60) | st.sampled_from([b"GET /", b" HTTP/1.1\r\n", b"\r\n\r\n"]), max_size=8))
@BOUNDED
def test_any_octets_get_whole_answers_of_the_known_kinds_or_none(
    fuzzed: tuple[Within, Fixed], octets: list[bytes]
) -> None:
    responder, fixed = fuzzed
    for reply in read_replies(responder.exchange(*(each for each in octets if each))):
        fixed.judge(reply)
