# SPDX-License-Identifier: Apache-2.0
"""A responder with issuers of every kind, shared by the tests that only ask it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from demo.ca import Authority, make_key
from responder.status.model import Reason, UnassignedAnswer
from tests.conftest import as_role, create_database, drop_database, unused_name
from tests.responder.running import Running, Served, World, revoked, running, with_policy

KINDS = ("rsa2048", "rsa4096", "p256", "p384", "p521")
PASSPHRASE = b"correct horse battery staple"
REASONS = (
    Reason.UNSPECIFIED,
    Reason.KEY_COMPROMISE,
    Reason.AFFILIATION_CHANGED,
    Reason.SUPERSEDED,
    Reason.CESSATION_OF_OPERATION,
    Reason.PRIVILEGE_WITHDRAWN,
)


@dataclass(frozen=True)
class Rows:
    """The serials of one issuer, by what the table says of them."""

    good: int
    revoked: dict[Reason, int]
    pending: int
    expired: int
    purged: int
    unassigned: int = 0x7E57


@dataclass(frozen=True)
class Town:
    """The shared responder, its issuers by name, and what each has in the table."""

    responder: Running
    issuers: dict[str, Served]
    rows: dict[str, Rows]

    @property
    def port(self) -> int:
        return self.responder.port


@pytest.fixture
def world(dsn: str, tmp_path: Path) -> World:
    """A database of this test's own."""
    return World(dsn, tmp_path)


def fill(world: World, issuer: Served, *reasons: Reason) -> Rows:
    """Give an issuer a row of every kind."""
    rows = Rows(
        good=world.issue(issuer),
        revoked={reason: world.issue(issuer) for reason in reasons},
        pending=0xFACE,
        expired=world.issue(issuer, ago=timedelta(days=2)),
        purged=world.issue(issuer, ago=timedelta(days=3)),
    )
    for reason, serial in rows.revoked.items():
        world.revoke(issuer, serial, revoked(reason, ca=issuer.ca))
    world.reserve(issuer, rows.pending)
    world.purge(issuer, rows.purged)
    return rows


def add_issuers(world: World) -> dict[str, Served]:
    """One issuer for each kind of key, one that signs itself, one with a locked key, and private ones."""
    issuers = {}
    for kind in (*KINDS, "ed25519"):
        ca = Authority.create(f"CA {kind}")
        signer = ca.issue_responder(key=make_key(kind))
        issuers[kind] = world.add_issuer(kind, ca, signer=signer, public=kind != "ed25519")
    itself = Authority.create("CA direct", usages=("keyCertSign", "cRLSign", "digitalSignature"))
    issuers["direct"] = world.add_issuer("direct", itself, signer=(itself.certificate, itself.key))
    locked = Authority.create("CA locked")
    issuers["locked"] = world.add_issuer("locked", locked, signer=locked.issue_responder(), passphrase=PASSPHRASE)
    issuers["ingest-only"] = world.add_issuer("ingest-only", Authority.create("CA ingest-only"), signer=None)
    for answer in (UnassignedAnswer.UNAUTHORIZED, UnassignedAnswer.EXTENDED_REVOKE):
        ca = Authority.create(f"CA {answer}")
        policy = with_policy(unassigned=answer)
        issuers[answer.value] = world.add_issuer(
            answer.value, ca, signer=ca.issue_responder(), public=False, policy=policy
        )
    return issuers


@pytest.fixture(scope="session")
def town(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The shared responder: two workers, the least rights in the database."""
    name = unused_name("town")
    folder = tmp_path_factory.mktemp("town")
    world = World(create_database(server_dsn, name, template=template), folder)
    issuers = add_issuers(world)
    rows = {
        name: fill(world, issuer, *(REASONS if name in {"p256", "direct"} else REASONS[:2]))
        for name, issuer in issuers.items()
    }
    (folder / "passphrase").write_bytes(PASSPHRASE + b"\n")
    more = f'[signing]\npassphrase_file = "{folder / "passphrase"}"'
    with running(world, dsn=as_role(world.dsn, "ocsp_responder"), more=more) as started:
        yield Town(started, issuers, rows)
    drop_database(server_dsn, name)


@pytest.fixture
def responder(town: Town) -> Running:
    return town.responder
