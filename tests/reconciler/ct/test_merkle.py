# SPDX-License-Identifier: Apache-2.0
"""The tree against the RFC's own recursive definition, against foreign proofs, and against a real log's tiles."""

import base64
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ct.merkle import (
    DATA_LEVEL,
    EMPTY_ROOT,
    CompactRange,
    TileId,
    edge_tiles,
    leaf_hash,
    node_hash,
    range_from_audit_path,
    range_from_tiles,
    tile_width,
    verify_consistency,
    verify_inclusion,
)
from reconciler.errors import Contradiction, DistrustLog, UnreadableAnswer

MOST_LEAVES = 1100
LEAVES = [sha256(f"leaf {number}".encode()).digest() for number in range(MOST_LEAVES)]


def largest_power_below(n: int) -> int:
    return 1 << ((n - 1).bit_length() - 1)


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = largest_power_below(len(leaves))
    return sha256(b"\x01" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def audit_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = largest_power_below(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), tree_hash(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), tree_hash(leaves[:k])]


def consistency_proof(m: int, leaves: Sequence[bytes], *, known: bool = True) -> list[bytes]:
    """PROOF and SUBPROOF of RFC 6962 section 2.1.2, word for word."""
    if m == len(leaves):
        return [] if known else [tree_hash(leaves)]
    k = largest_power_below(len(leaves))
    if m <= k:
        return [*consistency_proof(m, leaves[:k], known=known), tree_hash(leaves[k:])]
    return [*consistency_proof(m - k, leaves[k:], known=False), tree_hash(leaves[:k])]


def tiles_of(leaves: Sequence[bytes], width_of: int) -> dict[TileId, bytes]:
    """All hash tiles that a static log with these leaves offers under a head of `width_of` leaves."""
    tiles: dict[TileId, bytes] = {}
    nodes, level = list(leaves[:width_of]), 0
    while nodes:
        for n, at in enumerate(range(0, len(nodes), 256)):
            tile = nodes[at : at + 256]
            tiles[TileId(level, n, len(tile))] = b"".join(tile)
        nodes = [tree_hash(nodes[at : at + 256]) for at in range(0, len(nodes) - 255, 256)]
        level += 1
    return tiles


def test_hashes_have_the_values_the_rfc_gives_them() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@given(st.lists(st.integers(0, 300), max_size=4))
def test_a_range_grown_in_any_steps_has_the_root_of_the_definition(steps: list[int]) -> None:
    grown, size = CompactRange.empty(), 0
    for step in steps:
        step = min(step, MOST_LEAVES - size)
        grown = grown.extended(LEAVES[size : size + step])
        size += step
        assert grown.size == size
        assert grown.root() == tree_hash(LEAVES[:size])
        assert CompactRange.from_bytes(size, grown.to_bytes()) == grown


def test_a_range_can_be_built_from_the_right_edge_at_every_size() -> None:
    appended = CompactRange.empty()
    for size in range(1, MOST_LEAVES + 1):
        appended = appended.extended(LEAVES[size - 1 : size])
        offered = tiles_of(LEAVES, size)
        needed = edge_tiles(size)
        assert set(needed) <= set(offered)
        assert range_from_tiles(size, {tile: offered[tile] for tile in needed}) == appended


@pytest.mark.parametrize("head_size", [700, 768, 1023, 1100])
def test_a_range_below_the_head_is_built_from_the_tiles_the_head_offers(head_size: int) -> None:
    offered = tiles_of(LEAVES, head_size)
    for size in range(1, head_size + 1):
        needed = edge_tiles(size, head_size=head_size)
        assert set(needed) <= set(offered)
        built = range_from_tiles(size, {tile: offered[tile] for tile in needed})
        assert built == CompactRange.empty().extended(LEAVES[:size])


def test_the_right_edge_of_a_large_log_is_one_tile_for_every_level_that_is_not_full() -> None:
    assert edge_tiles(0) == []
    assert edge_tiles(256) == [TileId(1, 0, 1)]
    size = 2_700_000_000 + 3
    assert edge_tiles(size) == [
        TileId(level, size >> 8 * (level + 1), (size >> 8 * level) % 256)
        for level in range(4)
        if (size >> 8 * level) % 256 != 0
    ]


def test_no_range_is_built_from_missing_narrow_or_damaged_tiles() -> None:
    good = {TileId(0, 1, 44): b"".join(LEAVES[256:300]), TileId(1, 0, 1): tree_hash(LEAVES[:256])}
    assert range_from_tiles(300, good).root() == tree_hash(LEAVES[:300])
    narrow = {TileId(0, 1, 43): b"".join(LEAVES[256:299]), TileId(1, 0, 1): good[TileId(1, 0, 1)]}
    damaged = {**good, TileId(1, 0, 1): b"short"}
    too_long = {**good, TileId(1, 0, 1): tree_hash(LEAVES[:256]) + bytes(32)}
    for tiles in ({}, {TileId(1, 0, 1): good[TileId(1, 0, 1)]}, narrow, damaged, too_long):
        with pytest.raises(UnreadableAnswer):
            range_from_tiles(300, tiles)
    with pytest.raises(ValueError, match="does not cover"):
        edge_tiles(300, head_size=299)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (TileId(0, 0), "tile/0/000"),
        (TileId(0, 999, 5), "tile/0/999.p/5"),
        (TileId(0, 1234), "tile/0/x001/234"),
        (TileId(5, 1234067, 255), "tile/5/x001/x234/067.p/255"),
        (TileId(DATA_LEVEL, 1234067), "tile/data/x001/x234/067"),
        (TileId(DATA_LEVEL, 1000, 1), "tile/data/x001/000.p/1"),
    ],
)
def test_tile_paths_are_those_of_static_ct_api(tile: TileId, path: str) -> None:
    assert tile.path() == path
    assert tile.full().path() == path.partition(".p/")[0]


