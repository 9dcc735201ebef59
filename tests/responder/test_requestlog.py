# SPDX-License-Identifier: Apache-2.0
"""The sampled request log: nothing by default, no address by default, each request once whichever way it takes."""

import base64
from pathlib import Path
from typing import Any

import pytest

from demo.ca import Authority
from responder.requestlog import RequestLog
from tests.responder import asking
from tests.responder.asking import Line, head, request_for, target_of
from tests.responder.running import Running, World, running, until
from tests.responder.test_start import refusal

CA = Authority.create("Logged CA")


def requests(responder: Running) -> list[dict[str, Any]]:
    """The lines about requests, but for the empty ones with which we waited for the start."""
    return [line for line in responder.lines() if line["event"] == "request" and line["octets"] > 0]


def test_no_request_is_logged_unless_somebody_wants_it(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    with running(world, more='[log]\nlevel = "debug"') as responder:
        before = len(responder.log.read_text())
        assert responder.status(issuer, world.issue(issuer)) == "good"
        asking.post(responder.port, b"no request")
        until(lambda: "answer.refused" in responder.log.read_text()[before:])
        assert requests(responder) == []
        assert "127.0.0.1" not in responder.log.read_text()[before:]


@pytest.mark.parametrize("addresses", [False, True])
def test_every_request_has_its_line_where_all_are_wanted(world: World, *, addresses: bool) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    request = request_for(issuer.certificate, world.issue(issuer), hash_name="sha256")
    more = f"[log]\nrequests = 1.0\nclient_addresses = {str(addresses).lower()}"
    with running(world, workers=1, more=more) as responder:
        for _ in range(2):
            asking.get(responder.port, target_of(request))
        asking.post(responder.port, request)
        asking.post(responder.port, b"no request")
        with Line(responder.port) as line:
            line.send(
                head("POST", b"/", ("Transfer-Encoding", "chunked"))
                + b"%x\r\n%b\r\n0\r\n\r\n" % (len(request), request)
            )
            assert line.reply().words == "good"
        until(lambda: len(requests(responder)) >= 5)
        first, second, posted, refused, chunked = requests(responder)
    assert first["request"] == target_of(request).decode()
    assert posted["request"] == chunked["request"] == base64.b64encode(request).decode()
    assert [each["method"] for each in (first, second, posted, refused, chunked)] == [
        "GET",
        "GET",
        "POST",
        "POST",
        "POST",
    ]
    assert {each["outcome"] for each in (first, second, posted, chunked)} == {"good"}
    assert {each["hash"] for each in (first, second, posted, chunked)} == {"sha256"}
    assert refused["outcome"] == "syntax"
    assert all(each["milliseconds"] >= 0 for each in (first, second))
    assert {each.get("client") for each in (first, posted, chunked)} == ({"127.0.0.1"} if addresses else {None})


def test_a_share_of_requests_is_about_that_share() -> None:
    log = RequestLog(0.25, addresses=False)
    drawn = sum(log.draw("GET", b"/", ("192.0.2.1", 1)) is not None for _ in range(20_000))
    assert 4_500 < drawn < 5_500


def test_a_unix_socket_has_no_address_and_nothing_breaks() -> None:
    for peer in ("", None, ()):
        asked = RequestLog(1.0, addresses=True).draw("POST", b"x", peer)
        assert asked is not None
        assert asked.client is None


def test_a_share_beyond_one_is_refused(world: World, tmp_path: Path) -> None:
    assert "[log] requests:" in refusal(world, more="[log]\nrequests = 1.5")
