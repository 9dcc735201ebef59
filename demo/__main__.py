# SPDX-License-Identifier: Apache-2.0
"""`make demo`: set the stage, play the incident, clear the stage. Exits 0 when everything went as promised."""

import argparse
import signal
import sys
import time

from demo.play import Failed, opening, play
from demo.stage import Stage, StageError, set_up


def main() -> int:
    """Play once; with --keep, stay until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="The incident in miniature.")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell that starts us in the background would have us ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    print(opening())
    try:
        with set_up() as stage:
            play(stage)
            print(f"\nDone in {time.monotonic() - began:.1f} seconds.")
            if given.keep:
                _keep(stage)
    except (Failed, StageError) as exc:
        print(f"\nThe demonstration failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _keep(stage: Stage) -> None:
    print(f"\nStill running:\n{stage.addresses}\nCtrl-C ends it and leaves nothing behind.", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
