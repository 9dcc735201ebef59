# SPDX-License-Identifier: Apache-2.0
"""Connections as clients use and misuse them: what comes early, late, in pieces, never, or after the end."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from cryptography.x509 import ocsp

from demo.ca import Authority, make_key
from tests.conftest import create_database, drop_database, unused_name
from tests.responder import asking
from tests.responder.asking import head, target_of
from tests.responder.running import Served, World
from tests.responder.within import Within, is_handed_over, read_replies, turns, within

SOON = 5.0  # seconds


class Place:
    """A responder in this process, and two certificates to ask it about."""

    def __init__(self, responder: Within, world: World, issuer: Served) -> None:
        self.responder = responder
        self.world = world
        self.issuer = issuer
        self.good = asking.request_for(issuer.certificate, world.issue(issuer))

    def cold(self) -> bytes:
        """A request that nothing is kept for."""
        return asking.request_for(self.issuer.certificate, self.world.issue(self.issuer))


@pytest.fixture(scope="module")
def place(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    name, folder = unused_name("fastpath"), tmp_path_factory.mktemp("fastpath")
    world = World(create_database(server_dsn, name, template=template), folder)
    ca = Authority.create("Fast CA")
    issuer = world.add_issuer("fast", ca, signer=ca.issue_responder(key=make_key("p256")))
    with within(world.dsn, folder) as responder:
        yield Place(responder, world, issuer)
    drop_database(server_dsn, name)


def post(request: bytes, *headers: tuple[str, str]) -> bytes:
    return head("POST", b"/", ("Content-Length", str(len(request))), *headers) + request


def get(request: bytes, *headers: tuple[str, str]) -> bytes:
    return head("GET", target_of(request), *headers)


def words(octets: bytes) -> list[str]:
    """What each reply says; the number of the status where it is not an OCSP response."""
    return [each.words if each.status == 200 else str(each.status) for each in read_replies(octets)]


# ------------------------------------------------------------------------------------------- the end of a connection


def test_a_client_that_ends_its_side_after_asking_gets_its_answer(place: Place) -> None:
    exchange = place.responder.exchange
    assert words(exchange(post(place.cold()))) == ["good"]
    assert words(exchange(get(place.cold()))) == ["good"]
    two = post(place.cold()), get(place.cold())
    assert words(exchange(*two)) == ["good", "good"]
    assert words(exchange(b"".join(two))) == ["good", "good"]


def test_a_request_that_is_cut_off_is_answered_by_nothing(place: Place) -> None:
    for whole in (post(place.good), get(place.good), get(place.good, ("Expect", "nothing"))):
        for end in (1, 10, len(whole) // 2, len(whole) - 1):
            assert place.responder.exchange(whole[:end]) == b""
            assert words(place.responder.exchange(whole, whole[:end])) in (["good"], ["417"])


def test_nothing_is_answered_after_the_last_answer(place: Place) -> None:
    for first in (get(place.good, ("Connection", "close")), post(place.cold(), ("Connection", "close"))):
        for second in (
            get(place.good),
            b"\r\n\r\nnonsense\r\n\r\n",
            post(place.cold(), ("Transfer-Encoding", "chunked")),
        ):
            replies = read_replies(place.responder.exchange(first, second))
            assert [each.words for each in replies] == ["good"]
            assert replies[0].headers["connection"] == "close"
            assert [each.words for each in read_replies(place.responder.exchange(first + second))] == ["good"]


def test_an_old_client_keeps_its_connection_only_if_it_says_so(place: Place) -> None:
    old = get(place.good).replace(b"HTTP/1.1", b"HTTP/1.0")
    keeping = get(place.good, ("Connection", "keep-alive")).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert words(place.responder.exchange(old, old)) == ["good"]
    replies = read_replies(place.responder.exchange(keeping, keeping, old, old))
    assert [each.headers["connection"] for each in replies] == ["keep-alive", "keep-alive", "close"]


def test_garbage_after_requests_costs_none_of_their_answers(place: Place) -> None:
    asked = post(place.cold()) + get(place.good)
    for garbage in (b"no HTTP at all\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00"):
        assert words(place.responder.exchange(asked + garbage))[:2] == ["good", "good"]
        assert words(place.responder.exchange(asked, garbage))[:2] == ["good", "good"]


# ----------------------------------------------------------------------------------------- what may not be smuggled


@pytest.mark.parametrize(
    ("name", "headers", "answers"),
    [
        ("two lengths", b"Content-Length: 5\r\nContent-Length: 0\r\n", ["400"]),
        ("the same length twice", b"Content-Length: 0\r\nContent-Length: 0\r\n", ["400"]),
        ("lengths in a list", b"Content-Length: 0, 0\r\n", ["400"]),
        ("a signed length", b"Content-Length: +0\r\n", ["400"]),
        ("a hexadecimal length", b"Content-Length: 0x0\r\n", ["400"]),
        ("a negative length", b"Content-Length: -1\r\n", ["400"]),
        ("an enormous length", b"Content-Length: 99999999999999999999999\r\n", ["400"]),
        ("length and chunks", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", ["400"]),
        ("chunks and length", b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", ["400"]),
        ("not chunked last", b"Transfer-Encoding: chunked, identity\r\n", ["400"]),
        ("a blank before the colon", b"Transfer-Encoding : chunked\r\n", ["400"]),
        ("a folded length", b"Content-Length:\r\n 5\r\n", ["400"]),
        ("a bare line feed", b"X: y\nContent-Length: 5\r\n", ["400"]),
        ("a bare carriage return", b"X: y\rContent-Length: 5\r\n", ["400"]),
        ("a nought", b"X: y\x00\r\n", ["400"]),
    ],
)
def test_what_two_servers_could_read_differently_is_refused_and_ends_the_connection(
    place: Place, name: str, headers: bytes, answers: list[str]
) -> None:
    smuggled = get(place.good)
    for method, target in ((b"POST", b"/"), (b"GET", target_of(place.good))):
        octets = method + b" " + target + b" HTTP/1.1\r\nHost: ocsp.example\r\n" + headers + b"\r\n" + smuggled
        assert words(place.responder.exchange(octets)) == answers, name
        # The same in pieces, first by the fast path alone, then once it has been handed over.
        pieces = [octets[at : at + 7] for at in range(0, len(octets), 7)]
        assert words(place.responder.exchange(*pieces)) == answers, name
        # What was asked before is answered first; where that is still to be done, nothing more is said.
        assert words(place.responder.exchange(smuggled + smuggled, *pieces)) in (
            ["good", "good", *answers],
            ["good", "good"],
        ), name


def test_the_body_of_a_get_is_read_and_is_no_request(place: Place) -> None:
    inner = get(place.cold())
    whole = get(place.good, ("Content-Length", str(len(inner)))) + inner
    for pieces in ([whole], [whole[:-40], whole[-40:]]):
        assert words(place.responder.exchange(*pieces, get(place.good))) == ["good", "good"]


def test_a_target_without_a_slash_in_front_is_answered_as_any_other(place: Place) -> None:
    """The parser lets some of them through; found by fuzzing."""
    length = "Content-Length", str(len(place.good))
    asked = head("POST", b"*/", length) + place.good + head("GET", b"*/M")
    assert words(place.responder.exchange(asked)) == ["good", "malformed_request"]


def test_empty_lines_around_requests_do_no_harm(place: Place) -> None:
    for request in (get(place.good), post(place.good)):
        assert words(place.responder.exchange(b"\r\n\r\n" + request + b"\r\n")) == ["good"]
        assert words(place.responder.exchange(b"\r\n", request + b"\r\n", b"\r\n" + request)) == ["good", "good"]


# ------------------------------------------------------------------------------- clients that send or take too slowly


class Impatient:
    """The same responder, with little patience."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.responder = place.responder
        monkeypatch.setattr(place.responder.front, "patience", 0.05)
        monkeypatch.setattr(place.responder.front, "idle", 0.05)

    async def closed(self, ours: socket.socket, transport: asyncio.Transport) -> bytes:
        """Look for silent connections until this one is closed; return what came back."""
        deadline = time.monotonic() + SOON
        while not transport.is_closing():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            for each in tuple(self.responder.front.connections):
                each.close_if_silent(self.responder.front.time())
        return await self.responder.read_on(ours)


