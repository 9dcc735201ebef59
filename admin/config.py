# SPDX-License-Identifier: Apache-2.0
"""ocsp-admin's settings: /etc/foundling/admin.toml. Constructing them does nothing else."""

from pathlib import Path

from responder.runtime.logs import Level
from responder.runtime.settings import DatabaseSettings, Section, load


class SigningSettings(Section, frozen=True, kw_only=True):
    """[signing]"""

    #: A file with the passphrase of encrypted signer keys, for checking a signer when it is added.
    passphrase_file: str = ""
    #: A file with the PIN of tokens whose URI has no pin-source.
    pin_file: str = ""


class LogSettings(Section, frozen=True, kw_only=True):
    """[log]"""

    #: The least that is logged: "debug", "info", "warning" or "error".
    level: Level = "warning"


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    database: DatabaseSettings = DatabaseSettings()
    signing: SigningSettings = SigningSettings()
    log: LogSettings = LogSettings()


def load_settings(path: Path) -> Settings:
    """Read the settings file. Raises SettingsError."""
    return load(path, Settings)
