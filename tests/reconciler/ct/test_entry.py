# SPDX-License-Identifier: Apache-2.0
"""Entries of both protocols: real tiles and answers, every kind of damage, and bytes that mean nothing."""

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import asn1crypto.x509
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ct.entry import (
    EVERYTHING,
    PRECERT_ENTRY,
    X509_ENTRY,
    Entry,
    MisplacedLeaf,
    Unreadable,
    UnreadableTile,
    Wanted,
    parse_data_tile,
    parse_get_entries,
    scan_data_tile,
    scan_get_entries,
)
from reconciler.errors import Contradiction, ReconcilerError, UnreadableAnswer

NOBODY = Wanted()
OURS = sha256(b"our key").digest()
US = bytes.fromhex("300d310b3009060355040613025553")  # C=US
TIME = 1_700_000_000_000


def opaque(data: bytes, octets: int) -> bytes:
    return len(data).to_bytes(octets) + data


def der(tag: int, *parts: bytes, length: bytes | None = None) -> bytes:
    body = b"".join(parts)
    if length is None:
        length = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2)
    return bytes([tag]) + length + body


def a_certificate(*, issuer: bytes = US, version: bytes = bytes.fromhex("a003020102")) -> bytes:
    tbs = der(0x30, version, der(0x02, b"\x01"), der(0x30, der(0x06, b"\x2a")), issuer, bytes(200))
    return der(0x30, tbs, der(0x30), der(0x03, b"\x00"))


def leaf_index(index: int) -> bytes:
    return b"\x00" + opaque(index.to_bytes(5), 2)


def precert(tbs: bytes = b"TBS", *, key_hash: bytes = OURS, extensions: bytes = b"") -> bytes:
    return TIME.to_bytes(8) + b"\x00\x01" + key_hash + opaque(tbs, 3) + opaque(extensions, 2)


def final(certificate: bytes, *, extensions: bytes = b"") -> bytes:
    return TIME.to_bytes(8) + b"\x00\x00" + opaque(certificate, 3) + opaque(extensions, 2)


def precert_in_tile(index: int, *, key_hash: bytes = OURS, chain: bytes = b"f" * 64) -> bytes:
    return precert(key_hash=key_hash, extensions=leaf_index(index)) + opaque(b"PRE", 3) + opaque(chain, 2)


def final_in_tile(index: int, certificate: bytes, *, chain: bytes = b"f" * 64) -> bytes:
    return final(certificate, extensions=leaf_index(index)) + opaque(chain, 2)


def an_answer(*rows: tuple[bytes, bytes]) -> bytes:
    entries = [
        {"leaf_input": base64.b64encode(leaf).decode(), "extra_data": base64.b64encode(extra).decode()}
        for leaf, extra in rows
    ]
    return json.dumps({"entries": entries}).encode()


def hash_of(timestamped_entry: bytes) -> bytes:
    return sha256(b"\x00\x00\x00" + timestamped_entry).digest()


def entries(found: list[Entry | Unreadable]) -> list[Entry]:
    assert all(isinstance(item, Entry) for item in found)
    return [item for item in found if isinstance(item, Entry)]


# Real bytes.


def spki_hash(certificate: x509.Certificate) -> bytes:
    return sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def without_poison(precertificate: bytes) -> bytes:
    """RFC 6962 section 3.2: what the leaf holds is the TBSCertificate less the poison extension."""
    tbs = asn1crypto.x509.Certificate.load(precertificate)["tbs_certificate"]
    poison = "1.3.6.1.4.1.11129.2.4.3"
    kept = [extension for extension in tbs["extensions"] if extension["extn_id"].dotted != poison]
    assert len(kept) == len(tbs["extensions"]) - 1
    tbs["extensions"] = asn1crypto.x509.Extensions(kept)
    return bytes(tbs.dump(force=True))


