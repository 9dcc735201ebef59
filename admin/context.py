# SPDX-License-Identifier: Apache-2.0
"""What every command is given: the database, and who is acting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from responder.runtime.db import Connection, connect_once
from responder.signing.keys import Keys
from responder.status.issuer_store import find_issuer, issuer_names
from responder.status.migrate import check_schema
from responder.status.store import act_for


class Refused(Exception):  # noqa: N818 - it is printed as it stands
    """A command cannot do what it was asked: why, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where the database is, and on whose behalf we act."""

    dsn: str
    actor: str
    passphrase_file: str
    pin_file: str

    def keys(self) -> Keys:
        """Return what opens signers' keys; each secret is read when one needs it, and may raise Refused."""
        return Keys(passphrase=lambda: _secret(self.passphrase_file), pin=lambda: _secret(self.pin_file))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection on the right schema, for commands that commit as they go."""
        async with connect_once(self.dsn, application="ocsp-admin") as connection:
            await check_schema(connection)
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside one transaction on the right schema, in the name of the actor."""
        async with self.connection() as connection, connection.transaction():
            await act_for(connection, self.actor)
            yield connection


def _secret(file: str) -> bytes | None:
    return read_file(Path(file)).rstrip(b"\r\n") if file else None


def read_file(path: Path) -> bytes:
    """Return what the file holds. Raises Refused naming it and what is wrong."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc


async def issuer_called(connection: Connection, name: str) -> int:
    """Return the issuer of that name. Raises Refused naming those there are."""
    issuer_id = await find_issuer(connection, name)
    if issuer_id is None:
        known = ", ".join(await issuer_names(connection)) or "none yet, see `ocsp-admin issuer add`"
        raise Refused(f"there is no issuer {name!r}; known: {known}")
    return issuer_id
