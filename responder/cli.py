# SPDX-License-Identifier: Apache-2.0
"""ocsp-responder: serve, presign, check-config. Reads the settings, checks that we may start, and hands over to
server.py or presign/command.py.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from responder.config import load_settings, workers
from responder.errors import SignerRefused
from responder.master import Server
from responder.presign import command
from responder.runtime import logs
from responder.runtime.db import DatabaseError
from responder.runtime.settings import SettingsError, database_dsn
from responder.server import check_start, read_start
from responder.status.issuers import IssuerError
from responder.status.migrate import SchemaError

_DEFAULT_CONFIG: Final = Path("/etc/foundling/responder.toml")
_FAILED: Final = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    given = _parser().parse_args(arguments)
    try:
        sys.exit(given.command(given))
    except (SettingsError, SchemaError, DatabaseError, IssuerError, SignerRefused) as exc:
        print(f"ocsp-responder: {exc}", file=sys.stderr)
        sys.exit(_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ocsp-responder", description="An OCSP responder (RFC 6960) that signs answers from the status table."
    )
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--version", action="version", version=f"foundling {version('foundling')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="answer until stopped").set_defaults(command=_serve)
    ahead = commands.add_parser("presign", help="sign answers ahead of their time, for responders to fall back on")
    command.add_arguments(ahead)
    ahead.set_defaults(command=_presign)
    commands.add_parser("check-config", help="read the settings and exit").set_defaults(command=_check_config)
    return parser


def _serve(given: argparse.Namespace) -> int:
    start = read_start(given.config)
    logs.configure(start.settings.log.level, process="ocsp-responder")
    asyncio.run(check_start(start))
    Server(start).run()
    return 0


def _presign(given: argparse.Namespace) -> int:
    settings = load_settings(given.config)
    logs.configure(settings.log.level, process="ocsp-presign")
    return command.presign(given, settings, dsn=database_dsn(settings.database, path=given.config))


def _check_config(given: argparse.Namespace) -> int:
    settings = read_start(given.config).settings
    print(f"{settings.http.bind}, {workers(settings.http)} workers, {settings.cache.most_answers} answers each")
    return 0