@pytest.mark.parametrize("number", [0, 1])
def test_real_leaves_have_the_hashes_of_the_real_level_0_tile(ct_corpus: Path, number: int) -> None:
    folder = ct_corpus / "navigli2025h2" / "tile"
    tile, hashes = (folder / "data" / f"00{number}").read_bytes(), (folder / "0" / f"00{number}").read_bytes()
    scan = scan_data_tile(tile, first_index=256 * number, count=256, wanted=NOBODY)
    assert b"".join(scan.hashes) == hashes
    assert scan.hits == []
    assert scan.unreadable == []
    found = entries(parse_data_tile(tile, first_index=256 * number, count=256))
    assert [entry.leaf_hash for entry in found] == scan.hashes
    assert [entry.index for entry in found] == list(range(256 * number, 256 * number + 256))
    assert scan.last_timestamp_ms == found[-1].timestamp_ms


def test_real_precertificates_are_found_by_the_keys_of_their_issuers(ct_corpus: Path) -> None:
    issuers = {
        spki_hash(certificate): file.stem
        for file in sorted((ct_corpus / "issuers").glob("stg-*.pem"))
        for certificate in [x509.load_pem_x509_certificate(file.read_bytes())]
    }
    tiles = [(ct_corpus / "navigli2025h2" / "tile" / "data" / f"00{n}").read_bytes() for n in range(2)]
    counts: Counter[str] = Counter()
    for key_hash, name in issuers.items():
        wanted = Wanted(issuer_key_hashes=frozenset([key_hash]))
        for n, tile in enumerate(tiles):
            hits = scan_data_tile(tile, first_index=256 * n, count=256, wanted=wanted).hits
            assert {hit.issuer_key_hash for hit in hits} <= {key_hash}
            counts[name] += len(hits)
    assert counts == {"stg-e6": 241, "stg-e5": 212, "stg-r10": 33, "stg-r11": 26}


def test_the_parts_of_real_entries_are_what_another_parser_reads_in_them(ct_corpus: Path) -> None:
    tile = (ct_corpus / "navigli2025h2" / "tile" / "data" / "000").read_bytes()
    issuers = {
        spki_hash(certificate): certificate
        for file in (ct_corpus / "issuers").glob("stg-*.pem")
        for certificate in [x509.load_pem_x509_certificate(file.read_bytes())]
    }
    chains = set[tuple[bytes, ...]]()
    for entry in entries(parse_data_tile(tile, first_index=0, count=256)):
        assert entry.precertificate is not None
        assert entry.issuer_key_hash is not None
        precertificate = x509.load_der_x509_certificate(entry.precertificate)
        precertificate.verify_directly_issued_by(issuers[entry.issuer_key_hash])
        assert entry.tbs == without_poison(entry.precertificate)
        assert entry.entry_type == PRECERT_ENTRY
        assert entry.certificate is None
        assert entry.chain == ()
        chains.add((entry.issuer_key_hash, *entry.chain_fingerprints))
    # One chain for each issuer, all to one root. R10 and R11 came with the very certificates we have; E5 and E6 with
    # cross-signed ones of the same names and keys, which is why no fingerprint may decide whose an entry is.
    assert len(chains) == len(issuers)
    assert len({root for _, _, root in chains}) == 1
    ours = {(key_hash, issuer.fingerprint(hashes.SHA256())) for key_hash, issuer in issuers.items()}
    assert len(ours & {(key_hash, issuer) for key_hash, issuer, _ in chains}) == 2


