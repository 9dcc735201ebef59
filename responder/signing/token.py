# SPDX-License-Identifier: Apache-2.0
"""The process that holds one session on a PKCS#11 token: opens it, finds the key, signs what it is given, one by one.

A process of its own, because python-pkcs11 initialises libraries for one thread, libraries survive no fork, and one
that hangs or crashes is to take no worker with it. Started by session.py; knows nothing of certificates or answers.
"""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, exceptions

from responder.signing import wire
from responder.signing.wire import Failed, Generate, Open, Opened, Sign, Signed, Trouble

# The keys that sign responses, by what the token calls them.
_KINDS: Final = {KeyType.RSA: "rsa", KeyType.EC: "ec"}
_PIN: Final = (
    exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, exceptions.PinLocked, exceptions.PinExpired,
    exceptions.UserPinNotInitialized,
)  # fmt: skip
_MECHANISM: Final = (exceptions.MechanismInvalid, exceptions.KeyTypeInconsistent, exceptions.FunctionNotSupported)


class _FailedError(Exception):
    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble = trouble


class _Key:
    """A private key in an open session."""

    def __init__(self, key: Any, *, hashes: bool) -> None:
        self._key = key
        self._mechanism = Mechanism.ECDSA
        if key.key_type is KeyType.RSA:
            self._mechanism = Mechanism.SHA256_RSA_PKCS if hashes else Mechanism.RSA_PKCS

    def sign(self, octets: bytes) -> bytes:
        return bytes(self._key.sign(octets, mechanism=self._mechanism))


def main() -> None:
    """Serve the socket whose number is the first argument, until its other end closes it."""
    limit = float(sys.argv[2])
    # A worker that is told to stop finishes what it has in hand, and with it we: our end is that of the socket.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Nothing catches this one: a library that hangs is ended by the kernel.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with socket.socket(fileno=int(sys.argv[1])) as line, contextlib.suppress(ConnectionError):
        key: _Key | None = None
        while (octets := _read(line)) is not None:
            signal.setitimer(signal.ITIMER_REAL, limit)
            try:
                said, key = _do(wire.request(octets), key)
            except _FailedError as exc:
                said = Failed(exc.trouble, str(exc))
            except exceptions.PKCS11Error as exc:
                said = _told(exc)
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.sendall(wire.frame(said))
            if isinstance(said, Failed):
                return


def _do(asked: wire.Request, key: _Key | None) -> tuple[wire.Reply, _Key | None]:
    match asked:
        case Sign() if key is not None:
            return Signed(key.sign(asked.octets)), key
        case Open():
            return _open(asked)
        case Generate():
            return _generate(asked)
        case _:
            raise _FailedError(Trouble.SETTING, "asked to sign before there was a key")


def _told(exc: exceptions.PKCS11Error) -> Failed:
    """Return an error of the token in words; those without any say their name."""
    name = type(exc).__name__
    detail = " ".join(str(exc).split())[:200]
    if isinstance(exc, _PIN):
        return Failed(Trouble.PIN, f"the token does not take the PIN ({name})")
    if isinstance(exc, _MECHANISM):
        return Failed(Trouble.SETTING, f"the token does not sign this way ({name})")
    return Failed(Trouble.GONE, f"the token says {name}{': ' if detail else ''}{detail}")


def _read(line: socket.socket) -> bytes | None:
    head = line.recv(wire.LENGTH_OCTETS, socket.MSG_WAITALL)
    if len(head) < wire.LENGTH_OCTETS:
        return None
    wanted = int.from_bytes(head)
    octets = line.recv(wanted, socket.MSG_WAITALL)
    return octets if len(octets) == wanted else None


def _open(place: Open) -> tuple[Opened, _Key]:
    return _find(_session(place, rw=False), place)


def _find(session: Any, place: Open) -> tuple[Opened, _Key]:
    (key,) = _one(list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **_named(place)})), place)
    return _opened(session, key, place)


def _generate(asked: Generate) -> tuple[Opened, _Key]:
    place = asked.place
    session = _session(place, rw=True)
    if list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, **_named(place)})):
        raise _FailedError(Trouble.SETTING, f"there is a key {_words(place)} already")
    # Good for signatures alone, and never to leave the token.
    names = {
        "id": place.identity,
        "label": place.label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "private_template": {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    }
    if asked.curve is None:
        session.generate_keypair(KeyType.RSA, asked.bits, **names)
    else:
        parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: asked.curve}, local=True)
        parameters.generate_keypair(**names)
    return _find(session, place)


