# SPDX-License-Identifier: Apache-2.0
"""A responder with nginx in front, and between the two a listener that counts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from bench.edge import edge
from demo.ca import Authority, make_key
from tests.conftest import as_role, create_database, drop_database, unused_name
from tests.edge.between import Answering, Between, between, forwarding
from tests.responder import asking
from tests.responder.asking import Reply
from tests.responder.running import Running, Served, World, running, with_policy


@dataclass(frozen=True)
class Edge:
    """nginx's port, and what stands behind it."""

    port: int
    behind: Between

    def ask(self, request: bytes, method: str = "POST") -> Reply:
        return asking.ask(self.port, request, method)


@dataclass(frozen=True)
class House:
    """A responder with two workers and three issuers, to be asked directly."""

    responder: Running
    #: Policy as it comes; answers kept for two seconds at most; private, and answers that end after twenty seconds.
    usual: Served
    brief: Served
    short: Served

    @property
    def world(self) -> World:
        return self.responder.world


@pytest.fixture(scope="session")
def nginx(program: Callable[[str], str]) -> None:
    program("nginx")


@pytest.fixture(scope="session")
def house(nginx: None, server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    name = unused_name("edge")
    world = World(create_database(server_dsn, name, template=template), tmp_path_factory.mktemp("edge"))
    second = timedelta(seconds=1)
    policies = {
        "usual": with_policy(),
        "brief": with_policy(max_age=2 * second),
        "short": with_policy(validity=20 * second, refresh=4 * second, max_age=second),
    }
    issuers = []
    for kind, policy in policies.items():
        ca = Authority.create(f"Edge {kind}")
        signer = ca.issue_responder(key=make_key("p256"))
        issuers.append(world.add_issuer(kind, ca, signer=signer, public=kind != "short", policy=policy))
    with running(world, dsn=as_role(world.dsn, "ocsp_responder"), more='prefix = "/r1"') as started:
        yield House(started, *issuers)
    drop_database(server_dsn, name)


@contextmanager
def in_front(folder: Path, answering: Answering, changes: Mapping[str, str] | None = None) -> Iterator[Edge]:
    """Start nginx and the listener behind it."""
    with ExitStack() as stack:
        behind = stack.enter_context(between(answering))
        port = stack.enter_context(edge(folder / unused_name("nginx"), upstream=behind.port, changes=changes))
        yield Edge(port, behind)


@pytest.fixture
def front(house: House, tmp_path: Path) -> Iterator[Edge]:
    """nginx with an empty cache, in front of the house."""
    with in_front(tmp_path, forwarding(house.responder.port)) as started:
        yield started
