# SPDX-License-Identifier: Apache-2.0
"""ocsp-reconciler: run, once, status, check-config. Puts settings, sources and database together; decides nothing."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from prometheus_client import start_http_server

from reconciler import store, supervisor
from reconciler.config import (
    CtLogSettings,
    JsonlSection,
    Settings,
    SpoolSection,
    base_url,
    load_settings,
    metrics_address,
)
from reconciler.ct.fetch import Fetcher
from reconciler.ct.head import LogKey
from reconciler.ct.reader import LogReader
from reconciler.ct.rfc6962 import Rfc6962Log
from reconciler.ct.source import CtSource
from reconciler.ct.tiled import TiledLog
from reconciler.issuance.jsonl import JsonlSettings, JsonlSource
from reconciler.issuance.record import RecordSettings
from reconciler.issuance.spool import SpoolSettings, SpoolSource
from reconciler.model import Source, SourceSettings
from reconciler.orphans import report_orphans
from reconciler.supervisor import Watched
from responder.runtime import logs
from responder.runtime.db import Database, DatabaseError, connect_once
from responder.runtime.settings import SettingsError, database_dsn
from responder.status.issuers import IssuerError
from responder.status.migrate import SchemaError, check_schema

_DEFAULT_CONFIG: Final = Path("/etc/foundling/reconciler.toml")
# Exit codes: 1 something is wrong with what we were given; 3 a source did not get to its end and --strict was given.
_FAILED, _NOT_CAUGHT_UP = 1, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    given = _parser().parse_args(arguments)
    try:
        sys.exit(given.command(given))
    except (SettingsError, SchemaError, DatabaseError, IssuerError) as exc:
        print(f"ocsp-reconciler: {exc}", file=sys.stderr)
        sys.exit(_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocsp-reconciler", description="Makes sure that every certificate of ours has a row, and proves it."
    )
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"foundling {version('foundling')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("run", help="follow every source until stopped").set_defaults(command=_run)
    once = commands.add_parser("once", help="make one pass over every source and exit")
    once.add_argument("--strict", action="store_true", help="exit 3 unless every source was read to its end")
    once.set_defaults(command=_once)
    status = commands.add_parser("status", help="how far each source is read and verified")
    status.add_argument("--json", action="store_true", help="for scripts")
    status.set_defaults(command=_status)
    commands.add_parser("check-config", help="read the settings and exit").set_defaults(command=_check_config)
    return parser


def _check_config(given: argparse.Namespace) -> int:
    settings = load_settings(given.config)
    database_dsn(settings.database, path=given.config)
    for watched in _watched(settings, path=given.config):
        print(f"{watched.source.settings.name}: {watched.source.settings.kind}, every {watched.poll}")
    return 0


def _run(given: argparse.Namespace) -> int:
    async def work(database: Database, settings: Settings) -> int:
        address = metrics_address(settings.metrics)
        if address is not None:
            try:
                start_http_server(address[1], address[0])
            except OSError as exc:
                raise SettingsError(f"{given.config}: [metrics] bind: {settings.metrics.bind}: {exc.strerror}") from exc
        await supervisor.run(
            database,
            _watched(settings, path=given.config),
            orphan_after=settings.ct.orphan_after,
        )
        return 0

    return _with_database(given, work)


def _once(given: argparse.Namespace) -> int:
    async def work(database: Database, settings: Settings) -> int:
        behind = await supervisor.once(database, _watched(settings, path=given.config))
        await report_orphans(database, after=settings.ct.orphan_after)
        for name in behind:
            print(f"{name}: not read to its end, see `ocsp-reconciler status`", file=sys.stderr)
        return _NOT_CAUGHT_UP if behind and given.strict else 0

    return _with_database(given, work)


def _status(given: argparse.Namespace) -> int:
    async def work(database: Database, _: Settings) -> int:
        async with database.connection() as connection:
            sources = [_shown(row) for row in await store.source_states(connection)]
        if given.json:
            print(json.dumps({"sources": sources}, indent=2))
            return 0
        for source in sources:
            lag = "never verified" if source["lag_seconds"] is None else f"{source['lag_seconds']:.0f} s behind now"
            print(f"{source['name']}: {source['state']}, {lag}, {_extent(source)}{_because(source)}")
        return 0

    return _with_database(given, work)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return what status says of a source. Sizes are entries of a log, and null for sources that are no logs."""
    return {
        "name": row["name"],
        "kind": row["kind"],
        "state": _state(row),
        "required": row["required"],
        "verified_size": row["verified_size"],
        "read_size": row["position"],
        "head_size": row["head_size"],
        "lag_seconds": row["lag_seconds"],
        "verified_at": None if row["verified_at"] is None else row["verified_at"].isoformat(),
        "quarantined": row["quarantined"],
        "trouble": row["distrust_reason"] or row["trouble"],
        "excluded": row["excluded_reason"],
    }


