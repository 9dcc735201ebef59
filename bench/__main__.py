# SPDX-License-Identifier: Apache-2.0
"""`make bench`: measure everything in one run, print the table, write the document. Exits 1 when a row is invalid."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench import answers, healing, machine, presigning, reading
from bench.aims import verdicts
from bench.answers import Effort
from bench.cores import Cores, on
from bench.figures import Figure, table
from bench.load import CONNECTIONS
from bench.report import document
from bench.rows import Size
from demo.postgres import throwaway_server
from demo.stage import StageError

_DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"
_EFFORT: Final = Effort()
_PARTS: Final = ("answers", "reading", "healing", "presigning")
# Too long for every run; asked for by name, and printed only.
_APART: Final = ("mass-revocation",)


def main() -> int:
    """Measure; with --only, a part of it, which is printed and not written down."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began, before, cores = time.monotonic(), machine.load_average(), Cores.found()
    if cores.server == cores.load:
        print("There is one core only: server and load share it, and the ratios say little.")
    try:
        with ExitStack() as stack:
            with on(cores.load):
                server = stack.enter_context(throwaway_server())
            facts = machine.describe(server)
            figures, missing = _measure(server, given, cores=cores)
    except StageError as exc:
        print(f"The measurements could not be set up: {exc}", file=sys.stderr)
        return 1
    print(f"\n{table(figures)}\n\n{verdicts(figures)}\n\n{time.monotonic() - began:.0f} seconds.")
    for line in missing:
        print(f"Not measured: {line}")
    if set(given.only) == set(_PARTS):
        text = document(
            figures,
            missing=missing,
            machine=facts,
            load=(before, machine.load_average()),
            when=datetime.now(UTC),
            method={
                "connections": CONNECTIONS,
                "p256": Size().p256,
                "rsa2048": Size().rsa2048,
                "warm_up": given.effort.warm_up,
                "seconds": given.effort.seconds,
                "repetitions": given.effort.repetitions,
            },
        )
        given.output.write_text(text)
    return 1 if any(figure.all_faults for figure in figures) else 0


def _measure(server: str, given: argparse.Namespace, *, cores: Cores) -> tuple[list[Figure], list[str]]:
    """Run the parts one after another, each in a folder of its own that is deleted."""
    missing: list[str] = []
    figures: list[Figure] = []

    def part(name: str, measure: Callable[[Path], list[Figure]]) -> None:
        if name in given.only:
            print(f"{name} …", flush=True)
            with TemporaryDirectory(prefix="foundling-bench-") as folder:
                figures.extend(measure(Path(folder)))

    def measure_answers(folder: Path) -> list[Figure]:
        found, absent = answers.measure(server, folder, cores=cores, effort=given.effort)
        missing.extend(absent)
        return found

    part("answers", measure_answers)
    part("reading", lambda folder: reading.measure(server, folder, cores=cores, repetitions=given.effort.repetitions))
    part("healing", lambda folder: [healing.measure(server, folder)])
    part(
        "presigning",
        lambda folder: presigning.measure(server, folder, cores=cores, repetitions=given.effort.repetitions),
    )
    part(
        "mass-revocation",
        lambda folder: presigning.measure_mass(server, folder, kind=given.key, certificates=given.certificates),
    )
    return figures, missing


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, side by side with others.")
    parser.add_argument("--seconds", type=int, default=_EFFORT.seconds, help="for each repetition of a row of answers")
    parser.add_argument("--repetitions", type=int, default=_EFFORT.repetitions, help="of each row")
    parser.add_argument("--output", type=Path, default=_DOCUMENT, help="the document; default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS + _APART, default=_PARTS, help="these parts; then no document is written"
    )
    parser.add_argument("--certificates", type=int, default=presigning.MASS, help="of the mass revocation")
    parser.add_argument("--key", choices=list(presigning.KINDS), default="p256", help="of the mass revocation")
    given = parser.parse_args()
    given.effort = Effort(seconds=given.seconds, repetitions=given.repetitions)
    return given


if __name__ == "__main__":
    sys.exit(main())
