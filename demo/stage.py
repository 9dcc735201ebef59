# SPDX-License-Identifier: Apache-2.0
"""Sets the stage with real processes: PostgreSQL, a CA, a CT log, gunicorn, the reconciler; and clears it again.

Knows how things are started and asked; play.py knows the story. Everything lives in one folder that is deleted.
"""

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from demo.ca import Authority, write_certificates, write_key
from demo.postgres import throwaway_server

#: How long a process may take to answer for the first time (seconds).
_START: Final = 30.0
#: How often the reconciler of the demonstration asks the log (seconds).
_POLL: Final = 2


class StageError(Exception):
    """Something could not be set up: what, and the end of its log."""


class Stage:
    """What the play can do to the world, and ask of it."""

    def __init__(self, folder: Path, ca: Authority, *, log_url: str, ocsp_url: str) -> None:
        """Take what `set_up` has started."""
        self._folder = folder
        self._ca = ca
        self.log_url = log_url
        self.ocsp_url = ocsp_url
        self._openssl = shutil.which("openssl")

    @property
    def judge(self) -> str:
        """Who asks the responder: openssl where there is one, else the cryptography library."""
        return "openssl ocsp" if self._openssl else "python cryptography (no openssl here)"

    @property
    def addresses(self) -> str:
        """Where everything can be found while it runs, and how to ask."""
        ca = self._folder / "ca.pem"
        return f"""  OCSP responder  {self.ocsp_url}
  CT log          {self.log_url}
  settings, logs  {self._folder}
  ask             openssl ocsp -issuer {ca} -CAfile {ca} -no_nonce -url {self.ocsp_url} -serial 0x…
  look up         {command("ocsp-admin")} --config {self._folder / "admin.toml"} cert show --issuer demo …"""

    def precertificate(self, name: str) -> x509.Certificate:
        """Have the CA sign a precertificate."""
        return self._ca.precertificate(name, ocsp_url=self.ocsp_url)

    def submit(self, precertificate: x509.Certificate) -> dict[str, Any]:
        """Submit a precertificate to the log and return the SCT (RFC 6962 section 4.2)."""
        chain = [
            base64.b64encode(each.public_bytes(Encoding.DER)).decode()
            for each in (precertificate, self._ca.certificate)
        ]
        sct: dict[str, Any] = _post_json(f"{self.log_url}/ct/v1/add-pre-chain", {"chain": chain})
        return sct

    def submit_without_answer(self, precertificate: x509.Certificate) -> None:
        """Submit a precertificate whose SCT never arrives."""
        try:
            self.submit(precertificate)
        except (OSError, http.client.HTTPException):
            return
        raise StageError("the log answered although its answer was to be lost")

    def lose_the_next_sct(self) -> None:
        """Have the log take the next precertificate and drop the connection."""
        _post_json(f"{self.log_url}/_demo/faults", {"name": "lost_answer", "times": 1, "seconds": 0})

    def wait_for_a_poll(self) -> None:
        """Wait until the reconciler has just asked the log, so that the next time it does is a poll away."""
        before, deadline = self._polls(), time.monotonic() + _START
        while self._polls() == before:
            if time.monotonic() > deadline:
                raise StageError("the reconciler does not ask the log")
            time.sleep(0.02)
        time.sleep(0.2)  # it reads what it was told before it sleeps

    def _polls(self) -> int:
        with urllib.request.urlopen(f"{self.log_url}/_demo/state", timeout=10) as answer:  # noqa: S310 - our own log
            state = json.load(answer)
        return int(state["requests"].get("checkpoint", 0))

    def record_in_issuance_log(self, certificate: x509.Certificate) -> None:
        """Let the CA write down what it issued, as its spool has it: whole files under their final name."""
        spool = self._folder / "spool"
        unfinished = spool / f".{certificate.serial_number:x}.der"
        unfinished.write_bytes(certificate.public_bytes(Encoding.DER))
        unfinished.rename(spool / f"{certificate.serial_number:x}.der")

    def ask(self, serial: int) -> str:
        """Ask the responder about a serial and return what it says: good, revoked, unknown, or the OCSP error."""
        return self._ask_openssl(serial) if self._openssl else self._ask_cryptography(serial)

    def _ask_openssl(self, serial: int) -> str:
        ca = str(self._folder / "ca.pem")
        said = subprocess.run(
            [
                "openssl", "ocsp", "-issuer", ca, "-CAfile", ca, "-no_nonce", "-serial", hex(serial), "-url",
                self.ocsp_url,
            ],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        output = said.stdout + said.stderr
        for line in output.splitlines():
            if line.startswith(f"{serial:#x}: "):
                if "Response verify OK" not in output:
                    raise StageError(f"openssl does not accept the response:\n{output}")
                return line.partition(": ")[2].strip()
        return output.strip().splitlines()[0] if output.strip() else "nothing"

    def _ask_cryptography(self, serial: int) -> str:
        name = self._ca.certificate.subject.public_bytes()
        key = x509.SubjectKeyIdentifier.from_public_key(self._ca.certificate.public_key()).digest
        digest = hashes.Hash(hashes.SHA1())  # noqa: S303 - RFC 6960's name for an issuer
        digest.update(name)
        asked = ocsp.OCSPRequestBuilder().add_certificate_by_hash(digest.finalize(), key, serial, hashes.SHA1())  # noqa: S303
        request = urllib.request.Request(  # noqa: S310 - our own responder
            self.ocsp_url,
            data=asked.build().public_bytes(Encoding.DER),
            headers={"Content-Type": "application/ocsp-request"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own responder
            response = ocsp.load_der_ocsp_response(answer.read())
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return response.response_status.name
        return response.certificate_status.name.lower()

    def revoke(self, serial: int, *, reason: str) -> None:
        """Revoke as an operator does."""
        self.admin("cert", "revoke", "--issuer", "demo", f"{serial:x}", "--reason", reason)

    def show(self, serial: int) -> str:
        """Return everything known about a certificate, as an operator sees it."""
        return self.admin("cert", "show", "--issuer", "demo", f"{serial:x}")

    def admin(self, *arguments: str) -> str:
        """Run ocsp-admin and return what it prints."""
        return run_admin(self._folder / "admin.toml", *arguments)


@contextmanager
def set_up() -> Iterator[Stage]:
    """Start everything, yield the stage, and leave nothing behind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="foundling-demo-")))
        dsn = stack.enter_context(throwaway_server())
        ocsp_port = free_port()
        ca = _make_ca(folder)
        log = stack.enter_context(log_process(folder, roots=folder / "ca.pem"))
        _write_settings(folder, dsn=dsn, log=log, ocsp_port=ocsp_port)
        run_admin(folder / "admin.toml", "migrate")
        run_admin(
            folder / "admin.toml", "issuer", "add", "demo", "--cert", str(folder / "ca.pem"),
            "--signer-cert", str(folder / "signer.pem"), "--signer-key", str(folder / "signer.key"),
        )  # fmt: skip
        for name, verb in (("reconciler", "run"), ("responder", "serve")):
            stack.enter_context(process(folder, f"ocsp-{name}", "--config", str(folder / f"{name}.toml"), verb))
        wait_for_port(ocsp_port)
        yield Stage(folder, ca, log_url=log["url"].rstrip("/"), ocsp_url=f"http://127.0.0.1:{ocsp_port}/")


def _make_ca(folder: Path) -> Authority:
    ca = Authority.create("Foundling Demonstration CA")
    certificate, key = ca.issue_responder()
    write_certificates(folder / "ca.pem", ca.certificate)
    write_certificates(folder / "signer.pem", certificate)
    write_key(folder / "signer.key", key)
    (folder / "spool").mkdir()
    return ca


def _write_settings(folder: Path, *, dsn: str, log: dict[str, Any], ocsp_port: int) -> None:
    database = f"[database]\ndsn = {json.dumps(dsn)}\n"
    (folder / "admin.toml").write_text(database)
    (folder / "responder.toml").write_text(f'{database}\n[http]\nbind = "127.0.0.1:{ocsp_port}"\nworkers = 2\n')
    (folder / "reconciler.toml").write_text(reconciler_settings(database, folder=folder, log=log, poll=_POLL))


def reconciler_settings(database: str, *, folder: Path, log: dict[str, Any], poll: int) -> str:
    """Return settings that follow this log every `poll` seconds, and the spool in the folder."""
    return f"""{database}
[ct]
poll = "{poll}s"

[[ct_log]]
name = "demo-log"
kind = "static"
monitoring_url = {json.dumps(log["url"])}
key = {json.dumps(log["key"])}
start = "beginning"

[[issuance]]
name = "demo-spool"
kind = "spool"
directory = {json.dumps(str(folder / "spool"))}
poll = "200ms"
"""


@contextmanager
def log_process(folder: Path, *, roots: Path) -> Iterator[dict[str, Any]]:
    """Start the CT log as a process of its own and yield what it says of itself: url, key."""
    with (folder / "log.err").open("wb") as errors:
        running = subprocess.Popen(
            [
                sys.executable, "-m", "demo.log", "--port", "0", "--key", str(folder / "log.key"),
                "--roots", str(roots),
            ],
            stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[1],
        )  # fmt: skip
    try:
        said = running.stdout.readline() if running.stdout is not None else b""
        if not said:
            raise StageError(f"the log did not start:\n{(folder / 'log.err').read_text()[-2000:]}")
        yield json.loads(said)
    finally:
        stop(running)


@contextmanager
def process(folder: Path, program: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start one of our commands, its log in the folder, and stop it again."""
    with (folder / f"{program}.log").open("wb") as log:
        running = subprocess.Popen([command(program), *arguments], stdout=log, stderr=log)
    try:
        yield running
    finally:
        stop(running)


def stop(running: "subprocess.Popen[bytes]") -> None:
    """Stop a process that we started, kindly first."""
    running.terminate()
    try:
        running.wait(timeout=10)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
    if running.stdout is not None:
        running.stdout.close()


def command(program: str) -> str:
    """Return the path of one of our commands: beside the Python that runs this."""
    return str(Path(sys.executable).parent / program)


def run_admin(config: Path, *arguments: str) -> str:
    """Run ocsp-admin and return what it prints. Raises StageError with what it complains about."""
    environment = {name: value for name, value in os.environ.items() if name != "OCSP_DATABASE_DSN"}
    said = subprocess.run(
        [command("ocsp-admin"), "--config", str(config), *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    if said.returncode != 0:
        raise StageError(f"ocsp-admin {' '.join(arguments)}: {said.stderr.strip()}")
    return said.stdout


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until somebody listens on the port. Raises StageError when nobody does."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise StageError(f"nobody listens on port {port}")


def _post_json(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own log
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own log
        return json.load(answer)
