# SPDX-License-Identifier: Apache-2.0
"""Entries of real logs, signed by real CAs, through a log with a key of its own into PostgreSQL."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.ca import leaf_tbs, spki_sha256
from demo.leaf import Entry, fingerprint, leaf_index_extension, merkle_tree_leaf, opaque
from demo.log import Log, serve
from reconciler.errors import RetrySource
from responder.runtime.db import Database
from responder.status.issuers import CaCertificate
from tests import served
from tests.reconciler.ct.followed import PROTOCOLS, Followed, Protocol, own_serials, source

ISSUED = {"e6": 241, "e5": 212, "r10": 33, "r11": 26}


@pytest.fixture(scope="module")
def tiles(ct_corpus: Path) -> list[bytes]:
    return [(ct_corpus / "navigli2025h2/tile/data" / name).read_bytes() for name in ("000", "001")]


@pytest.fixture
async def ground(
    request: pytest.FixtureRequest, database: Database, ct_corpus: Path, tiles: list[bytes]
) -> AsyncIterator[tuple[Database, Log, str]]:
    """Yield a database that knows the CAs of the parameter, all four of them without one, and the log, served."""
    log = Log.from_data_tiles(tiles)
    for name in ISSUED:
        certificate = CaCertificate.load((ct_corpus / f"issuers/stg-{name}.pem").read_bytes())
        log.issuers[fingerprint(certificate.der)] = certificate.der
        if name in getattr(request, "param", ISSUED):
            await served.serve(database, name, certificate)
    async with serve(log) as url:
        yield database, log, url


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_real_precertificate_is_proven_to_its_issuer(
    protocol: Protocol, ground: tuple[Database, Log, str], ct_corpus: Path
) -> None:
    database, log, url = ground
    followed = Followed(database, source(log, url, protocol), log)
    done = await followed.step()
    assert (done.rows, done.sightings, done.quarantined, done.caught_up) == (512, 512, 0, True)
    found = await served.rows(
        database, "SELECT i.name, count(*) FROM ocsp.certificate JOIN ocsp.issuer i USING (issuer_id) GROUP BY i.name"
    )
    assert dict(found) == ISSUED
    kinds = await served.rows(database, "SELECT DISTINCT kind FROM ocsp.sighting")
    assert kinds == [("precertificate",)]
    # The level-0 tiles of the real log are the leaf hashes that ours were verified by.
    real = b"".join((ct_corpus / "navigli2025h2/tile/0" / name).read_bytes() for name in ("000", "001"))
    assert log.tree.hashes(0, start=0, count=512) == real
    assert (await followed.row())["verified_size"] == 512


def drawn(
    play: Callable[[int, float], Coroutine[Any, Any, None]], entries: Sequence[int], *, examples: int
) -> Coroutine[Any, Any, None]:
    """Let hypothesis draw entries and places in them, in a thread, while `play` runs here."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(entries), st.floats(0, 1, exclude_max=True))
    def examine(entry: int, place: float) -> None:
        asyncio.run_coroutine_threadsafe(play(entry, place), loop).result(timeout=30)

    return asyncio.to_thread(examine)


# A few issuers are enough here, and four hundred signatures a pass would only take time.
@pytest.mark.parametrize("ground", [("r11",)], indirect=True)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_no_octet_under_the_leaf_hash_changes_unnoticed(
    protocol: Protocol, ground: tuple[Database, Log, str]
) -> None:
    database, log, url = ground
    numbers = iter(range(1000))

    async def flip(entry: int, place: float) -> None:
        # Counted from the timestamp: the two octets before it are implied by static-ct-api.
        byte = int(place * (len(log.entries[entry].leaf_input) - 2))
        log.faults.set("flip_bit", entry=entry, byte=byte, bit=byte % 8)
        followed = Followed(database, source(log, url, protocol, name=f"log {next(numbers)}"), log)
        for _ in range(3):
            try:
                await followed.step()
            except RetrySource:
                continue
        log.faults.clear()
        assert await followed.distrusted() in {"root", "unreadable_tile", "leaf_index"}
        assert (await followed.row())["verified_size"] in {0, 256}
        assert await followed.proofs()

    await drawn(flip, range(512), examples=20)


