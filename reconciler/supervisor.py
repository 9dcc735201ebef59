# SPDX-License-Identifier: Apache-2.0
"""A task per source: when to read, how long to wait after trouble, when to stop. Never parses, never writes rows.

Sources share nothing but the database, so that a slow or hostile one never holds up another.
"""

import asyncio
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from reconciler import metrics, store
from reconciler.errors import RetrySource
from reconciler.follow import Pass, follow
from reconciler.model import Source
from reconciler.orphans import watch_for_orphans
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import get_logger
from responder.runtime.systemd import notify, watchdog_interval
from responder.status.issuer_store import generation, load_issuers
from responder.status.issuers import IssuerSet

_log = get_logger("supervisor")

# `once` gives a source this many tries.
_ONCE_TRIES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to stay away from a source that is in trouble and does not say how long itself, in seconds.

    Doubling with jitter from `least` to `most`. `once` never waits longer than `once_most`, whatever the source says.
    """

    least: float = 1.0
    most: float = 300.0
    once_most: float = 10.0


_USUAL: Final = Patience()


@dataclass(frozen=True, slots=True)
class Watched:
    """A source, and how often it is read when all is well."""

    source: Source
    poll: timedelta


class Issuers:
    """The issuers as of now: loaded anew when the database says that they changed."""

    def __init__(self, database: Database) -> None:
        """Load nothing yet."""
        self._database = database
        self._generation: int | None = None
        self._issuers = IssuerSet(())

    async def current(self) -> IssuerSet:
        """Return the issuers. Raises DatabaseError, and IssuerError for a certificate that cannot be read."""
        async with self._database.connection() as connection:
            found = await generation(connection)
            if found != self._generation:
                self._issuers = await load_issuers(connection)
                self._generation = found
                _log.info("issuers.loaded", issuers=[issuer.name for issuer in self._issuers.all])
        return self._issuers


async def enter_sources(database: Database, watched: Sequence[Watched]) -> dict[str, int]:
    """Make the database's set of sources that of the configuration, and return their row numbers by name."""
    # One order everywhere, so that two reconcilers starting at once cannot wait for each other.
    settings = sorted((each.source.settings for each in watched), key=lambda each: each.name)
    names = [each.name for each in settings]
    async with database.transaction() as connection:
        numbers = {each.name: await store.enter_source(connection, each) for each in settings}
        dropped = await store.drop_other_sources(connection, names)
    for name in dropped:
        _log.warning("source.left_configuration", source=name)
    if not any(each.source.settings.required for each in watched):
        _log.warning("sources.none_required", meaning="nothing backs an `unknown`: it is given without waiting")
    return numbers


async def run(
    database: Database, watched: Sequence[Watched], *, orphan_after: timedelta, patience: Patience = _USUAL
) -> None:
    """Follow every source until SIGTERM or SIGINT."""
    numbers = await enter_sources(database, watched)
    issuers = Issuers(database)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with asyncio.TaskGroup() as tasks:
        following = [
            tasks.create_task(
                _keep_following(each, database, issuers, source_id=numbers[each.source.settings.name], waits=patience)
            )
            for each in watched
        ]
        following.append(tasks.create_task(watch_for_orphans(database, after=orphan_after)))
        following.append(tasks.create_task(_feed_watchdog()))
        notify("READY=1")
        _log.info("started", sources=list(numbers))
        await stop.wait()
        notify("STOPPING=1")
        for task in following:
            task.cancel()
    _log.info("stopped")


async def once(database: Database, watched: Sequence[Watched], *, patience: Patience = _USUAL) -> list[str]:
    """Make one pass over every source, all at once, and return the names of those that did not get to their end.

    What one of them raises is raised only when all are done: whatever goes wrong with one stays with it.
    """
    numbers = await enter_sources(database, watched)
    issuers = Issuers(database)
    passes = await asyncio.gather(
        *(
            _one_pass(each, database, issuers, source_id=numbers[each.source.settings.name], waits=patience)
            for each in watched
        ),
        return_exceptions=True,
    )
    for outcome in passes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [each.source.settings.name for each, caught_up in zip(watched, passes, strict=True) if not caught_up]


async def _one_pass(each: Watched, database: Database, issuers: Issuers, *, source_id: int, waits: Patience) -> bool:
    patience = waits.least
    for tries_left in reversed(range(_ONCE_TRIES)):
        try:
            done = await follow(each.source, database, await issuers.current(), source_id=source_id)
        except RetrySource as trouble:
            _tell_trouble(each.source, trouble)
            if tries_left:
                await asyncio.sleep(min(trouble.retry_after or patience, waits.once_most))
            patience *= 2
        else:
            _tell_pass(done)
            return done.caught_up
        finally:
            await each.source.close()
    return False


async def _keep_following(
    each: Watched, database: Database, issuers: Issuers, *, source_id: int, waits: Patience
) -> None:
    """Follow one source for ever. Whatever goes wrong with it stays with it."""
    patience = waits.least
    try:
        while True:
            wait = await _try_pass(each, database, issuers, source_id=source_id)
            if wait is None:
                patience = waits.least
                await asyncio.sleep(each.poll.total_seconds())
            else:
                await asyncio.sleep(wait or random.uniform(patience / 2, patience))  # noqa: S311 - jitter, no secret
                patience = min(patience * 2, waits.most)
    finally:
        with suppress(Exception):
            await each.source.close()


async def _try_pass(each: Watched, database: Database, issuers: Issuers, *, source_id: int) -> float | None:
    """Make a pass; return None when it went well, else the seconds that the source asked for, 0 if it named none."""
    try:
        _tell_pass(await follow(each.source, database, await issuers.current(), source_id=source_id))
    except RetrySource as trouble:
        _tell_trouble(each.source, trouble)
        return trouble.retry_after or 0.0
    except DatabaseError as trouble:
        _tell_trouble(each.source, trouble)
        return 0.0
    except Exception:  # noqa: BLE001 - a fault of ours must not end the other sources; this one goes stale
        _log.exception("source.fault", source=each.source.settings.name)
        metrics.TROUBLES.labels(source=each.source.settings.name, kind="fault").inc()
        return 0.0
    return None


async def _feed_watchdog() -> None:
    """Tell systemd that the event loop turns, as often as it wants to hear it."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _tell_pass(done: Pass) -> None:
    metrics.count_pass(done)
    _log.debug("source.read", source=done.source, caught_up=done.caught_up, rows=done.rows, **done.counts)


def _tell_trouble(source: Source, trouble: Exception) -> None:
    name = source.settings.name
    metrics.TROUBLES.labels(source=name, kind=type(trouble).__name__).inc()
    _log.warning("source.trouble", source=name, kind=type(trouble).__name__, detail=str(trouble))