def test_real_get_entries_rows_are_read_and_found_by_issuer_name(ct_corpus: Path) -> None:
    body = (ct_corpus / "rfc6962" / "four-entries.json").read_bytes()
    found = entries(parse_get_entries(body, first_index=100, limit=4))
    assert [entry.index for entry in found] == [100, 101, 102, 103]
    names: Counter[bytes] = Counter()
    for entry, row in zip(found, json.loads(body)["entries"], strict=True):
        assert entry.entry_type == X509_ENTRY
        assert entry.certificate is not None
        assert entry.leaf == base64.b64decode(row["leaf_input"])
        assert entry.leaf_hash == sha256(b"\x00" + entry.leaf).digest()
        certificate = x509.load_der_x509_certificate(entry.certificate)
        assert x509.load_der_x509_certificate(entry.chain[0]).subject == certificate.issuer
        names[certificate.issuer.public_bytes()] += 1
    for name, count in names.items():
        scan = scan_get_entries(body, first_index=100, limit=4, wanted=Wanted(issuer_names=frozenset([name])))
        assert len(scan.hits) == count
        assert scan.hashes == [entry.leaf_hash for entry in found]


# Both protocols, entry by entry.


def test_only_wanted_entries_become_objects_and_all_are_hashed() -> None:
    foreign = sha256(b"their key").digest()
    rows = [precert_in_tile(512), precert_in_tile(513, key_hash=foreign), final_in_tile(514, a_certificate())]
    rows.append(final_in_tile(515, a_certificate(issuer=der(0x30))))
    wanted = Wanted(issuer_key_hashes=frozenset([OURS]), issuer_names=frozenset([US]))
    scan = scan_data_tile(b"".join(rows), first_index=512, count=4, wanted=wanted)
    assert [hit.index for hit in scan.hits] == [512, 514]
    assert len(scan.hashes) == 4
    assert scan.unreadable == []
    assert scan.last_timestamp_ms == TIME
    first, second = scan.hits
    assert (first.tbs, first.precertificate, first.certificate) == (b"TBS", b"PRE", None)
    assert (second.tbs, second.precertificate, second.certificate) == (None, None, a_certificate())
    assert first.chain_fingerprints == (b"f" * 32, b"f" * 32)


def test_the_same_leaf_has_one_hash_whichever_protocol_it_came_by() -> None:
    leaf = precert(extensions=leaf_index(7))
    answer = an_answer((b"\x00\x00" + leaf, opaque(b"PRE", 3) + opaque(opaque(b"CA", 3) + opaque(b"ROOT", 3), 3)))
    by_answer = scan_get_entries(answer, first_index=7, limit=1, wanted=EVERYTHING)
    by_tile = scan_data_tile(precert_in_tile(7), first_index=7, count=1, wanted=EVERYTHING)
    assert by_answer.hashes == by_tile.hashes == [hash_of(leaf)]
    assert by_answer.hits[0].leaf == by_tile.hits[0].leaf == b"\x00\x00" + leaf
    assert by_answer.hits[0].precertificate == by_tile.hits[0].precertificate == b"PRE"
    assert by_answer.hits[0].chain == (b"CA", b"ROOT")


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(a_certificate(), id="plain"),
        pytest.param(a_certificate(version=b""), id="version 1"),
        pytest.param(der(0x30, a_certificate()[4:], length=b"\x83\x00" + a_certificate()[2:4]), id="long lengths"),
    ],
)
def test_the_issuer_is_found_in_certificates_of_every_shape(certificate: bytes) -> None:
    wanted = Wanted(issuer_names=frozenset([US]))
    scan = scan_data_tile(final_in_tile(0, certificate), first_index=0, count=1, wanted=wanted)
    assert [hit.certificate for hit in scan.hits] == [certificate]


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30", id="one octet"),
        pytest.param(b"no certificate at all", id="text"),
        pytest.param(a_certificate()[:40], id="cut off"),
        pytest.param(der(0x30, der(0x30, der(0x02, b"\x01"))), id="no issuer"),
        pytest.param(der(0x30, a_certificate(), length=b"\x80"), id="indefinite length"),
        pytest.param(
            der(0x30, der(0x30, der(0x02, b"\x01"), b"\x30\x80", US)), id="indefinite length before the issuer"
        ),
        pytest.param(der(0x30, a_certificate(), length=b"\x85\x00\x00\x00\x01\x00"), id="absurd length"),
    ],
)
def test_a_certificate_nobody_can_read_is_hashed_and_kept_as_evidence(certificate: bytes) -> None:
    tile = final_in_tile(0, certificate) + precert_in_tile(1)
    scan = scan_data_tile(tile, first_index=0, count=2, wanted=EVERYTHING)
    leaf = final(certificate, extensions=leaf_index(0))
    assert scan.hashes == [hash_of(leaf), hash_of(precert(extensions=leaf_index(1)))]
    assert [(bad.index, bad.raw) for bad in scan.unreadable] == [(0, b"\x00\x00" + leaf)]
    assert [hit.index for hit in scan.hits] == [1]
    answer = an_answer((b"\x00\x00" + leaf, opaque(b"", 3)))
    assert scan_get_entries(answer, first_index=0, limit=1, wanted=NOBODY).unreadable == scan.unreadable


