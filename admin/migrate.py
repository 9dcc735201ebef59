# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin migrate: bring the database to this version's schema, and grant each role the least it needs."""

import argparse

from admin.context import Context
from responder.runtime.db import connect_once
from responder.status.migrate import grant_roles, migrate


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `migrate`."""
    parser = nouns.add_parser("migrate", help="apply missing migrations, then grant the roles their rights")
    parser.add_argument("--no-roles", action="store_true", help="leave roles alone: sql/roles.sql is applied elsewhere")
    parser.set_defaults(command=_migrate)


async def _migrate(given: argparse.Namespace, context: Context) -> int:
    async with connect_once(context.dsn, application="ocsp-admin") as connection:
        applied = await migrate(connection)
        if not given.no_roles:
            await grant_roles(connection)
    for migration in applied:
        print(f"applied {migration.version:04}_{migration.name}")
    if not applied:
        print("nothing to apply: the schema is up to date")
    return 0
