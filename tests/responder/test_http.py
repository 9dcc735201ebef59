# SPDX-License-Identifier: Apache-2.0
"""The running responder's HTTP: every spelling of a request, raw over a socket, and every header of an answer."""

import base64
import hashlib
import re
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.ca import Authority
from responder.errors import MalformedRequest
from responder.ocsp.path import request_in_path
from responder.status.model import Reason
from tests.conftest import create_database, drop_database, unused_name
from tests.responder import asking
from tests.responder.asking import HASHES, MALFORMED, Line, Reply, exchange, get, head, post, target_of
from tests.responder.conftest import Town
from tests.responder.running import Running, Served, World, running, until

CLOSE = ("Connection", "close")
IMF_FIXDATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
)


# ------------------------------------------------------------------------------------------------ spellings of GET


@pytest.fixture(scope="session")
def slashes_and_pluses(town: Town) -> list[bytes]:
    """Requests about good certificates whose base64 has `//` and `+` in it, and one each for every padding."""
    issuer = town.issuers["p256"]
    wanted: list[Callable[[str], bool]] = [
        lambda text: "//" in text and "+" in text,
        lambda text: "//" in text and text.endswith("=="),
        lambda text: "+" in text and "/" in text and not text.endswith("="),
        lambda text: text.endswith(("/", "+")),
    ]
    found = []
    # Serials of 19, 18 and 17 octets give each of the three paddings.
    first = int.from_bytes(b"\x0f\xff\xfb\xff\xff\xfe" + b"\xff\xfe\xfb\xef\xbe\xff\xff" * 2) >> 8
    candidates = ((first >> 8 * (number % 3)) - number for number in range(100_000))
    for is_wanted in wanted:
        candidate = next(
            each for each in candidates if is_wanted(spelled(asking.request_for(issuer.certificate, each)))
        )
        town.responder.world.issue(issuer, serial=candidate)
        found.append(asking.request_for(issuer.certificate, candidate))
    return found


def spelled(request: bytes) -> str:
    return base64.b64encode(request).decode()


def every_second_escaped(text: str) -> str:
    return "".join(quote(c, safe="") if i % 2 else c for i, c in enumerate(text))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "escaped, upper case": lambda text: quote(text, safe=""),
    "escaped, lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "escaped in part": every_second_escaped,
    "only the padding escaped": lambda text: text.replace("=", "%3D"),
    "only the slashes escaped": lambda text: text.replace("/", "%2f"),
    "escaped twice": lambda text: quote(quote(text, safe=""), safe=""),
    "everything escaped": lambda text: "".join(f"%{ord(c):02x}" for c in text),
    "plus as an escaped blank": lambda text: text.replace("+", "%20"),
    "plus as a blank escaped twice": lambda text: text.replace("+", "%2520"),
    "without padding": lambda text: text.rstrip("="),
    "another slash in front": lambda text: "/" + text,
    "two more slashes in front": lambda text: "//" + text,
    "an escaped slash in front": lambda text: "%2F" + text,
    "with a query": lambda text: text + "?a=b/c",
    "with an empty query": lambda text: text + "?",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_a_get_is_understood(
    town: Town, slashes_and_pluses: list[bytes], spelling: Callable[[str], str]
) -> None:
    for request in slashes_and_pluses:
        target = b"/" + spelling(spelled(request)).encode()
        for _ in range(2):  # from the table, and where the spelling is remembered from memory
            assert get(town.port, target).words == "good", target


def test_an_absolute_form_of_the_target_is_understood(town: Town, slashes_and_pluses: list[bytes]) -> None:
    for request in slashes_and_pluses:
        for authority in (b"http://ocsp.example", b"http://127.0.0.1:%d" % town.port, b"HTTP://OCSP.example:80"):
            assert get(town.port, authority + b"/" + spelled(request).encode()).words == "good"


def test_a_blank_in_the_request_line_is_refused_by_http_and_harms_nobody(town: Town) -> None:
    """A plus that became a raw blank ends the target; no server can tell that from nonsense."""
    reply = get(town.port, b"/MFEwTzBNMEsw STAJBgUrDgMCGgUABBQ=")
    assert reply.status == 400
    assert town.responder.ask(b"").body == MALFORMED


@pytest.mark.parametrize(
    "target",
    [b"/", b"//", b"/?", b"/%", b"/%zz", b"/M", b"/MFEw-_", b"/favicon.ico", b"/../etc/passwd", b"/MFEw*", b"/%00",
     b"/%FF%FE", b"/MFEwTzBNMEswSTAJ#fragment"],
)  # fmt: skip
def test_a_get_without_a_request_in_it_is_malformed(town: Town, target: bytes) -> None:
    reply = get(town.port, target)
    assert (reply.status, reply.body) == (200, MALFORMED)
    assert reply.headers["content-type"] == "application/ocsp-response"


