# SPDX-License-Identifier: Apache-2.0
"""Fuzzing from the octets of a connection to the answers: `python -m tests.fuzz.http -max_total_time=60 [FOLDER]`.

Takes libFuzzer's options. The responder is whole, in this process, on a real PostgreSQL that the parent starts.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["responder", "uvicorn", "falcon"], enable_loader_override=False):
    from tests.fuzz.launch import launch
    from tests.fuzz.town import Fixed
    from tests.responder.within import read_replies, within

# A piece boundary in the fuzzer's input: no client sends this by itself, and a mutator finds it quickly.
SPLIT: Final = b"\xff\x00\xff"


def main() -> None:
    """Fuzz until libFuzzer says that it is enough; it ends the process."""
    fixed = Fixed.load(os.environ["FUZZ_TOWN"])
    with within(fixed.dsn, Path(tempfile.mkdtemp(dir=os.environ["FUZZ_FOLDER"]))) as responder:

        def one(data: bytes) -> None:
            pieces = [piece for piece in data.split(SPLIT) if piece]
            replies = read_replies(responder.exchange(*pieces))
            octets = b"".join(pieces)
            for reply in replies:
                fixed.judge(reply)
            # Whatever else: who has not ended so many heads has not asked so many questions.
            answered = sum(reply.status in {200, 304, 405} for reply in replies)
            assert answered <= octets.count(b"\n\r\n") + octets.count(b"\n\n"), "an answer to half a request"

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    launch("tests.fuzz.http", main, seeds=lambda fixed: fixed.seeds())
