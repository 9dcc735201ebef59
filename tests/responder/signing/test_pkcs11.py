# SPDX-License-Identifier: Apache-2.0
"""Keys on a token (SoftHSM): what they sign, what is wrong with them in one line, how many at once, and coming back."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from demo.ca import Authority, make_key
from responder.errors import Refusal, SignerRefused, SignerUnavailable, TryLater
from responder.signing import Signer
from responder.signing.keys import Keys
from responder.signing.pkcs11 import Bounds, TokenSigner
from tests.responder.signing.conftest import TOKEN_KEYS
from tests.responder.signing.softhsm import SoftHsm
from tests.served import der

CA = Authority.create("Token CA")
CERTIFICATES = {kind: CA.issue_responder(key=key)[0] for kind, key in TOKEN_KEYS.items()}
USUAL = Bounds()
DIGESTS: dict[str, hashes.HashAlgorithm] = {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}


@asynccontextmanager
async def opened(hsm: SoftHsm, kind: str, bounds: Bounds = USUAL) -> AsyncIterator[TokenSigner]:
    keys = Keys(bounds=bounds)
    signer = await keys.open_token(hsm.uri(f"token=signers;object={kind}"), der(CERTIFICATES[kind]))
    try:
        yield signer
    finally:
        await signer.close()


def verify(kind: str, signature: bytes, tbs: bytes) -> None:
    match TOKEN_KEYS[kind].public_key():
        case rsa.RSAPublicKey() as key:
            key.verify(signature, tbs, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey() as key:
            key.verify(signature, tbs, ec.ECDSA(DIGESTS[kind]))


def children() -> set[int]:
    """The processes that hold sessions for us."""
    lists = Path("/proc/self/task").glob("*/children")
    found = [int(pid) for each in lists for pid in each.read_text().split()]
    return {pid for pid in found if b"responder.signing.token" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.mark.parametrize("kind", TOKEN_KEYS)
async def test_every_kind_of_key_signs_and_names_its_public_half(kind: str, hsm: SoftHsm) -> None:
    async with opened(hsm, kind) as signer:
        checked: Signer = signer
        assert checked.public_key == TOKEN_KEYS[kind].public_key()
        assert checked.verify_always
        many = await asyncio.gather(*(checked.sign(b"ResponseData %d" % number) for number in range(50)))
        for number, signature in enumerate(many):
            verify(kind, signature, b"ResponseData %d" % number)
        with pytest.raises(InvalidSignature):
            verify(kind, many[0], b"ResponseData 1")
    assert children() == set()


async def test_a_token_that_does_not_hash_gets_the_digest(hsm: SoftHsm) -> None:
    async with opened(hsm, "rsa2048") as signer:
        assert signer._key._hashes_itself
    mechanisms = hsm.configuration.read_text() + "slots.mechanisms = CKM_RSA_PKCS,CKM_ECDSA\n"
    hsm.configuration.write_text(mechanisms)
    async with opened(hsm, "rsa2048") as signer:
        assert not signer._key._hashes_itself
        verify("rsa2048", await signer.sign(b"ResponseData"), b"ResponseData")


async def test_a_key_is_found_by_its_id_too(hsm: SoftHsm) -> None:
    signer = await Keys().open_token(hsm.uri("token=signers;id=%02"), der(CERTIFICATES["p256"]))
    assert signer.public_key == TOKEN_KEYS["p256"].public_key()
    await signer.close()


@pytest.mark.parametrize(
    ("path", "words", "transient"),
    [
        ("token=nobody;object=p256", "there is no token 'nobody'", True),
        ("token=signers;object=nothing", "no private key 'nothing'", False),
        ("token=signers;object=p256;id=%01", "no private key 'p256' with id 01", False),
        ("token=signers;object=twin", "2 private keys 'twin'; name the id too", False),
    ],
)
async def test_what_is_not_there_or_not_clear_is_one_line(path: str, words: str, transient: bool, hsm: SoftHsm) -> None:
    line = await refused(Keys(), hsm.uri(path), transient=transient)
    assert words in line
    assert children() == set()


async def refused(keys: Keys, uri: str, *, transient: bool = False) -> str:
    with pytest.raises(SignerRefused) as caught:
        await keys.open_token(uri, der(CERTIFICATES["p256"]))
    assert isinstance(caught.value, SignerUnavailable) == transient
    line = str(caught.value)
    assert "\n" not in line
    return line


async def test_two_tokens_of_one_label_are_told_apart_or_refused(hsm: SoftHsm) -> None:
    hsm.add_token("signers")
    assert "2 tokens are a token 'signers'" in await refused(Keys(), hsm.uri("token=signers;object=p256"))


@pytest.mark.parametrize("module", ["/nowhere/lib.so", "/bin/sh"])
async def test_a_wrong_library_is_one_line(module: str, hsm: SoftHsm) -> None:
    uri = f"pkcs11:token=signers;object=p256?module-path={module}"
    assert f"{module} is no PKCS#11 library" in await refused(Keys(), uri)


async def test_without_a_pin_the_line_says_so(hsm: SoftHsm) -> None:
    uri = f"pkcs11:token=signers;object=p256?module-path={hsm.library}"
    assert "no PIN is configured" in await refused(Keys(), uri)
    missing = hsm.uri("token=signers;object=p256", pin=hsm.folder / "no-pin")
    assert "no-pin: No such file" in await refused(Keys(), missing)


async def test_a_wrong_pin_is_one_line_and_never_tried_twice(hsm: SoftHsm) -> None:
    (hsm.folder / "wrong").write_text("hunter2-and-so-on")
    keys, uri = Keys(), hsm.uri("token=signers;object=p256", pin=hsm.folder / "wrong")
    line = await refused(keys, uri)
    assert "does not take the PIN" in line
    assert "hunter2" not in line
    assert "not tried again" in await refused(keys, uri)
    (hsm.folder / "wrong").write_bytes((hsm.folder / "pin").read_bytes())
    await (await keys.open_token(uri, der(CERTIFICATES["p256"]))).close()


async def test_the_certificate_of_another_key_is_refused_by_admission(hsm: SoftHsm) -> None:
    signer = await Keys().open_token(hsm.uri("token=signers;object=p384"), der(CERTIFICATES["p256"]))
    assert signer.public_key != CERTIFICATES["p256"].public_key()
    await signer.close()


async def test_beyond_the_caps_load_is_shed_at_once_and_the_rest_is_signed(hsm: SoftHsm) -> None:
    async with opened(hsm, "rsa2048", Bounds(sessions=1, most_waiting=5, limit=5.0)) as signer:
        done = await asyncio.gather(*(signer.sign(b"%d" % number) for number in range(20)), return_exceptions=True)
        signed = [each for each in done if isinstance(each, bytes)]
        shed = [each for each in done if isinstance(each, TryLater)]
        assert (len(signed), len(shed)) == (6, 14)
        assert {each.reason for each in shed} == {Refusal.OVERLOADED}


async def test_a_token_that_hangs_holds_nobody_up_and_is_started_anew(hsm: SoftHsm) -> None:
    async with opened(hsm, "p256", Bounds(sessions=1, limit=0.5)) as signer:
        (hung,) = children()
        os.kill(hung, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(TryLater, match="did not answer within"):
            await signer.sign(b"ResponseData")
        assert time.monotonic() - began < 3.0
        verify("p256", await signed_in_the_end(signer), b"ResponseData")
        assert hung not in children()


async def test_a_library_that_crashes_takes_nobody_with_it(hsm: SoftHsm) -> None:
    async with opened(hsm, "p256", Bounds(sessions=1)) as signer:
        (process,) = children()
        os.kill(process, signal.SIGSEGV)
        with pytest.raises(TryLater, match="signal 11"):
            await signer.sign(b"ResponseData")
        verify("p256", await signed_in_the_end(signer), b"ResponseData")


async def test_a_token_pulled_out_gives_no_signature_and_comes_back_by_itself(hsm: SoftHsm) -> None:
    async with opened(hsm, "p256") as signer:
        hsm.pull_out()
        outcomes = await asyncio.gather(*(signer.sign(b"%d" % number) for number in range(20)), return_exceptions=True)
        assert {getattr(each, "reason", each) for each in outcomes} == {Refusal.SIGNER}
        hsm.put_back()
        verify("p256", await signed_in_the_end(signer), b"ResponseData")


async def test_another_key_in_the_same_place_is_not_taken_for_the_one_that_was_admitted(hsm: SoftHsm) -> None:
    async with opened(hsm, "p256", Bounds(sessions=1)) as signer:
        hsm.pull_out()
        with pytest.raises(TryLater):
            await signer.sign(b"ResponseData")
        (hsm.folder / "tokens").mkdir()
        hsm.add_token("signers")
        hsm.add_key("signers", make_key("p256"), label="p256", identity="02")
        await asyncio.sleep(1.5)
        with pytest.raises(TryLater, match="another key lies there"):
            await signer.sign(b"ResponseData")


async def test_whoever_stops_waiting_costs_no_session(hsm: SoftHsm) -> None:
    async with opened(hsm, "rsa2048", Bounds(sessions=1)) as signer:
        for _ in range(20):
            tasks = [asyncio.create_task(signer.sign(b"x")) for _ in range(4)]
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        verify("rsa2048", await signer.sign(b"ResponseData"), b"ResponseData")
        assert len(children()) == 1


async def signed_in_the_end(signer: Signer) -> bytes:
    deadline = time.monotonic() + 20
    while True:
        try:
            return await signer.sign(b"ResponseData")
        except TryLater:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
