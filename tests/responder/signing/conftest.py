# SPDX-License-Identifier: Apache-2.0
"""A token with keys of every kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.ca import PrivateKey, make_key
from tests.responder.signing.softhsm import SoftHsm

TOKEN_KEYS: dict[str, PrivateKey] = {kind: make_key(kind) for kind in ("rsa2048", "p256", "p384", "p521")}


@pytest.fixture
def hsm(program: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """A token "signers" with a key of every kind, labelled by it; "twin" is the label of two."""
    made = SoftHsm.create(tmp_path / "hsm", program("softhsm2-util"))
    monkeypatch.setenv("SOFTHSM2_CONF", str(made.configuration))
    made.add_token("signers")
    for number, (kind, key) in enumerate(TOKEN_KEYS.items(), start=1):
        made.add_key("signers", key, label=kind, identity=f"{number:02x}")
    for number in (0xA1, 0xA2):
        made.add_key("signers", make_key("p256"), label="twin", identity=f"{number:x}")
    return made
