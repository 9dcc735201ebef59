# SPDX-License-Identifier: Apache-2.0
"""Tree heads: the checkpoints of static logs, the STHs of RFC 6962 logs, and the keys that sign them.

Knows signatures and which heads contradict each other; never the entries beneath, nor where a head was fetched.
Called by the readers of both protocols. The only way to a VerifiedTreeHead is through its log's key.
"""

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from reconciler.ct.merkle import HASH_SIZE
from reconciler.errors import Contradiction, DistrustLog, UnreadableHead, UnusableKey

_SHA256: Final = 4  # RFC 5246 section 7.4.1.4.1, HashAlgorithm
_RSA: Final = 1  # the same, SignatureAlgorithm
_ECDSA: Final = 3
_LEAST_RSA_BITS: Final = 2048
_MOST_HEAD_OCTETS: Final = 64 * 1024
_NUMBERS_END: Final = 2**64
_TIMESTAMP: Final = struct.Struct(">Q")
_NUMBERS: Final = struct.Struct(">QQ")

# C2SP signed-note asks verifiers to take at least 16 signature lines; more than this many is no honest note.
_MOST_SIGNATURE_LINES: Final = 64
_NOTE_KEY_TYPE: Final = b"\x05"  # C2SP static-ct-api: RFC 6962 TreeHeadSignature
_KEY_ID_SIZE: Final = 4
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,19}")
# C2SP signed-note: an em dash, the key's name (no blanks, no plus), base64 of key id and signature.
_SIGNATURE_LINE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log's public key: `spki` in DER, `log_id` its SHA-256 (RFC 6962 section 3.2). Construct it by from_*."""

    log_id: bytes
    spki: bytes
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = field(compare=False, repr=False)

    @classmethod
    def from_spki(cls, spki: bytes) -> "LogKey":
        """Return the key in this SubjectPublicKeyInfo.

        RFC 6962 section 2.1.4 allows P-256, and RSA of 2048 bits or more. Raises UnusableKey for all else.
        """
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise UnusableKey(f"this is no public key: {exc}") from exc
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(sha256(spki).digest(), spki, key)
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
            return cls(sha256(spki).digest(), spki, key)
        raise UnusableKey("a log signs with P-256, or with RSA of at least 2048 bits, not with this key")

    @classmethod
    def from_base64(cls, spki: str) -> "LogKey":
        """Return the key in this SubjectPublicKeyInfo in base64, as log lists print it. Raises UnusableKey."""
        try:
            return cls.from_spki(base64.b64decode(spki, validate=True))
        except ValueError as exc:
            raise UnusableKey(f"the key is not in base64: {exc}") from exc


@dataclass(frozen=True, slots=True)
class VerifiedTreeHead:
    """A tree head whose signature by its log's key holds. `raw` is it as received; `origin` is a checkpoint's own."""

    size: int
    root_hash: bytes
    timestamp_ms: int
    raw: bytes
    origin: str | None


class _Sth(msgspec.Struct):
    tree_size: int
    timestamp: int
    sha256_root_hash: bytes
    tree_head_signature: bytes


_STH: Final = msgspec.json.Decoder(_Sth)


def verify_sth(raw_json: bytes, *, key: LogKey) -> VerifiedTreeHead:
    """Read a get-sth answer (RFC 6962 section 4.3) and verify it.

    Raises UnreadableHead when it is no such answer, and DistrustLog of kind HEAD_SIGNATURE when its signature fails.
    """
    if len(raw_json) > _MOST_HEAD_OCTETS:
        raise UnreadableHead(f"{len(raw_json)} octets are too many for a signed tree head")
    try:
        sth = _STH.decode(raw_json)
    except (ValueError, RecursionError) as exc:
        raise UnreadableHead(f"this is no signed tree head: {exc}") from exc
    if not (0 <= sth.tree_size < _NUMBERS_END and 0 <= sth.timestamp < _NUMBERS_END):
        raise UnreadableHead("the numbers of a signed tree head have 64 bits")
    if len(sth.sha256_root_hash) != HASH_SIZE:
        raise UnreadableHead(f"the root of a signed tree head has {len(sth.sha256_root_hash)} octets instead of 32")
    head = VerifiedTreeHead(sth.tree_size, sth.sha256_root_hash, sth.timestamp, raw_json, None)
    _check_signature(head, sth.tree_head_signature, key=key)
    return head


