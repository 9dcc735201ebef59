# SPDX-License-Identifier: Apache-2.0
"""Tree heads: a real checkpoint, heads signed here by another library, and every way of spoiling them."""

import base64
import contextlib
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ct.head import LogKey, VerifiedTreeHead, compare_heads, verify_checkpoint, verify_sth
from reconciler.errors import Contradiction, DistrustLog, ReconcilerError, UnreadableHead, UnusableKey

ROME = "rome2026h1.example.org"
ORIGIN = "log.example/2026"
ROOT = sha256(b"root").digest()
TIME = 1_700_000_000_000


def spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Signer:
    """A log's key, and DigitallySigned structures by it."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        self.private = private
        self.key = LogKey.from_spki(spki(private.public_key()))

    def digitally_signed(self, size: int, root: bytes, timestamp: int) -> bytes:
        message = b"\x00\x01" + timestamp.to_bytes(8) + size.to_bytes(8) + root
        if isinstance(self.private, rsa.RSAPrivateKey):
            signature = self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())
            return b"\x04\x01" + len(signature).to_bytes(2) + signature
        signature = self.private.sign(message, ec.ECDSA(hashes.SHA256()))
        return b"\x04\x03" + len(signature).to_bytes(2) + signature

    def signature_line(self, size: int, *, name: str = ORIGIN, timestamp: int = TIME, signed: bytes = b"") -> str:
        key_id = sha256(name.encode() + b"\n\x05" + self.key.log_id).digest()[:4]
        body = timestamp.to_bytes(8) + (signed or self.digitally_signed(size, ROOT, timestamp))
        return f"— {name} {base64.b64encode(key_id + body).decode()}\n"

    def checkpoint(self, size: int) -> bytes:
        return (text(size) + self.signature_line(size)).encode()

    def sth(self, size: int) -> bytes:
        signed = self.digitally_signed(size, ROOT, TIME)
        fields = {"tree_size": size, "timestamp": TIME, "sha256_root_hash": base64.b64encode(ROOT).decode()}
        return json.dumps({**fields, "tree_head_signature": base64.b64encode(signed).decode()}).encode()


def text(size: int | str, *, root: str = base64.b64encode(ROOT).decode(), origin: str = ORIGIN) -> str:
    return f"{origin}\n{size}\n{root}\n\n"


P256 = Signer(ec.generate_private_key(ec.SECP256R1()))
RSA = Signer(rsa.generate_private_key(65537, 2048))
STRANGER = Signer(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def rome(ct_corpus: Path) -> tuple[bytes, LogKey]:
    folder = ct_corpus / "rome2026h1"
    described = json.loads((folder / "log.v3.json").read_text())
    key = LogKey.from_base64(described["key"])
    assert key.log_id == base64.b64decode(described["log_id"])
    return (folder / "checkpoint").read_bytes(), key


# A real checkpoint.


def test_a_real_checkpoint_verifies_and_says_what_its_log_says(ct_corpus: Path, rome: tuple[bytes, LogKey]) -> None:
    raw, key = rome
    final = json.loads((ct_corpus / "rome2026h1" / "log.v3.json").read_text())["final_tree_head"]
    for origin in (ROME, None):
        assert verify_checkpoint(raw, key=key, origin=origin) == VerifiedTreeHead(
            size=final["tree_size"],
            root_hash=base64.b64decode(final["sha256_root_hash"]),
            timestamp_ms=final["timestamp"],
            raw=raw,
            origin=ROME,
        )


def test_a_real_checkpoint_with_any_signed_bit_turned_over_is_distrusted(rome: tuple[bytes, LogKey]) -> None:
    raw, key = rome
    origin, size, root, _, line, _ = raw.decode().split("\n")
    signature = base64.b64decode(line.rsplit(" ", 1)[1])
    # timestamp, tree_size and root make up the signed structure; version and type are constants.
    signed = signature[4:12] + int(size).to_bytes(8) + base64.b64decode(root)
    for bit in range(len(signed) * 8):
        turned = (int.from_bytes(signed) ^ 1 << bit).to_bytes(len(signed))
        damaged = signature[:4] + turned[:8] + signature[12:]
        note = text(int.from_bytes(turned[8:16]), root=base64.b64encode(turned[16:]).decode(), origin=origin)
        note += f"— {ROME} {base64.b64encode(damaged).decode()}\n"
        with pytest.raises(DistrustLog) as caught:
            verify_checkpoint(note.encode(), key=key, origin=ROME)
        assert caught.value.kind == Contradiction.HEAD_SIGNATURE
        assert caught.value.proof == {"head": note.encode(), "key": key.spki}


def test_a_real_checkpoint_with_any_bit_of_it_turned_over_is_never_taken(rome: tuple[bytes, LogKey]) -> None:
    raw, key = rome
    for bit in range(len(raw) * 8):
        turned = (int.from_bytes(raw) ^ 1 << bit).to_bytes(len(raw))
        with pytest.raises((DistrustLog, UnreadableHead)):
            verify_checkpoint(turned, key=key, origin=ROME)


# Both kinds of key, both kinds of head.


@pytest.mark.parametrize("signer", [P256, RSA], ids=["P-256", "RSA"])
@pytest.mark.parametrize("size", [0, 1, 2**64 - 1])
def test_heads_signed_by_either_kind_of_key_verify(signer: Signer, size: int) -> None:
    checkpoint, sth = signer.checkpoint(size), signer.sth(size)
    assert verify_checkpoint(checkpoint, key=signer.key, origin=ORIGIN) == VerifiedTreeHead(
        size, ROOT, TIME, checkpoint, ORIGIN
    )
    assert verify_sth(sth, key=signer.key) == VerifiedTreeHead(size, ROOT, TIME, sth, None)


@pytest.mark.parametrize("key", [STRANGER.key, RSA.key], ids=["another key", "a key of another kind"])
def test_an_sth_that_the_key_did_not_sign_is_distrusted(key: LogKey) -> None:
    raw = P256.sth(5)
    with pytest.raises(DistrustLog) as caught:
        verify_sth(raw, key=key)
    assert caught.value.kind == Contradiction.HEAD_SIGNATURE
    assert caught.value.proof == {"head": raw, "key": key.spki}


@pytest.mark.parametrize("signer", [P256, RSA], ids=["P-256", "RSA"])
@pytest.mark.parametrize("name", ["tree_size", "timestamp"])
def test_an_sth_with_any_bit_of_a_number_turned_over_is_distrusted(signer: Signer, name: str) -> None:
    sth = json.loads(signer.sth(300))
    for bit in range(64):
        with pytest.raises(DistrustLog):
            verify_sth(json.dumps({**sth, name: sth[name] ^ 1 << bit}).encode(), key=signer.key)


@pytest.mark.parametrize("name", ["sha256_root_hash", "tree_head_signature"])
def test_an_sth_with_any_bit_of_root_or_signature_turned_over_is_never_taken(name: str) -> None:
    sth = json.loads(P256.sth(300))
    value = base64.b64decode(sth[name])
    for bit in range(len(value) * 8):
        turned = base64.b64encode((int.from_bytes(value) ^ 1 << bit).to_bytes(len(value))).decode()
        with pytest.raises((DistrustLog, UnreadableHead)):
            verify_sth(json.dumps({**sth, name: turned}).encode(), key=P256.key)


def test_unknown_fields_of_an_sth_are_ignored() -> None:
    raw = json.dumps({**json.loads(P256.sth(5)), "log_id": "…", "more": [1]}).encode()
    assert verify_sth(raw, key=P256.key).size == 5


@pytest.mark.parametrize(
    "change",
    [
        {"tree_size": -1},
        {"tree_size": 2**64},
        {"tree_size": 1.5},
        {"tree_size": "5"},
        {"timestamp": -1},
        {"timestamp": 2**64},
        {"timestamp": None},
        {"sha256_root_hash": ""},
        {"sha256_root_hash": base64.b64encode(bytes(31)).decode()},
        {"sha256_root_hash": "not base64"},
        {"tree_head_signature": ""},
        {"tree_head_signature": base64.b64encode(b"\x04\x03\x00\x05abc").decode()},
        {"more": "x" * 70_000},
    ],
)
def test_what_is_no_sth_is_to_be_asked_for_again(change: dict[str, object]) -> None:
    with pytest.raises(UnreadableHead):
        verify_sth(json.dumps({**json.loads(P256.sth(5)), **change}).encode(), key=P256.key)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b"<html>busy</html>", b"[" * 60_000])
def test_an_error_page_is_no_head_and_no_contradiction(raw: bytes) -> None:
    with pytest.raises(UnreadableHead):
        verify_sth(raw, key=P256.key)
    with pytest.raises(UnreadableHead):
        verify_checkpoint(raw, key=P256.key, origin=None)


# The note around a checkpoint.


def test_signatures_by_others_are_passed_over_wherever_they_stand() -> None:
    others = "".join(f"— witness{number} {base64.b64encode(bytes(60)).decode()}\n" for number in range(15))
    grease = "— grease.invalid AAAAAAAA\n"
    same_name = STRANGER.signature_line(5)
    for lines in (others + P256.signature_line(5), grease + same_name + P256.signature_line(5) + others):
        raw = (text(5) + lines).encode()
        assert verify_checkpoint(raw, key=P256.key, origin=ORIGIN).size == 5


def test_a_checkpoint_signed_only_by_others_is_unreadable_not_distrusted() -> None:
    for lines in (STRANGER.signature_line(5), P256.signature_line(5, name="another.example")):
        with pytest.raises(UnreadableHead, match="no signature by the log's key"):
            verify_checkpoint((text(5) + lines).encode(), key=P256.key, origin=ORIGIN)


def test_a_second_signature_by_the_log_has_to_hold_as_well() -> None:
    bad = P256.signature_line(5, signed=P256.digitally_signed(6, ROOT, TIME))
    with pytest.raises(DistrustLog):
        verify_checkpoint((text(5) + P256.signature_line(5) + bad).encode(), key=P256.key, origin=ORIGIN)


def test_the_origin_has_to_be_the_configured_one() -> None:
    raw = P256.checkpoint(5)
    assert verify_checkpoint(raw, key=P256.key, origin=None).origin == ORIGIN
    with pytest.raises(UnreadableHead, match="origin is"):
        verify_checkpoint(raw, key=P256.key, origin="log.example/2027")


GOOD_LINE = P256.signature_line(5)
GOOD_ROOT = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(f"{ORIGIN}\n5\n{GOOD_ROOT}\nextension\n\n{GOOD_LINE}", id="extension line"),
        pytest.param(f"{ORIGIN}\n5\n\n{GOOD_LINE}", id="no root"),
        pytest.param(f"\n5\n{GOOD_ROOT}\n\n{GOOD_LINE}", id="no origin"),
        pytest.param(f"{ORIGIN}\n5\n{GOOD_ROOT}\n{GOOD_LINE}", id="no blank line"),
        pytest.param(text(5), id="no signature"),
        pytest.param(text(5) + GOOD_LINE.rstrip("\n"), id="no end of line"),
        pytest.param(text(5) + GOOD_LINE + "more", id="text after the signatures"),
        pytest.param(text(5) + GOOD_LINE.replace("— ", "- "), id="a hyphen for the dash"),
        pytest.param(text(5) + GOOD_LINE.replace("\n", " \n"), id="a blank at the end"),
        pytest.param(text("05") + GOOD_LINE, id="leading zero"),
        pytest.param(text("+5") + GOOD_LINE, id="sign"),
        pytest.param(text("٥") + GOOD_LINE, id="digit of another script"),
        pytest.param(text(2**64) + GOOD_LINE, id="65 bits"),
        pytest.param(text("9" * 5000) + GOOD_LINE, id="thousands of digits"),
        pytest.param(text("") + GOOD_LINE, id="no size"),
        pytest.param(text(5, root=GOOD_ROOT[:-2] + "1=") + GOOD_LINE, id="root with bits left over"),
        pytest.param(text(5, root=base64.b64encode(bytes(31)).decode()) + GOOD_LINE, id="short root"),
        pytest.param(text(5, root="?") + GOOD_LINE, id="root not in base64"),
        pytest.param(text(5) + GOOD_LINE * 65, id="65 signatures"),
        pytest.param(text(5).replace("\n", "\r\n") + GOOD_LINE, id="carriage returns"),
        pytest.param(text(5) + P256.signature_line(5, signed=b"\x04\x03\x00"), id="signature cut off"),
        pytest.param(text(5) + P256.signature_line(5, signed=b"\x04\x03\x00\x05abcdef"), id="wrong length"),
        pytest.param(text(5) + f"— {ORIGIN} {GOOD_LINE.split()[2][:8]}\n", id="no timestamp"),
    ],
)
def test_what_is_no_checkpoint_is_to_be_asked_for_again(note: str) -> None:
    with pytest.raises(UnreadableHead):
        verify_checkpoint(note.encode(), key=P256.key, origin=None)


# Keys.


def test_a_log_id_is_the_hash_of_the_key() -> None:
    assert P256.key.log_id == sha256(P256.key.spki).digest()
    assert LogKey.from_base64(base64.b64encode(RSA.key.spki).decode()) == RSA.key


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "not base64",
        "é",
        base64.b64encode(b"not a key").decode(),
        base64.b64encode(P256.key.spki + b"\x00").decode(),
        base64.b64encode(spki(ec.generate_private_key(ec.SECP384R1()).public_key())).decode(),
        base64.b64encode(spki(ed25519.Ed25519PrivateKey.generate().public_key())).decode(),
        base64.b64encode(spki(rsa.generate_private_key(65537, 1024).public_key())).decode(),  # noqa: S505 - refused
    ],
    ids=["empty", "no base64", "no ASCII", "no key", "octet after the key", "P-384", "Ed25519", "RSA-1024"],
)
def test_keys_that_no_log_may_have_are_refused(encoded: str) -> None:
    with pytest.raises(UnusableKey):
        LogKey.from_base64(encoded)


# Heads against each other.


def head(size: int, timestamp: int, *, root: bytes = ROOT) -> VerifiedTreeHead:
    return VerifiedTreeHead(size, root, timestamp, f"{size} at {timestamp}".encode(), None)


OTHER = sha256(b"other").digest()


@pytest.mark.parametrize(
    ("previous", "current", "followed"),
    [
        pytest.param(head(5, 10), head(9, 20), head(9, 20), id="grown"),
        pytest.param(head(5, 10), head(5, 20), head(5, 20), id="signed anew"),
        pytest.param(head(5, 20), head(5, 10), head(5, 20), id="the same size from a replica that lags"),
        pytest.param(head(5, 10), head(5, 10), head(5, 10), id="the very same"),
        pytest.param(head(5, 10), head(9, 10, root=OTHER), head(9, 10, root=OTHER), id="grown within a millisecond"),
        pytest.param(head(0, 10), head(1, 20), head(1, 20), id="from the empty tree"),
    ],
)
def test_the_head_to_go_by_is_the_larger_then_the_newer(
    previous: VerifiedTreeHead, current: VerifiedTreeHead, followed: VerifiedTreeHead
) -> None:
    assert compare_heads(previous, current) == followed


@pytest.mark.parametrize(
    ("previous", "current", "kind"),
    [
        (head(5, 10), head(5, 20, root=OTHER), Contradiction.FORK),
        (head(5, 20), head(5, 10, root=OTHER), Contradiction.FORK),
        (head(0, 10), head(0, 10, root=OTHER), Contradiction.FORK),
        (head(9, 10), head(5, 20), Contradiction.ROLLBACK),
        (head(5, 20), head(9, 10), Contradiction.ROLLBACK),
        (head(9, 20), head(5, 10), Contradiction.STALE_HEAD),
        (head(9, 20), head(5, 20), Contradiction.STALE_HEAD),
    ],
)
def test_heads_that_contradict_each_other_are_told_apart_and_kept_as_proof(
    previous: VerifiedTreeHead, current: VerifiedTreeHead, kind: Contradiction
) -> None:
    with pytest.raises(DistrustLog) as caught:
        compare_heads(previous, current)
    assert caught.value.kind == kind
    assert caught.value.proof == {"previous": previous.raw, "current": current.raw}


# Bytes that mean nothing, and good ones with a few wrong.


def with_damage(good: bytes) -> st.SearchStrategy[bytes]:
    places = st.lists(st.tuples(st.integers(0, len(good)), st.binary(max_size=3)), min_size=1, max_size=3)

    def damage(changes: list[tuple[int, bytes]]) -> bytes:
        data = good
        for at, value in changes:
            data = data[:at] + value + data[at + 1 :]
        return data

    return places.map(damage)


def never_another_head(verify: Callable[[], VerifiedTreeHead]) -> None:
    with contextlib.suppress(ReconcilerError):
        verified = verify()
        assert (verified.size, verified.root_hash, verified.timestamp_ms) == (5, ROOT, TIME)


@given(st.binary(max_size=300) | with_damage(P256.checkpoint(5)))
def test_any_bytes_for_a_checkpoint_end_in_the_signed_head_or_in_our_errors(raw: bytes) -> None:
    never_another_head(lambda: verify_checkpoint(raw, key=P256.key, origin=ORIGIN))


@given(st.binary(max_size=300) | with_damage(P256.sth(5)))
def test_any_bytes_for_an_sth_end_in_the_signed_head_or_in_our_errors(raw: bytes) -> None:
    never_another_head(lambda: verify_sth(raw, key=P256.key))


@given(st.binary(max_size=120) | with_damage(P256.key.spki))
def test_any_bytes_for_a_key_end_in_a_key_or_in_our_errors(raw: bytes) -> None:
    with contextlib.suppress(UnusableKey):
        assert LogKey.from_spki(raw).log_id == sha256(raw).digest()
