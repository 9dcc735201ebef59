# SPDX-License-Identifier: Apache-2.0
"""A token of SoftHSM's in a folder of its own, which can be pulled out and put back."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from demo.ca import PrivateKey
from tests.conftest import missing_component

PIN: Final = "correct-horse-7"
_LIBRARIES: Final = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")


@dataclass(frozen=True)
class SoftHsm:
    """A folder of tokens, found through SOFTHSM2_CONF in the environment."""

    folder: Path
    program: str
    library: str

    @classmethod
    def create(cls, folder: Path, program: str) -> "SoftHsm":
        libraries = [each for each in _LIBRARIES if Path(each).exists()]
        if not libraries:
            missing_component("SoftHSM's library (tests/debian-packages.txt)")
        (folder / "tokens").mkdir(parents=True)
        made = cls(folder, program, libraries[0])
        made.configuration.write_text(
            f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        (folder / "pin").write_text(f"{PIN}\n")
        return made

    @property
    def configuration(self) -> Path:
        """What SOFTHSM2_CONF is to name."""
        return self.folder / "softhsm2.conf"

    def add_token(self, label: str) -> None:
        self._run("--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-pin-123")

    def add_key(self, token: str, key: PrivateKey, *, label: str, identity: str) -> None:
        """Put a key on a token, under a label and an id in hex."""
        path = self.folder / "key.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._run("--import", str(path), "--token", token, "--label", label, "--id", identity, "--pin", PIN)
        path.unlink()

    def uri(self, path: str, *, pin: Path | None = None) -> str:
        return f"pkcs11:{path}?module-path={self.library}&pin-source=file:{self.folder / 'pin' if pin is None else pin}"

    def pull_out(self) -> None:
        (self.folder / "tokens").rename(self.folder / "elsewhere")

    def put_back(self) -> None:
        (self.folder / "elsewhere").rename(self.folder / "tokens")

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.program, *arguments],
            env={"SOFTHSM2_CONF": str(self.configuration)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