def verify_checkpoint(raw: bytes, *, key: LogKey, origin: str | None) -> VerifiedTreeHead:
    """Read a checkpoint (C2SP static-ct-api, a signed note) and verify it by `key`.

    The signature does not cover the origin line. Where `origin` is given the line must say the same; either way it
    must be the name the signature goes by. Signatures by others, witnesses for instance, are passed over. Raises
    UnreadableHead when it is no such note or not signed by this key, and DistrustLog of kind HEAD_SIGNATURE when a
    signature that names this key fails.
    """
    note = _parse_note(raw)
    if origin is not None and note.origin != origin:
        raise UnreadableHead(f"the checkpoint's origin is {note.origin!r} instead of {origin!r}")
    key_id = sha256(note.origin.encode() + b"\n" + _NOTE_KEY_TYPE + key.log_id).digest()[:_KEY_ID_SIZE]
    heads = [
        _verify_note(raw, note, signature[_KEY_ID_SIZE:], key=key)
        for name, signature in note.signatures
        if name == note.origin and signature[:_KEY_ID_SIZE] == key_id
    ]
    if not heads:
        raise UnreadableHead("the checkpoint bears no signature by the log's key")
    return heads[0]


class _Note(NamedTuple):
    origin: str
    size: int
    root_hash: bytes
    signatures: list[tuple[str, bytes]]


def _parse_note(raw: bytes) -> _Note:
    """Split a checkpoint. Raises UnreadableHead.

    C2SP tlog-checkpoint: origin, size in decimal, root in base64, each on a line; a blank line; signature lines. An
    RFC 6962 signature covers no extension lines, so static-ct-api allows none, and none are taken.
    """
    if len(raw) > _MOST_HEAD_OCTETS:
        raise UnreadableHead(f"{len(raw)} octets are too many for a checkpoint")
    try:
        text, blank, signatures = raw.decode().rpartition("\n\n")
    except UnicodeDecodeError as exc:
        raise UnreadableHead("the checkpoint is not UTF-8") from exc
    lines = text.split("\n")
    if not blank or len(lines) != 3 or not lines[0] or not signatures.endswith("\n"):
        raise UnreadableHead("a checkpoint is three lines, a blank one and signatures")
    if _DECIMAL.fullmatch(lines[1]) is None or int(lines[1]) >= _NUMBERS_END:
        raise UnreadableHead(f"{lines[1]!r} is not the size of a tree")
    root_hash = _from_base64(lines[2])
    if len(root_hash) != HASH_SIZE:
        raise UnreadableHead(f"the root has {len(root_hash)} octets instead of 32")
    return _Note(lines[0], int(lines[1]), root_hash, list(_signature_lines(signatures)))


def _signature_lines(text: str) -> Iterator[tuple[str, bytes]]:
    lines = text.split("\n")[:-1]
    if len(lines) > _MOST_SIGNATURE_LINES:
        raise UnreadableHead(f"{len(lines)} signature lines are more than any note needs")
    for line in lines:
        match = _SIGNATURE_LINE.fullmatch(line)
        if match is None:
            raise UnreadableHead(f"{line[:100]!r} is not a signature line")
        yield match[1], _from_base64(match[2])


def _from_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise UnreadableHead(f"{text[:100]!r} is not base64") from exc
    # Two spellings of one value would let one head look like two.
    if base64.b64encode(data).decode() != text:
        raise UnreadableHead(f"{text[:100]!r} is base64 with bits left over")
    return data


