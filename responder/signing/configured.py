# SPDX-License-Identifier: Apache-2.0
"""What opens signers' keys, as the settings say. Called by cli.py for responders, and by presign/worker.py."""

from functools import partial
from pathlib import Path

from responder import config
from responder.config import SigningSettings
from responder.signing.keys import Keys
from responder.signing.pkcs11 import Bounds


def signing_keys(settings: SigningSettings, *, path: Path) -> Keys:
    """Return what opens signers' keys by these settings. Raises SettingsError when a secret cannot be read."""
    passphrase, pin = partial(config.passphrase, settings, path=path), partial(config.pin, settings, path=path)
    passphrase()
    pin()
    bounds = Bounds(
        sessions=settings.sessions,
        most_waiting=settings.most_waiting,
        limit=settings.token_timeout.total_seconds(),
    )
    return Keys(passphrase=passphrase, pin=pin, bounds=bounds)
