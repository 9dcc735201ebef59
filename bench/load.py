# SPDX-License-Identifier: Apache-2.0
"""The load: wrk with a script of ours, or ab where wrk cannot be had, and what they counted.

Knows HTTP octets, wrk and ab; neither OCSP nor who answers. Called by answers.py.
"""

import json
import math
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from bench.cores import on

#: Connections that ask at the same time, each waiting for its answer.
CONNECTIONS: Final = 64
_TIMEOUT: Final = 5

# wrk calls `done` once at the end; times are microseconds. Its own report is for people and has no exact counts.
_DONE: Final = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration":%d,"octets":%d,"p50":%d,"p99":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


class MissingPeerError(Exception):
    """A program is not installed: its name and the Debian package that has it."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} is missing; on Debian: apt-get install {package}")


class Questions(Protocol):
    """What is asked over and over. `at` is the number of the next question."""

    at: int

    def http(self, *, close: bool) -> bytes:
        """Return the octets of the next question; `close` asks the server to end the connection after it."""

    def script(self, *, close: bool) -> str:
        """Return Lua that makes wrk ask the next questions, and so on."""


@dataclass(slots=True)
class Same:
    """The same GET every time."""

    path: str
    at: int = 0

    def http(self, *, close: bool) -> bytes:
        """Return the request."""
        return f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n{_connection(close=close)}\r\n".encode()

    def script(self, *, close: bool) -> str:
        """Return Lua that sets the request: without a `request` function, wrk sends it without asking Lua."""
        headers = 'wrk.headers["Connection"] = "close"\n' if close else ""
        return f"wrk.path = {_lua(self.path.encode())}\n{headers}"


@dataclass(slots=True)
class SamePost:
    """The same POST every time."""

    body: bytes
    at: int = 0

    def http(self, *, close: bool) -> bytes:
        """Return the request."""
        return _post_head(len(self.body), close=close) + self.body

    def script(self, *, close: bool) -> str:
        """Return Lua that sets the request, as for `Same`."""
        headers = 'wrk.headers["Connection"] = "close"\n' if close else ""
        kind = 'wrk.headers["Content-Type"] = "application/ocsp-request"\n'
        return f'wrk.method = "POST"\nwrk.body = {_lua(self.body)}\n{kind}{headers}'


@dataclass(slots=True)
class Counting:
    """A POST each time, whose body is the same but for a number of four octets at its end.

    Every number comes once before one comes again, each far from the one before, as clients ask in no order. Rows that
    share one of these never ask what another of them has just asked.
    """

    beginning: bytes
    numbers: int
    at: int = 0

    @property
    def number(self) -> int:
        """The next number."""
        return self.at * self._stride % self.numbers

    @property
    def _stride(self) -> int:
        # Next to the golden section, steps fill a range evenly; without a common divisor, wholly.
        wanted = max(1, int(self.numbers * 0.618))
        return next(step for step in range(wanted, 2 * self.numbers + 1) if math.gcd(step, self.numbers) == 1)

    def http(self, *, close: bool) -> bytes:
        """Return the request with the next number."""
        return self._before(close=close) + self.number.to_bytes(4)

    def script(self, *, close: bool) -> str:
        """Return Lua that counts on."""
        return f"""
