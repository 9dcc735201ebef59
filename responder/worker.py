# SPDX-License-Identifier: Apache-2.0
"""One worker as gunicorn runs it: uvicorn, which ends without a client noticing. Knows no OCSP.

Started by master.py, in a process of its own.
"""

import asyncio
import logging
import signal
import sys
from typing import Any, Final

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker

from responder.fastpath import FastPath

# What the master tells a worker when it is to end.
ENDINGS: Final = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGINT})
# For so long (seconds) a worker that is to end goes on as before, but that every answer is its connection's last one:
# HTTP has no other way to tell a client that a connection is going to close (RFC 9112 section 9.6). A client that has
# asked nothing meanwhile is not in the middle of anything.
_FAREWELL: Final = 1.0
_TURN: Final = 0.05


class _Ending(Server):
    """uvicorn's server, which says farewell before it stops listening."""

    async def main_loop(self) -> None:
        """Serve until told to end, and then a little longer."""
        await super().main_loop()
        front = self.config.app.front  # type: ignore[union-attr] # a Responder, whatever uvicorn takes
        if front is None:
            return
        front.is_ending = True
        turns = int(_FAREWELL / _TURN)
        while self.server_state.connections and not self.force_exit and turns > 0:
            await asyncio.sleep(_TURN)
            turns -= 1


class Worker(UvicornWorker):  # type: ignore[misc] # ships no types
    """uvicorn under gunicorn, with the fastest loop and parser there are, and headers left to us."""

    CONFIG_KWARGS: Final = {
        "loop": "uvloop",
        "http": FastPath,
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "ws": "none",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Let uvicorn's lines go where all others go, and only those that an operator can do something about."""
        super().__init__(*args, **kwargs)
        logger = logging.getLogger("uvicorn.error")
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(max(logging.WARNING, logging.getLogger().level))

    def init_signals(self) -> None:
        """Hear what the master says from here on, and what it has said since the fork."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = _Ending(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
