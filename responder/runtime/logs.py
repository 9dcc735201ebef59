# SPDX-License-Identifier: Apache-2.0
"""Log lines: one JSON object each, to standard error, from our code and from the libraries under it alike.

Knows no event. Every process calls `configure` once, before anything else logs.
"""

import logging
import sys
import time
from typing import Any, Final, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]

# Libraries that would tell us about every request, and in an outage about every attempt to connect, several a second:
# that is told once, by whoever needed the connection.
_QUIET: Final = {
    "asyncio": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "psycopg.pool": logging.ERROR,
}


def configure(level: Level, *, process: str) -> None:
    """Send every log line of this process to standard error as JSON, from `level` on."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.dict_tracebacks,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))


class Sparingly:
    """Lets one line through for each word and interval, and counts the others, so that an outage floods no log."""

    def __init__(self, *, seconds: float) -> None:
        """Let the first line of every word through at once."""
        self._seconds = seconds
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def unsaid(self, word: str) -> int | None:
        """Return how many lines were held back since the last one, or None when this one is to be held back too."""
        now = time.monotonic()
        if now - self._said.get(word, float("-inf")) < self._seconds:
            self._unsaid[word] = self._unsaid.get(word, 0) + 1
            return None
        self._said[word] = now
        return self._unsaid.pop(word, 0)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of that name. Events are short names, everything else is a keyword."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
