# SPDX-License-Identifier: Apache-2.0
"""Log lines that are held back are counted."""

import time

from responder.runtime.logs import Sparingly


def test_the_first_line_goes_through_and_the_next_are_counted() -> None:
    sparingly = Sparingly(seconds=0.05)
    assert sparingly.unsaid("database") == 0
    assert [sparingly.unsaid("database") for _ in range(3)] == [None, None, None]
    assert sparingly.unsaid("signer") == 0
    time.sleep(0.06)
    assert sparingly.unsaid("database") == 3
    time.sleep(0.06)
    assert sparingly.unsaid("database") == 0