@pytest.fixture
def impatient(place: Place, monkeypatch: pytest.MonkeyPatch) -> Impatient:
    return Impatient(place, monkeypatch)


def test_who_asks_nothing_or_half_a_request_is_closed_when_patience_ends(place: Place, impatient: Impatient) -> None:
    async def ask(octets: bytes) -> bytes:
        ours, transport, _ = await place.responder.connect()
        with ours:
            await place.responder.loop.sock_sendall(ours, octets)
            return await asyncio.wait_for(impatient.closed(ours, transport), SOON)

    whole = post(place.good)
    for octets in (b"", b"\r\n", b"G", whole[:-1], post(place.good, ("Expect", "x"))[:-1], b"X" * 3 + whole[:20]):
        assert place.responder.run(ask(octets)) == b"" or octets.startswith(b"XXX")
    assert words(place.responder.run(ask(whole))) == ["good"], "an idle connection is closed too"
    place.responder.check()


def test_a_request_that_trickles_in_does_not_win_time_by_every_octet(place: Place, impatient: Impatient) -> None:
    async def trickle() -> float:
        ours, transport, _ = await place.responder.connect()
        began = time.monotonic()
        with ours:
            closing = place.responder.loop.create_task(impatient.closed(ours, transport))
            while not closing.done():
                try:
                    await place.responder.loop.sock_sendall(ours, b"G" if time.monotonic() == began else b"\r\n")
                except OSError:
                    break
                await asyncio.sleep(0.01)
            await closing
        return time.monotonic() - began

    assert place.responder.run(trickle()) < SOON


