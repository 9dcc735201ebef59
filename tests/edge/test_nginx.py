# SPDX-License-Identifier: Apache-2.0
"""docs/nginx.conf as it stands, run by real nginx in front of a real responder."""

import base64
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from bench.edge import rendered
from responder.status.model import Reason
from tests.edge.between import Asked, forwarding
from tests.edge.conftest import Edge, House, in_front
from tests.responder import asking
from tests.responder.asking import MALFORMED, TRY_LATER, UNAUTHORIZED, Reply
from tests.responder.running import revoked

METHODS = ("GET", "POST")
_serials = count(0x5EED0001)


def padded(house: House, serial: int, *, octets: int) -> bytes:
    """A request of about so many octets: what it has too much is an extension that nobody knows."""
    bare = asking.cert_id(house.usual.certificate, serial)
    filling = {"extn_id": "1.3.6.1.4.1.99999.1", "extn_value": bytes(max(0, octets - 120))}
    return asking.request_of(bare, extensions=[filling])


def slashed(house: House, serial: int) -> bytes:
    """A request whose base64 has two slashes in a row and pluses."""
    for shift in range(3):
        value = bytes(shift) + bytes.fromhex("ffffffffffff" + "fbefbe" * 2 + "3e")
        extension = {"extn_id": "1.3.6.1.4.1.99999.1", "extn_value": value}
        made = asking.request_of(asking.cert_id(house.usual.certificate, serial), extensions=[extension])
        text = base64.b64encode(made)
        if b"//" in text and b"++" in text:
            return made
    raise AssertionError("no such request")


# -------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_fetched_once_and_kept(house: House, front: Edge, method: str) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    replies = [front.ask(request, method) for _ in range(5)]
    assert {reply.words for reply in replies} == {"good"}
    assert len({reply.body for reply in replies}) == 1
    assert [asked.method for asked in front.behind.take()] == [method]


def test_what_is_kept_keeps_the_responders_headers_and_its_date(house: House, front: Edge) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    first = front.ask(request)
    time.sleep(1.1)
    assert front.ask(request).headers == first.headers
    direct = house.responder.ask(request)
    usual = {"server", "connection"}
    assert set(first.headers) - usual == set(direct.headers) - usual
    assert first.headers["content-type"] == direct.headers["content-type"]


def test_large_requests_are_told_apart_by_their_whole_body(house: House, front: Edge) -> None:
    """nginx counts a body that it wrote to a file as empty: all of them would get one answer."""
    for octets in (3_000, 8_000, 9_900):
        serials = [house.world.issue(house.usual) for _ in range(3)]
        requests = [padded(house, serial, octets=octets) for serial in serials]
        assert all(abs(len(request) - octets) < 100 for request in requests)
        for _ in range(2):
            said = [front.ask(request).parsed() for request in requests]
            assert [answer.serial_number for answer in said] == serials
        assert len(front.behind.take()) == 3


def test_a_request_for_many_certificates_is_kept(house: House, front: Edge) -> None:
    serials = [house.world.issue(house.usual) for _ in range(30)]
    request = asking.request_of(
        *(asking.cert_id(house.usual.certificate, serial, hash_name="sha256") for serial in serials)
    )
    assert len(request) > 3_000
    bodies = {front.ask(request, method).body for method in METHODS for _ in range(2)}
    assert len(bodies) in {1, 2}  # one from each worker at most
    assert [asked.method for asked in front.behind.take()] == ["GET", "POST"]


def test_requests_that_are_too_large_get_no_further_than_somebody_can_say_so(house: House, front: Edge) -> None:
    a_bit = front.ask(padded(house, 1, octets=11_000))
    assert (a_bit.status, a_bit.body) == (200, MALFORMED)
    much = front.ask(padded(house, 1, octets=13_000))
    assert much.status == 413
    assert len(front.behind.take()) == 1


def test_a_get_body_is_part_of_the_question(house: House, front: Edge) -> None:
    """Nobody sends one; and who does must not change what others get."""
    good, other = (asking.request_for(house.usual.certificate, house.world.issue(house.usual)) for _ in range(2))
    sent = asking.head("GET", asking.target_of(good), ("Connection", "close"), ("Content-Length", str(len(other))))
    asking.exchange(front.port, sent + other)
    assert front.ask(good, "GET").parsed().serial_number == front.ask(good).parsed().serial_number
    assert len(front.behind.take()) == 3