local before, numbers, stride = {_lua(self._before(close=close))}, {self.numbers}, {self._stride}
local at = {self.number}
local char, floor = string.char, math.floor
function request()
  local n = at
  at = (at + stride) % numbers
  return before .. char(floor(n / 16777216) % 256, floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end
"""

    def _before(self, *, close: bool) -> bytes:
        return _post_head(len(self.beginning) + 4, close=close) + self.beginning


def _post_head(octets: int, *, close: bool) -> bytes:
    return (
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/ocsp-request\r\n"
        f"Content-Length: {octets}\r\n{_connection(close=close)}\r\n"
    ).encode()


def _connection(*, close: bool) -> str:
    return "Connection: close\r\n" if close else ""


def _lua(octets: bytes) -> str:
    """Return a Lua string of these octets."""
    return '"' + "".join(f"\\{octet:03d}" for octet in octets) + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What wrk counted. Latencies in milliseconds; `octets` are those of all answers, headers included."""

    requests: int
    seconds: float
    octets: int
    p50: float
    p99: float
    errors: dict[str, int]


class Load:
    """Asks, from one core."""

    def __init__(self, folder: Path, *, core: int) -> None:
        """Scripts are written to the folder. Raises MissingPeerError without wrk."""
        found = shutil.which("wrk")
        if found is None:
            raise MissingPeerError("wrk", "wrk")
        self._wrk = found
        self._folder = folder
        self._core = core

    def ask(
        self, port: int, questions: Questions, *, seconds: int, close: bool, connections: int = CONNECTIONS
    ) -> Counted:
        """Ask one server for so many seconds."""
        script = self._folder / "load.lua"
        script.write_text(questions.script(close=close) + _DONE)
        with on(self._core):
            said = subprocess.run(
                [
                    self._wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
                    "--timeout", f"{_TIMEOUT}s", "--script", str(script), f"http://127.0.0.1:{port}/",
                ],
                capture_output=True, text=True, timeout=seconds + 30, check=True,
            )  # fmt: skip
        counted = read_counts(said.stdout)
        # What was sent and not answered any more, and the one that wrk asks its script for beforehand, count too.
        questions.at += counted.requests + connections + 1
        return counted

    def ask_so_often(self, port: int, body: bytes, *, times: int, connections: int = CONNECTIONS) -> Counted:
        """POST the same body so many times, each over a connection of its own, and not one more, with ab.

        For `openssl ocsp`, which spins for ever on a connection that ends without a request, as wrk's last ones do.
        Raises MissingPeerError without ab.
        """
        program = shutil.which("ab")
        if program is None:
            raise MissingPeerError("ab", "apache2-utils")
        file = self._folder / "body.der"
        file.write_bytes(body)
        with on(self._core):
            said = subprocess.run(
                [
                    program, "-q", "-l", "-n", str(times), "-c", str(connections), "-s", str(_TIMEOUT), "-p", str(file),
                    "-T", "application/ocsp-request", f"http://127.0.0.1:{port}/",
                ],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
        return read_report(said.stdout, asked=times)


def read_counts(output: str) -> Counted:
    """Read what `done` wrote, the last line of wrk's output."""
    said: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return Counted(
        requests=said["requests"],
        seconds=said["duration"] / 1e6,
        octets=said["octets"],
        p50=said["p50"] / 1000,
        p99=said["p99"] / 1000,
        errors={name: said[name] for name in ("connect", "read", "write", "status", "timeout")},
    )


def read_report(output: str, *, asked: int) -> Counted:
    """Read ab's report; without one, nothing was answered."""
    named = dict(re.findall(r"^([A-Z][^:\n]+): +([\d.]+)", output, re.MULTILINE))
    shares = dict(re.findall(r"^ +(\d+)% +(\d+)", output, re.MULTILINE))
    answered = int(named.get("Complete requests", "0"))
    errors = {"failed": named.get("Failed requests", "0"), "status": named.get("Non-2xx responses", "0")}
    return Counted(
        requests=answered,
        seconds=float(named.get("Time taken for tests", "1")) or 1.0,
        octets=int(named.get("Total transferred", "0")),
        p50=float(shares.get("50", "0")),
        p99=float(shares.get("99", "0")),
        errors={**{name: int(number) for name, number in errors.items()}, "unanswered": asked - answered},
    )


def fetch(port: int, request: bytes) -> tuple[int, bytes]:
    """Send one request; return how many octets the answer has with its headers, and its body.

    Raises ValueError for an HTTP status other than 200, OSError when nobody answers.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(request)
        head = [answer.readline()]
        while head[-1].strip():
            head.append(answer.readline())
        lines = [line.decode("latin-1").strip() for line in head]
        if lines[0].split()[1:2] != ["200"]:
            raise ValueError(f"the answer begins {lines[0]!r}")
        named = (line.partition(":") for line in lines)
        length = next(int(value) for name, _, value in named if name.lower() == "content-length")
        return sum(map(len, head)) + length, answer.read(length)
