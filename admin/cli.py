# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin: one file a noun, put together here. Holds no SQL and no decisions.

Every command prints one clear line when something is refused, and exits 1.
"""

import argparse
import asyncio
import getpass
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from admin import cert, check_url, config, issuer, migrate, requester, signer, source
from admin.arguments import AnyOrder
from admin.context import Context, Refused
from responder.errors import PolicyError, SignerRefused
from responder.runtime import logs
from responder.runtime.db import DatabaseError
from responder.runtime.settings import SettingsError, database_dsn
from responder.status.issuers import IssuerError
from responder.status.migrate import SchemaError
from responder.status.model import SerialError

_DEFAULT_CONFIG: Final = Path("/etc/foundling/admin.toml")
_FAILED: Final = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    given = _parser().parse_args(arguments)
    try:
        sys.exit(_run(given))
    except (
        Refused,
        DatabaseError,
        IssuerError,
        PolicyError,
        SchemaError,
        SerialError,
        SettingsError,
        SignerRefused,
    ) as exc:
        print(f"ocsp-admin: {exc}", file=sys.stderr)
        sys.exit(_FAILED)


def _run(given: argparse.Namespace) -> int:
    alone = "alone" in given and given.alone(given)
    settings = config.Settings() if alone else config.load_settings(given.config)
    logs.configure(settings.log.level, process="ocsp-admin")
    context = Context(
        dsn="" if alone else database_dsn(settings.database, path=given.config),
        actor=given.actor or getpass.getuser(),
        passphrase_file=settings.signing.passphrase_file,
        pin_file=settings.signing.pin_file,
    )
    result: int = asyncio.run(given.command(given, context))
    return result


def _parser() -> argparse.ArgumentParser:
    parser = AnyOrder(prog="ocsp-admin", description="Register, revoke, look up: what people do by hand.")
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--actor", metavar="NAME", help="who is acting, for the history; default: the user at the shell"
    )
    parser.add_argument("--version", action="version", version=f"foundling {version('foundling')}")
    nouns = parser.add_subparsers(required=True, metavar="NOUN")
    for noun in (migrate, issuer, requester, signer, cert, source, check_url):
        noun.add_commands(nouns)
    return parser
