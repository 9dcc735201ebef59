# SPDX-License-Identifier: Apache-2.0
"""How much memory a worker takes, as Linux counts it in /proc/PID/smaps_rollup. Called by answers.py."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB (1,000,000 octets): everything resident, and the share of it that is this process's own part.

    Pages that several processes share count whole in `resident` and in part, by their number, in `proportional`.
    """

    resident: float
    proportional: float


def memory_of(process_id: int) -> Memory:
    """Return what a process takes now: proc(5), /proc/pid/smaps_rollup, lines such as `Rss:  52340 kB`."""
    lines = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    found = {name: int(kibibytes) for name, kibibytes in re.findall(r"^(Rss|Pss): +(\d+) kB$", lines, re.MULTILINE)}
    return Memory(found["Rss"] * 1024 / 1e6, found["Pss"] * 1024 / 1e6)