@pytest.mark.parametrize("is_uncommon", [False, True])
def test_a_client_that_takes_no_answers_is_read_no_further_and_then_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, is_uncommon: bool
) -> None:
    """Whatever it asks, the memory that waits for it is bounded, and the connection ends."""
    monkeypatch.setattr(place.responder.front, "patience", 0.5)
    monkeypatch.setattr(place.responder.front, "idle", 0.5)
    request = get(place.good, *([("Expect", "x-nothing")] if is_uncommon else []))

    async def flood() -> tuple[int, int]:
        ours, transport, _ = await place.responder.connect(buffer=4096)
        most = sent = 0
        with ours:
            deadline = time.monotonic() + SOON
            while not transport.is_closing() and time.monotonic() < deadline:
                try:
                    sent += ours.send(request)
                except BlockingIOError:
                    await asyncio.sleep(0.02)
                except OSError:
                    break
                await asyncio.sleep(0)
                most = max(most, transport.get_write_buffer_size())
                for each in tuple(place.responder.front.connections):
                    each.close_if_silent(place.responder.front.time())
            assert transport.is_closing()
            await asyncio.sleep(0.05)
            return most, transport.get_write_buffer_size()

    most, left = place.responder.run(flood())
    assert 0 < most < 256 * 1024
    assert left == 0, "nothing waits for it any more"
    place.responder.check()


def test_a_client_that_takes_its_answers_late_gets_them_all(place: Place) -> None:
    async def ask(number: int) -> bytes:
        ours, _, _ = await place.responder.connect(buffer=4096)
        with ours:
            for _ in range(number):
                await place.responder.loop.sock_sendall(ours, get(place.good))
                await turns()
            ours.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            return await place.responder.read_on(ours)

    for number in (3, 300):
        replies = place.responder.run(asyncio.wait_for(ask(number), SOON))
        assert words(replies) == ["good"] * number


def test_a_client_that_does_not_wait_for_its_turn_is_answered_in_order_and_held_back(place: Place) -> None:
    """More than is kept of what comes early: the transport stops reading, and goes on once the answer is sent."""
    cold = [place.cold() for _ in range(60)]
    pieces = [post(each) if number % 2 else get(each) for number, each in enumerate(cold)]
    replies = read_replies(place.responder.exchange(pieces[0], b"".join(pieces[1:]) + get(place.good) * 400))
    assert [each.words for each in replies] == ["good"] * 460
    serials = [each.parsed().serial_number for each in replies[:60]]
    assert serials == [ocsp.load_der_ocsp_request(each).serial_number for each in cold]


# ------------------------------------------------------------------------------------------------- the worker's end


@pytest.mark.parametrize("is_uncommon", [False, True])
@pytest.mark.parametrize("at", [1, 60, -1])
def test_a_request_that_is_half_here_when_the_worker_ends_is_answered_as_the_last(
    place: Place, is_uncommon: bool, at: int
) -> None:
    whole = post(place.cold(), *([("Expect", "x-nothing")] if is_uncommon else []))

    async def ask() -> bytes:
        ours, transport, _ = await place.responder.connect()
        with ours:
            await place.responder.loop.sock_sendall(ours, whole[:at])
            await turns()
            transport.get_protocol().shutdown()
            await turns()
            await place.responder.loop.sock_sendall(ours, whole[at:])
            return await asyncio.wait_for(place.responder.read_on(ours), SOON)

    assert len(read_replies(place.responder.run(ask()))) == 1, "answered, and closed by the responder"
    place.responder.check()


def test_a_request_that_is_being_answered_when_the_worker_ends_is_the_last(place: Place) -> None:
    async def ask(first: bytes, second: bytes) -> bytes:
        ours, transport, protocol = await place.responder.connect()
        with ours:
            await place.responder.loop.sock_sendall(ours, first)
            await turns()
            assert protocol._answering is not None
            protocol.shutdown()
            await place.responder.loop.sock_sendall(ours, second)
            assert not is_handed_over(transport)
            return await asyncio.wait_for(place.responder.read_on(ours), SOON)

    for second in (b"", get(place.good), b"nonsense\r\n\r\n"):
        (reply,) = read_replies(place.responder.run(ask(post(place.cold()), second)))
        assert (reply.words, reply.headers["connection"]) == ("good", "close")
    place.responder.check()


def test_a_handed_over_connection_ends_with_the_worker_too(place: Place) -> None:
    async def ask() -> bytes:
        ours, transport, protocol = await place.responder.connect()
        with ours:
            await place.responder.loop.sock_sendall(ours, b"POST / HTTP/1.1\r\nHost: x\r\n")
            await turns()
            protocol.shutdown()
            await place.responder.loop.sock_sendall(ours, b"Transfer-Encoding: chunked\r\n\r\n")
            await turns()
            assert is_handed_over(transport)
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(place.good), place.good)
            await place.responder.loop.sock_sendall(ours, body)
            return await asyncio.wait_for(place.responder.read_on(ours), SOON)

    assert words(place.responder.run(ask())) == ["good"]
    place.responder.check()
