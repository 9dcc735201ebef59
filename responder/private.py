# SPDX-License-Identifier: Apache-2.0
"""The private address: /healthz, /readyz and /metrics, for those who watch over this host. Never an OCSP answer.

A listener of its own in each worker, beside the public one and unknown to it: no request that arrives there can come
here, and the other way round. Whichever worker is asked tells of all.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import falcon
import falcon.asgi
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from responder.metrics import exposition
from responder.readiness import readiness
from responder.runtime.logs import get_logger
from responder.snapshots import Snapshots, whole

_log = get_logger("private")

# Those who watch are few: more at once is a mistake, and not to cost anybody an OCSP answer.
_MOST_CONNECTIONS: Final = 64
_KEEP_ALIVE: Final = 75


class _Alive:
    """/healthz: this process answers. Nothing else is asked, so that no outage elsewhere makes anybody restart it."""

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = "ok\n"

    on_head = on_get


class _Ready:
    """/readyz: 200 where requests are to come here, 503 where not, and the reasons in JSON either way."""

    def __init__(self, snapshots: Snapshots, drain_file: Path | None, report: Callable[[], None]) -> None:
        self._snapshots = snapshots
        self._drain_file = drain_file
        self._report = report

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._report()
        living, _ended = self._snapshots.read()
        found = readiness(living, now=time.monotonic(), drain_file=self._drain_file)
        resp.media = found.told()
        resp.status = falcon.HTTP_200 if found.ready else falcon.HTTP_503

    on_head = on_get


class _Metrics:
    """/metrics: the numbers of all workers of this host."""

    def __init__(self, snapshots: Snapshots, report: Callable[[], None]) -> None:
        self._snapshots = snapshots
        self._report = report

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        self._report()
        resp.data, resp.content_type = exposition(whole(*self._snapshots.read()), accept=req.accept)

    on_head = on_get


def create_private_app(
    snapshots: Snapshots, *, drain_file: Path | None, report: Callable[[], None]
) -> falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]:
    """Return the application; `report` brings this worker's own numbers up to date before they are told."""
    app = falcon.asgi.App()
    app.add_route("/healthz", _Alive())
    app.add_route("/readyz", _Ready(snapshots, drain_file, report))
    app.add_route("/metrics", _Metrics(snapshots, report))
    return app


class PrivateListener:
    """Serves the private application on a socket that the master has opened. Use as `async with`."""

    def __init__(
        self, app: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response], listener: socket.socket
    ) -> None:
        """Serve nothing yet."""
        self._listener = listener
        self._config = Config(
            app=app, http=HttpToolsProtocol, lifespan="off", ws="none", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=_KEEP_ALIVE,
            limit_concurrency=_MOST_CONNECTIONS,
        )  # fmt: skip
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._config.load()
        # A socket of this process's own, so that closing it here closes it nowhere else.
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=self._listener.dup())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()

    def _connection(self) -> asyncio.Protocol:
        return HttpToolsProtocol(config=self._config, server_state=self._state, app_state={})