@pytest.mark.parametrize(
    "target", [b"/\xff\xfe", b"/M\xc3\xbc", b"http://", b"http:///", b"nonsense", b"", b"*", b"ocsp.example:443"]
)
def test_a_target_that_is_no_target_is_refused_by_http(town: Town, target: bytes) -> None:
    reply = get(town.port, target)
    assert reply.status in {400, 404} or reply.body == MALFORMED


@pytest.fixture(scope="module")
def prefixed(
    server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, bytes]]:
    """A responder below /ca/ocsp, small requests only, and a request about a good certificate."""
    name = unused_name("prefixed")
    world = World(create_database(server_dsn, name, template=template), tmp_path_factory.mktemp("prefixed"))
    ca = Authority.create("CA")
    issuer = world.add_issuer("ca", ca, signer=ca.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    settings = 'prefix = "/ca/ocsp"\nmost_request_octets = 256\nkeep_alive = 2'
    with running(world, workers=1, more=settings) as started:
        yield started, request
    drop_database(server_dsn, name)


@pytest.mark.parametrize("before", [b"/ca/ocsp/", b"/ca/ocsp//", b"//ca/ocsp/", b"/", b"//", b"http://x/ca/ocsp/"])
def test_a_path_in_front_is_taken_with_and_without_further_slashes(
    prefixed: tuple[Running, bytes], before: bytes
) -> None:
    responder, request = prefixed
    for spelling in ("as it is", "escaped, upper case", "escaped twice", "without padding"):
        target = before + SPELLINGS[spelling](spelled(request)).encode()
        assert get(responder.port, target).words == "good", target


@pytest.mark.parametrize("target", [b"/ca/ocsp", b"/ca/ocsp/", b"/", b"/elsewhere"])
def test_a_post_is_answered_wherever_it_goes(prefixed: tuple[Running, bytes], target: bytes) -> None:
    responder, request = prefixed
    reply = exchange(responder.port, head("POST", target, CLOSE, ("Content-Length", str(len(request)))) + request)
    assert reply.words == "good"


@pytest.mark.parametrize("target", [b"/ca/ocsp", b"/ca/ocsp/", b"/ca", b"/ca/ocspMFEw"])
def test_a_get_of_the_bare_path_is_malformed(prefixed: tuple[Running, bytes], target: bytes) -> None:
    assert get(prefixed[0].port, target).body == MALFORMED


def test_a_request_in_a_path_has_no_more_octets_than_one_in_a_body() -> None:
    path = b"/" + base64.b64encode(b"x" * 100)
    assert request_in_path(path, prefix=b"", most_octets=100) == b"x" * 100
    with pytest.raises(MalformedRequest, match="at most 99 octets"):
        request_in_path(path, prefix=b"", most_octets=99)


# ------------------------------------------------------------------------------------------------------------- POST


@pytest.fixture
def good(town: Town) -> bytes:
    return asking.request_for(town.issuers["p256"].certificate, town.rows["p256"].good)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/ocsp-request", "APPLICATION/OCSP-REQUEST; charset=binary", "text/html",
     "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", "application/json"],
)  # fmt: skip
def test_the_content_type_of_a_post_does_not_matter(town: Town, good: bytes, content_type: str | None) -> None:
    headers = [] if content_type is None else [("Content-Type", content_type)]
    octets = head("POST", b"/", CLOSE, ("Content-Length", str(len(good))), *headers) + good
    assert exchange(town.port, octets).words == "good"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_chunked_post_is_read(town: Town, good: bytes, size: int) -> None:
    octets = head("POST", b"/", CLOSE, ("Transfer-Encoding", "chunked")) + chunked(good, size)
    assert exchange(town.port, octets).words == "good"


def test_a_post_that_arrives_octet_by_octet_is_read(town: Town, good: bytes) -> None:
    with Line(town.port) as line:
        for octet in head("POST", b"/", CLOSE, ("Content-Length", str(len(good)))) + good:
            line.send(bytes([octet]))
        assert line.reply().words == "good"


def test_a_client_that_expects_100_continue_gets_it_and_then_its_own_answer(town: Town, good: bytes) -> None:
    with Line(town.port) as line:
        for request in (good, b"nonsense", good):
            line.send(head("POST", b"/", ("Content-Length", str(len(request))), ("Expect", "100-continue")))
            assert line.reply().status == 100
            line.send(request)
            assert line.reply().words == ("good" if request == good else "malformed_request")


