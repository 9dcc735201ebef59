# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin check-url: right servers are found right, and each kind of wrong one is found out."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from admin.cli import main
from demo.ca import Authority, make_key, write_certificates, write_key
from demo.stage import free_port
from responder.status.model import Reason
from tests.conftest import as_role
from tests.edge.between import Answering, Asked, forwarding
from tests.edge.conftest import Edge, House, in_front
from tests.responder import asking
from tests.responder.asking import TRY_LATER, Reply
from tests.responder.running import Served, revoked

Check = Callable[..., tuple[int, str, str]]
#: What is asked about one serial, and what beside that.
ABOUT_ONE, BESIDE = 21, 8


@dataclass(frozen=True)
class Desk:
    """The command, and an issuer of the house to ask about."""

    run: Check
    house: House

    @property
    def issuer(self) -> Served:
        return self.house.usual

    def json(self, url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, out, err = self.run(url, "--issuer", self.issuer.name, "--json", *arguments)
        assert err == ""
        return code, json.loads(out)

    def faults(self, url: str, *arguments: str) -> set[str]:
        """Check an address that is wrong, and return everything that was found."""
        code, said = self.json(url, *arguments)
        assert code == 1
        assert said["right"] is False
        return {*said["faults"], *(fault for answer in said["answers"] for fault in answer["faults"])}

    def right(self, url: str, *arguments: str) -> dict[str, Any]:
        code, said = self.json(url, *arguments)
        assert code == 0, [each for each in said["answers"] if each["faults"]] or said["faults"]
        assert said["right"] is True
        return said


@pytest.fixture
def desk(house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    settings = tmp_path / "admin.toml"
    settings.write_text(f"[database]\ndsn = {json.dumps(as_role(house.world.dsn, 'ocsp_admin'))}\n")
    monkeypatch.delenv("OCSP_DATABASE_DSN", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["--config", str(settings), "check-url", *arguments])
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err

    return Desk(run, house)


@contextmanager
def answering(tmp_path: Path, answer: Answering, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the URL of a server that answers so, behind nginx."""
    with in_front(tmp_path, answer, changes) as front:
        yield f"http://127.0.0.1:{front.port}/r1"


def altered(house: House, alter: Callable[[Asked, Reply], Reply]) -> Answering:
    """Answer as the responder does, but for this."""
    ask = forwarding(house.responder.port)
    return lambda asked: alter(asked, ask(asked))


def request_in(asked: Asked) -> bytes:
    """The request, however it was sent."""
    if asked.body:
        return asked.body
    text = asked.target.removeprefix(b"/r1").lstrip(b"/")
    for sign, escape in ((b"+", b"%2B"), (b"/", b"%2F"), (b"=", b"%3D")):
        text = text.replace(escape, sign).replace(escape.lower(), sign)
    return base64.b64decode(text)


# ----------------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("path", ["", "/", "/r1", "/r1/"])
def test_a_responder_by_itself_is_right(desk: Desk, path: str) -> None:
    serials = [desk.house.world.issue(desk.issuer) for _ in range(2)]
    desk.house.world.revoke(desk.issuer, serials[1], revoked(Reason.SUPERSEDED, ca=desk.issuer.ca))
    said = desk.right(f"http://127.0.0.1:{desk.house.responder.port}{path}", *(f"{serial:x}" for serial in serials))
    assert len(said["answers"]) == 2 * ABOUT_ONE + BESIDE
    words = {
        serial: {each["answer"] for each in said["answers"] if each["serial"] == f"{serial:x}"} for serial in serials
    }
    assert words == {serials[0]: {"good"}, serials[1]: {"revoked"}}
    assert {each["answer"] for each in said["answers"]} == {"good", "revoked", "unknown", "unauthorized"}


def test_a_responder_behind_nginx_is_right_by_ipv4_and_by_ipv6(desk: Desk, front: Edge) -> None:
    serial = f"{desk.house.world.issue(desk.issuer):x}"
    desk.right(f"http://127.0.0.1:{front.port}/r1", serial)
    targets = [asked.target for asked in front.behind.take() if asked.method == "GET"]
    raw = [target for target in targets if b"//" in target.removeprefix(b"/r1/") and b"+" in target]
    assert any(target.startswith(b"/r1//") for target in raw)
    assert any(not target.startswith(b"/r1//") for target in raw)
    desk.right(f"http://[::1]:{front.port}", serial)


def test_a_responder_behind_tls_is_right(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = f"{desk.house.world.issue(desk.issuer):x}"
    web = Authority.create("Web CA")
    key = make_key()
    leaf = web.issue("localhost", key=key)
    write_certificates(tmp_path / "web.pem", leaf)
    write_key(tmp_path / "web.key", key)
    port = free_port()
    tls = (
        f"server_name _; listen 127.0.0.1:{port} ssl; ssl_certificate {tmp_path}/web.pem;"
        f" ssl_certificate_key {tmp_path}/web.key;"
    )
    with in_front(tmp_path, forwarding(desk.house.responder.port), {"server_name _;": tls}):
        assert desk.faults(f"https://localhost:{port}/", serial)
        monkeypatch.setenv("SSL_CERT_FILE", str(write_certificates(tmp_path / "webca.pem", web.certificate)))
        desk.right(f"https://localhost:{port}/", serial)


def test_every_kind_of_row_is_expected_to_be_answered_as_it_is(desk: Desk) -> None:
    world = desk.house.world
    kinds = {"tryLater": 0xFACE0001, "unknown": 0xFACE0002, "good": world.issue(desk.issuer)}
    world.reserve(desk.issuer, kinds["tryLater"])
    kinds["revoked"], kinds["unauthorized"] = world.issue(desk.issuer), world.issue(desk.issuer, ago=timedelta(days=3))
    world.revoke(desk.issuer, kinds["revoked"], revoked(Reason.UNSPECIFIED, ca=desk.issuer.ca))
    world.purge(desk.issuer, kinds["unauthorized"])
    url = f"http://127.0.0.1:{desk.house.responder.port}"
    said = desk.right(url, *(f"{serial:x}" for serial in kinds.values()))
    for word, serial in kinds.items():
        assert {each["answer"] for each in said["answers"] if each["serial"] == f"{serial:x}"} == {word}


def test_without_serials_a_good_and_a_revoked_one_are_asked_about(desk: Desk) -> None:
    serial = desk.house.world.issue(desk.issuer)
    desk.house.world.revoke(desk.issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=desk.issuer.ca))
    desk.house.world.issue(desk.issuer)
    said = desk.right(f"http://127.0.0.1:{desk.house.responder.port}")
    assert len(said["answers"]) == 2 * ABOUT_ONE + BESIDE
    assert {each["answer"] for each in said["answers"]} == {"good", "revoked", "unknown", "unauthorized"}


def test_without_a_database_the_answers_are_compared_with_each_other(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serial = desk.house.world.issue(desk.issuer)
    ca = write_certificates(tmp_path / "ca.pem", desk.issuer.certificate)
    url = f"http://127.0.0.1:{desk.house.responder.port}/"
    with pytest.raises(SystemExit) as left:
        main(["--config", str(tmp_path / "none.toml"), "check-url", url, "--issuer-cert", str(ca), f"{serial:x}"])
    said = capsys.readouterr()
    assert (left.value.code, said.err) == (0, "")
    assert f"{ABOUT_ONE + BESIDE} answers" in said.out
    assert said.out.rstrip().endswith("all is well")
    assert re.search(rf"{serial:x} +sha1 +POST +200 +good ", said.out)


def test_a_certificate_names_its_serial(desk: Desk, tmp_path: Path) -> None:
    leaf = desk.issuer.ca.issue("www.example")
    desk.house.world.register(leaf)
    file = write_certificates(tmp_path / "leaf.pem", leaf)
    url = f"http://127.0.0.1:{desk.house.responder.port}/"
    said = desk.right(url, "--cert", str(file))
    assert f"{leaf.serial_number:x}" in {each["serial"] for each in said["answers"]}
    foreign = write_certificates(tmp_path / "foreign.pem", Authority.create("Elsewhere").issue("www.example"))
    code, _, err = desk.run(url, "--issuer", desk.issuer.name, "--cert", str(foreign))
    assert code == 1
    assert "was issued by CN=Elsewhere" in err


# ----------------------------------------------------------------------------------------------------- what is wrong


def test_a_proxy_that_merges_slashes_is_found_out(desk: Desk, tmp_path: Path) -> None:
    serial = f"{desk.house.world.issue(desk.issuer):x}"
    changes = {"merge_slashes off;": "merge_slashes on;", "proxy_pass http://ocsp;": "proxy_pass http://ocsp/;"}
    with answering(tmp_path, forwarding(desk.house.responder.port), changes) as url:
        _, said = desk.json(url, serial)
        found = desk.faults(url, serial)
    assert any("the answers differ: good mostly, but malformedRequest to GET" in fault for fault in found), found
    wrong = {(each["request"], each["way"]) for each in said["answers"] if each["answer"] == "malformedRequest"}
    assert {("awkward path", "GET"), ("awkward path", "GET, raw")} <= wrong
    assert "POST" not in {way for _, way in wrong}


def test_a_cache_that_keeps_errors_is_found_out(desk: Desk, tmp_path: Path) -> None:
    serial = f"{desk.house.world.issue(desk.issuer):x}"
    changes = {"proxy_ignore_headers Expires;": "proxy_ignore_headers Expires Cache-Control; proxy_cache_valid 200 1m;"}
    with answering(tmp_path, forwarding(desk.house.responder.port), changes) as url:
        found = desk.faults(url, serial)
    assert "POST sha1: the same unknown twice: somebody keeps answers that nobody may keep" in found
    assert "GET foreign issuer: unauthorized twice with one Date: somebody keeps answers that nobody may keep" in found


def test_a_cache_that_still_says_good_is_found_out(desk: Desk, front: Edge) -> None:
    serial = desk.house.world.issue(desk.issuer)
    desk.right(f"http://127.0.0.1:{front.port}", f"{serial:x}")
    desk.house.world.revoke(desk.issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=desk.issuer.ca))
    found = desk.faults(f"http://127.0.0.1:{front.port}", f"{serial:x}")
    assert any("the table says revoked" in fault and "the answer is good" in fault for fault in found), found


def about_another(house: House) -> Callable[[Asked, Reply], Reply]:
    other = asking.request_for(house.usual.certificate, house.world.issue(house.usual))
    return lambda _, reply: replace(house.responder.ask(other), headers=reply.headers)


def always_with_null(house: House) -> Callable[[Asked, Reply], Reply]:
    def alter(asked: Asked, reply: Reply) -> Reply:
        request = request_in(asked)
        plain = bytes.fromhex("300706052b0e03021a")
        if plain not in request:
            return reply
        serial = x509.ocsp.load_der_ocsp_request(request).serial_number
        return house.responder.ask(asking.request_for(house.usual.certificate, serial))

    return alter


def sometimes_unknown(house: House) -> Callable[[Asked, Reply], Reply]:
    unknown = house.responder.ask(asking.request_for(house.usual.certificate, 0x404))
    return lambda asked, reply: unknown if asked.method == "GET" and b"%2b" in asked.target else reply


def replied(**headers: str) -> Callable[[House], Callable[[Asked, Reply], Reply]]:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: lambda _, reply: replace(reply, headers={**reply.headers, **changed})


WRONG: list[tuple[Callable[[House], Callable[[Asked, Reply], Reply]], str]] = [
    (about_another, "the answer is about serial"),
    (always_with_null, "CertID is not the one that was asked about, octet by octet"),
    (sometimes_unknown, "the answers differ: good mostly, but unknown to GET, lower case"),
    (replied(content_type="text/plain"), "Content-Type is text/plain"),
    (replied(set_cookie="who=me"), "there is a header set-cookie"),
    (replied(cache_control="max-age=400000, public"), "max-age lasts to nextUpdate or past it"),
    (replied(etag='W/"a"'), "one ETag for"),
    (lambda _: lambda *_: Reply(302, {"location": "http://x.example/"}, b""), "redirected to http://x.example/"),
    (lambda _: lambda _, reply: replace(reply, body=TRY_LATER), "the table says good, and the answer is tryLater"),
    (lambda _: lambda _, reply: replace(reply, body=bytes(100_000)), "more than 65536 octets"),
    (lambda _: lambda _, reply: replace(reply, body=reply.body[:-1]), "not an OCSPResponse"),
    (lambda _: lambda _, reply: replace(reply, status=500), "HTTP status 500"),
]


@pytest.mark.parametrize(("alter", "fault"), WRONG, ids=[fault for _, fault in WRONG])
def test_a_server_that_answers_wrongly_is_found_out(
    desk: Desk, tmp_path: Path, alter: Callable[[House], Callable[[Asked, Reply], Reply]], fault: str
) -> None:
    serial = desk.house.world.issue(desk.issuer)
    with answering(tmp_path, altered(desk.house, alter(desk.house))) as url:
        found = desk.faults(url, f"{serial:x}")
    assert any(fault in each for each in found), found


def test_nobody_there_is_a_fault_of_every_answer(desk: Desk) -> None:
    _, said = desk.json(f"http://127.0.0.1:{free_port()}/", "7e57")
    assert all(answer["faults"] for answer in said["answers"])


# ----------------------------------------------------------------------------------------------------------- bounds


def test_more_requests_than_allowed_are_refused_before_the_first(desk: Desk, front: Edge) -> None:
    url = f"http://127.0.0.1:{front.port}"
    code, _, err = desk.run(url, "--issuer", desk.issuer.name, "1", "2", "--most-requests", "50")
    assert code == 1
    assert f"{2 * ABOUT_ONE + BESIDE + 1} requests would be asked, and 50 may be" in err
    assert front.behind.take() == []


def test_what_was_not_asked_in_time_is_a_fault(desk: Desk, front: Edge) -> None:
    found = desk.faults(f"http://127.0.0.1:{front.port}", "7e57", "--timeout", "1s")
    assert any(re.fullmatch(r"\d+ questions were not asked within 1 s", fault) for fault in found), found


@pytest.mark.parametrize("url", ["ftp://ocsp.example", "http://", "http://u@h/", "http://h/?q", "ocsp.example"])
def test_what_is_no_address_is_refused_with_the_reason(desk: Desk, url: str) -> None:
    code, out, err = desk.run(url, "--issuer", desk.issuer.name)
    assert (code, out) == (2, "")
    assert repr(url) in err


def test_an_issuer_that_does_not_exist_is_refused(desk: Desk) -> None:
    code, _, err = desk.run("http://127.0.0.1:1/", "--issuer", "nobody")
    assert code == 1
    assert "there is no issuer 'nobody'; known: brief, short, usual" in err


def test_no_proxy_of_the_environment_comes_in_between(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = f"{desk.house.world.issue(desk.issuer):x}"
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:1")
    desk.right(f"http://127.0.0.1:{desk.house.responder.port}", serial)
