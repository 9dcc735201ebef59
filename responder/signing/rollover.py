# SPDX-License-Identifier: Apache-2.0
"""How one signer takes over from another: admitted, tried, then in one transaction, and never two of a kind at once.

Knows the order of states. Every function works inside the caller's transaction; ocsp-admin calls them.
"""

from datetime import datetime
from typing import Final

from responder.errors import SignerRefused
from responder.runtime.db import Connection
from responder.signing import KEY_RULE
from responder.signing.keys import Keys
from responder.signing.trial import try_out
from responder.status.issuer_store import (
    find_signer,
    insert_signer,
    load_issuers,
    load_signers,
    move_signers,
    set_signer_state,
)
from responder.status.issuers import Issuer
from responder.status.signers import KeyKind, SignerRecord, SignerState, key_kind

STATE_RULE: Final = "the states of a signer"
LAST_RULE: Final = "somebody has to answer"


async def stage(
    connection: Connection, keys: Keys, issuer: Issuer, *, certificate: bytes, key_location: str, now: datetime
) -> SignerRecord:
    """Enter a signer that is admitted and does not sign yet; responders try it from now on. Raises SignerRefused."""
    candidate = SignerRecord(
        signer_id=0,
        issuer_id=issuer.issuer_id,
        certificate=certificate,
        key_location=key_location,
        kind=_kind(certificate),
        state=SignerState.STAGED,
    )
    await keys.rehearse(candidate, issuer, now=now)
    number = await insert_signer(
        connection, issuer.issuer_id, certificate=certificate, key_location=key_location, state=SignerState.STAGED
    )
    return await signer_called(connection, number)


async def activate(
    connection: Connection, keys: Keys, record: SignerRecord, *, now: datetime
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Have a signer sign from now on, once it has been admitted again and its trial answer verified.

    A staged one takes over; so does one that was replaced, which is the way back. Returns who verified the trial answer
    and whom it replaced. Raises SignerRefused.
    """
    if record.state not in {SignerState.STAGED, SignerState.REPLACED}:
        raise SignerRefused(
            STATE_RULE, f"signer {record.signer_id} is {record.state}; a staged or a replaced one can be activated"
        )
    issuer = (await load_issuers(connection)).by_id(record.issuer_id)
    if issuer is None:
        raise SignerRefused(STATE_RULE, f"signer {record.signer_id} has no issuer with a certificate")
    try:
        admitted = await keys.open(record, issuer, now=now)
        judges = await try_out(admitted, issuer, now=now)
    finally:
        await keys.close()
    return judges, await take_over(connection, record)


async def take_over(connection: Connection, record: SignerRecord) -> tuple[int, ...]:
    """Make this signer the active one of its kind, and return whom it replaced.

    The replaced one signs on only where a responder has to refuse the new one, say because it cannot read the key; the
    one that was replaced before that is retired.
    """
    replaced, retired = SignerState.REPLACED, SignerState.RETIRED
    await set_signer_state(connection, record.signer_id, SignerState.STAGED)
    await move_signers(connection, record.issuer_id, record.kind, before=replaced, after=retired)
    former = await move_signers(connection, record.issuer_id, record.kind, before=SignerState.ACTIVE, after=replaced)
    await set_signer_state(connection, record.signer_id, SignerState.ACTIVE)
    return former


async def retire(connection: Connection, record: SignerRecord, *, even_the_last: bool) -> None:
    """Have a signer never sign again. Raises SignerRefused for the only active one, unless `even_the_last`."""
    if record.state is SignerState.RETIRED:
        raise SignerRefused(STATE_RULE, f"signer {record.signer_id} is retired already")
    active = await load_signers(connection, {SignerState.ACTIVE})
    others = [each for each in active if each.issuer_id == record.issuer_id and each.signer_id != record.signer_id]
    if record.state is SignerState.ACTIVE and not others and not even_the_last:
        raise SignerRefused(
            LAST_RULE, f"signer {record.signer_id} is the only active one of its issuer; activate another one first"
        )
    await set_signer_state(connection, record.signer_id, SignerState.RETIRED)


async def signer_called(connection: Connection, signer_id: int) -> SignerRecord:
    """Return the signer of this number. Raises SignerRefused when there is none."""
    record = await find_signer(connection, signer_id)
    if record is None:
        raise SignerRefused(STATE_RULE, f"there is no signer {signer_id}; see `ocsp-admin signer list`")
    return record


def _kind(certificate: bytes) -> KeyKind:
    try:
        return key_kind(certificate)
    except ValueError as exc:
        raise SignerRefused(KEY_RULE, str(exc)) from exc
