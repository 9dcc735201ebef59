# SPDX-License-Identifier: Apache-2.0
"""What a worker opens so that it can be watched: its checks, its reports, and the private address.

Puts together; what is checked, counted and told is in checks.py, counting.py, metrics.py and private.py.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from responder.cache import Cache
from responder.checks import Checks, FeedState
from responder.config import PrivateSettings
from responder.counting import Counts
from responder.feed import Feed
from responder.private import PrivateListener, create_private_app
from responder.reporter import Reporter
from responder.runtime.db import Database
from responder.signing.keyring import Keyring
from responder.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class Shared:
    """What the master has made for all its workers; `private` is the private address, where there is one."""

    snapshots: Snapshots
    private: socket.socket | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The parts of one worker that are looked at; `keyring` raises TryLater while there is none."""

    database: Database
    feed: Feed
    cache: Cache
    keyring: Callable[[], Keyring]
    counts: Counts
    clock: Callable[[], datetime]


@asynccontextmanager
async def overseen(watched: Watched, shared: Shared, settings: PrivateSettings) -> AsyncIterator[None]:
    """Check and report for as long as the block runs, and answer on the private address.

    Enter it when the worker can answer requests: the first report tells the master so. The last one is at the end.
    """
    checks = Checks(
        watched.database,
        feed=lambda: FeedState(watched.feed.age, watched.feed.is_fresh),
        keyring=watched.keyring,
        clock=watched.clock,
    )
    await checks.look()
    reporter = Reporter(
        watched.counts,
        shared.snapshots.writer(os.getpid()),
        examined=checks,
        kept=lambda: (len(watched.cache), watched.cache.octets),
        clock=watched.clock,
    )
    async with AsyncExitStack() as stack:
        stack.callback(reporter.report)
        for work in (checks.run(), reporter.run()):
            await stack.enter_async_context(_beside(work))
        if shared.private is not None:
            drain_file = Path(settings.drain_file) if settings.drain_file else None
            app = create_private_app(shared.snapshots, drain_file=drain_file, report=reporter.report)
            await stack.enter_async_context(PrivateListener(app, shared.private))
        yield


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
