# SPDX-License-Identifier: Apache-2.0
"""One process that signs ahead: takes a portion out of the queue, signs it, stores it, and begins anew.

A portion leaves the queue in the transaction that stores its answers, so a process may end at any instant. Started by
crew.py; has a connection and keys of its own, and ends when it is told to or when whoever started it is gone.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Line
from pathlib import Path
from typing import Final, Self

import msgspec

from responder import config
from responder.errors import OcspError, Refusal, TryLater
from responder.presign.portion import AT_ONCE, sign_portion
from responder.runtime import logs
from responder.runtime.db import Connection, DatabaseError, connect_once
from responder.runtime.logs import Level, Sparingly, get_logger
from responder.runtime.settings import SettingsError
from responder.signing.admission import AdmittedSigner
from responder.signing.configured import signing_keys
from responder.signing.keyring import Keyring, load_keyring
from responder.status.issuer_store import generation
from responder.status.issuers import Issuer, IssuerError, IssuerSet
from responder.status.model import serial_hex
from responder.status.presigned import Scope
from responder.status.presigned_store import commit_lazily, still_due, store_answers, take_job

_log = get_logger("presign")

_IDLE: Final = 0.1  # seconds between two looks into an empty queue
_RECONNECT: Final = 1.0  # seconds
# A signer that failed is left alone for so long, and its keys are opened anew before it is tried again (seconds).
_REST: Final = 5.0
_BETWEEN_LINES: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker needs to know to begin."""

    dsn: str
    settings_file: Path
    level: Level
    hash_names: Sequence[str]
    lead: timedelta
    issuers: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one portion, and of the time: processor seconds since the last report."""

    signed: int
    refused: int
    cpu: float
    trouble: str | None = None

    @classmethod
    def of_trouble(cls, trouble: str) -> Self:
        """Return the report of somebody who did nothing."""
        return cls(signed=0, refused=0, cpu=0.0, trouble=trouble)


class Worker:
    """Signs for one process."""

    def __init__(self, order: Order, line: Line) -> None:
        """Remember what to do and to whom to report."""
        self._order = order
        self._line = line
        self._scope = Scope(issuers=order.issuers, hash_names=order.hash_names, lead=order.lead, asked_within=None)
        self._generation: int | None = None
        signing = config.load_settings(order.settings_file).signing
        # How many clients may wait for a token is nothing to us: a portion waits as long as it takes.
        patient = msgspec.structs.replace(signing, most_waiting=max(signing.most_waiting, AT_ONCE))
        self._keys = signing_keys(patient, path=order.settings_file)
        self._keyring = Keyring(IssuerSet(()), {})
        self._resting: dict[int, float] = {}
        self._unreachable = Sparingly(seconds=_BETWEEN_LINES)
        self._cpu = time.process_time()

    async def run(self) -> None:
        """Work until told to stop; what cannot be done now is tried again."""
        try:
            while not self._is_told_to_stop():
                await self._work()
        finally:
            await self._keys.close()

    async def _work(self) -> None:
        try:
            async with connect_once(self._order.dsn, application="ocsp-presign") as connection:
                await self._drain(connection)
        except (DatabaseError, IssuerError, SettingsError) as exc:
            if self._unreachable.unsaid(type(exc).__name__) is not None:
                _log.error("presign.waiting", detail=str(exc))
            await asyncio.sleep(_RECONNECT)

    async def _drain(self, connection: Connection) -> None:
        while not self._is_told_to_stop():
            await self._take_over(connection)
            report = await self._portion(connection)
            if report is None:
                await asyncio.sleep(_IDLE)
            else:
                self._line.send(report)

    def _is_told_to_stop(self) -> bool:
        """Nothing but the end ever comes along the line: closed on purpose, or with whoever held it."""
        return self._line.poll()

    async def _take_over(self, connection: Connection) -> None:
        """Load issuers and signers anew when they changed, and when one that failed has rested."""
        now = time.monotonic()
        rested = [issuer_id for issuer_id, until in self._resting.items() if until <= now]
        current = await generation(connection)
        if current == self._generation and not rested:
            return
        self._keyring = await load_keyring(connection, self._keys, now=datetime.now(UTC))
        await self._keys.close_others(self._keyring.by_signer_id)
        self._generation = current
        for issuer_id in rested:
            del self._resting[issuer_id]

    def _who_signs(self, issuer_id: int, *, now: datetime) -> tuple[Issuer, AdmittedSigner]:
        """Return the issuer and its signer. Raises TryLater and Unauthorized.

        A signer that was replaced stands in for live answers; what is stored would only have to be signed again.
        """
        issuer, signer = self._keyring.who_signs(issuer_id, now=now)
        for refused in self._keyring.refused:
            if refused.stand_in is signer:
                raise TryLater(Refusal.SIGNER, str(refused.why))
        return issuer, signer

    async def _portion(self, connection: Connection) -> Report | None:
        """Take, sign and store one portion. Returns None when there was none to take."""
        free = [issuer_id for issuer_id in self._order.issuers if issuer_id not in self._resting]
        issuer_id: int | None = None
        try:
            async with connection.transaction():
                await commit_lazily(connection)
                job = await take_job(connection, free)
                if job is None:
                    return None
                issuer_id, now = job.issuer_id, datetime.now(UTC)
                issuer, signer = self._who_signs(issuer_id, now=now)
                due = await still_due(connection, job, self._scope, now=now)
                portion = await sign_portion(due, issuer=issuer, signer=signer, now=now)
                await store_answers(connection, portion.made)
        except OcspError as exc:
            # The portion is back in the queue, for others or for later.
            if issuer_id is not None:
                self._resting[issuer_id] = time.monotonic() + _REST
            _log.error("presign.signer", reason=exc.reason.value, detail=exc.detail)
            return self._report(trouble=exc.detail)
        # Stored and out of the queue: a crash from here on repeats nothing.
        for each, why in portion.refused:
            serial = serial_hex(each.serial)
            _log.error("presign.refused", issuer=issuer_id, serial=serial, rule=why.rule, detail=why.detail)
        return self._report(signed=len(portion.made.answers), refused=len(portion.refused))

    def _report(self, *, signed: int = 0, refused: int = 0, trouble: str | None = None) -> Report:
        before, self._cpu = self._cpu, time.process_time()
        return Report(signed=signed, refused=refused, cpu=self._cpu - before, trouble=trouble)


def run(order: Order, line: Line) -> None:
    """Be a worker process."""
    # Ctrl-C and a service manager's SIGTERM reach every process; what they mean is for whoever started us to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure(order.level, process="ocsp-presign")
    try:
        asyncio.run(Worker(order, line).run())
    except (BrokenPipeError, ConnectionResetError):
        # Whoever started us is gone. What was reported is stored.
        return
