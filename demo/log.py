# SPDX-License-Identifier: Apache-2.0
"""A small real CT log over HTTP: RFC 6962 and static-ct-api on one loopback port, faults on demand.

Knows sockets, processes and the switches; what the log holds and signs is in demo/logbook.py, what it answers in
demo/endpoints.py, what goes wrong in demo/faults.py. Called by the demonstration and tests, or as `python -m demo.log`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.ca import write_key
from demo.endpoints import ENDPOINTS, JSON, NO_STORE, Endpoint, RefusedError, Visit, as_json
from demo.faults import Answer, Fault, Faults, Stage
from demo.leaf import Entry, Head, SignedCertificateTimestamp, b64, fingerprint
from demo.logbook import Log

__all__ = ["Entry", "Fault", "Faults", "Head", "Log", "SignedCertificateTimestamp", "application", "serve"]

SETTINGS = {"auto_publish", "max_batch", "align", "gzip", "drop_partials", "leaf_index", "head_age"}
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _reply(log: Log, endpoint: Endpoint) -> Reply:
    """Wrap an endpoint in what every request goes through: counters, and the faults of each stage."""

    async def reply(request: web.Request) -> web.StreamResponse:
        tail = request.match_info.get("tail", "")
        labels = frozenset((*endpoint.labels, "partial") if ".p/" in tail else endpoint.labels)
        log.requests.update(labels)
        log.last_headers = dict(request.headers)
        for act in log.faults.due(Stage.INSTEAD, labels):
            instead: Answer | None = await act(request)
            if instead is not None:
                return instead.response()
        world = log
        if request.method == "GET":
            for act in log.faults.due(Stage.WORLD, labels):
                world = act(log)
        answer = _answered(endpoint, Visit(world, labels, request.query, tail, await request.read()))
        answer = _compressed(answer) if _wants_gzip(log, request, answer) else answer
        for act in log.faults.due(Stage.SENDING, labels):
            spoilt: web.StreamResponse = await act(request, answer)
            return spoilt
        return answer.response()

    return reply


def _answered(endpoint: Endpoint, visit: Visit) -> Answer:
    try:
        return endpoint.answer(visit)
    except RefusedError as exc:
        return Answer(f"{exc}\n".encode(), "text/plain; charset=utf-8", exc.status, NO_STORE)


def _wants_gzip(log: Log, request: web.Request, answer: Answer) -> bool:
    return log.gzip and answer.content_type == JSON and "gzip" in request.headers.get("Accept-Encoding", "")


def _compressed(answer: Answer) -> Answer:
    return replace(answer, body=gzip.compress(answer.body, 1), headers={**answer.headers, "Content-Encoding": "gzip"})


# The switches, for whoever runs the log in another process.


def _state(log: Log) -> dict[str, object]:
    return {
        "size": log.size,
        "published": log.published,
        "requests": dict(log.requests),
        "faults": log.faults.json(),
        "settings": {name: getattr(log, name) for name in sorted(SETTINGS)},
        "last_user_agent": log.last_headers.get("User-Agent"),
        "last_headers": log.last_headers,
    }


def _switch(log: Log, order: Mapping[str, object]) -> None:
    """Carry out one order: {"name": …, settings of the fault} or {"clear": true} or {"clear": "name"}."""
    if "clear" in order:
        log.faults.clear(None if order["clear"] is True else str(order["clear"]))
        return
    settings = {name: value for name, value in order.items() if name != "name"}
    log.faults.set(str(order["name"]), **settings)


def _change(log: Log, order: Mapping[str, object]) -> None:
    """Change settings of the log, by their names in Python."""
    for name, value in order.items():
        if name not in SETTINGS:
            raise KeyError(name)
        setattr(log, name, value)


def _publish(log: Log, _: Mapping[str, object]) -> None:
    log.publish()


def _control(log: Log, carry_out: Callable[[Log, Mapping[str, object]], None]) -> Reply:
    """Wrap orders, one JSON object or a list of them; the answer is the state afterwards."""

    async def reply(request: web.Request) -> web.StreamResponse:
        try:
            given = json.loads(await request.read() or b"{}")
            for order in given if isinstance(given, list) else [given]:
                carry_out(log, order)
        except (ValueError, KeyError, TypeError) as exc:
            return as_json({"error": f"{type(exc).__name__}: {exc}"}, status=400).response()
        return as_json(_state(log)).response()

    return reply


def application(log: Log, *, prefix: str = "") -> web.Application:
    """Put the log under `prefix`, with its switches under `prefix`/_demo/ (state, faults, settings, publish)."""
    app = web.Application(client_max_size=4 << 20)

    async def state(_: web.Request) -> web.StreamResponse:
        return as_json(_state(log)).response()

    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, prefix + endpoint.path, _reply(log, endpoint))
    app.router.add_get(prefix + "/_demo/state", state)
    app.router.add_post(prefix + "/_demo/faults", _control(log, _switch))
    app.router.add_post(prefix + "/_demo/settings", _control(log, _change))
    app.router.add_post(prefix + "/_demo/publish", _control(log, _publish))
    return app


@contextlib.asynccontextmanager
async def serve(log: Log, *, port: int = 0, prefix: str = "", publish_every: float | None = None) -> AsyncIterator[str]:
    """Serve a log on loopback for as long as the context lasts; yields its base URL, without a trailing slash.

    `port` 0 takes a free one. With `publish_every`, in seconds, heads are signed in that rhythm.
    """
    runner = web.AppRunner(
        application(log, prefix=prefix), access_log=None, shutdown_timeout=0.2, handler_cancellation=True
    )
    await runner.setup()
    publisher: asyncio.Task[None] | None = None
    given = log.origin
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        where = f"127.0.0.1:{runner.addresses[0][1]}{prefix}"
        log.origin = where if given is None else given
        if publish_every is not None:
            publisher = asyncio.create_task(_publish_regularly(log, publish_every))
        yield f"http://{where}"
    finally:
        if publisher is not None:
            publisher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publisher
        await runner.cleanup()
        # A name taken from the address ends with the address.
        log.origin = given


async def _publish_regularly(log: Log, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        log.publish()


# As a process of its own.


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.log", description="A small CT log on a loopback address.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--prefix", default="", help="path the log lives under, such as /navigli")
    parser.add_argument("--key", type=Path, help="the log's P-256 key, PEM; made when the file does not exist")
    parser.add_argument("--origin", help="name in checkpoints; default: the log's address")
    parser.add_argument("--roots", type=Path, nargs="*", default=[], help="accepted roots, PEM; none: any chain")
    parser.add_argument("--data-tiles", type=Path, nargs="*", default=[], help="data tiles to start with, in order")
    parser.add_argument("--issuers", type=Path, nargs="*", default=[], help="certificates of their chains, PEM")
    parser.add_argument("--max-batch", type=int, default=1000, help="most entries get-entries gives")
    parser.add_argument("--publish-every", type=float, help="seconds between heads; default: a head per entry")
    parser.add_argument("--align", action="store_true", help="let get-entries end at multiples of --max-batch")
    parser.add_argument("--gzip", action="store_true", help="compress data tiles, and JSON on request")
    parser.add_argument("--drop-partials", action="store_true", help="drop partial tiles once full")
    return parser.parse_args(arguments)


def _key(path: Path | None) -> ec.EllipticCurvePrivateKey:
    """Load the log's key, or make one and keep it where the caller wants it."""
    if path is None or not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        if path is not None:
            write_key(path, made)
        return made
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SystemExit(f"{path} holds no elliptic curve key")
    return key


def _assembled(options: argparse.Namespace) -> Log:
    """Build the log the command line asks for."""
    tiles = [path.read_bytes() for path in options.data_tiles]
    log = Log.from_data_tiles(tiles, key=_key(options.key), origin=options.origin)
    log.roots = [root for path in options.roots for root in x509.load_pem_x509_certificates(path.read_bytes())]
    for path in options.issuers:
        for certificate in x509.load_pem_x509_certificates(path.read_bytes()):
            encoded = certificate.public_bytes(serialization.Encoding.DER)
            log.issuers[fingerprint(encoded)] = encoded
    log.max_batch, log.align, log.gzip = options.max_batch, options.align, options.gzip
    log.drop_partials, log.auto_publish = options.drop_partials, options.publish_every is None
    return log


async def _run(options: argparse.Namespace) -> None:
    """Serve until told to stop; one line of JSON on stdout says that we are ready, and who we are."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    log = _assembled(options)
    async with serve(log, port=options.port, prefix=options.prefix, publish_every=options.publish_every) as url:
        ready = {"url": url, "key": log.key_b64, "log_id": b64(log.log_id), "origin": log.origin, "size": log.size}
        print(json.dumps(ready), flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_run(_options(None)))
