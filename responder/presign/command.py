# SPDX-License-Identifier: Apache-2.0
"""`ocsp-responder presign`: its arguments, what they mean for issuers and workers, and what it prints at its end.

Puts conductor.py or watch.py together; decides nothing about answers.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from responder.config import PresignedSettings, Settings
from responder.presign.conductor import Summary, sign_once
from responder.presign.progress import Lines, Shown
from responder.presign.watch import Watch
from responder.presign.worker import Order
from responder.runtime.db import Connection, connect_once
from responder.runtime.logs import get_logger
from responder.runtime.settings import SettingsError
from responder.signing.configured import signing_keys
from responder.status.migrate import check_schema
from responder.status.presigned import Scope
from responder.status.presigned_store import signed_issuers

_log = get_logger("presign")

# Exit codes: something that is due could not be signed, or not yet.
INCOMPLETE: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `presign` to its parser."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--once", action="store_true", help="sign what is due and end (the default)")
    mode.add_argument("--watch", action="store_true", help="go on for ever: what a service does")
    parser.add_argument("--issuer", action="append", metavar="NAME", help="only of this issuer; may be repeated")
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument("--all", action="store_true", help="of every certificate, whatever [presigned] keep says")
    whom.add_argument("--asked", type=_days, metavar="DAYS", help="of those that were asked for in so many days")
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes; default: [presigned] workers")
    parser.add_argument("--json", action="store_true", help="progress and summary as JSON instead of a bar")


def presign(given: argparse.Namespace, settings: Settings, *, dsn: str) -> int:
    """Sign ahead as the arguments say, and return the exit code."""
    # Secrets that cannot be read are told here, once, and not by every worker.
    signing_keys(settings.signing, path=given.config)
    workers = given.workers or settings.presigned.workers or os.cpu_count() or 1
    return asyncio.run(_presign(given, settings, dsn=dsn, workers=workers))


async def _presign(given: argparse.Namespace, settings: Settings, *, dsn: str, workers: int) -> int:
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    async def ordered(connection: Connection) -> tuple[Order, Scope]:
        issuers = await _issuers(connection, given.issuer, path=given.config)
        scope = _scope(settings.presigned, issuers, everything=given.all, asked=given.asked)
        return _order(settings, scope, dsn=dsn, path=given.config), scope

    async with connect_once(dsn, application="ocsp-presign") as connection:
        await check_schema(connection)
        order, scope = await ordered(connection)
    if given.watch:
        tally = await Watch(dsn, ordered, workers=workers, every=settings.presigned.every, stop=stop).run()
        _log.info("presign.stopped", signed=tally.signed, refused=tally.refused)
        return 0
    summary = await sign_once(order, scope, workers=workers, shown=_shown(as_json=given.json), stop=stop)
    _print(summary, as_json=given.json)
    return 0 if summary.is_complete else INCOMPLETE


def _scope(settings: PresignedSettings, issuers: Sequence[int], *, everything: bool, asked: timedelta | None) -> Scope:
    within = None if settings.keep == "all" else settings.asked_within
    return Scope(
        issuers=issuers,
        hash_names=settings.hashes,
        lead=settings.lead,
        asked_within=None if everything else within if asked is None else asked,
    )


def _order(settings: Settings, scope: Scope, *, dsn: str, path: Path) -> Order:
    return Order(
        dsn=dsn,
        settings_file=path,
        level=settings.log.level,
        hash_names=scope.hash_names,
        lead=scope.lead,
        issuers=scope.issuers,
    )


async def _issuers(connection: Connection, wanted: Sequence[str] | None, *, path: Path) -> tuple[int, ...]:
    """Return the issuers to sign for. Raises SettingsError for a name that nobody signs for."""
    found = await signed_issuers(connection)
    for name in wanted or ():
        if name not in found:
            allowed = ", ".join(found) or "none"
            raise SettingsError(f"{path}: no issuer {name!r} with an active signer; those that have one: {allowed}")
    return tuple(issuer_id for name, issuer_id in found.items() if not wanted or name in wanted)


def _shown(*, as_json: bool) -> Shown:
    if as_json or not sys.stderr.isatty():
        return Lines()
    from responder.presign.bar import Bar  # the responder's processes have no use for rich

    return Bar()


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(summary)))
        return
    rate = summary.signed / summary.seconds if summary.seconds > 0 else 0.0
    print(
        f"{summary.signed:,} answers signed in {summary.seconds:,.1f} s ({rate:,.0f}/s, {summary.workers} workers), "
        f"{summary.dropped:,} old ones deleted"
    )
    if summary.refused > 0:
        print(f"{summary.refused:,} refused by the lint: the log says which, and why", file=sys.stderr)
    if summary.left > 0:
        why = "stopped" if summary.trouble is None else summary.trouble
        print(f"{summary.left:,} answers are still due ({why}); the next run goes on from here", file=sys.stderr)


def _days(text: str) -> timedelta:
    days = float(text)
    if not 0 < days <= 3660:
        raise argparse.ArgumentTypeError(f"{text} is no number of days between 0 and 3660")
    return timedelta(days=days)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is no number between 1 and 1024")
    return number
