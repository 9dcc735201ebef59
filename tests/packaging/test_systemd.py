# SPDX-License-Identifier: Apache-2.0
"""The units: well formed, tightly sandboxed, and the programs work under them, started and watched as they say."""

import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from psycopg import conninfo

from demo.ca import Authority, write_certificates, write_key
from demo.stage import StageError, command, free_port, run_admin, stop, wait_for_port
from tests.packaging.sandbox import allowed_calls, values

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("*.service")) + sorted((ROOT / "systemd").glob("*.socket"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
INSTALLED = "/opt/foundling/bin/"
# What the units promise: below this on the scale of `systemd-analyze security`, where 10 is no sandbox at all.
MOST_EXPOSURE = 2.5
PATIENCE = 30.0

Find = Callable[[str], str]
PASSPHRASE = b"of a signer in a sandbox"


def test_the_units_are_there() -> None:
    assert [unit.name for unit in UNITS] == [
        "ocsp-presign.service",
        "ocsp-reconciler.service",
        "ocsp-responder.service",
        "ocsp-responder-private.socket",
        "ocsp-responder.socket",
    ]


def test_systemd_finds_nothing_wrong_with_the_units(program: Find, tmp_path: Path) -> None:
    # systemd-analyze wants the programs to exist: they do, in this environment.
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace(INSTALLED, f"{Path(sys.executable).parent}/")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    said = subprocess.run(
        [
            program("systemd-analyze"), "verify", "--man=no", "--generators=no", "--recursive-errors=one",
            *(str(tmp_path / unit.name) for unit in UNITS),
        ],
        capture_output=True, text=True, check=False, env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    ours = [line for line in said.stderr.splitlines() if "ocsp-" in line or str(tmp_path) in line]
    assert (said.returncode, ours) == (0, []), said.stderr


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_the_sandbox_leaves_little(unit: Path, program: Find, capsys: pytest.CaptureFixture[str]) -> None:
    said = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    with capsys.disabled():
        print(f"\n{unit.name}: exposure {found[1]} of 10")  # noqa: T201 - the score is asked for by whoever reads the run
    assert float(found[1]) < MOST_EXPOSURE, said


def test_the_reconciler_shares_no_user_and_no_group_with_those_that_sign() -> None:
    users = {
        unit.stem: {*values(unit, "User"), *values(unit, "Group"), *values(unit, "SupplementaryGroups")}
        for unit in SERVICES
    }
    assert users["ocsp-presign"] == users["ocsp-responder"]
    assert users["ocsp-reconciler"] & users["ocsp-responder"] == set()


def test_the_users_directories_and_modes_come_out_as_the_units_need_them(program: Find, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for tool, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        action = ["--create"] if kind == "tmpfiles" else []
        file = ROOT / "systemd" / f"foundling.{kind}.conf"
        said = subprocess.run(
            [program(tool), f"--root={tmp_path}", *action, str(file)], capture_output=True, text=True, check=False
        )
        assert said.returncode == 0, said.stderr
    made = {line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    groups = dict(re.findall(r"^([^:]+):[^:]*:[^:]*:(.*)$", (tmp_path / "etc/group").read_text(), re.MULTILINE))
    for unit in SERVICES:
        (user,) = values(unit, "User")
        assert user in made
        assert user in groups
        assert all(user in groups[group].split(",") for group in values(unit, "SupplementaryGroups"))
    assert (tmp_path / "etc/foundling").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc/foundling/keys").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_every_expensive_line_of_the_sandbox_has_its_comment(unit: Path) -> None:
    lines = unit.read_text(encoding="utf-8").splitlines()
    for key in ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateUsers", "MemoryDenyWriteExecute", "LimitCORE"):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}=")]
        assert lines[at - 1].startswith("# "), key


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_the_filters_forbid_what_a_service_never_needs(unit: Path, program: Find) -> None:
    program("systemd-analyze")
    calls = allowed_calls(unit)
    assert {"read", "socket", "execve", "epoll_wait"} <= calls
    assert not calls & {
        "mount",
        "ptrace",
        "bpf",
        "init_module",
        "reboot",
        "setuid",
        "chown",
        "setrlimit",
        "keyctl_none",
    }


REFUSED = """
import ctypes, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
print("written code:", page == ctypes.c_void_p(-1).value)
for name, act in {
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "chown": lambda: os.chown("/", -1, -1),
    "setuid": lambda: os.setuid(os.getuid()),
}.items():
    try:
        act()
    except OSError as exc:
        print(f"{name}:", True)
"""


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_under_the_filters_what_they_forbid_is_refused(unit: Path, program: Find) -> None:
    program("systemd-analyze")
    launched = [sys.executable, "-m", "tests.packaging.sandbox", str(unit), sys.executable, "-c", REFUSED]
    said = subprocess.run(launched, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["written code: True", "netlink: True", "chown: True", "setuid: True"]


class Ears:
    """The other end of NOTIFY_SOCKET: hears what a service tells its manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE)

    def wait_for(self, word: str) -> None:
        """Wait until the service says this. What it logged is shown when it does not."""
        try:
            while word not in self._socket.recv(4096).decode().splitlines():
                pass
        except TimeoutError:
            pytest.fail(f"no {word}:\n{(self.path.parent / 'service.log').read_text()}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[Ears]:
    hearing = Ears(tmp_path / "notify")
    yield hearing
    hearing.close()


@pytest.fixture
def ca(tmp_path: Path, dsn: str) -> Authority:
    """Serve a CA with a delegated signer from the database, as an operator would."""
    authority = Authority.create("Sandboxed CA")
    certificate, key = authority.issue_responder()
    write_certificates(tmp_path / "ca.pem", authority.certificate)
    write_certificates(tmp_path / "signer.pem", certificate)
    write_key(tmp_path / "signer.key", key, passphrase=PASSPHRASE)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    (tmp_path / "admin.toml").write_text(
        f'[database]\ndsn = "{dsn}"\n[signing]\npassphrase_file = "{tmp_path / "passphrase"}"\n'
    )
    run_admin(
        tmp_path / "admin.toml", "issuer", "add", "sandboxed", "--cert", str(tmp_path / "ca.pem"),
        "--signer-cert", str(tmp_path / "signer.pem"), "--signer-key", str(tmp_path / "signer.key"),
    )  # fmt: skip
    return authority


@pytest.fixture
def credentials(tmp_path: Path, dsn: str) -> dict[str, str]:
    """Lay out the responder's secrets as LoadCredential= would, and return what the unit puts into its environment."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "signer-passphrase").write_bytes(PASSPHRASE + b"\n")
    (folder / "signer-pin").write_text("1234\n")
    members = "".join(f"{name}={value}\n" for name, value in conninfo.conninfo_to_dict(dsn).items())
    (folder / "pg-service.conf").write_text(f"[foundling]\n{members}")
    (tmp_path / "responder.toml").write_text('[database]\ndsn = "service=foundling"\n')
    (unit,) = [each for each in SERVICES if each.stem == "ocsp-responder"]
    assert {word.partition(":")[0] for word in values(unit, "LoadCredential")} == {
        each.name for each in folder.iterdir()
    }
    unit_says = dict(word.split("=", 1) for word in values(unit, "Environment"))
    return {name: value.replace("%d", str(folder)) for name, value in unit_says.items()} | {
        "CREDENTIALS_DIRECTORY": str(folder)
    }


def confined(unit: Path, *arguments: str) -> list[str]:
    """Return the command that runs the unit's own program under the unit's own filters."""
    return [sys.executable, "-m", "tests.packaging.sandbox", str(unit), command(unit.stem), *arguments]


@contextmanager
def running(*arguments: str, folder: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / "service.log").open("wb") as log:
        service = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=ROOT, env=os.environ | environment)
    try:
        yield service
    finally:
        stop(service)


def ask(port: int, authority: Authority, certificate: x509.Certificate) -> str:
    """Ask over HTTP and return the certificate's status, or the response's where there is none."""
    asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, authority.certificate, hashes.SHA256()).build()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/", asked.public_bytes(Encoding.DER), {"Content-Type": "application/ocsp-request"})
    response = ocsp.load_der_ocsp_response(connection.getresponse().read())
    connection.close()
    found = response.response_status
    return response.certificate_status.name if found is ocsp.OCSPResponseStatus.SUCCESSFUL else found.name


def test_the_responder_answers_under_its_filters_with_its_credentials_on_the_socket_that_systemd_opened(
    program: Find, tmp_path: Path, ears: Ears, ca: Authority, credentials: dict[str, str]
) -> None:
    certificate = ca.issue("activated.example")
    write_certificates(tmp_path / "leaf.pem", certificate)
    run_admin(tmp_path / "admin.toml", "cert", "register", "--issuer", "sandboxed", str(tmp_path / "leaf.pem"))
    port, (unit,) = free_port(), [each for each in SERVICES if each.stem == "ocsp-responder"]
    told = {
        "NOTIFY_SOCKET": str(ears.path),
        "WATCHDOG_USEC": "30000000",
        "OCSP_DATABASE_DSN": "",
        "HOME": str(tmp_path),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
    }
    (tmp_path / "run").mkdir()
    passed_on = [word for name, value in (told | credentials).items() for word in ("-E", f"{name}={value}")]
    # The private socket first: it is told apart by its name, and by nothing else.
    private = free_port()
    socket_activate = [
        program("systemd-socket-activate"), "-l", f"127.0.0.1:{private}", "-l", f"127.0.0.1:{port}",
        f"--fdname=private:{unit.stem}.socket", *passed_on,
    ]  # fmt: skip
    # As after an installation: the settings name the very address that systemd listens on.
    with (tmp_path / "responder.toml").open("a") as settings:
        settings.write(f'[http]\nbind = "127.0.0.1:{port}"\n')
    serve = confined(unit, "--config", str(tmp_path / "responder.toml"), "serve")
    with running(*socket_activate, *serve, folder=tmp_path, environment={}) as service:
        wait_for_port(port)  # which is also the connection that starts the service
        ears.wait_for("READY=1")
        assert ask(port, ca, certificate) == "GOOD", (tmp_path / "service.log").read_text()
        assert ask(port, ca, ca.issue("never-registered.example")) == "UNKNOWN"
        ears.wait_for("WATCHDOG=1")
        ears.wait_for("WATCHDOG=1")
        with urllib.request.urlopen(f"http://127.0.0.1:{private}/readyz", timeout=PATIENCE) as shown:
            assert json.load(shown)["ready"] is True
        with urllib.request.urlopen(f"http://127.0.0.1:{private}/metrics", timeout=PATIENCE) as shown:
            assert b'ocsp_responses_total{type="Success"}' in shown.read()
        assert len(list((tmp_path / "run").iterdir())) == 1
        assert values(unit, "ExecReload") == ["/bin/kill", "-HUP", "$MAINPID"]
        service.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 2 * PATIENCE
        while "workers.replaced" not in (tmp_path / "service.log").read_text():
            assert time.monotonic() < deadline, (tmp_path / "service.log").read_text()
            time.sleep(0.2)
        assert ask(port, ca, certificate) == "GOOD"
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=PATIENCE) == 0
    assert list((tmp_path / "run").iterdir()) == []
    log = (tmp_path / "service.log").read_text()
    assert "Traceback" not in log, log
    assert "Operation not permitted" not in log, log


def test_answers_are_signed_ahead_under_the_filters_with_the_credentials(
    program: Find, tmp_path: Path, ears: Ears, ca: Authority, credentials: dict[str, str], dsn: str
) -> None:
    program("systemd-analyze")
    write_certificates(tmp_path / "leaf.pem", ca.issue("ahead.example"))
    run_admin(tmp_path / "admin.toml", "cert", "register", "--issuer", "sandboxed", str(tmp_path / "leaf.pem"))
    (tmp_path / "responder.toml").write_text('[database]\ndsn = "service=foundling"\n[presigned]\nworkers = 2\n')
    command_line = (
        sys.executable, "-m", "tests.packaging.sandbox", str(ROOT / "systemd" / "ocsp-presign.service"),
        command("ocsp-responder"), "--config", str(tmp_path / "responder.toml"), "presign", "--watch",
    )  # fmt: skip
    told = credentials | {"NOTIFY_SOCKET": str(ears.path), "OCSP_DATABASE_DSN": "", "HOME": str(tmp_path)}
    with running(*command_line, folder=tmp_path, environment=told) as service:
        ears.wait_for("READY=1")
        ears.wait_for("WATCHDOG=1")
        with psycopg.connect(dsn, autocommit=True) as connection:
            deadline = time.monotonic() + PATIENCE
            while connection.execute("SELECT count(*) FROM ocsp.stored_answer").fetchone() != (1,):
                assert time.monotonic() < deadline, (tmp_path / "service.log").read_text()
                time.sleep(0.1)
        service.send_signal(signal.SIGTERM)
        ears.wait_for("STOPPING=1")
        assert service.wait(PATIENCE) == 0
    log = (tmp_path / "service.log").read_text()
    assert "Traceback" not in log, log
    assert "Operation not permitted" not in log, log


def test_the_reconciler_reads_a_log_and_a_spool_under_its_filters(
    tmp_path: Path, ears: Ears, ca: Authority, dsn: str
) -> None:
    in_log, in_spool = ca.precertificate("logged.example"), ca.issue("spooled.example")
    (tmp_path / "spool").mkdir()
    write_certificates(tmp_path / "spool" / "one.pem", in_spool)
    (unit,) = [each for each in SERVICES if each.stem == "ocsp-reconciler"]
    told = {"NOTIFY_SOCKET": str(ears.path), "WATCHDOG_USEC": "1000000", "OCSP_DATABASE_DSN": "", "HOME": str(tmp_path)}
    with ct_log(tmp_path) as log:
        port = free_port()
        write_reconciler_settings(tmp_path, dsn, log, port)
        post(log["url"], in_log, ca)
        run = confined(unit, "--config", str(tmp_path / "reconciler.toml"), "run")
        with running(*run, folder=tmp_path, environment=told) as service:
            ears.wait_for("READY=1")
            ears.wait_for("WATCHDOG=1")
            ears.wait_for("WATCHDOG=1")
            wait_for_rows(tmp_path, [in_log, in_spool])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as shown:
                assert b"foundling_rows_total" in shown.read()
            service.send_signal(signal.SIGTERM)
            assert service.wait(timeout=PATIENCE) == 0
    said = (tmp_path / "service.log").read_text()
    assert "Traceback" not in said, said
    assert "Operation not permitted" not in said, said


def write_reconciler_settings(folder: Path, dsn: str, log: dict[str, Any], metrics_port: int) -> None:
    (folder / "reconciler.toml").write_text(f"""[database]
dsn = "{dsn}"

[ct]
poll = "200ms"

[[ct_log]]
name = "log"
kind = "static"
monitoring_url = "{log["url"]}"
key = "{log["key"]}"
start = "beginning"

[[issuance]]
name = "spool"
kind = "spool"
directory = "{folder / "spool"}"
poll = "200ms"

[metrics]
bind = "127.0.0.1:{metrics_port}"
""")


def wait_for_rows(folder: Path, certificates: Sequence[x509.Certificate]) -> None:
    """Wait until every certificate is good, as an operator would see it."""
    deadline = time.monotonic() + PATIENCE
    for certificate in certificates:
        while True:
            try:
                shown = run_admin(
                    folder / "admin.toml", "cert", "show", "--issuer", "sandboxed", f"{certificate.serial_number:x}"
                )
            except StageError:
                assert time.monotonic() < deadline, (folder / "service.log").read_text()
                time.sleep(0.2)
                continue
            assert ": good" in shown
            break


@contextmanager
def ct_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the demonstration's CT log as a process of its own and yield its url and key."""
    log = subprocess.Popen(
        [
            sys.executable, "-m", "demo.log", "--port", "0", "--key", str(folder / "log.key"),
            "--roots", str(folder / "ca.pem"),
        ],
        stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert log.stdout is not None
        yield json.loads(log.stdout.readline())
    finally:
        stop(log)


def post(url: str, precertificate: x509.Certificate, authority: Authority) -> None:
    """Submit a precertificate to the log (RFC 6962 section 4.2)."""
    chain = [
        base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in (precertificate, authority.certificate)
    ]
    request = urllib.request.Request(  # noqa: S310 - our own log
        f"{url.rstrip('/')}/ct/v1/add-pre-chain",
        data=json.dumps({"chain": chain}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - our own log
        assert answer.status == 200
