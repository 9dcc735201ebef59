# SPDX-License-Identifier: Apache-2.0
"""Which entries of a log earn a row and which are only kept, read over HTTP by both protocols."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache

import pytest

from demo.ca import Authority
from demo.leaf import leaf_index_extension, merkle_tree_leaf, opaque
from demo.log import Log, serve
from reconciler.errors import RetrySource
from responder.runtime.db import Database
from tests import served
from tests.reconciler.ct.followed import PROTOCOLS, Followed, source

SERIAL = 0x77


@cache
def ca() -> Authority:
    return Authority.create("Issuing CA", issuer=Authority.create("Root"))


@cache
def namesake() -> Authority:
    """Return a CA of the same name as ours, with a key of its own."""
    return Authority.create("Issuing CA")


@cache
def stranger() -> Authority:
    return Authority.create("Stranger")


@pytest.fixture(params=PROTOCOLS)
async def followed(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Followed]:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(ca()))
    async with serve(log) as url:
        yield Followed(database, source(log, url, request.param), log)


async def verdict(followed: Followed) -> tuple[set[int], list[tuple[int, str]]]:
    """Read the log to its end; return the serials with a row and the quarantined entries with their reasons."""
    done = await followed.step()
    assert (done.caught_up, done.distrusted) == (True, None)
    return await followed.serials(), [(row[0], row[1]) for row in await followed.quarantined()]


async def test_certificates_are_matched_by_name_and_proven_by_key(followed: Followed) -> None:
    ours = ca().issue("a.example", serial=SERIAL)
    followed.log.add_certificate(stranger().issue("b.example"), stranger().chain)
    followed.log.add_certificate(ours, ca().chain)
    assert await verdict(followed) == ({SERIAL}, [])
    assert await served.rows(followed.database, "SELECT kind, log_index FROM ocsp.sighting") == [("certificate", 1)]


async def test_precertificate_and_certificate_are_one_row_and_two_sightings(followed: Followed) -> None:
    precert = ca().precertificate("a.example", serial=SERIAL)
    sct = followed.log.add_precertificate(precert, ca().chain)
    followed.log.add_certificate(ca().certificate_from(precert, [sct.encode()]), ca().chain)
    assert await verdict(followed) == ({SERIAL}, [])
    kinds = await served.rows(followed.database, "SELECT kind, log_index FROM ocsp.sighting ORDER BY log_index")
    assert kinds == [("precertificate", 0), ("certificate", 1)]


async def test_somebody_elses_certificate_in_our_name_is_kept_and_earns_nothing(followed: Followed) -> None:
    forged = namesake().issue("a.example")
    followed.log.add_certificate(forged, namesake().chain)
    assert await verdict(followed) == (set(), [(0, "signature")])
    ((_, _, _, raw),) = await followed.quarantined()
    assert served.der(forged) in raw


async def test_somebody_elses_precertificate_in_our_name_and_under_their_key_is_not_our_business(
    followed: Followed,
) -> None:
    followed.log.add_precertificate(namesake().precertificate("a.example"), namesake().chain)
    assert await verdict(followed) == (set(), [])


async def test_a_leaf_that_names_our_key_beside_a_forged_precertificate_is_kept(followed: Followed) -> None:
    forged = namesake().precertificate("a.example")
    followed.log.add_precertificate(forged, ca().chain)
    assert await verdict(followed) == (set(), [(0, "signature")])
    ((_, _, _, raw),) = await followed.quarantined()
    assert served.der(forged) in raw


async def test_a_leaf_that_names_our_key_beside_a_foreign_precertificate_is_kept(followed: Followed) -> None:
    followed.log.add_precertificate(stranger().precertificate("a.example"), ca().chain)
    assert await verdict(followed) == (set(), [(0, "issuer_name")])


async def test_a_precertificate_that_does_not_say_what_the_leaf_says_is_kept(followed: Followed) -> None:
    for name in ("a.example", "b.example"):
        followed.log.add_precertificate(ca().precertificate(name, serial=SERIAL + len(name)), ca().chain)
    first, second = followed.log.entries
    final = served.der(ca().issue("c.example"))
    followed.log.entries[0] = replace(first, pre_certificate=second.pre_certificate)
    followed.log.entries[1] = replace(second, pre_certificate=final)
    assert await verdict(followed) == (set(), [(0, "contents"), (1, "contents")])


async def test_a_precertificate_signing_certificate_leads_to_the_final_issuer(followed: Followed) -> None:
    signing = ca().precertificate_signing_ca()
    precert = ca().precertificate("a.example", serial=SERIAL, signer=signing)
    followed.log.add_precertificate(precert, signing.chain)
    assert await verdict(followed) == ({SERIAL}, [])
    names = "SELECT name FROM ocsp.certificate JOIN ocsp.issuer USING (issuer_id)"
    assert await served.rows(followed.database, names) == [("issuing",)]


async def test_a_signing_certificate_of_somebody_else_proves_nothing(followed: Followed) -> None:
    signing = stranger().precertificate_signing_ca()
    precert = stranger().precertificate("a.example", signer=signing)
    followed.log.add_precertificate(precert, [signing.certificate, ca().certificate])
    assert await verdict(followed) == (set(), [(0, "issuer_name")])


async def test_a_chain_that_is_missing_for_a_moment_is_waited_for(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(ca()))
    async with serve(log) as url:
        followed = Followed(database, source(log, url, "static"), log)
        signing = ca().precertificate_signing_ca()
        log.add_precertificate(ca().precertificate("a.example", serial=SERIAL, signer=signing), signing.chain)
        issuers, log.issuers = log.issuers, {}
        with pytest.raises(RetrySource):
            await followed.step()
        log.issuers = issuers
        assert await verdict(followed) == ({SERIAL}, [])


async def test_a_chain_that_stays_missing_holds_nobody_up(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(ca()))
    async with serve(log) as url:
        followed = Followed(database, source(log, url, "static"), log)
        signing = ca().precertificate_signing_ca()
        log.add_precertificate(ca().precertificate("a.example", signer=signing), signing.chain)
        log.add_precertificate(ca().precertificate("b.example", serial=SERIAL), ca().chain)
        log.issuers = {}
        for _ in range(2):
            with pytest.raises(RetrySource):
                await followed.step()
        assert await verdict(followed) == ({SERIAL}, [(0, "issuer_name")])


async def test_a_chain_certificate_that_is_not_what_its_name_says_proves_nothing(database: Database) -> None:
    log = Log()
    await served.serve(database, "issuing", served.ca_certificate(ca()))
    async with serve(log) as url:
        followed = Followed(database, source(log, url, "static"), log)
        signing = ca().precertificate_signing_ca()
        log.add_precertificate(ca().precertificate("a.example", signer=signing), signing.chain)
        log.issuers = dict.fromkeys(log.issuers, b"something else")
        assert await verdict(followed) == (set(), [(0, "issuer_name")])


@pytest.mark.parametrize(
    "certificate", [b"\x30", b"junk", b"\x30\x03\x02\x01\x00", bytes(300)], ids=["cut", "junk", "no TBS", "zeros"]
)
async def test_an_entry_that_cannot_be_read_is_kept_and_the_next_one_is_read(
    certificate: bytes, followed: Followed
) -> None:
    leaf = merkle_tree_leaf(
        timestamp=1, entry_type=0, signed_entry=opaque(certificate, width=3), extensions=leaf_index_extension(0)
    )
    followed.log.add_raw(leaf)
    followed.log.add_precertificate(ca().precertificate("a.example", serial=SERIAL), ca().chain)
    assert await verdict(followed) == ({SERIAL}, [(0, "unparsable")])
    ((_, _, _, raw),) = await followed.quarantined()
    assert certificate in raw


async def test_a_certificate_in_our_name_that_no_library_reads_is_kept(followed: Followed) -> None:
    whole = served.der(ca().issue("a.example"))
    at = whole.index(b"\xa0\x03\x02\x01\x02")
    for octet in (b"\x05", b"\x01"):
        odd = whole[: at + 4] + octet + whole[at + 5 :]
        index = followed.log.size
        followed.log.add_raw(
            merkle_tree_leaf(
                timestamp=2**63, entry_type=0, signed_entry=opaque(odd, width=3), extensions=leaf_index_extension(index)
            )
        )
    serials, quarantined = await verdict(followed)
    assert serials == set()
    assert [index for index, _ in quarantined] == [0, 1]


async def test_an_issuer_added_later_is_matched_from_then_on(followed: Followed) -> None:
    followed.log.add_precertificate(stranger().precertificate("a.example", serial=SERIAL), stranger().chain)
    assert await verdict(followed) == (set(), [])
    await served.serve(followed.database, "second", served.ca_certificate(stranger()))
    followed.seen = {}
    followed.log.add_precertificate(stranger().precertificate("b.example", serial=SERIAL + 1), stranger().chain)
    with pytest.raises(AssertionError, match="without a row"):
        # What was logged before it was ours is below the verified position: backfilling is another errand.
        await followed.step()
    assert await followed.serials() == {SERIAL + 1}
