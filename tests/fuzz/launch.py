# SPDX-License-Identifier: Apache-2.0
"""Starts a fuzz target in a process of its own, which libFuzzer ends as it likes, and cleans up after it.

The parent keeps PostgreSQL and the seeds; a crash's input is left beside the other findings, and its path printed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.town import Fixed, town

_CHILD = "FUZZ_TOWN"


def launch(module: str, main: Callable[[], None], *, seeds: Callable[[Fixed], Sequence[bytes]]) -> None:
    """Be the child when started as one; else start it with what it needs, and exit as it does."""
    if _CHILD in os.environ:
        main()
        return
    findings = Path(os.environ.get("FUZZ_FINDINGS", "."))
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="foundling-fuzz-") as name:
        folder = Path(name)
        with town(folder) as fixed:
            given, new = sys.argv[1:], folder / "seeds"
            new.mkdir()
            for number, seed in enumerate(seeds(fixed)):
                (new / f"{number:04}").write_bytes(seed)
            # A folder of one's own keeps what was found, a file is one input to try again.
            places = [each for each in given if not each.startswith("-")]
            corpus = [] if any(Path(each).is_file() for each in places) else [str(new)]
            bounds = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=20000", f"-artifact_prefix={findings.resolve()}/"]
            done = subprocess.run(
                [sys.executable, "-m", module, *bounds, *given, *corpus],
                env={**os.environ, _CHILD: fixed.dump(), "FUZZ_FOLDER": name},
                check=False,
            )
    sys.exit(done.returncode)
