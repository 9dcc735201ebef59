# SPDX-License-Identifier: Apache-2.0
"""Starting, refusing to start, changing while running, and stopping."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509

from demo.ca import Authority, PrivateKey
from demo.stage import command, free_port
from responder.status.model import Reason
from tests.responder import asking
from tests.responder.asking import Line, head
from tests.responder.conftest import PASSPHRASE
from tests.responder.running import Served, World, environment, revoked, running, until, write_settings

CA = Authority.create("Starting CA")


def refusal(
    world: World,
    *,
    dsn: str | None = None,
    port: int | None = None,
    more: str = "",
    variables: dict[str, str] | None = None,
) -> str:
    """Start, and return the one line with which the start is refused."""
    settings = write_settings(
        world.folder, dsn=world.dsn if dsn is None else dsn, port=free_port() if port is None else port, more=more
    )
    return refused(settings, variables)


def refused(settings: Path, variables: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [command("ocsp-responder"), "--config", settings, "serve"],
        capture_output=True, text=True, timeout=30, check=False, env=environment(**(variables or {})),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith('{"'))
    assert line.startswith("ocsp-responder: ")
    assert "Traceback" not in done.stderr
    return line


def no_key(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    next(world.folder.glob("*.key")).unlink()
    assert issuer.signer is not None


def add(world: World, signer: tuple[x509.Certificate, PrivateKey], *, passphrase: bytes | None = None) -> None:
    world.add_issuer("ca", CA, signer=signer, passphrase=passphrase)


def wrong_key(world: World) -> None:
    certificate, _ = CA.issue_responder()
    add(world, (certificate, CA.issue_responder()[1]))


TROUBLES: dict[str, tuple[Callable[[World], object], str]] = {
    "missing key": (no_key, "No such file"),
    "encrypted key": (lambda world: add(world, CA.issue_responder(), passphrase=PASSPHRASE), "give its passphrase"),
    "wrong key": (wrong_key, "is not the one of the signer's certificate"),
    "expired signer": (
        lambda world: add(world, CA.issue_responder(not_before=CA.certificate.not_valid_before_utc, days=0.5)),
        "ended at",
    ),
    "no nocheck": (lambda world: add(world, CA.issue_responder(no_check=False)), "lacks ocsp-nocheck"),
    "another CA": (lambda world: add(world, Authority.create("Else").issue_responder()), "was not issued by ca"),
    "wrong place": (
        lambda world: world.insert_signer(
            world.add_issuer("ca", CA, signer=None), CA.issue_responder()[0], "nowhere:at/all"
        ),
        "no place for a key",
    ),
    "schema missing": (lambda world: world.execute("DROP SCHEMA ocsp CASCADE"), "run `ocsp-admin migrate`"),
    "schema newer": (
        lambda world: world.execute("INSERT INTO ocsp.migration (version, name, sha256) VALUES (9999, 'x', '')"),
        "newer than the code",
    ),
}


@pytest.mark.parametrize(("prepare", "words"), TROUBLES.values(), ids=TROUBLES)
def test_what_could_give_no_right_answer_does_not_start(
    world: World, prepare: Callable[[World], object], words: str
) -> None:
    prepare(world)
    said = refusal(world)
    assert words in said
    assert said.count("(key file and passphrase)") <= 1


def test_one_issuer_that_cannot_be_answered_keeps_no_other_from_starting(world: World) -> None:
    """A reboot at night must not fail because one signer expired: its issuer gets tryLater, and the log says why."""
    expired = CA.issue_responder(not_before=CA.certificate.not_valid_before_utc, days=0.5)
    dark = world.add_issuer("dark", CA, signer=expired)
    lit_ca = Authority.create("Lit CA")
    lit = world.add_issuer("lit", lit_ca, signer=lit_ca.issue_responder())
    serials = [world.issue(dark), world.issue(lit)]
    with running(world) as responder:
        assert responder.status(dark, serials[0]) == "try_later"
        assert responder.status(lit, serials[1]) == "good"
        told = [line for line in responder.lines() if line["event"] == "signer.refused"]
        assert {line["level"] for line in told} == {"error"}
        assert all("issuer dark: signer 1 is refused" in line["detail"] for line in told)
        assert {line["meaning"] for line in told} == {"nobody answers in its place"}

        # The new certificate is all it takes.
        world.add_signer(dark, *CA.issue_responder())
        until(lambda: {responder.status(dark, serials[0]) for _ in range(10)} == {"good"})


def test_a_signer_that_is_mended_on_the_spot_signs_without_anybody_telling(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=None)
    lit_ca = Authority.create("Lit CA")
    world.add_issuer("lit", lit_ca, signer=lit_ca.issue_responder())
    key_file = world.add_signer(issuer, *CA.issue_responder())
    serial = world.issue(issuer)
    key_file.rename(key_file.with_suffix(".away"))
    with running(world) as responder:
        assert responder.status(issuer, serial) == "try_later"
        key_file.with_suffix(".away").rename(key_file)
        until(lambda: {responder.status(issuer, serial) for _ in range(10)} == {"good"})


def test_a_ca_certificate_signs_for_itself_only_where_that_is_allowed(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=None)
    world.add_signer(issuer, CA.certificate, CA.key)
    assert "may not sign responses here" in refusal(world)


@pytest.mark.parametrize("dsn", ["host=127.0.0.1 port=1 dbname=x user=y", "host=/nowhere dbname=x", "no dsn at all"])
def test_an_unreachable_database_is_told_in_one_line(world: World, dsn: str) -> None:
    refusal(world, dsn=dsn)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[http]\nwrokers = 2", "[http] wrokers: no such key; allowed here:"),
        ('[http]\nworkers = "two"', "[http] workers:"),
        ("[htpp]", "htpp: no such key"),
        ("not toml", "not TOML"),
        ('[log]\nlevel = "loud"', "allowed:"),
        ('[database]\ndsn = "x"\n[signing]\npassphrase_file = "/nowhere/at/all"', "No such file"),
        ("", "dsn is not set"),
    ],
)
def test_bad_settings_are_refused_naming_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    settings = tmp_path / "responder.toml"
    settings.write_text(text)
    said = refused(settings)
    assert words in said
    assert str(settings) in said


def test_an_address_in_use_or_no_address_is_refused_at_once(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # gunicorn would try again and again, and say so; refusal() takes one line.
        assert "Address already in use" in refusal(world, port=taken.getsockname()[1])
    settings = write_settings(world.folder, dsn=world.dsn, port=1)
    for bind in ("127.0.0.1:http", "198.51.100.1:8080", "127.0.0.1:99999"):
        settings.write_text(f'[database]\ndsn = "{world.dsn}"\n[http]\nbind = "{bind}"\n')
        assert f"cannot listen on {bind!r}" in refused(settings)


def test_a_locked_key_opens_with_the_systemd_credential(world: World) -> None:
    """And a key that is not locked beside it does not mind. (With passphrase_file: the shared responder.)"""
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder(), passphrase=PASSPHRASE)
    other_ca = Authority.create("Open CA")
    other = world.add_issuer("open", other_ca, signer=other_ca.issue_responder())
    credentials = world.folder / "credentials"
    credentials.mkdir()
    (credentials / "signer-passphrase").write_bytes(PASSPHRASE)
    serials = [world.issue(issuer), world.issue(other)]
    with running(world, workers=1, variables={"CREDENTIALS_DIRECTORY": str(credentials)}) as responder:
        assert [responder.status(each, serial) for each, serial in zip((issuer, other), serials, strict=True)] == [
            "good", "good",
        ]  # fmt: skip
        assert "sources.none_required" in responder.events()


def test_an_empty_responder_warns_and_serves_what_is_added_while_it_runs(world: World) -> None:
    with running(world) as responder:
        assert {"issuers.none", "sources.none_required"} <= set(responder.events())
        certificate, key = CA.issue_responder()
        issuer = world.add_issuer("ca", CA, signer=(certificate, key))
        serial = world.issue(issuer)
        time.sleep(2.0)
        assert {responder.status(issuer, serial) for _ in range(10)} == {"good"}

        # A bad signer that is activated leaves the former one answering, and other issuers can still be added.
        world.insert_signer(issuer, CA.issue_responder()[0], "file:/nowhere/at/all")
        later_ca = Authority.create("Later CA")
        later = world.add_issuer("later", later_ca, signer=later_ca.issue_responder())
        later_serial = world.issue(later)
        time.sleep(2.0)
        assert {responder.status(issuer, serial) for _ in range(10)} == {"good"}
        assert {responder.status(later, later_serial) for _ in range(10)} == {"good"}
        told = [line for line in responder.lines() if line["event"] == "signer.refused"]
        assert {line["meaning"] for line in told} == {"signer 1 goes on"}

        # Also in a worker that starts after that.
        killed = responder.workers()[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(responder.workers()) == 2 and killed not in responder.workers())
        assert {responder.status(issuer, serial) for _ in range(10)} == {"good"}


def test_a_new_signer_takes_over_and_nothing_of_the_old_one_is_kept(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    certificate, key = CA.issue_responder()
    with running(world) as responder:
        assert {responder.ask(request).parsed().certificates[0] for _ in range(10)} == {issuer.signer}
        world.add_signer(issuer, certificate, key)
        time.sleep(2.0)
        assert {responder.ask(request).parsed().certificates[0] for _ in range(10)} == {certificate}


def steady(port: int, issuer: Served, serial: int, word: str, stop: threading.Event, wrong: list[str]) -> None:
    """Ask until told to stop; a line that breaks with its worker is no answer, but a wrong answer is."""
    request = asking.request_for(issuer.certificate, serial)
    while not stop.is_set():
        try:
            said = asking.post(port, request).words
        except (OSError, ValueError):
            continue
        if said != word:
            wrong.append(said)


def test_a_killed_worker_is_replaced_and_no_answer_is_wrong(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    serial = world.issue(issuer)
    world.revoke(issuer, serial, revoked(Reason.KEY_COMPROMISE, ca=CA))
    stop, wrong = threading.Event(), list[str]()
    with running(world) as responder:
        arguments = (responder.port, issuer, serial, "revoked", stop, wrong)
        thread = threading.Thread(target=steady, args=arguments)
        thread.start()
        gone: set[int] = set()
        for _ in range(3):
            killed = responder.workers()[0]
            gone.add(killed)
            os.kill(killed, signal.SIGKILL)
            until(lambda: len(set(responder.workers()) - gone) == 2)
        stop.set()
        thread.join()
        assert wrong == []


def test_told_to_end_while_its_workers_start_it_ends_at_once(world: World) -> None:
    settings = write_settings(world.folder, dsn=world.dsn, port=free_port(), workers=4)
    for number in range(6):
        log = world.folder / f"ended-{number}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [command("ocsp-responder"), "--config", settings, "serve"], stdout=out, stderr=out, env=environment()
            )
        until(lambda: "Booting worker" in log.read_text())  # noqa: B023
        time.sleep(0.05 * number)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


def test_requests_in_flight_are_answered_before_the_end(world: World) -> None:
    issuer = world.add_issuer("ca", CA, signer=CA.issue_responder())
    request = asking.request_for(issuer.certificate, world.issue(issuer))
    with running(world) as responder, ExitStack() as stack:
        lines = [stack.enter_context(Line(responder.port)) for _ in range(6)]
        for line in lines:
            line.send(head("POST", b"/", ("Content-Length", str(len(request)))) + request[:-5])
        time.sleep(1.0)  # until every line has been taken by a worker
        responder.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        for line in lines:
            line.send(request[-5:])
            assert line.reply().words == "good"
            assert line.is_closed()
        assert responder.process.wait(timeout=10) == 0
