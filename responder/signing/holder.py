# SPDX-License-Identifier: Apache-2.0
"""The keyring that a worker answers with: taken over when the database changes, tried again while a signer is refused.

Knows when to load; what a keyring is, keyring.py knows. Opened by server.py in the process that signs.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from responder.errors import Refusal, TryLater
from responder.runtime.db import Database, DatabaseError
from responder.runtime.logs import Sparingly, get_logger
from responder.runtime.settings import SettingsError
from responder.signing.keyring import Keyring, admit_listed, list_signers
from responder.signing.keys import Keys
from responder.status.issuers import IssuerError

_log = get_logger("signing")

# A refused signer is tried again: its token may come up after us, its certificate may only begin, somebody may mend the
# mode of its file. Seconds to the first time, and the most from one time to the next.
_FIRST_TRY: Final = 5.0
_BETWEEN_TRIES: Final = 40.0
# What stays wrong is told again so seldom (seconds).
_BETWEEN_LINES: Final = 300.0


class KeyringHolder:
    """Holds the keyring of one worker."""

    def __init__(
        self,
        database: Database,
        keys: Keys,
        *,
        clock: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        """Hold nothing yet. `changed` is called when another keyring has been taken over."""
        self._database = database
        self._keys = keys
        self._clock = clock
        self._changed = changed
        self._keyring: Keyring | None = None
        self._loading = asyncio.Lock()
        self._told = Sparingly(seconds=_BETWEEN_LINES)

    def current(self) -> Keyring:
        """Return the keyring. Raises TryLater while none could be loaded."""
        if self._keyring is None:
            raise TryLater(Refusal.DATABASE, "issuers and signers could not be loaded yet")
        return self._keyring

    async def reload(self, generation: int) -> None:
        """Take over changed issuers and signers; what cannot be taken over is told, and the former goes on.

        Raises DatabaseError.
        """
        async with self._loading:
            loaded = await self._load(generation)
            if loaded is not None:
                await self._take_over(loaded, generation)

    async def try_refused_again(self) -> None:
        """Try refused signers from time to time until cancelled, and take over what has changed."""
        pause = _FIRST_TRY
        while True:
            await asyncio.sleep(pause)
            if self._keyring is None or not self._keyring.refused:
                pause = _FIRST_TRY
                continue
            pause = min(2 * pause, _BETWEEN_TRIES)
            async with self._loading:
                try:
                    loaded = await self._load(None)
                except DatabaseError:
                    continue  # the feed tells it
                if loaded is not None and _differs(loaded, self._keyring):
                    await self._take_over(loaded, None)

    async def _load(self, generation: int | None) -> Keyring | None:
        try:
            async with self._database.connection() as connection:
                listed = await list_signers(connection)
            loaded = await admit_listed(listed, self._keys, now=self._clock(), former=self._keyring)
        except (IssuerError, SettingsError) as exc:
            _log.error("issuers.refused", generation=generation, detail=str(exc), meaning="the former ones go on")
            return None
        for each in loaded.refused:
            if generation is not None or self._told.unsaid(str(each.why)) is not None:
                _log.error("signer.refused", generation=generation, detail=str(each.why), meaning=each.meaning)
        return loaded

    async def _take_over(self, loaded: Keyring, generation: int | None) -> None:
        self._keyring = loaded
        # What was signed before was signed by a signer, and timed by a policy, that may not hold any more.
        self._changed()
        await self._keys.close_others(loaded.by_signer_id)
        names = [each.name for each in loaded.issuers.all]
        _log.info("issuers.loaded", generation=generation, issuers=names, signers=sorted(loaded.by_signer_id))


def _differs(loaded: Keyring, held: Keyring) -> bool:
    """Whether another signer would answer, or another one be refused."""
    return set(loaded.by_signer_id) != set(held.by_signer_id) or {each.record.signer_id for each in loaded.refused} != {
        each.record.signer_id for each in held.refused
    }
