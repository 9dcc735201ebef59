# SPDX-License-Identifier: Apache-2.0
"""Every request is counted once, whichever way it takes through the responder, and told on the private address."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from demo.ca import Authority
from demo.stage import free_port
from responder.status.model import Reason
from tests.responder import asking
from tests.responder.asking import Line, head, request_for, target_of
from tests.responder.proxy import Proxy
from tests.responder.running import Private, Running, Served, World, revoked, running, until
from tests.responder.test_start import refusal

CA = Authority.create("Counted CA")
ANSWERS = "foundling_responder_answers_total"


@dataclass(frozen=True)
class Counted:
    responder: Running
    private: Private
    issuer: Served
    world: World

    def request(self, *, hash_name: str = "sha1") -> bytes:
        """A request that nobody has made before."""
        return request_for(self.issuer.certificate, self.world.issue(self.issuer), hash_name=hash_name)

    def answers(self, **labels: str) -> float:
        return self.private.sum_of(ANSWERS, **labels)


@pytest.fixture
def counted(world: World) -> Iterator[Counted]:
    private = Private(free_port())
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    with running(world, workers=1, more=private.settings) as responder:
        yield Counted(responder, private, issuer, world)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_a_kept_answer_is_counted_with_its_method_and_the_hash_of_its_cert_id(
    counted: Counted, method: str, hash_name: str
) -> None:
    request = counted.request(hash_name=hash_name)
    for _ in range(5):
        assert counted.responder.ask(request, method).words == "good"
    labels = {"outcome": "good", "method": method, "hash": hash_name}
    assert counted.answers(**labels, kept="no") == 1
    assert counted.answers(**labels, kept="yes") == 4
    assert counted.private.sum_of("ocsp_request_sizes_count") >= 5
    assert counted.private.sum_of("ocsp_response_ages_count") == 5
    assert counted.private.sum_of("response_time_count", method=method) >= 1
    assert counted.private.sum_of("foundling_responder_signing_seconds_count", issuer="ca") == 1
    assert counted.private.sum_of("foundling_responder_kept_answers") == 1


def test_another_spelling_of_a_kept_answer_is_counted_as_kept(counted: Counted) -> None:
    request = counted.request()
    asking.get(counted.responder.port, target_of(request))
    asking.get(counted.responder.port, b"/" + target_of(request))
    assert counted.answers(method="GET", kept="yes") == 1
    assert counted.answers(method="GET", kept="no") == 1


def test_uncommon_http_is_counted_like_plain_http(counted: Counted) -> None:
    request = counted.request()
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(request), request)
    for _ in range(3):
        with Line(counted.responder.port) as line:
            line.send(head("POST", b"/", ("Transfer-Encoding", "chunked")) + chunked)
            assert line.reply().words == "good"
    assert counted.answers(method="POST", kept="no") - counted.answers(outcome="syntax") == 1
    assert counted.answers(method="POST", kept="yes") == 2


def test_what_is_not_modified_is_counted_as_an_answer_too(counted: Counted) -> None:
    target = target_of(counted.request())
    etag = asking.get(counted.responder.port, target).headers["etag"]
    for _ in range(2):
        assert asking.get(counted.responder.port, target, ("If-None-Match", etag)).status == 304
    assert counted.private.sum_of("foundling_responder_not_modified_total") == 2
    assert counted.answers(outcome="good", method="GET") == 3


def test_refusals_are_counted_by_reason_those_of_http_too(counted: Counted) -> None:
    port, issuer = counted.responder.port, counted.issuer
    began = counted.answers()
    asking.get(port, b"/no-base64!")
    asking.post(port, b"x" * 20_000)
    with Line(port) as line:
        line.send(head("POST", b"/", ("Content-Length", "10001")) + b"x" * 10_001)
        line.reply()
    asking.post(port, request_for(Authority.create("Foreign CA").certificate, 1))
    asking.post(port, b"no request")
    serial = counted.world.issue(issuer)
    counted.world.revoke(issuer, serial, revoked(Reason.SUPERSEDED, ca=CA))
    asking.post(port, request_for(issuer.certificate, serial))
    asking.post(port, request_for(issuer.certificate, 0x7E57))
    counted.world.reserve(issuer, 0xFACE)
    asking.post(port, request_for(issuer.certificate, 0xFACE))
    said = {
        "encoding": 1, "too_large": 2, "foreign_issuer": 1, "revoked": 1, "unknown": 1, "pending": 1,
    }  # fmt: skip
    assert {outcome: counted.answers(outcome=outcome) for outcome in said} == said
    assert counted.answers() - began == 8
    assert counted.private.sum_of("ocsp_responses_total", type="TryLater") == 1
    assert counted.private.sum_of("ocsp_responses_total", type="Unauthorized") == 1
    assert counted.private.sum_of("ocsp_responses_total", type="Success") == 2
    assert counted.private.sum_of("ocsp_responses_total") == counted.answers()


def test_what_is_no_ocsp_question_is_counted_by_its_http_status(counted: Counted) -> None:
    port = counted.responder.port
    assert asking.exchange(port, head("PUT", b"/", ("Content-Length", "0"))).status == 405
    assert asking.exchange(port, b"no http at all\r\n\r\n").status == 400
    with Line(port) as line:
        line.send(b"GET / HTTP/1.1\r\n")
        try:
            for _ in range(200):
                line.send(b"X-Long: " + b"x" * 1000 + b"\r\n")
            line.reply()
        except OSError:
            pass  # it was closed before we had sent everything
    until(lambda: counted.private.sum_of("foundling_responder_http_errors_total", code="431") == 1)
    assert counted.private.sum_of("foundling_responder_http_errors_total", code="405") == 1
    assert counted.private.sum_of("foundling_responder_http_errors_total", code="400") == 1


def test_no_answer_is_missing_from_the_totals_under_load_and_after_a_reload_of_every_worker(world: World) -> None:
    private = Private(free_port())
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    requests = [request_for(issuer.certificate, world.issue(issuer)) for _ in range(20)]
    with running(world, workers=2, more=private.settings) as responder, ThreadPoolExecutor(8) as pool:
        began = private.sum_of(ANSWERS, outcome="good")
        for _ in range(3):
            replies = list(pool.map(responder.ask, requests * 5))
            assert {reply.words for reply in replies} == {"good"}
        until(lambda: private.sum_of(ANSWERS, outcome="good") - began >= 300)
        assert private.sum_of(ANSWERS, outcome="good") - began == 300
        assert private.sum_of("ocsp_response_ages_count") == private.sum_of("ocsp_responses_total", type="Success")


def test_too_much_in_hand_is_try_later_at_once_and_never_kept(world: World) -> None:
    """The line to the database stands still, so what comes in piles up to the cap and no further."""
    private, proxy = Private(free_port()), Proxy(world.dsn)
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    requests = [request_for(issuer.certificate, world.issue(issuer)) for _ in range(12)]
    more = 'most_in_flight = 4\ndeadline = "3s"\n' + private.settings
    with running(world, dsn=proxy.dsn, workers=1, more=more) as responder, ThreadPoolExecutor(12) as pool:
        assert responder.ask(requests[0]).words == "good"
        proxy.freeze()
        began = time.monotonic()
        waiting = [pool.submit(responder.ask, request) for request in requests[1:5]]
        until(lambda: private.sum_of("in_flight_requests") == 4)
        asked = time.monotonic()
        assert {responder.ask(request).words for request in requests[5:]} == {"try_later"}
        assert time.monotonic() - asked < 2.0, "shed at once"
        assert responder.ask(requests[5]).headers["cache-control"].startswith("no-store")
        assert {each.result().words for each in waiting} == {"try_later"}, "by the deadline"
        assert time.monotonic() - began < 5.0
        proxy.thaw()
        until(lambda: {responder.ask(request).words for request in requests[:4]} == {"good"})
        assert private.sum_of(ANSWERS, outcome="overloaded") == 8
        assert private.sum_of(ANSWERS, outcome="deadline") + private.sum_of(ANSWERS, outcome="database") >= 4
        assert private.sum_of("in_flight_requests") == 0
    proxy.close()


@pytest.mark.parametrize("deadline", ["99ms", "61s"])
def test_a_deadline_out_of_bounds_is_refused(world: World, deadline: str) -> None:
    assert '[http] deadline: allowed: "100ms" to "60s"' in refusal(world, more=f'deadline = "{deadline}"')