@pytest.mark.parametrize(
    "upgrade",
    [
        (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")),
        (("Connection", "upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x")),
    ],
    ids=["h2c", "websocket"],
)
def test_a_client_that_would_rather_speak_another_protocol_is_answered_in_this_one(
    town: Town, good: bytes, upgrade: tuple[tuple[str, str], ...]
) -> None:
    """Java's HTTP client sends this with every first request to a plain http address."""
    with Line(town.port) as line:
        line.send(head("POST", b"/", ("Content-Length", str(len(good))), *upgrade) + good)
        assert line.reply().words == "good"
        line.send(head("GET", target_of(good), *upgrade))
        assert line.reply().words == "good"
        line.send(head("POST", b"/", ("Transfer-Encoding", "chunked"), *upgrade) + chunked(good, 50))
        assert line.reply().words == "good"
        line.send(head("GET", target_of(good), *upgrade) * 3)
        assert [line.reply().words for _ in range(3)] == ["good"] * 3


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_405_and_told_what_is_allowed(town: Town, good: bytes, method: str) -> None:
    with Line(town.port) as line:
        line.send(head(method, target_of(good), CLOSE))
        if method == "HEAD":
            line.finish_sending()
            text = line._file.read().decode()
            assert text.startswith("HTTP/1.1 405 ")
            assert "allow: GET, POST" in text
            return
        reply = line.reply()
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, POST"
    assert IMF_FIXDATE.fullmatch(reply.headers["date"])


@pytest.mark.parametrize(
    "octets",
    [
        b"CONNECT ocsp.example:443 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"BREW / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ],
    ids=["CONNECT", "HTTP/2", "TLS", "BREW", "HTTP/0.9", "less than nothing", "two lengths"],
)
def test_what_is_no_http_request_is_refused_and_closed(town: Town, octets: bytes) -> None:
    with Line(town.port) as line:
        line.send(octets)
        assert line.reply().status == 400
        assert line.is_closed()


# ------------------------------------------------------------------------------------------------------------ bounds


def test_a_body_that_announces_too_much_is_refused_unread(town: Town) -> None:
    reply = exchange(town.port, head("POST", b"/", ("Content-Length", "100000000000")))
    assert (reply.status, reply.body) == (200, MALFORMED)


def test_a_chunked_body_that_goes_on_is_refused_before_its_end(town: Town) -> None:
    with Line(town.port) as line:
        line.send(head("POST", b"/", ("Transfer-Encoding", "chunked")))
        line.send(b"2800\r\n" + b"x" * 0x2800 + b"\r\n")
        assert line.reply().body == MALFORMED


@pytest.mark.parametrize(("octets", "read"), [(256, True), (257, False)])
def test_the_largest_request_is_the_configured_one(prefixed: tuple[Running, bytes], octets: int, read: bool) -> None:
    responder, _ = prefixed
    body = b"\x30\x82" + (octets - 4).to_bytes(2) + b"\x05" * (octets - 4)
    for request in (
        head("POST", b"/", ("Content-Length", str(octets))) + body,
        head("POST", b"/", ("Transfer-Encoding", "chunked")) + chunked(body, 100),
        head("GET", target_of(body)),
    ):
        assert exchange(responder.port, request).body == MALFORMED
    if read:
        assert request_in_path(target_of(body), prefix=b"", most_octets=256) == body


def test_a_long_target_is_answered_and_an_endless_one_cut_off(town: Town) -> None:
    assert get(town.port, b"/" + b"A" * 60_000).body == MALFORMED
    for endless in (b"GET /" + b"A" * 5_000_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 5_000_000, b"A" * 5_000_000):
        assert_cut_off(town, endless)
    assert_cut_off(town, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 800_000)


def assert_cut_off(town: Town, octets: bytes) -> None:
    """However much is sent, a few hundred thousand octets are taken and then the line is closed."""
    with Line(town.port) as line:
        try:
            for i in range(0, len(octets), 50_000):
                line.send(octets[i : i + 50_000])
                time.sleep(0.002)
        except ConnectionError:
            return
        try:
            assert line.reply().status in {400, 431}
        except ConnectionError:
            return
        assert line.is_closed()


def test_the_workers_stay_small_while_heads_without_end_come_in(town: Town) -> None:
    def octets() -> int:
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in town.responder.workers()]
        return sum(pages) * resource.getpagesize()

    before = octets()
    lines = [Line(town.port) for _ in range(8)]
    for line in lines:
        try:
            line.send(b"GET /")
            for _ in range(100):
                line.send(b"A" * 50_000)
        except ConnectionError:
            continue
    assert octets() - before < 20_000_000
    for line in lines:
        line.__exit__()
    assert town.responder.ask(b"").body == MALFORMED