# Data tiles.


def test_a_wider_tile_stands_in_for_a_partial_one() -> None:
    tile = b"".join(precert_in_tile(index) for index in range(256))
    scan = scan_data_tile(tile, first_index=0, count=17, wanted=EVERYTHING)
    assert len(scan.hashes) == len(scan.hits) == 17
    assert len(scan_data_tile(tile, first_index=0, count=256, wanted=NOBODY).hashes) == 256


def test_octets_after_a_full_tile_are_refused_with_all_that_was_read() -> None:
    tile = b"".join(precert_in_tile(index) for index in range(256)) + b"\x00"
    with pytest.raises(UnreadableTile) as caught:
        scan_data_tile(tile, first_index=0, count=256, wanted=EVERYTHING)
    assert len(caught.value.scan.hits) == 256


def test_leaves_without_a_leaf_index_are_read_as_archives_have_them() -> None:
    tile = precert() + opaque(b"PRE", 3) + opaque(b"", 2)
    assert len(scan_data_tile(tile, first_index=9, count=1, wanted=EVERYTHING).hits) == 1


def test_extensions_of_other_types_are_passed_over() -> None:
    extensions = b"\x07" + opaque(b"new", 2) + leaf_index(9)
    tile = precert(extensions=extensions) + opaque(b"PRE", 3) + opaque(b"", 2)
    scan = scan_data_tile(tile, first_index=9, count=1, wanted=EVERYTHING)
    assert (len(scan.hits), scan.unreadable) == (1, [])


def test_a_leaf_that_names_another_index_is_the_log_contradicting_itself_and_stops_no_entry_of_ours() -> None:
    extensions = b"\x07" + opaque(b"new", 2) + leaf_index(5)
    misplaced = precert(extensions=extensions) + opaque(b"PRE", 3) + opaque(b"", 2)
    with pytest.raises(MisplacedLeaf) as caught:
        scan_data_tile(
            precert_in_tile(4) + misplaced * 2 + precert_in_tile(7), first_index=4, count=4, wanted=EVERYTHING
        )
    assert caught.value.kind == Contradiction.LEAF_INDEX
    assert caught.value.proof == {"leaf": b"\x00\x00" + precert(extensions=extensions), "index": "6"}
    assert [hit.index for hit in caught.value.scan.hits] == [4, 5, 6, 7]
    assert len(caught.value.scan.hashes) == 4


@pytest.mark.parametrize(
    "extensions",
    [b"\x00", b"\x00\x00\x04\x00\x00\x00\x09", b"\x07\x00\xff", leaf_index(9) + b"\x01"],
    ids=["cut off", "short leaf_index", "length beyond the end", "octet after leaf_index"],
)
def test_extensions_that_do_not_add_up_are_evidence_and_the_entry_is_still_read(extensions: bytes) -> None:
    tile = precert(extensions=extensions) + opaque(b"PRE", 3) + opaque(b"", 2) + precert_in_tile(10)
    scan = scan_data_tile(tile, first_index=9, count=2, wanted=EVERYTHING)
    assert [hit.index for hit in scan.hits] == [9, 10]
    assert [bad.raw for bad in scan.unreadable] == [b"\x00\x00" + precert(extensions=extensions)]


