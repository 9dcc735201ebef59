# SPDX-License-Identifier: Apache-2.0
"""A CA that we serve, and a synchronous connection as the tables' owner."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from demo.ca import Authority
from responder.runtime.db import Database
from responder.status.issuers import IssuerSet
from tests import served

Owner = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="session")
def ca() -> Authority:
    """Return the CA that we serve."""
    return Authority.create("Issuing CA")


@pytest.fixture
async def issuer_id(database: Database, ca: Authority) -> int:
    """Return the row number of that CA, a public one."""
    return await served.serve(database, "issuing", served.ca_certificate(ca))


@pytest.fixture
async def issuers(database: Database, issuer_id: int) -> IssuerSet:
    """Return what we serve, as the database has it."""
    return await served.served(database)


@pytest.fixture
def owner(dsn: str, issuer_id: int) -> Iterator[Owner]:
    """Yield a connection of the tables' owner, in autocommit mode."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