def _session(place: Open, *, rw: bool) -> Any:
    try:
        library = pkcs11.lib(place.module_path)
    except exceptions.PKCS11Error as exc:
        if "loading" in str(exc):
            raise _FailedError(
                Trouble.SETTING, f"{place.module_path} is no PKCS#11 library that can be loaded"
            ) from exc
        raise
    fitting = [token for token in library.get_tokens() if _fits(token, place)]
    what = f"token {place.token!r}" if place.token is not None else f"token with serial {place.serial!r}"
    if not fitting:
        raise _FailedError(Trouble.GONE, f"there is no {what} behind {place.module_path}")
    if len(fitting) > 1:
        raise _FailedError(Trouble.SETTING, f"{len(fitting)} tokens are a {what}; name the serial number too")
    return fitting[0].open(rw=rw, user_pin=place.pin)


def _fits(token: Any, place: Open) -> bool:
    found = {
        "token": token.label, "manufacturer": token.manufacturer_id, "model": token.model,
        "serial": token.serial.decode("ascii", "replace"),
    }  # fmt: skip
    return all((wanted := getattr(place, name)) is None or wanted == said.strip() for name, said in found.items())


def _named(place: Open) -> dict[Attribute, object]:
    named: dict[Attribute, object] = {}
    if place.label is not None:
        named[Attribute.LABEL] = place.label
    if place.identity is not None:
        named[Attribute.ID] = place.identity
    return named


def _words(place: Open) -> str:
    parts = [] if place.label is None else [repr(place.label)]
    parts += [] if place.identity is None else [f"with id {place.identity.hex()}"]
    return " ".join(parts)


def _one(found: list[Any], place: Open) -> list[Any]:
    if not found:
        login = "" if place.pin is not None else "; no PIN is configured, and tokens hide keys until they have one"
        raise _FailedError(Trouble.SETTING, f"the token has no private key {_words(place)}{login}")
    if len(found) > 1:
        raise _FailedError(Trouble.SETTING, f"the token has {len(found)} private keys {_words(place)}; name the id too")
    return found


def _opened(session: Any, key: Any, place: Open) -> tuple[Opened, _Key]:
    kind = _KINDS.get(key.key_type)
    if kind is None:
        raise _FailedError(Trouble.SETTING, f"the key {_words(place)} is neither RSA nor EC")
    hashes = Mechanism.SHA256_RSA_PKCS in session.token.slot.get_mechanisms()
    told = next(_public_halves(session, key, place), {})
    return Opened(kind=kind, hashes=hashes, **told), _Key(key, hashes=hashes)


def _public_halves(session: Any, key: Any, place: Open) -> Iterator[dict[str, bytes]]:
    """Yield what tells the key's public half, the most certain first."""
    if key.key_type is KeyType.RSA:
        yield from _attributes(key, modulus=Attribute.MODULUS, exponent=Attribute.PUBLIC_EXPONENT)
    named = _named(place)
    with contextlib.suppress(exceptions.PKCS11Error):
        named = {Attribute.ID: key[Attribute.ID]} if key[Attribute.ID] else named
    # Read to the end before anything else is asked: a search that is still open keeps the session busy.
    public_keys = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: key.key_type, **named}
    for public in list(session.get_objects(public_keys)):
        if key.key_type is KeyType.RSA:
            yield from _attributes(public, modulus=Attribute.MODULUS, exponent=Attribute.PUBLIC_EXPONENT)
        else:
            yield from _attributes(public, parameters=Attribute.EC_PARAMS, point=Attribute.EC_POINT)
    for certificate in list(session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE, **named})):
        yield from _attributes(certificate, certificate=Attribute.VALUE)


def _attributes(found: Any, **wanted: Attribute) -> Iterator[dict[str, bytes]]:
    try:
        said = {name: bytes(found[attribute]) for name, attribute in wanted.items()}
    except exceptions.PKCS11Error:
        return
    if all(said.values()):
        yield said


if __name__ == "__main__":
    main()
