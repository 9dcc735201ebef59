# SPDX-License-Identifier: Apache-2.0
"""The time as OCSP and HTTP count it: whole seconds, UTC. Asked several times for every answer."""

import time
from datetime import UTC, datetime


class SecondClock:
    """Returns the present second, the same object while it lasts: whoever keeps things by it finds them fast."""

    def __init__(self) -> None:
        """Begin with the present second."""
        self._second = int(time.time())
        self._moment = datetime.fromtimestamp(self._second, UTC)

    def __call__(self) -> datetime:
        """Return the present second. No bound of ours is finer, so its fraction is nobody's loss."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._moment = datetime.fromtimestamp(second, UTC)
        return self._moment
