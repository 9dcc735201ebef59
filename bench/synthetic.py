# SPDX-License-Identifier: Apache-2.0
"""Two CT logs full of entries, as a process of its own: `python -m bench.synthetic FOLDER`. Started by reading.py.

Knows how to make many entries quickly; the log itself is the demonstration's. Answers are kept as a CDN in front would,
so that the reader is measured and not the log.
"""

import argparse
import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from cryptography.hazmat.primitives.serialization import Encoding

from demo.ca import Authority, leaf_tbs, make_key, spki_sha256, write_certificates
from demo.leaf import PRECERT_ENTRY, Entry, fingerprint, leaf_index_extension, merkle_tree_leaf, opaque
from demo.log import Log, application
from demo.logbook import TILE

#: Leaf TBSCertificate, precertificate, fingerprints of the chain.
Parts = tuple[bytes, bytes, tuple[bytes, ...]]
#: Where the certificate of the authority that is "ours" is written.
CA_FILE: Final = "ours.pem"
_LASTING: Final = ("/tile/", "/issuer/", "/ct/v1/get-entries")
#: The serial that is replaced to make many precertificates of one.
_SERIAL: Final = int.from_bytes(bytes.fromhex("5a71c3e09d4482b6f1a2530e77c8d914"))


def foreign_entries(authority: Authority, root: Authority) -> Iterator[Parts]:
    """Yield, without end, (leaf TBS, precertificate, fingerprints) of somebody else's.

    They differ in their serials; their signatures are those of the first, as nobody verifies what is not ours.
    """
    first = authority.precertificate("foreign.example", serial=_SERIAL, ocsp_url="http://ocsp.foreign.example/")
    whole, tbs, old = first.public_bytes(Encoding.DER), leaf_tbs(first), _SERIAL.to_bytes(16)
    fingerprints = tuple(fingerprint(each.certificate.public_bytes(Encoding.DER)) for each in (authority, root))
    while True:
        new = b"\x5a" + secrets.token_bytes(15)
        yield tbs.replace(old, new, 1), whole.replace(old, new, 1), fingerprints


def our_entries(authority: Authority) -> Iterator[Parts]:
    """Yield, without end, the same of our own: each signed, as each will be verified."""
    fingerprints = (fingerprint(authority.certificate.public_bytes(Encoding.DER)),)
    key = make_key()
    while True:
        precert = authority.precertificate("ours.example", key=key, ocsp_url="http://ocsp.ours.example/")
        yield leaf_tbs(precert), precert.public_bytes(Encoding.DER), fingerprints


def mixed(foreign: int, ours: int, *, authority: Authority, other: Authority, root: Authority) -> Iterator[bytes]:
    """Yield the data tiles of a log of so many foreign entries, with ours strewn in evenly."""
    size = foreign + ours
    theirs, own = foreign_entries(other, root), our_entries(authority)
    ours_hash, other_hash = spki_sha256(authority.certificate), spki_sha256(other.certificate)
    entries = (
        _entry(at, ours_hash, *next(own)) if at * ours // size != (at + 1) * ours // size
        else _entry(at, other_hash, *next(theirs))
        for at in range(size)
    )  # fmt: skip
    return _tiles(entries)


def _entry(index: int, key_hash: bytes, tbs: bytes, precert: bytes, fingerprints: tuple[bytes, ...]) -> Entry:
    leaf = merkle_tree_leaf(
        timestamp=int(time.time() * 1000),
        entry_type=PRECERT_ENTRY,
        signed_entry=key_hash + opaque(tbs, width=3),
        extensions=leaf_index_extension(index),
    )
    return Entry(leaf, precert, fingerprints)


def _tiles(entries: Iterable[Entry]) -> Iterator[bytes]:
    rest = iter(entries)
    while tile := b"".join(entry.tile_leaf() for entry in islice(rest, TILE)):
        yield tile


@asynccontextmanager
async def serve(log: Log) -> AsyncIterator[str]:
    """Serve a log on loopback and yield its URL."""
    app = application(log)
    app.middlewares.append(_kept())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where = f"127.0.0.1:{runner.addresses[0][1]}"
        log.origin = where
        yield f"http://{where}/"
    finally:
        await runner.cleanup()


def _kept() -> Middleware:
    """Return a middleware that keeps what never changes: entries and tiles, not heads."""
    answers: dict[str, tuple[bytes, str]] = {}

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        kept = answers.get(request.path_qs)
        if kept is not None:
            return web.Response(body=kept[0], content_type=kept[1])
        answer = await handler(request)
        lasting = request.path.startswith(_LASTING) and answer.status == web.HTTPOk.status_code
        if lasting and isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            answers[request.path_qs] = answer.body, answer.content_type
        return answer

    return keep


async def _run(given: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    authority, root = Authority.create("Benchmark ours"), Authority.create("Benchmark foreign root")
    other = Authority.create("Benchmark foreign", issuer=root)
    write_certificates(given.folder / CA_FILE, authority.certificate)
    said = []
    async with AsyncExitStack() as stack:
        for foreign, ours in ((given.foreign, given.ours), (0, given.only_ours)):
            log = Log.from_data_tiles(mixed(foreign, ours, authority=authority, other=other, root=root))
            for each in (authority, other, root):
                encoded = each.certificate.public_bytes(Encoding.DER)
                log.issuers[fingerprint(encoded)] = encoded
            url = await stack.enter_async_context(serve(log))
            said.append({"url": url, "key": log.key_b64, "size": log.size, "ours": ours})
        print(json.dumps(said), flush=True)
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop; one line of JSON on stdout says where."""
    parser = argparse.ArgumentParser(prog="python -m bench.synthetic", description="Two CT logs full of entries.")
    parser.add_argument("folder", type=Path, help=f"where {CA_FILE} is written")
    parser.add_argument("--foreign", type=int, default=50_000, help="entries of others in the first log")
    parser.add_argument("--ours", type=int, default=500, help="entries of ours among them")
    parser.add_argument("--only-ours", type=int, default=5_000, help="entries of the second log, all ours")
    asyncio.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