def _verify_note(raw: bytes, note: _Note, signature: bytes, *, key: LogKey) -> VerifiedTreeHead:
    """Verify what follows the key id in one signature line; the time stands there and not in the text.

    C2SP static-ct-api: struct { uint64 timestamp; DigitallySigned tree_head_signature; } RFC6962NoteSignature.
    """
    if len(signature) < _TIMESTAMP.size:
        raise UnreadableHead("the log's signature line is cut off")
    (timestamp_ms,) = _TIMESTAMP.unpack_from(signature)
    head = VerifiedTreeHead(note.size, note.root_hash, timestamp_ms, raw, note.origin)
    _check_signature(head, signature[_TIMESTAMP.size :], key=key)
    return head


def _check_signature(head: VerifiedTreeHead, signed: bytes, *, key: LogKey) -> None:
    """Check a DigitallySigned over the head's TreeHeadSignature; pass the head on only if this returns.

    RFC 6962 section 3.5: struct { Version version = v1(0); SignatureType signature_type = tree_hash(1); uint64
    timestamp; uint64 tree_size; opaque sha256_root_hash[32]; }. RFC 5246 section 4.7: HashAlgorithm,
    SignatureAlgorithm, opaque signature<0..2^16-1>.
    """
    if len(signed) < 4 or len(signed) != 4 + int.from_bytes(signed[2:4]):
        raise UnreadableHead("the signature is not as long as it says")
    message = b"\x00\x01" + _NUMBERS.pack(head.timestamp_ms, head.size) + head.root_hash
    try:
        _check_algorithm(signed[4:], message, key=key, algorithm=(signed[0], signed[1]))
    except InvalidSignature as exc:
        raise DistrustLog(
            f"the log's signature over its head of {head.size} entries does not verify",
            kind=Contradiction.HEAD_SIGNATURE,
            proof={"head": head.raw, "key": key.spki},
        ) from exc


def _check_algorithm(signature: bytes, message: bytes, *, key: LogKey, algorithm: tuple[int, int]) -> None:
    if isinstance(key.public_key, rsa.RSAPublicKey) and algorithm == (_SHA256, _RSA):
        key.public_key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key.public_key, ec.EllipticCurvePublicKey) and algorithm == (_SHA256, _ECDSA):
        key.public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    else:
        raise InvalidSignature(f"algorithms {algorithm} are not this key's")


def compare_heads(previous: VerifiedTreeHead, current: VerifiedTreeHead) -> VerifiedTreeHead:
    """Return the head to go by of two that one log signed, `current` having come in after `previous`.

    Raises DistrustLog: FORK for one size and two roots; ROLLBACK when the later timestamp goes with the smaller size,
    in whichever order the two came in; STALE_HEAD when `current` is smaller and not newer, which proves nothing
    against the log (RFC 6962 lets replicas lag) but must not move anybody back. That larger heads contain smaller
    ones is for the entries or a consistency proof to show.
    """
    if current.size == previous.size:
        if current.root_hash != previous.root_hash:
            raise _contradiction(Contradiction.FORK, previous, current)
        return max(previous, current, key=lambda head: head.timestamp_ms)
    smaller, larger = sorted((previous, current), key=lambda head: head.size)
    if smaller.timestamp_ms > larger.timestamp_ms:
        raise _contradiction(Contradiction.ROLLBACK, previous, current)
    if current is smaller:
        raise _contradiction(Contradiction.STALE_HEAD, previous, current)
    return current


def _contradiction(kind: Contradiction, previous: VerifiedTreeHead, current: VerifiedTreeHead) -> DistrustLog:
    heads = f"{previous.size} entries at {previous.timestamp_ms}, then {current.size} at {current.timestamp_ms}"
    return DistrustLog(heads, kind=kind, proof={"previous": previous.raw, "current": current.raw})