@pytest.mark.parametrize("ground", [("r10", "r11")], indirect=True)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_octet_beside_the_leaf_costs_that_entry_and_no_other(
    protocol: Protocol, ground: tuple[Database, Log, str]
) -> None:
    database, log, url = ground
    numbers = iter(range(1000))

    async def flip(entry: int, place: float) -> None:
        real = log.entries[entry]
        assert real.pre_certificate is not None
        spoilt = bytearray(real.pre_certificate)
        at = int(place * len(spoilt))
        spoilt[at] ^= 1 << at % 8
        log.entries[entry] = replace(real, pre_certificate=bytes(spoilt))
        followed = Followed(database, source(log, url, protocol, name=f"log {next(numbers)}"), log)
        done = await followed.step()
        log.entries[entry] = real
        assert (done.sightings, done.quarantined, done.caught_up, done.distrusted) == (58, 1, True, None)
        kept = await served.rows(
            database,
            "SELECT log_index, raw FROM ocsp.quarantine WHERE source_id = %(id)s",
            {"id": followed.source_id},
        )
        assert [(index, bytes(spoilt) in raw) for index, raw in kept] == [(entry, True)]

    issuers = await served.served(database)
    await drawn(flip, sorted(own_serials(log, issuers.key_hashes, until=512)), examples=20)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_four_certificates_of_2013_are_found_and_sha1_proves_nothing(
    protocol: Protocol, database: Database, ct_corpus: Path
) -> None:
    """Their signatures are right and made over SHA-1, which can be forged: evidence, and no row (BR 7.1.3.2)."""
    answer = json.loads((ct_corpus / "rfc6962/four-entries.json").read_bytes())
    log = Log()
    certificates = []
    for number, entry in enumerate(answer["entries"]):
        leaf, extra = (base64.b64decode(entry[name]) for name in ("leaf_input", "extra_data"))
        log.add_raw(leaf, extra_data=extra)
        # certificate_chain<0..2^24-1> of ASN.1Cert<1..2^24-1>: the first is the issuer.
        await served.serve(database, f"issuer {number}", CaCertificate.load(extra[6 : 6 + int.from_bytes(extra[3:6])]))
        certificates.append(leaf[15 : 15 + int.from_bytes(leaf[12:15])])
    async with serve(log) as url:
        followed = Followed(database, source(log, url, protocol), log)
        done = await followed.step()
        assert (done.rows, done.quarantined, done.caught_up, done.distrusted) == (0, 4, True, None)
    kept = await followed.quarantined()
    assert [(index, reason) for index, reason, _, _ in kept] == [(number, "signature") for number in range(4)]
    assert all(certificate in raw for certificate, (_, _, _, raw) in zip(certificates, kept, strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_foreign_precertificates_with_and_without_a_pre_intermediate(
    protocol: Protocol, database: Database, ct_corpus: Path
) -> None:
    def pem(name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((ct_corpus / "preissuer" / f"{name}.pem").read_bytes())

    root, middle, pre = (pem(f"test_{name}_cert") for name in ("root_ca", "intermediate_ca", "pre_intermediate_ca"))
    await served.serve(database, "root", CaCertificate.load(served.der(root)))
    await served.serve(database, "middle", CaCertificate.load(served.der(middle)))
    log = Log()
    log.add_precertificate(pem("test_leaf_pre_cert_signed_by_root"), [root])
    log.add_precertificate(pem("test_leaf_pre_cert_signed_by_intermediate"), [middle, root])
    log.add_certificate(pem("test_leaf_cert_signed_by_root"), [root])
    async with serve(log) as url:
        followed = Followed(database, source(log, url, protocol), log)
        done = await followed.step()
        assert (done.rows, done.quarantined) == (3, 0)
        precert = pem("test_leaf_pre_cert_signed_by_pre_intermediate")
        # This CA marks its signing certificate by an extension, so the leaf is put together here (RFC 6962 §3.2).
        signed = spki_sha256(root) + opaque(leaf_tbs(precert, signing_certificate=pre), width=3)
        leaf = merkle_tree_leaf(timestamp=1, entry_type=1, signed_entry=signed, extensions=leaf_index_extension(3))
        log.issuers[fingerprint(served.der(pre))] = served.der(pre)
        log._append(Entry(leaf, served.der(precert), (fingerprint(served.der(pre)),)))
        log.publish()
        done = await followed.step()
        assert (done.sightings, done.quarantined, done.caught_up) == (1, 0, True)
    # One serial at the root by two roads: two documents of one kind, which is exactly what must be reported.
    assert await served.rows(database, "SELECT kind FROM ocsp.finding") == [("serial_reused",)]