def test_a_client_that_leaves_in_the_middle_of_a_body_harms_nobody(town: Town, good: bytes) -> None:
    for _ in range(5):
        with Line(town.port) as line:
            line.send(head("POST", b"/", ("Content-Length", str(len(good)))) + good[:20])
        with Line(town.port) as line:
            line.send(head("POST", b"/", ("Transfer-Encoding", "chunked")) + b"10\r\nabc")
            line.finish_sending()
    assert post(town.port, good).words == "good"


def test_a_connection_without_use_is_closed_when_its_time_is_over(prefixed: tuple[Running, bytes]) -> None:
    responder, request = prefixed
    with Line(responder.port) as line:
        line.send(head("GET", target_of(request)))
        assert line.reply().words == "good"
        began = time.monotonic()
        assert line.is_closed()
        assert 1.0 < time.monotonic() - began < 8.0


# ----------------------------------------------------------------------------------------- one connection, many asks


def test_a_connection_serves_many_requests_in_order(town: Town, good: bytes) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    revoked = asking.request_for(issuer.certificate, rows.revoked[Reason.SUPERSEDED])
    with Line(town.port) as line:
        for request, word in ((good, "good"), (revoked, "revoked"), (b"", "malformed_request"), (good, "good")) * 3:
            line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request)
            assert line.reply().words == word
            line.send(head("GET", target_of(request)))
            assert line.reply().words == word


def test_requests_sent_without_waiting_are_answered_in_order(town: Town, good: bytes) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    serials = [rows.good, rows.revoked[Reason.SUPERSEDED], rows.unassigned, rows.pending] * 8
    requests = [asking.request_for(issuer.certificate, serial) for serial in serials]
    octets = b"".join(
        head("GET", target_of(request)) + head("POST", b"/", ("Content-Length", str(len(request)))) + request
        for request in requests
    )
    with Line(town.port) as line:
        line.send(octets)
        said = [line.reply().words for _ in range(2 * len(requests))]
    assert said == [word for word in ["good", "revoked", "unknown", "try_later"] * 8 for _ in range(2)]


# ------------------------------------------------------------------------------------------------------------ headers


def moment(value: str) -> datetime:
    assert IMF_FIXDATE.fullmatch(value), value
    return parsedate_to_datetime(value)


def cache_control(reply: Reply) -> tuple[int, int]:
    """The seconds of max-age and of stale-if-error."""
    found = re.fullmatch(
        r"max-age=(\d+), public, no-transform, must-revalidate, stale-if-error=(\d+)", reply.headers["cache-control"]
    )
    assert found is not None, reply.headers
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("name", ["good", "revoked"])
def test_a_definite_answer_has_the_headers_of_rfc_9919(town: Town, method: str, hash_name: str, name: str) -> None:
    issuer, rows = town.issuers["p384"], town.rows["p384"]
    serial = rows.good if name == "good" else rows.revoked[Reason.KEY_COMPROMISE]
    request = asking.request_for(issuer.certificate, serial, hash_name=hash_name)
    for _ in range(5):  # from the table in either worker, and from memory
        reply = town.responder.ask(request, method)
        read = reply.parsed()
        assert read.next_update_utc is not None
        assert reply.headers["content-length"] == str(len(reply.body))
        assert moment(reply.headers["last-modified"]) == read.this_update_utc == read.produced_at_utc
        assert moment(reply.headers["expires"]) == read.next_update_utc
        assert abs(moment(reply.headers["date"]) - datetime.now(UTC)) < timedelta(seconds=5)
        assert reply.headers["etag"] == f'"{hashlib.sha256(reply.body).hexdigest()}"'
        fresh, stale = (timedelta(seconds=seconds) for seconds in cache_control(reply))
        assert timedelta(0) < fresh <= timedelta(hours=1)
        assert timedelta(seconds=9) <= read.next_update_utc - moment(reply.headers["date"]) - fresh - stale
        assert stale > timedelta(days=3)
        assert "pragma" not in reply.headers
        assert "set-cookie" not in reply.headers
        assert "server" not in reply.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ["p256", "extended-revoke"])