def test_a_chain_that_is_no_list_of_fingerprints_is_evidence_and_the_entry_is_still_read() -> None:
    tile = precert_in_tile(0, chain=b"f" * 33)
    scan = scan_data_tile(tile, first_index=0, count=1, wanted=EVERYTHING)
    assert scan.hits[0].chain_fingerprints == ()
    assert [(bad.index, bad.raw) for bad in scan.unreadable] == [(0, b"f" * 33)]
    assert scan.in_order() == [scan.hits[0], scan.unreadable[0]]


def test_a_tile_cut_anywhere_is_refused_with_the_entries_before_the_cut() -> None:
    rows = [precert_in_tile(0), final_in_tile(1, a_certificate()), precert_in_tile(2)]
    tile = b"".join(rows)
    for end in range(len(tile)):
        with pytest.raises(UnreadableTile) as caught:
            scan_data_tile(tile[:end], first_index=0, count=3, wanted=EVERYTHING)
        whole = sum(end >= sum(map(len, rows[:n])) for n in (1, 2))
        assert caught.value.index == len(caught.value.scan.hashes) == len(caught.value.scan.hits) == whole
        assert caught.value.scan.last_timestamp_ms == (TIME if whole > 0 else None)


def test_an_entry_type_nobody_has_defined_makes_the_rest_of_a_tile_unreadable() -> None:
    unknown = TIME.to_bytes(8) + b"\x00\x02" + bytes(100)
    with pytest.raises(UnreadableTile, match="entry type is 2") as caught:
        scan_data_tile(precert_in_tile(0) + unknown, first_index=0, count=2, wanted=EVERYTHING)
    assert caught.value.index == 1
    assert [hit.index for hit in caught.value.scan.hits] == [0]


# get-entries answers.


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (b"", "its version and leaf type are , which nobody has defined"),
        (b"\x00\x01" + precert(), "its version and leaf type are 0001, which nobody has defined"),
        (b"\x01\x00" + precert(), "its version and leaf type are 0100, which nobody has defined"),
        (b"\x00\x00" + TIME.to_bytes(8) + b"\x80\x01", "its entry type is 32769, which nobody has defined"),
        (b"\x00\x00" + TIME.to_bytes(8) + b"\x00", "its head is cut off"),
        (b"\x00\x00" + precert() + b"\x00", "1 octets follow its extensions"),
        (b"\x00\x00" + precert()[:-1], "it is cut off"),
        (b"\x00\x00" + precert()[:30], "it is cut off"),
        (b"\x00\x00" + precert()[:-6] + b"\xff" + precert()[-5:], "it is cut off"),
    ],
)
def test_a_leaf_nobody_can_read_is_hashed_kept_as_evidence_and_passed(leaf: bytes, reason: str) -> None:
    good = b"\x00\x00" + precert(), opaque(b"PRE", 3) + opaque(b"", 3)
    scan = scan_get_entries(an_answer(good, (leaf, b""), good), first_index=0, limit=3, wanted=EVERYTHING)
    assert scan.hashes[1] == sha256(b"\x00" + leaf).digest()
    assert [hit.index for hit in scan.hits] == [0, 2]
    assert scan.unreadable == [Unreadable(1, reason, leaf)]


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        opaque(b"PRE", 3),
        opaque(b"PRE", 3) + opaque(b"", 3) + b"\x00",
        opaque(b"PRE", 3) + opaque(opaque(b"CA", 3) + b"\x00", 3),
        opaque(b"PRE", 3) + opaque(b"", 3)[:-1],
    ],
)
def test_broken_extra_data_is_evidence_and_the_authenticated_leaf_is_still_a_hit(extra: bytes) -> None:
    answer = an_answer((b"\x00\x00" + precert(), extra))
    scan = scan_get_entries(answer, first_index=3, limit=1, wanted=EVERYTHING)
    assert [(hit.tbs, hit.precertificate, hit.chain) for hit in scan.hits] == [(b"TBS", None, ())]
    assert [(bad.index, bad.raw) for bad in scan.unreadable] == [(3, b'"' + base64.b64encode(extra) + b'"')]


