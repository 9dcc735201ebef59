# SPDX-License-Identifier: Apache-2.0
"""What a settings file makes of a responder: what has to be there at the start, and what each worker opens.

Puts the responder together; decides nothing about answers. Processes and signals are master.py's and worker.py's.
"""

import asyncio
import gc
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from responder import config
from responder.app import create_app
from responder.asgi import Asgi, Receive, Scope, Send
from responder.audit import AuditFile, AuditLog, Stderr
from responder.cache import Cache
from responder.config import Settings
from responder.counting import Counts
from responder.demand import Demand
from responder.feed import Feed
from responder.front import Front
from responder.lookups import LookUps
from responder.oversight import Shared, Watched, overseen
from responder.replica import Replica
from responder.requestlog import RequestLog
from responder.runtime.clock import SecondClock
from responder.runtime.db import Database, connect_once
from responder.runtime.logs import get_logger
from responder.runtime.settings import database_dsn
from responder.service import Service
from responder.signing.configured import signing_keys
from responder.signing.holder import KeyringHolder
from responder.signing.keyring import admit_listed, list_signers
from responder.signing.keys import Keys
from responder.sockets import check_addresses
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
# Objects until the garbage collector looks at the new ones, and how often it then looks at older and at all of them.
_COLLECT_AFTER: Final = (20_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Start:
    """What a settings file says, and the two things that follow from it and from the environment."""

    path: Path
    settings: Settings
    dsn: str
    keys: Keys


def read_start(path: Path) -> Start:
    """Read the settings file and every secret that it names. Raises SettingsError."""
    settings = config.load_settings(path)
    dsn = config.to_primary(database_dsn(settings.database, path=path))
    config.check_audit(settings.audit, path=path)
    return Start(path, settings, dsn, signing_keys(settings.signing, path=path))


async def check_start(start: Start) -> None:
    """Refuse to start where no right answer could be given: schema, issuers, or not one signer that may sign.

    A signer that is refused while another issuer can be answered is told and tried again; a reboot at night must not
    fail for it. Nor must it for a token that does not answer yet, or where answers were signed ahead. Raises
    SchemaError, DatabaseError, IssuerError, SignerRefused or SettingsError, each with one line to print.
    """
    settings, keys = start.settings, start.keys
    async with connect_once(start.dsn, application="ocsp-responder") as connection:
        await check_schema(connection)
        listed = await list_signers(connection)
        backing = await freshness(connection)
        signed_ahead = await issuers_with_answers(connection, now=datetime.now(UTC))
    keyring = await admit_listed(listed, keys, now=datetime.now(UTC))
    await keys.close()
    if not signed_ahead or Use(settings.presigned.use) is Use.NEVER:
        keyring.check_usable()
    check_addresses(public=settings.http.bind, private=settings.private.bind, path=start.path)
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

    def __init__(self, start: Start, shared: Shared) -> None:
        """Remember what to open."""
        settings = self._settings = start.settings
        self._keys = start.keys
        self._dsn = start.dsn
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
            audit=await self._open_audit(clock),
        )
        self.front = Front(
            service,
            prefix=http.prefix,
            most_octets=http.most_request_octets,
            most_in_flight=http.most_in_flight,
            idle=http.keep_alive,
            clock=clock,
            counts=self._counts,
            request_log=self._request_log(),
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

    def _request_log(self) -> RequestLog | None:
        log = self._settings.log
        return RequestLog(log.requests, addresses=log.client_addresses) if log.requests > 0 else None

    async def _open_audit(self, clock: Callable[[], datetime]) -> AuditLog | None:
        settings = self._settings.audit
        if not settings.signatures:
            return None
        place = AuditFile(Path(settings.file)) if settings.file else Stderr()
        audit = AuditLog(place, self._counts, required=settings.required, process="ocsp-responder", clock=clock)
        return await self._stack.enter_async_context(audit)

    async def _open_replica(self) -> Replica | None:
        dsn = self._settings.database.replica_dsn
        return Replica(await self._open_database(dsn, _CONNECTIONS)) if dsn else None


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
