# SPDX-License-Identifier: Apache-2.0
"""Runs a command under a unit's own system-call filters: `python -m tests.packaging.sandbox UNIT COMMAND …`.

Knows how systemd.exec(5) turns SystemCallFilter=, RestrictAddressFamilies= and MemoryDenyWriteExecute= into seccomp
filters, and installs the same through libseccomp. Namespaces need a service manager and are not made here.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# seccomp.h: what a filter does with a call, and how an argument is compared.
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_EQUAL: Final = 4
_MASKED_EQUAL: Final = 7
# mman.h and shm.h
_PROT_WRITE: Final = 0x2
_PROT_EXEC: Final = 0x4
_SHM_EXEC: Final = 0o100000
# The kernel knows fewer address families than this.
_FAMILIES: Final = range(1, 64)


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp: which argument, compared how, with what."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Filter:
    """One seccomp filter: what happens by default, and what to the calls named."""

    def __init__(self, library: ctypes.CDLL, default: int) -> None:
        self._library = library
        self._context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, name: str, *compare: _Compare) -> None:
        """Do this with that call. Names of other processors' calls are passed over, as systemd does."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        compares = (_Compare * len(compare))(*compare)
        failed = self._library.seccomp_rule_add_exact_array(
            self._context, ctypes.c_uint32(action), number, len(compare), compares
        )
        if failed:
            raise OSError(-failed, f"seccomp_rule_add: {name}: {os.strerror(-failed)}")

    def load(self) -> None:
        failed = self._library.seccomp_load(self._context)
        if failed:
            raise OSError(-failed, f"seccomp_load: {os.strerror(-failed)}")


def values(unit: Path, key: str) -> list[str]:
    """Return the words that a unit gives a key, from all its lines."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if line.startswith(f"{key}=") for word in line.partition("=")[2].split()]


def allowed_calls(unit: Path) -> frozenset[str]:
    """Return the system calls that the unit's SystemCallFilter= lines leave (systemd.exec(5))."""
    allowed: set[str] = set()
    for line in unit.read_text(encoding="utf-8").splitlines():
        if not line.startswith("SystemCallFilter="):
            continue
        given = line.partition("=")[2]
        named = {call for word in given.removeprefix("~").split() for call in _members(word)}
        allowed = allowed - named if given.startswith("~") else allowed | named
    # What it takes to start anything is always allowed.
    return frozenset(allowed | _members("@default"))


def _members(name: str) -> frozenset[str]:
    if not name.startswith("@"):
        return frozenset([name])
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return frozenset(call for word in words if word and not word.startswith("#") for call in _members(word))


def confine(unit: Path) -> None:
    """Put this process, and whatever it becomes, under the unit's filters."""
    calls, families = allowed_calls(unit), values(unit, "RestrictAddressFamilies")
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    if values(unit, "MemoryDenyWriteExecute") == ["yes"]:
        _no_new_code(_Filter(library, _ALLOW))
    if families:
        _only_families(_Filter(library, _ALLOW), families)
    # Last, because it may forbid what loading a filter takes.
    last = _Filter(library, _ERRNO | errno.EPERM)
    for call in sorted(calls):
        last.add(_ALLOW, call)
    last.load()


def _no_new_code(filter_: _Filter) -> None:
    refused = _ERRNO | errno.EPERM
    both = _PROT_WRITE | _PROT_EXEC
    filter_.add(refused, "mmap", _Compare(2, _MASKED_EQUAL, both, both))
    for name in ("mprotect", "pkey_mprotect"):
        filter_.add(refused, name, _Compare(2, _MASKED_EQUAL, _PROT_EXEC, _PROT_EXEC))
    filter_.add(refused, "shmat", _Compare(2, _MASKED_EQUAL, _SHM_EXEC, _SHM_EXEC))
    filter_.load()


def _only_families(filter_: _Filter, families: Sequence[str]) -> None:
    allowed = {int(getattr(socket, name)) for name in families}
    for family in _FAMILIES:
        if family not in allowed:
            filter_.add(_ERRNO | errno.EAFNOSUPPORT, "socket", _Compare(0, _EQUAL, family, 0))
    filter_.load()


def main() -> None:
    """Confine this process and become the command."""
    unit, *command = sys.argv[1:]
    confine(Path(unit))
    os.execv(command[0], command)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