def _state(row: dict[str, Any]) -> str:
    """One word, the worst first."""
    if not row["configured"]:
        return "removed"
    if row["excluded_reason"] is not None:
        return "excluded"
    if row["distrust_reason"] is not None:
        return "distrusted"
    return "stale" if row["stale"] else "fresh"


def _extent(source: dict[str, Any]) -> str:
    if source["verified_size"] is None:
        return f"{source['quarantined']} quarantined"
    return f"{source['verified_size']} of {source['head_size']} verified, {source['quarantined']} quarantined"


def _because(source: dict[str, Any]) -> str:
    return f": {source['trouble']}" if source["trouble"] else ""


def _with_database(given: argparse.Namespace, work: Callable[[Database, Settings], Awaitable[int]]) -> int:
    settings = load_settings(given.config)
    logs.configure(settings.log.level, process="ocsp-reconciler")
    dsn = database_dsn(settings.database, path=given.config)

    async def connected() -> int:
        # A single connection says at once, and in its own words, what a pool would only time out over.
        async with connect_once(dsn, application="ocsp-reconciler") as connection:
            await check_schema(connection)
        sources = len(settings.ct_log) + len(settings.issuance)
        async with AsyncExitStack() as stack:
            # A connection for each source and one for the rest: none waits for another's transaction.
            database = await stack.enter_async_context(
                Database(dsn, application="ocsp-reconciler", most=min(sources + 1, 16))
            )
            return await work(database, settings)

    return asyncio.run(connected())


def _watched(settings: Settings, *, path: Path) -> list[Watched]:
    """Build a source for each table of the settings."""
    logs_ = [Watched(_ct_source(log, settings), settings.ct.poll) for log in settings.ct_log]
    try:
        records = [Watched(_issuance_source(each), each.poll) for each in settings.issuance]
    except ValueError as exc:
        raise SettingsError(f"{path}: [issuance] {exc}") from exc
    return [*logs_, *records]


def _ct_source(log: CtLogSettings, settings: Settings) -> Source:
    contact = f" (+{settings.ct.contact})" if settings.ct.contact else ""
    fetcher = Fetcher(base_url(log), user_agent=f"foundling/{version('foundling')}{contact}")
    key = LogKey.from_base64(log.key)
    reader: LogReader = (
        TiledLog(fetcher, key=key, origin=log.origin) if log.kind == "static" else Rfc6962Log(fetcher, key=key)
    )
    common = SourceSettings(name=log.name, kind=log.kind, required=log.required, stale_after=log.stale_after)
    return CtSource(common, reader, log_id=key.log_id, start=log.start, merge_delay=log.merge_delay)


def _issuance_source(section: SpoolSection | JsonlSection) -> Source:
    kind = "spool" if isinstance(section, SpoolSection) else "jsonl"
    common = SourceSettings(name=section.name, kind=kind, required=section.required, stale_after=section.stale_after)
    if isinstance(section, SpoolSection):
        return SpoolSource(
            common,
            SpoolSettings(
                directory=Path(section.directory),
                suffixes=section.suffixes,
                done=section.done,
                done_directory=None if section.done_directory is None else Path(section.done_directory),
                settle=section.settle,
                most_octets=section.most_octets,
            ),
        )
    return JsonlSource(
        common,
        JsonlSettings(
            path=Path(section.path),
            record=RecordSettings(
                certificate_field=section.certificate_field, encoding=section.encoding, where=section.where
            ),
            rotated=section.rotated,
            settle=section.settle,
            most_octets=section.most_octets,
        ),
    )
