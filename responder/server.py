# SPDX-License-Identifier: Apache-2.0
"""gunicorn with uvicorn's worker: how many processes, on which socket, and what each of them opens after the fork.

Puts the responder together; decides nothing about answers.
"""

import asyncio
import gc
import logging
import os
import signal
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from uvicorn_worker import UvicornWorker

from responder import config
from responder.app import create_app
from responder.asgi import Asgi, Receive, Scope, Send
from responder.cache import Cache
from responder.config import Settings
from responder.counting import Counts
from responder.demand import Demand
from responder.fastpath import FastPath
from responder.feed import Feed
from responder.front import Front
from responder.lookups import LookUps
from responder.oversight import Shared, Watched, overseen
from responder.replica import Replica
from responder.runtime.clock import SecondClock
from responder.runtime.db import Database, connect_once
from responder.runtime.logs import get_logger
from responder.runtime.systemd import notify
from responder.service import Service
from responder.signing.holder import KeyringHolder
from responder.signing.keyring import admit_listed, list_signers
from responder.signing.keys import Keys
from responder.snapshots import Snapshots
from responder.sockets import check_addresses, private_listener
from responder.status.migrate import check_schema
from responder.status.presigned_store import issuers_with_answers
from responder.status.store import freshness
from responder.stored import StoredAnswers, Use

_log = get_logger("server")

# Connections of one worker for look-ups, which are gathered anyway.
_CONNECTIONS: Final = 3
# The feed's own, which no slow look-up can take: one to read, one to write down what was not answered, and one for
# loading issuers and signers.
_FEED_CONNECTIONS: Final = 3
# A client waits seconds, not more: a pool that has no connection by then means tryLater (seconds).
_PATIENCE: Final = 2.0
# A worker that does not answer gunicorn for so long is replaced (seconds).
_WORKER_TIMEOUT: Final = 30
# What the master tells a worker when it is to end.
_ENDINGS: Final = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGINT})
# Objects until the garbage collector looks at the new ones, and how often it then looks at older and at all of them.
_COLLECT_AFTER: Final = (20_000, 20, 100)


async def check_start(settings: Settings, keys: Keys, *, dsn: str, path: Path) -> None:
    """Refuse to start where no right answer could be given: schema, issuers, or not one signer that may sign.

    A signer that is refused while another issuer can be answered is told and tried again; a reboot at night must not
    fail for it. Nor must it for a token that does not answer yet, or where answers were signed ahead. Raises
    SchemaError, DatabaseError, IssuerError, SignerRefused or SettingsError, each with one line to print.
    """
    async with connect_once(dsn, application="ocsp-responder") as connection:
        await check_schema(connection)
        listed = await list_signers(connection)
        backing = await freshness(connection)
        signed_ahead = await issuers_with_answers(connection, now=datetime.now(UTC))
    keyring = await admit_listed(listed, keys, now=datetime.now(UTC))
    await keys.close()
    if not signed_ahead or Use(settings.presigned.use) is Use.NEVER:
        keyring.check_usable()
    check_addresses(public=settings.http.bind, private=settings.private.bind, path=path)
    for each in keyring.refused:
        _log.error("signer.refused", detail=str(each.why), meaning=each.meaning)
    for issuer in keyring.issuers.all:
        signer = keyring.signers.get(issuer.issuer_id)
        until = None if signer is None else signer.not_after.isoformat()
        _log.info("issuer", name=issuer.name, public=issuer.public, signed_until=until, answered=signer is not None)
    if not keyring.issuers.all:
        _log.warning("issuers.none", meaning="every request is answered unauthorized; see `ocsp-admin issuer add`")
    if backing.required == 0:
        _log.warning("sources.none_required", meaning="nothing backs an `unknown`: it is given without waiting")


