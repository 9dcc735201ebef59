# SPDX-License-Identifier: Apache-2.0
"""A line between the responder and its PostgreSQL that tests can spoil. Knows neither of the two."""

import socket
import threading
import time
from contextlib import suppress

from psycopg import conninfo


class Proxy:
    """A line to PostgreSQL that can be cut, also in the middle of an answer, made slow, and frozen."""

    def __init__(self, dsn: str) -> None:
        self._given = conninfo.conninfo_to_dict(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._is_cut = False
        self._is_torn = False
        self._delay = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def dsn(self) -> str:
        """How to reach the same database through here."""
        host, port = self._listener.getsockname()
        return conninfo.make_conninfo(**{**self._given, "host": host, "port": port})

    def cut(self) -> None:
        """Close every connection, and every new one at once."""
        self._is_cut = True
        self._close_lines()

    def tear(self) -> None:
        """Let half of whatever the server says next through, and close that connection; the same with every new one."""
        self._is_torn = True

    def delay(self, seconds: float) -> None:
        """Have whatever the server says wait for so long."""
        self._delay = seconds

    def mend(self) -> None:
        self._is_cut = False
        self._is_torn = False
        self._delay = 0.0

    def freeze(self) -> None:
        """Let nothing through, and close nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._listener.close()
        self.thaw()
        self._close_lines()

    def _close_lines(self) -> None:
        with self._lock:
            for line in self._lines:
                shut(line)
            self._lines.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                shut(client)
                continue
            try:
                server = self._connect()
            except OSError:
                shut(client)
                continue
            with self._lock:
                self._lines += [client, server]
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), kwargs={"back": True}, daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._given.get("host") or "/var/run/postgresql"), self._given.get("port") or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        line = socket.socket(socket.AF_UNIX)
        line.connect(f"{host}/.s.PGSQL.{port}")
        return line

    def _pump(self, source: socket.socket, sink: socket.socket, *, back: bool = False) -> None:
        try:
            while octets := source.recv(65536):
                self._flowing.wait()
                if back and self._delay > 0:
                    time.sleep(self._delay)
                if back and self._is_torn:
                    sink.sendall(octets[: len(octets) // 2])
                    break
                sink.sendall(octets)
        except OSError:
            pass
        shut(source)
        shut(sink)


def shut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
