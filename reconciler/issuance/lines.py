# SPDX-License-Identifier: Apache-2.0
"""Lines of a growing file, cut from chunks that end anywhere, with bounded memory whatever the file holds.

Knows octets and newlines; no file, no JSON, no position in a database. Called by jsonl.py.
"""

from dataclasses import dataclass
from typing import Final

# So many octets before a position are hashed to know the file again. A line ends in a signature or a time of day
# somewhere within them, or at least the lines of two files have to agree in all of them.
TAIL_OCTETS: Final = 64


@dataclass(frozen=True, slots=True)
class Line:
    """One line: where it begins, its octets without the newline, and how many there were in all.

    `end` is where the next one begins; `tail` are the up to 64 octets of the file just before that place. `data` is
    only the beginning of a line that was too long.
    """

    offset: int
    data: bytes
    octets: int
    end: int
    tail: bytes

    @property
    def is_whole(self) -> bool:
        """Whether all of the line is here."""
        return len(self.data) == self.octets


class LineSplitter:
    """Cuts chunks into lines. What stands behind the last newline waits for the next chunk."""

    def __init__(self, *, offset: int, tail: bytes, longest: int, prefix: int) -> None:
        """Begin at `offset` octets into a file, with `tail` before it.

        Lines of more than `longest` octets are cut to their first `prefix`, which must not be more than `longest`.
        """
        self._offset = offset
        self._tail = tail
        self._longest = longest
        self._prefix = prefix
        self._kept = bytearray()
        self._octets = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """Take in the next octets of the file, and return the lines that end in them."""
        lines: list[Line] = []
        start = 0
        while (newline := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:newline])
            lines.append(self._cut(newline=b"\n"))
            start = newline + 1
        self._keep(chunk[start:])
        return lines

    def rest(self) -> Line | None:
        """Return what stands behind the last newline as a line, for a file that nobody writes to any more."""
        return None if self._octets == 0 else self._cut(newline=b"")

    def _keep(self, part: bytes) -> None:
        self._kept += part[: self._longest - len(self._kept)]
        self._octets += len(part)
        self._tail = (self._tail + part[-TAIL_OCTETS:])[-TAIL_OCTETS:]

    def _cut(self, *, newline: bytes) -> Line:
        data = bytes(self._kept if self._octets <= self._longest else self._kept[: self._prefix])
        self._tail = (self._tail + newline)[-TAIL_OCTETS:]
        end = self._offset + self._octets + len(newline)
        line = Line(self._offset, data, self._octets, end, self._tail)
        self._offset, self._octets = end, 0
        self._kept.clear()
        return line
