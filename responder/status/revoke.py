# SPDX-License-Identifier: Apache-2.0
"""Revoking a certificate: what is asked against what the row says. A person's decision, never ours.

The table refuses what must not be; this says so in words, and makes a repeated command harmless.
"""

from datetime import datetime

from responder.runtime.db import Connection
from responder.status.model import Good, Purged, Reason, Revoked, serial_hex, whole_second
from responder.status.store import Key, lock_status, set_revoked


class NotRevoked(Exception):  # noqa: N818 - it is printed as it stands
    """The certificate was not revoked: why, in one line."""


async def revoke(
    connection: Connection, key: Key, *, at: datetime | None, reason: Reason, correct: bool, now: datetime
) -> Revoked:
    """Revoke a certificate, or correct the time and reason of its revocation (BR 7.2.2), and return what holds now.

    Repeating a command changes nothing. Raises NotRevoked where there is no such certificate, where it is revoked
    otherwise and `correct` is not set, and for times in the future.
    """
    if at is not None and at > now:
        raise NotRevoked(f"{at} lies in the future")
    status = await lock_status(connection, key)
    match status:
        case None:
            raise NotRevoked(f"there is no certificate {serial_hex(key[1])}; register it first: cert register")
        case Purged():
            raise NotRevoked("the certificate has expired and its record was let go")
        case Revoked():
            wanted = Revoked(status.at if at is None else whole_second(at), reason)
            if wanted == status:
                return status
            if not correct:
                raise NotRevoked(
                    f"it is revoked already, at {status.at} for {status.reason.words}; to change that: --correct"
                )
        case Good():
            wanted = Revoked(whole_second(now if at is None else at), reason)
        case _:
            raise NotRevoked("nothing was signed for this serial as far as we know")
    await set_revoked(connection, key, wanted)
    return wanted