@pytest.mark.parametrize("extra", ["17", '"%"', "null", "[[]]"])
def test_extra_data_that_is_not_base64_is_looked_at_for_hits_only(extra: str) -> None:
    leaf = base64.b64encode(b"\x00\x00" + precert()).decode()
    answer = f'{{"entries": [{{"leaf_input": "{leaf}", "extra_data": {extra}}}]}}'.encode()
    assert scan_get_entries(answer, first_index=0, limit=1, wanted=NOBODY).unreadable == []
    scan = scan_get_entries(answer, first_index=0, limit=1, wanted=EVERYTHING)
    assert [bad.raw for bad in scan.unreadable] == [extra.encode()]
    assert [hit.precertificate for hit in scan.hits] == [None]


def test_no_more_entries_are_taken_than_were_asked_for() -> None:
    row = b"\x00\x00" + precert(), opaque(b"PRE", 3) + opaque(b"", 3)
    scan = scan_get_entries(an_answer(row, row, row), first_index=0, limit=2, wanted=EVERYTHING)
    assert len(scan.hashes) == len(scan.hits) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"{}",
        b"[]",
        b'{"entries": []}',
        b'{"entries": [{}]}',
        b'{"entries": [{"leaf_input": "%"}]}',
        b'{"entries": [{"leaf_input": "\xff"}]}',
        b'{"entries": ' + b"[" * 100_000,
        b'{"other": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_get_entries_answer_is_to_be_asked_for_again(body: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        scan_get_entries(body, first_index=0, limit=10, wanted=EVERYTHING)


# Bytes that mean nothing, and good ones with a few wrong.

GOOD_TILE = precert_in_tile(0) + final_in_tile(1, a_certificate()) + precert_in_tile(2)
GOOD_LEAF = b"\x00\x00" + final(a_certificate())


def with_damage(good: bytes) -> st.SearchStrategy[bytes]:
    def damage(changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(good)
        for at, value in changes:
            data[at] = value
        return bytes(data)

    return st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=4).map(damage)


def only_our_errors(act: Callable[[], object]) -> None:
    with contextlib.suppress(ReconcilerError):
        act()


@given(st.binary(max_size=400) | with_damage(GOOD_TILE), st.integers(0, 256))
def test_any_bytes_for_a_tile_end_in_entries_or_in_our_errors(tile: bytes, count: int) -> None:
    only_our_errors(lambda: parse_data_tile(tile, first_index=0, count=count))


@given(st.lists(st.tuples(st.binary(max_size=200) | with_damage(GOOD_LEAF), st.binary(max_size=100)), max_size=3))
def test_any_leaves_in_an_answer_end_in_one_hash_each(rows: list[tuple[bytes, bytes]]) -> None:
    if not rows:
        return
    scan = scan_get_entries(an_answer(*rows), first_index=0, limit=len(rows), wanted=EVERYTHING)
    assert scan.hashes == [sha256(b"\x00" + leaf).digest() for leaf, _ in rows]
    assert {item.index for item in scan.in_order()} == set(range(len(rows)))


@given(st.binary(max_size=300) | with_damage(an_answer((GOOD_LEAF, opaque(b"", 3)))))
def test_any_body_for_an_answer_ends_in_entries_or_in_our_errors(body: bytes) -> None:
    only_our_errors(lambda: parse_get_entries(body, first_index=0, limit=10))