@pytest.mark.parametrize(("level", "n", "width"), [(-2, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_tiles_that_cannot_exist_cannot_be_named(level: int, n: int, width: int) -> None:
    with pytest.raises(ValueError, match="there is no tile"):
        TileId(level, n, width)


def test_tile_widths_follow_from_the_size() -> None:
    assert [tile_width(0, n, size=300) for n in range(3)] == [256, 44, 0]
    assert [tile_width(DATA_LEVEL, n, size=300) for n in range(3)] == [256, 44, 0]
    assert tile_width(1, 0, size=300) == 1
    assert tile_width(2, 0, size=300) == 0


@pytest.mark.parametrize(("size", "data"), [(-1, b""), (1, b""), (3, bytes(32)), (0, bytes(32)), (1, bytes(33))])
def test_a_stored_range_that_does_not_fit_its_size_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="are not the compact range"):
        CompactRange.from_bytes(size, data)


def test_every_audit_path_verifies_and_yields_the_range_up_to_its_leaf() -> None:
    for size in [*range(1, 35), 63, 64, 65, 100]:
        root = tree_hash(LEAVES[:size])
        for index in range(size):
            built = range_from_audit_path(
                index=index,
                tree_size=size,
                leaf_hash=LEAVES[index],
                path=audit_path(index, LEAVES[:size]),
                root=root,
            )
            assert built == CompactRange.empty().extended(LEAVES[: index + 1])


def test_every_consistency_proof_verifies_and_none_does_for_another_pair_of_roots() -> None:
    for second in [*range(1, 35), 63, 64, 65, 100]:
        for first in range(1, second + 1):
            proof = consistency_proof(first, LEAVES[:second])
            roots = {"first_root": tree_hash(LEAVES[:first]), "second_root": tree_hash(LEAVES[:second])}
            verify_consistency(first_size=first, second_size=second, **roots, proof=proof)
            for damaged in ({**roots, "first_root": LEAVES[-1]}, {**roots, "second_root": LEAVES[-1]}):
                with pytest.raises(DistrustLog):
                    verify_consistency(first_size=first, second_size=second, **damaged, proof=proof)


def decoded(values: list[str] | None) -> list[bytes]:
    return [base64.b64decode(value) for value in values or []]


def verify_vector(kind: str, vector: dict[str, Any]) -> None:
    if kind == "inclusion":
        verify_inclusion(
            index=vector["leafIdx"],
            tree_size=vector["treeSize"],
            leaf_hash=base64.b64decode(vector["leafHash"]),
            path=decoded(vector["proof"]),
            root=base64.b64decode(vector["root"]),
        )
    else:
        verify_consistency(
            first_size=vector["size1"],
            second_size=vector["size2"],
            first_root=base64.b64decode(vector["root1"]),
            second_root=base64.b64decode(vector["root2"]),
            proof=decoded(vector["proof"]),
        )


@pytest.mark.parametrize(
    ("kind", "good", "bad", "contradiction"),
    [
        ("inclusion", 6, 92, Contradiction.INCLUSION_PROOF),
        ("consistency", 6, 92, Contradiction.CONSISTENCY_PROOF),
    ],
)
def test_every_foreign_proof_is_judged_as_its_author_says(
    ct_corpus: Path, kind: str, good: int, bad: int, contradiction: Contradiction
) -> None:
    verdicts = {True: 0, False: 0}
    for file in sorted((ct_corpus / "merkle" / kind).rglob("*.json")):
        vector = json.loads(file.read_text())
        verdicts[vector["wantErr"]] += 1
        if vector["wantErr"]:
            with pytest.raises(DistrustLog) as caught:
                verify_vector(kind, vector)
            assert caught.value.kind == contradiction, file
        else:
            verify_vector(kind, vector)
    assert verdicts == {False: good, True: bad}
    assert len([path for path in (ct_corpus / "merkle" / kind).rglob("*") if path.is_file()]) == good + bad


hashes = st.binary(min_size=31, max_size=33)


@given(st.integers(-1, 20), st.integers(-1, 20), hashes, st.lists(hashes, max_size=6), hashes)
def test_made_up_audit_paths_never_verify(index: int, size: int, leaf: bytes, path: list[bytes], root: bytes) -> None:
    if (index, size, path) == (0, 1, []) and leaf == root:
        return
    with pytest.raises(DistrustLog):
        verify_inclusion(index=index, tree_size=size, leaf_hash=leaf, path=path, root=root)


@given(st.integers(-1, 20), st.integers(-1, 20), hashes, hashes, st.lists(hashes, max_size=6))
def test_made_up_consistency_proofs_never_verify(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: list[bytes]
) -> None:
    if first == second and first > 0 and first_root == second_root and not proof:
        return
    with pytest.raises(DistrustLog):
        verify_consistency(
            first_size=first, second_size=second, first_root=first_root, second_root=second_root, proof=proof
        )
