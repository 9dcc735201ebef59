# SPDX-License-Identifier: Apache-2.0
"""A parser that takes arguments in any order: `check-url URL --issuer NAME SERIALHEX…`. Called by cli.py."""

import argparse
from typing import Any


class AnyOrder(argparse.ArgumentParser):
    """Looks for positionals twice: by itself argparse takes all of a kind from the first stretch of them, or none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what argparse gives."""
        super().__init__(*args, **kwargs)
        self._looking_again = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse in any order, but for what has further commands below it, where the order is what counts."""
        if self._looking_again or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._looking_again = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._looking_again = False