class Responder:
    """The ASGI application of one worker: opens everything at startup, in the process that will use it."""

    def __init__(self, settings: Settings, keys: Keys, *, dsn: str, shared: Shared) -> None:
        """Remember what to open."""
        self._settings = settings
        self._keys = keys
        self._dsn = dsn
        self._shared = shared
        self._counts = Counts()
        self._stack = AsyncExitStack()
        self._cache = Cache(most=settings.cache.most_answers)
        self._app: Asgi | None = None
        self.front: Front | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the worker's life from start to end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """ASGI lifespan: open, serve until told to stop, close."""
        await receive()
        async with self._stack:
            await self._open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> None:
        """Open what there is. Without a database the worker starts all the same: gunicorn stops when a worker does not.

        The first reading of the feed loads issuers and signers; until one succeeds, every answer is tryLater.
        """
        clock = SecondClock()
        apart = await self._open_database(self._dsn, _FEED_CONNECTIONS)
        self._stack.push_async_callback(self._keys.close)
        holder = KeyringHolder(apart, self._keys, clock=clock, changed=self._cache.empty)
        replica = await self._open_replica()
        feed = Feed(apart, self._cache, reload=holder.reload, counts=self._counts, replica=replica)
        http = self._settings.http
        asked = await self._open_database(self._dsn, _CONNECTIONS)
        lookups = LookUps(asked, deadline=http.deadline.total_seconds(), counts=self._counts, replica=replica)
        presigned = self._settings.presigned
        demand = Demand(apart) if presigned.keep == "asked" else None
        service = Service(
            lookups=lookups,
            cache=self._cache,
            feed=feed,
            keyring=holder.current,
            clock=clock,
            stored=StoredAnswers(asked, Use(presigned.use), clock=clock),
            demand=demand,
            counts=self._counts,
        )
        self.front = Front(
            service,
            prefix=http.prefix,
            most_octets=http.most_request_octets,
            most_in_flight=http.most_in_flight,
            idle=http.keep_alive,
            clock=clock,
            counts=self._counts,
        )
        self._app = create_app(self.front)
        await feed.read_once()
        _spare_the_collector()
        for endless in (feed.run(), holder.try_refused_again(), self.front.sweep()):
            self._stack.push_async_callback(_stop, asyncio.create_task(endless))
        watched = Watched(
            database=apart, feed=feed, cache=self._cache, keyring=holder.current, counts=self._counts, clock=clock
        )
        await self._stack.enter_async_context(overseen(watched, self._shared, self._settings.private))
        if demand is not None:
            self._stack.push_async_callback(_stop, asyncio.create_task(demand.run()))

    async def _open_database(self, dsn: str, most: int) -> Database:
        database = Database(dsn, application="ocsp-responder", most=most, timeout=_PATIENCE)
        return await self._stack.enter_async_context(database)

    async def _open_replica(self) -> Replica | None:
        dsn = self._settings.database.replica_dsn
        return Replica(await self._open_database(dsn, _CONNECTIONS)) if dsn else None


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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


class _QuietLogger(Logger):  # type: ignore[misc] # ships no types
    """Lets gunicorn's lines go where all others go, as JSON."""

    def setup(self, cfg: Any) -> None:
        """Take gunicorn's settings and no handler of its own."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.access_log.propagate = False


class _Arbiter(Arbiter):  # type: ignore[misc] # ships no types
    """gunicorn's master, which also tells systemd's watchdog that it turns, and adds up what ended workers counted."""

    def __init__(self, app: "Server", shared: Shared) -> None:
        """Serve the application."""
        super().__init__(app)
        self._shared = shared

    def spawn_worker(self) -> Any:
        """Fork a worker. It is deaf until it has put its own ear in place, or it would hear with the master's."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reap_workers(self) -> None:
        """Learn which workers have ended. Their numbers cannot be used again before this, so no two are confused."""
        try:
            super().reap_workers()
        finally:
            self._shared.snapshots.bury_all_but(self.WORKERS)

    def murder_workers(self) -> None:
        """Replace workers that hang: gunicorn does this about once a second, so it is a sign of life."""
        super().murder_workers()
        notify("WATCHDOG=1")


class Server(BaseApplication):  # type: ignore[misc] # ships no types
    """gunicorn, configured by our settings and nothing else: no gunicorn file, no GUNICORN_CMD_ARGS."""

    def __init__(self, settings: Settings, keys: Keys, *, dsn: str, path: Path) -> None:
        """Remember the settings; the parent's constructor asks for them right away."""
        self._settings = settings
        self._keys = keys
        self._dsn = dsn
        self._path = path
        self._shared: Shared | None = None
        super().__init__()

    def load_config(self) -> None:
        """Hand gunicorn its settings."""
        http = self._settings.http
        for name, value in {
            "bind": http.bind,
            "workers": config.workers(http),
            "worker_class": "responder.server.Worker",
            "keepalive": http.keep_alive,
            "timeout": _WORKER_TIMEOUT,
            "graceful_timeout": _WORKER_TIMEOUT,
            "proc_name": "ocsp-responder",
            "logger_class": _QuietLogger,
            # Signals are all that commands this process: no control socket, where gunicorn has one.
            "control_socket_disable": True,
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Responder:
        """Return the application; gunicorn asks for it in each worker."""
        if self._shared is None:
            raise RuntimeError("there is nothing to load before run()")
        return Responder(self._settings, self._keys, dsn=self._dsn, shared=self._shared)

    def run(self) -> None:
        """Run until SIGTERM. Raises SettingsError where the private address cannot be listened on."""
        master = os.getpid()
        private = private_listener(self._settings.private.bind, path=self._path)
        self._shared = Shared(Snapshots.create(), private)
        try:
            _Arbiter(self, self._shared).run()
        finally:
            # Workers are forks of this very frame, and leave through it too.
            if os.getpid() == master:
                self._shared.snapshots.remove()


def _spare_the_collector() -> None:
    """Have the garbage collector look less often, and never at what is there from the start.

    Tens of thousands of kept answers are no garbage, and going through them would hold up every answer for that time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
