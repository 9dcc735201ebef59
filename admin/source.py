# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin source: what a person decides about a source that is stale or has contradicted itself."""

import argparse

from admin.context import Context, Refused
from reconciler import store


def add_commands(nouns: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `source exclude`, `source include` and `source trust`."""
    verbs = nouns.add_parser("source", help="sources that `unknown` waits for").add_subparsers(
        required=True, metavar="VERB"
    )
    exclude = verbs.add_parser("exclude", help="answer `unknown` without waiting for this source, for a reason")
    exclude.add_argument("name")
    exclude.add_argument("--reason", required=True, help="kept for auditors")
    exclude.set_defaults(command=_exclude)
    include = verbs.add_parser("include", help="wait for an excluded source again")
    include.add_argument("name")
    include.set_defaults(command=_include)
    trust = verbs.add_parser("trust", help="trust a log again: it is read anew from what was verified last")
    trust.add_argument("name")
    trust.set_defaults(command=_trust)


async def _exclude(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        done = await store.exclude(connection, given.name, reason=given.reason, person=context.actor)
    return _said(done, f"source {given.name}: excluded by {context.actor}: {given.reason}", f"no source {given.name!r}")


async def _include(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        done = await store.include(connection, given.name)
    return _said(done, f"source {given.name}: required again", f"there is no excluded source {given.name!r}")


async def _trust(given: argparse.Namespace, context: Context) -> int:
    async with context.transaction() as connection:
        done = await store.trust_again(connection, given.name)
        if done:
            await store.rewind_log(connection, given.name)
    return _said(done, f"source {given.name}: trusted again", f"there is no distrusted source {given.name!r}")


def _said(done: bool, yes: str, no: str) -> int:
    if not done:
        raise Refused(no)
    print(yes)
    return 0
