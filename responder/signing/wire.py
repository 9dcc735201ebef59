# SPDX-License-Identifier: Apache-2.0
"""What a worker and the process that holds one session on a token say to each other, over a socket pair.

Knows the form of the messages only: four octets of length, then msgpack. session.py and token.py speak it.
"""

import enum
from typing import Final

import msgspec

LENGTH_OCTETS: Final = 4
# A ResponseData for 32 certificates is the largest there is, at some 6 kB.
MOST_OCTETS: Final = 1024 * 1024


class Trouble(enum.StrEnum):
    """What is wrong with a token, by what is to be done about it."""

    PIN = "pin"  # the token does not take the PIN: never try that one again, or the token locks itself
    SETTING = "setting"  # somebody has to change the URI, the library or the key
    GONE = "gone"  # the token does not answer, or not now: worth trying again


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Open the token, log in and find the key. The PIN travels here and nowhere else."""

    module_path: str
    token: str | None
    manufacturer: str | None
    serial: str | None
    model: str | None
    label: str | None
    identity: bytes | None
    pin: str | None


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make a key pair on the token under the label and id of `place`, where there is none yet."""

    place: Open
    curve: bytes | None  # the OID of a named curve, DER; None for RSA
    bits: int


class Sign(msgspec.Struct, frozen=True, tag=True):
    """Sign these octets with the key."""

    octets: bytes


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The key is there. What the token tells of its public half: numbers for RSA, parameters and point for EC."""

    kind: str  # "rsa" or "ec"
    hashes: bool  # for RSA: it takes the message and hashes by itself, not a DigestInfo
    modulus: bytes | None = None
    exponent: bytes | None = None
    parameters: bytes | None = None  # ECParameters, DER
    point: bytes | None = None  # ECPoint, in or without its OCTET STRING
    certificate: bytes | None = None


class Signed(msgspec.Struct, frozen=True, tag=True):
    """The signature as the token gives it."""

    octets: bytes


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It did not work: why, in a few words for the operator. The process ends after this."""

    trouble: Trouble
    detail: str


Request = Open | Generate | Sign
Reply = Opened | Signed | Failed

_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """Return a message as it travels."""
    octets = msgspec.msgpack.encode(message)
    return len(octets).to_bytes(LENGTH_OCTETS) + octets


def request(octets: bytes) -> Request:
    """Read what a worker asks. Raises msgspec.MsgspecError."""
    return _requests.decode(octets)


def reply(octets: bytes) -> Reply:
    """Read what the process says. Raises msgspec.MsgspecError."""
    return _replies.decode(octets)