def test_a_client_that_has_the_answer_is_told_so_from_the_cache(house: House, front: Edge) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    first = front.ask(request, "GET")
    again = asking.get(front.port, asking.target_of(request), ("If-None-Match", first.headers["etag"]))
    assert again.status == 304
    other = asking.get(front.port, asking.target_of(request), ("If-None-Match", '"' + "0" * 64 + '"'))
    assert (other.status, other.body) == (200, first.body)
    # Two answers of one second differ in what they say and not in Last-Modified.
    dated = asking.get(front.port, asking.target_of(request), ("If-Modified-Since", first.headers["last-modified"]))
    assert (dated.status, dated.body) == (200, first.body)
    assert len(front.behind.take()) == 1


def test_many_who_ask_for_a_new_certificate_at_once_ask_the_responder_once(house: House, tmp_path: Path) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    ask = forwarding(house.responder.port)

    def slowly(asked: Asked) -> Reply:
        time.sleep(0.05)
        return ask(asked)

    with in_front(tmp_path, slowly) as front:
        replies: list[Reply] = []
        threads = [threading.Thread(target=lambda: replies.append(front.ask(request))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({reply.body for reply in replies}) == 1
        assert len(front.behind.take()) == 1


# ------------------------------------------------------------------------------------------- what is passed on, and how


def spellings(request: bytes) -> Iterator[bytes]:
    text = base64.b64encode(request)
    escaped = asking.target_of(request)
    yield escaped
    yield escaped.replace(b"%2B", b"%2b").replace(b"%2F", b"%2f").replace(b"%3D", b"%3d")
    yield b"/" + text
    yield b"/" + text.rstrip(b"=")
    yield b"/" + text.replace(b"/", b"%2F")
    yield b"/" + text.replace(b"+", b"%2B")
    yield b"/" + text.replace(b"+", b"%20")
    yield b"/" + text
    yield b"//" + text
    yield b"/r1/" + text
    yield b"/r1" + escaped
    yield b"/r1//" + text


def test_every_spelling_of_a_path_reaches_the_responder_octet_by_octet(house: House, front: Edge) -> None:
    serial = house.world.issue(house.usual)
    for request in (slashed(house, serial), asking.request_for(house.usual.certificate, serial)):
        for target in dict.fromkeys(spellings(request)):
            for _ in range(2):
                reply = asking.get(front.port, target)
                assert reply.words == "good", target
                assert reply.parsed().serial_number == serial
            assert [asked.target for asked in front.behind.take()] == [target]


def test_merged_slashes_would_be_noticed(house: House, tmp_path: Path) -> None:
    request = slashed(house, house.world.issue(house.usual))
    changes = {"merge_slashes off;": "merge_slashes on;", "proxy_pass http://ocsp;": "proxy_pass http://ocsp/;"}
    with in_front(tmp_path, forwarding(house.responder.port), changes) as front:
        assert asking.get(front.port, b"/" + base64.b64encode(request)).words != "good"


def test_nothing_of_the_client_is_passed_on_but_its_question(house: House, front: Edge) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    told = (
        ("Cookie", "who=me"), ("Authorization", "Basic d2hv"), ("X-Forwarded-For", "192.0.2.1"), ("User-Agent", "me"),
        ("If-None-Match", '"x"'), ("Cache-Control", "no-cache"), ("Range", "bytes=0-1"), ("Accept-Encoding", "gzip"),
    )  # fmt: skip
    assert asking.post(front.port, request, *told).words == "good"
    assert asking.get(front.port, asking.target_of(request), *told).words == "good"
    posted, got = front.behind.take()
    assert posted.headers == {
        "Host": "ocsp",
        "Content-Type": "application/ocsp-request",
        "Content-Length": str(len(request)),
    }
    assert got.headers == {"Host": "ocsp"}


def test_connections_to_the_responder_are_kept_open(house: House, front: Edge) -> None:
    for _ in range(10):
        assert front.ask(asking.request_for(house.usual.certificate, next(_serials))).words == "unknown"
    assert len(front.behind.take()) == 10
    assert front.behind.connections == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_connection_that_ends_under_a_question_does_not_fail_it(house: House, front: Edge, method: str) -> None:
    """As happens whenever the responder restarts; a POST is no different, as asking twice changes nothing."""
    front.ask(asking.request_for(house.usual.certificate, next(_serials)))
    front.behind.dropping = 1
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    assert front.ask(request, method).words == "good"
    assert len(front.behind.take()) == 3


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/metrics", b"/%6detrics", b"/x/../metrics", b"/metrics?x"])
def test_what_is_private_is_not_reachable(front: Edge, path: bytes) -> None:
    assert asking.get(front.port, path).status == 404
    assert front.behind.take() == []


def test_other_methods_get_the_responders_answer(house: House, front: Edge) -> None:
    target = asking.target_of(asking.request_for(house.usual.certificate, house.world.issue(house.usual)))
    reply = asking.exchange(front.port, asking.head("PUT", target, ("Connection", "close"), ("Content-Length", "0")))
    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")
    asking.get(front.port, target)
    front.behind.take()
    octets = asking.head("HEAD", target, ("Connection", "close"))
    with asking.Line(front.port) as line:
        line.send(octets)
        line.finish_sending()
        assert line._file.read().startswith(b"HTTP/1.1 200 OK\r\n")
    assert front.behind.take() == []


def test_no_client_address_is_written_anywhere(house: House, tmp_path: Path) -> None:
    serial = house.world.issue(house.usual)
    with in_front(tmp_path, forwarding(house.responder.port)) as front:
        for method in METHODS:
            front.ask(asking.request_for(house.usual.certificate, serial), method)
        front.behind.down = True
        front.ask(asking.request_for(house.usual.certificate, next(_serials)))
        asking.exchange(front.port, b"nonsense\r\n\r\n")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "nginx.conf"]
    assert len([path for path in written if "cache" in path.parts]) == 2
    for path in written:
        assert b"127.0.0.1" not in path.read_bytes(), path


# --------------------------------------------------------------------------------------------------- doubt, and its end


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_from_just_before_the_insert_is_not_served_after_it(house: House, front: Edge, method: str) -> None:
    serial = next(_serials)
    request = asking.request_for(house.usual.certificate, serial)
    assert [front.ask(request, method).words for _ in range(3)] == ["unknown"] * 3
    time.sleep(1)
    assert front.ask(request, method).words == "unknown"
    house.world.issue(house.usual, serial=serial)
    assert front.ask(request, method).words == "good"
    assert len(front.behind.take()) == 5


@pytest.mark.parametrize("method", METHODS)
def test_try_later_is_never_stored(house: House, front: Edge, method: str) -> None:
    serial = next(_serials)
    house.world.reserve(house.usual, serial)
    request = asking.request_for(house.usual.certificate, serial)
    assert [front.ask(request, method).body for _ in range(3)] == [TRY_LATER] * 3
    house.world.issue(house.usual, serial=serial)
    assert front.ask(request, method).words == "good"
    assert len(front.behind.take()) == 4


def test_no_error_is_stored(house: House, front: Edge) -> None:
    foreign = asking.request_for(house.usual.ca.issue_responder()[0], 1)
    for body, request in ((MALFORMED, b"MEwa"), (UNAUTHORIZED, foreign)):
        for method in METHODS:
            replies = [front.ask(request, method) for _ in range(3)]
            assert [reply.body for reply in replies] == [body] * 3
            assert {reply.headers["cache-control"] for reply in replies} == {"no-store, max-age=0"}
            assert len(front.behind.take()) == 3


def test_a_revocation_is_seen_through_nginx_when_max_age_is_over(house: House, front: Edge) -> None:
    serial = house.world.issue(house.brief)
    requests = [(method, asking.request_for(house.brief.certificate, serial)) for method in METHODS]

    def said() -> set[str]:
        return {front.ask(request, method).words for method, request in requests}

    for _ in range(10):  # both workers have it in memory, and nginx asks anew as soon as it may
        assert said() == {"good"}
        time.sleep(0.3)
    house.world.revoke(house.brief, serial, revoked(Reason.KEY_COMPROMISE, ca=house.brief.ca))
    committed = time.monotonic()
    while said() != {"revoked"}:
        # Two seconds for the responder to hear of it, and two of max-age that nginx may have begun just before that.
        assert time.monotonic() < committed + 4.5
        time.sleep(0.05)
    assert said() == {"revoked"}


# ------------------------------------------------------------------------------------------- responders out of reach


def stale_and_then(front: Edge, request: bytes, *, until: datetime) -> tuple[int, Reply]:
    """Ask until something else than a 200 comes; return how many answers came before it. None may be past its end."""
    for number in range(10_000):
        reply = front.ask(request)
        if reply.status != 200:
            return number, reply
        assert datetime.now(UTC) < until
        time.sleep(0.1)
    raise AssertionError("it never ended")


def test_out_of_reach_answers_are_used_on_and_never_past_next_update(house: House, front: Edge) -> None:
    request = asking.request_for(house.short.certificate, house.world.issue(house.short))
    first = front.ask(request)
    end = first.parsed().next_update_utc
    assert end is not None
    front.behind.down = True
    time.sleep(2.1)  # past max-age, of which nginx counts the second it ends in
    front.behind.take()
    assert front.ask(request).body == first.body
    assert len(front.behind.take()) > 0
    number, reply = stale_and_then(front, request, until=end)
    assert number > 10
    assert reply.status == 503
    assert reply.headers["cache-control"] == "no-store, max-age=0"
    front.behind.down = False
    anew = front.ask(request)
    assert anew.words == "good"
    assert anew.body != first.body


def test_an_answer_kept_for_long_is_used_while_nobody_listens_at_all(house: House, tmp_path: Path) -> None:
    serial = house.world.issue(house.brief)
    request = asking.request_for(house.brief.certificate, serial)
    with in_front(tmp_path, forwarding(house.responder.port)) as front:
        first = front.ask(request)
        front.behind.stop()
        time.sleep(2.1)
        replies = [front.ask(request, "POST") for _ in range(3)]
        assert {(reply.status, reply.body) for reply in replies} == {(200, first.body)}
        # A cache further out can tell that it is old: the date is that of the answer.
        assert {reply.headers["date"] for reply in replies} == {first.headers["date"]}
        assert front.ask(request, "GET").status == 503


def test_an_answer_that_may_not_be_used_on_is_not(house: House, tmp_path: Path) -> None:
    """What stale-if-error does not allow, nginx does not do: nothing but that header makes it."""
    ask = forwarding(house.responder.port)

    def without(asked: Asked) -> Reply:
        reply = ask(asked)
        control = reply.headers["cache-control"].partition(", stale-if-error")[0]
        return Reply(reply.status, {**reply.headers, "cache-control": control}, reply.body)

    request = asking.request_for(house.brief.certificate, house.world.issue(house.brief))
    with in_front(tmp_path, without) as front:
        assert front.ask(request).words == "good"
        front.behind.down = True
        time.sleep(3.1)
        assert front.ask(request).status == 503


def test_out_of_reach_with_nothing_kept_is_an_error_that_nobody_stores(house: House, front: Edge) -> None:
    request = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    front.behind.down = True
    for method in METHODS:
        reply = front.ask(request, method)
        assert (reply.status, reply.headers["cache-control"]) == (503, "no-store, max-age=0")
    front.behind.down = False
    assert [front.ask(request, method).words for method in METHODS] == ["good", "good"]


def test_a_status_of_the_responder_passes_through_and_is_not_stored(house: House, tmp_path: Path) -> None:
    replies = iter([Reply(500, {"content-type": "text/plain"}, b"oh"), Reply(404, {}, b"no"), Reply(302, {}, b"")])
    with in_front(tmp_path, lambda _: next(replies)) as front:
        request = asking.request_for(house.usual.certificate, 1)
        assert [(reply.status, reply.body) for reply in (front.ask(request) for _ in range(3))] == [
            (500, b"oh"),
            (404, b"no"),
            (302, b""),
        ]


def test_try_later_does_not_replace_what_may_be_used_on(house: House, front: Edge) -> None:
    """The responder is there and says tryLater: that is its answer. Later nobody is there, and the kept one holds."""
    request = asking.request_for(house.brief.certificate, house.world.issue(house.brief))
    first = front.ask(request)
    ask = front.behind.answering
    front.behind.answering = lambda _: Reply(
        200,
        {"content-type": "application/ocsp-response", "cache-control": "no-store, max-age=0", "pragma": "no-cache"},
        TRY_LATER,
    )
    time.sleep(3.1)
    assert front.ask(request).body == TRY_LATER
    front.behind.down = True
    assert front.ask(request).body == first.body
    front.behind.down, front.behind.answering = False, ask
    assert front.ask(request).words == "good"


# ------------------------------------------------------------------------------------------------------- the document


def test_a_document_that_lost_a_place_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not once"):
        rendered(tmp_path, port=1, upstream=2, changes={"no such directive": ""})
