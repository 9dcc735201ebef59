# SPDX-License-Identifier: Apache-2.0
"""What both file adapters know about files: who they are whatever they are called, how to write their names down, and
whether somebody may still be writing. Knows no certificate. Called by spool.py, rotation.py and jsonl.py.
"""

import os
from datetime import UTC, datetime, timedelta

# Inode and device numbers are unsigned, and network file systems use all 64 bits; positions keep signed numbers.
_SIGN: int = 1 << 63


def device_and_inode(stat: os.stat_result) -> tuple[int, int]:
    """Return what a file is, whatever it is called: device and inode, as signed 64-bit numbers."""
    return signed(stat.st_dev), signed(stat.st_ino)


def signed(number: int) -> int:
    """Fold an unsigned 64-bit number into a signed one, one to one."""
    return number - 2 * _SIGN if number >= _SIGN else number


def shown(path: str | os.PathLike[str]) -> str:
    """Return a file's name as UTF-8 can hold it. File names are octets, and need not be anybody's text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def now() -> datetime:
    """Return this moment in UTC."""
    return datetime.now(UTC)


def may_be_growing(mtime_ns: int, *, settle: timedelta, moment: datetime) -> bool:
    """Whether the last write is so recent that another may follow.

    A time far ahead of the clock says nothing about writing, and must not keep a file waiting for years.
    """
    # Plain seconds: a mistaken clock on a file server can be further away than a datetime reaches.
    age = moment.timestamp() - mtime_ns / 1_000_000_000
    return abs(age) < settle.total_seconds()


def told(exc: OSError) -> str:
    """Return an operating system's error in one line, without the path that the caller names anyway."""
    return exc.strerror or type(exc).__name__
