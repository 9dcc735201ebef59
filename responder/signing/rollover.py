# SPDX-License-Identifier: Apache-2.0
"""How one signer takes over from another: in one transaction, and never two of a kind at once.

Knows the order of states, no certificate and no key. Called by ocsp-admin, for a candidate that was admitted and tried.
"""

from responder.runtime.db import Connection
from responder.status.issuer_store import move_signers, set_signer_state
from responder.status.signers import SignerRecord, SignerState


async def take_over(connection: Connection, record: SignerRecord) -> tuple[int, ...]:
    """Make this signer the active one of its kind, inside the caller's transaction; return whom it replaced.

    The replaced one signs on only where a responder has to refuse the new one, say because it cannot read the key; the
    one that was replaced before that is retired.
    """
    replaced, retired = SignerState.REPLACED, SignerState.RETIRED
    await move_signers(connection, record.issuer_id, record.kind, before=replaced, after=retired)
    former = await move_signers(connection, record.issuer_id, record.kind, before=SignerState.ACTIVE, after=replaced)
    await set_signer_state(connection, record.signer_id, SignerState.ACTIVE)
    return former