def test_doubt_is_never_cached_where_it_is_signed(town: Town, method: str, name: str) -> None:
    """Doubt is never cached (invariant 6), and RFC 9919 section 7.2 forbids no-store on what is authoritative."""
    request = asking.request_for(town.issuers[name].certificate, town.rows[name].unassigned)
    reply = town.responder.ask(request, method)
    assert reply.headers["cache-control"] == "max-age=0, private, no-transform, must-revalidate"
    assert moment(reply.headers["expires"]) <= moment(reply.headers["date"])
    assert "pragma" not in reply.headers


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", ["malformed", "unauthorized", "pending"])
def test_doubt_is_never_cached_where_it_is_an_error(town: Town, method: str, what: str) -> None:
    issuer, rows = town.issuers["p256"], town.rows["p256"]
    request = {
        "malformed": b"?",
        "unauthorized": asking.request_for(Authority.create("Else").certificate, 1),
        "pending": asking.request_for(issuer.certificate, rows.pending),
    }[what]
    reply = town.responder.ask(request, method)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/ocsp-response"
    assert reply.headers["cache-control"] == "no-store, max-age=0"
    assert reply.headers["pragma"] == "no-cache"
    for name in ("etag", "expires", "last-modified"):
        assert name not in reply.headers


def test_the_headers_sent_from_memory_are_those_sent_the_first_time(prefixed: tuple[Running, bytes]) -> None:
    """One worker, so that the second answer is the kept one; only Date and max-age move on."""
    responder, request = prefixed
    first = get(responder.port, target_of(request) + b"?first")
    for reply in (get(responder.port, target_of(request)), post(responder.port, request)) * 2:
        assert reply.body == first.body
        assert list(reply.headers) == list(first.headers)
        moving = {"date", "cache-control"}
        assert {k: v for k, v in reply.headers.items() if k not in moving} == {
            k: v for k, v in first.headers.items() if k not in moving
        }
        assert 0 <= cache_control(first)[0] - cache_control(reply)[0] < 60


def fresh(town: Town) -> tuple[bytes, Served]:
    """A request that no worker has seen."""
    issuer = town.issuers["p521"]
    return asking.request_for(issuer.certificate, town.responder.world.issue(issuer)), issuer


@pytest.mark.parametrize(
    "written",
    ["{}", "W/{}", '"other", {}', '{}, "other"', '"a" ,W/"b",W/{} , "c"', "*"],
)
def test_a_client_that_has_the_answer_gets_304_with_the_same_headers(
    prefixed: tuple[Running, bytes], written: str
) -> None:
    responder, request = prefixed
    # The target is asked for the first time in this spelling, so app.py answers; the second time fastpath.py does.
    target = target_of(request) + b"?" + written.encode().hex().encode()
    unseen = b"/" + quote(spelled(request)[:1] + spelled(request)[1:]).replace("M", "%4D", 1).encode() + b""
    etag = get(responder.port, target).headers["etag"]
    for path in (unseen, target, target):
        reply = get(responder.port, path, ("If-None-Match", written.format(etag)))
        assert (reply.status, reply.body) == (304, b"")
        full = get(responder.port, path)
        assert full.status == 200
        for name in ("date", "etag", "expires", "last-modified", "cache-control"):
            assert name in reply.headers
        for name in ("etag", "expires", "last-modified"):
            assert reply.headers[name] == full.headers[name]
        assert reply.headers.get("content-length", "0") != "0" or "content-length" not in reply.headers


@pytest.mark.parametrize("written", ['"other"', "", "nonsense", 'W/"0"', '"*"', "\xff\xfe"])
def test_a_client_that_has_something_else_gets_the_answer(town: Town, good: bytes, written: str) -> None:
    for _ in range(4):
        assert get(town.port, target_of(good), ("If-None-Match", written)).words == "good"


def test_several_if_none_match_lines_count_as_one_list(prefixed: tuple[Running, bytes]) -> None:
    responder, request = prefixed
    etag = get(responder.port, target_of(request)).headers["etag"]
    for target in (target_of(request), target_of(request) + b"?again"):
        reply = get(responder.port, target, ("If-None-Match", '"a"'), ("If-None-Match", etag))
        assert reply.status == 304


def test_a_post_is_never_answered_304(town: Town) -> None:
    request, _ = fresh(town)
    etag = post(town.port, request).headers["etag"]
    for _ in range(6):
        assert post(town.port, request, ("If-None-Match", etag), ("If-None-Match", "*")).words == "good"


def test_an_error_is_never_304(town: Town) -> None:
    assert get(town.port, b"/nonsense", ("If-None-Match", "*")).body == MALFORMED


def test_nothing_of_this_left_more_than_json_in_the_log(town: Town) -> None:
    get(town.port, b"/\xff")
    until(lambda: len(town.responder.lines()) > 0)
    assert "request.fault" not in town.responder.events()
    assert all(line["level"] in {"info", "warning"} for line in town.responder.lines())
