# SPDX-License-Identifier: Apache-2.0
"""Which sockets the master has: those that systemd opened, told apart by name, or our own. Accepts nothing.

sd_listen_fds(3): LISTEN_FDS sockets from file descriptor 3 on, named by LISTEN_FDNAMES. gunicorn takes all that it
finds there for public ones, so the private one is taken out before it looks.
"""

import os
import socket
import stat
from pathlib import Path
from typing import Final

from gunicorn.util import parse_address

from responder.runtime.settings import SettingsError

PRIVATE: Final = "private"
_FIRST: Final = 3
_BACKLOG: Final = 128


def passed() -> list[str]:
    """Return the names of the sockets that systemd passed to this process; those without a name are "unknown"."""
    number = os.environ.get("LISTEN_FDS", "")
    if not number.isdecimal() or os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return [names[index] if index < len(names) and names[index] else "unknown" for index in range(int(number))]


def check_addresses(*, public: str, private: str, path: Path) -> None:
    """Raise SettingsError where nobody could listen. gunicorn would try for five seconds and say so in ten lines."""
    names = passed()
    if not [name for name in names if name != PRIVATE]:
        _check(public, "[http] bind", path)
    if private and PRIVATE not in names:
        if private == public:
            raise SettingsError(f"{path}: [private] bind: {private!r} is the public address, [http] bind")
        _check(private, "[private] bind", path)


def _check(bind: str, key: str, path: Path) -> None:
    try:
        address = parse_address(bind)
        if isinstance(address, tuple):
            family, kind, protocol, _, found = socket.getaddrinfo(address[0], None, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((found[0], address[1]))
    except (OSError, OverflowError, RuntimeError, UnicodeError) as exc:
        raise _unusable(bind, key, path, exc) from exc


def _unusable(bind: str, key: str, path: Path, exc: Exception) -> SettingsError:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
    return SettingsError(f"{path}: {key}: cannot listen on {bind!r}: {reason}")


def private_listener(bind: str, *, path: Path) -> socket.socket | None:
    """Return the listening private socket: systemd's, else one bound to `bind`, else None. Raises SettingsError."""
    names = passed()
    if PRIVATE in names:
        return _taken_out(names)
    if not bind:
        return None
    try:
        return _bound(parse_address(bind))
    except (OSError, OverflowError, RuntimeError, UnicodeError) as exc:
        raise _unusable(bind, "[private] bind", path, exc) from exc


def _taken_out(names: list[str]) -> socket.socket:
    """Take the private socket out of the row that gunicorn is going to read, and close the gap."""
    at = names.index(PRIVATE)
    listener = socket.socket(fileno=os.dup(_FIRST + at))
    last = _FIRST + len(names) - 1
    for number in range(_FIRST + at, last):
        os.dup2(number + 1, number)
    os.close(last)
    os.environ["LISTEN_FDS"] = str(len(names) - 1)
    os.environ["LISTEN_FDNAMES"] = ":".join(names[:at] + names[at + 1 :])
    return listener


def _bound(address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, tuple):
        family, kind, protocol, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found)
    else:
        _remove_old(Path(address))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def _remove_old(path: Path) -> None:
    """Remove what a former process left there, if it is a socket and nothing else."""
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()
