# SPDX-License-Identifier: Apache-2.0
"""What the tables themselves hold and refuse, whoever writes: serials, statuses, reasons, history."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.runtime.db import Database
from responder.status import store
from responder.status.model import (
    MOST_SERIAL_OCTETS,
    Good,
    Purged,
    Reason,
    Revoked,
    SerialError,
    serial_from_hex,
    serial_hex,
    serial_octets,
)
from tests.status.conftest import Owner

THEN = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(days=90)
EXPIRED = datetime.now(UTC) - timedelta(days=2)


def insert(
    owner: Owner,
    issuer_id: int,
    serial: bytes,
    *,
    status: str = "good",
    revoked_at: datetime | None = None,
    reason: int | None = None,
    not_after: datetime = LATER,
    is_ca: bool = False,
) -> None:
    owner.execute(
        "INSERT INTO ocsp.certificate (issuer_id, serial, status, revoked_at, reason, not_before, not_after, is_ca)"
        " VALUES (%s, %s, %s, %s, %s, '2026-01-01', %s, %s)",
        (issuer_id, serial, status, revoked_at, reason, not_after, is_ca),
    )


def update(owner: Owner, serial: bytes, /, **columns: Any) -> None:
    assignments = ", ".join(f"{column} = %({column})s" for column in columns)
    query = f"UPDATE ocsp.certificate SET {assignments} WHERE serial = %(key)s"  # noqa: S608 - our own names
    owner.execute(query.encode(), {**columns, "key": serial})


def revoke(owner: Owner, serial: bytes, reason: int = 1, at: datetime = THEN) -> None:
    update(owner, serial, status="revoked", revoked_at=at, reason=reason)


# -------------------------------------------------------------------------------------------------------- serials

SERIALS = {
    "one octet": 1,
    "the largest one octet": 0xFF,
    "high bit": 0x80,
    "two octets": 0x0100,
    "twenty octets": int.from_bytes(bytes(range(1, 21))),
    "twenty octets, high bit": 2**160 - 1,
    "longer than a CA may": 2**199 + 5,
    "as long as the table takes": 2 ** (8 * MOST_SERIAL_OCTETS) - 1,
}


@pytest.mark.parametrize("serial", SERIALS.values(), ids=SERIALS.keys())
async def test_a_serial_comes_back_as_it_went_in(serial: int, owner: Owner, issuer_id: int, database: Database) -> None:
    insert(owner, issuer_id, serial_octets(serial))
    async with database.connection() as connection:
        found = await store.look_up(connection, [(issuer_id, serial), (issuer_id, serial + 1 if serial == 1 else 1)])
        assert found == {(issuer_id, serial): Good()}


@pytest.mark.parametrize(
    "octets", [b"", b"\0", b"\0\x80", b"\0\x01", b"\x01" * (MOST_SERIAL_OCTETS + 1)],
    ids=["empty", "zero", "sign octet", "leading zero", "too long"],
)  # fmt: skip
@pytest.mark.parametrize("table", ["certificate", "reservation"])
def test_octets_that_are_no_minimal_positive_integer_are_refused(
    octets: bytes, table: str, owner: Owner, issuer_id: int
) -> None:
    columns, values = "issuer_id, serial", "%s, %s"
    if table == "certificate":
        columns, values = f"{columns}, status, not_before, not_after, is_ca", f"{values}, 'good', now(), now(), false"
    query = f"INSERT INTO ocsp.{table} ({columns}) VALUES ({values})"  # noqa: S608 - our own names
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute(query.encode(), (issuer_id, octets))


@pytest.mark.parametrize("serial", [0, -1, -128, 2 ** (8 * MOST_SERIAL_OCTETS)])
def test_numbers_that_are_no_serials_are_refused(serial: int) -> None:
    with pytest.raises(SerialError):
        serial_octets(serial)


@given(st.integers(min_value=1, max_value=2 ** (8 * MOST_SERIAL_OCTETS) - 1))
def test_octets_are_minimal_and_mean_the_serial(serial: int) -> None:
    octets = serial_octets(serial)
    assert int.from_bytes(octets) == serial
    assert octets[0] != 0
    assert serial_from_hex(serial_hex(serial)) == serial


@given(
    st.integers(min_value=1, max_value=2**160), st.data(), st.sampled_from(["", "0x", "0X", " ", "0", "000"]),
    st.sampled_from(["", ":", " "]),
)  # fmt: skip
def test_every_usual_spelling_of_a_serial_is_read(serial: int, data: st.DataObject, front: str, between: str) -> None:
    digits = serial_hex(serial)
    shown = between.join(digits[at : at + 2] for at in range(0, len(digits), 2))
    spelled = "".join(data.draw(st.sampled_from([each, each.upper()])) for each in shown)
    assert serial_from_hex(front + spelled) == serial


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "00:00", "0x", "0x0x1", ":0x1", "-1", "+1", "1_0", "xyz", "12g4", "٣", "1.5", "0o7", "ab" * 65],
)
def test_what_is_no_serial_in_hexadecimal_is_refused(text: str) -> None:
    with pytest.raises(SerialError):
        serial_from_hex(text)


@given(st.text(max_size=30))
def test_any_text_is_a_serial_or_refused(text: str) -> None:
    try:
        serial = serial_from_hex(text)
    except SerialError:
        return
    read = "".join(each for each in text if each not in ": " and not each.isspace()).lower().removeprefix("0x")
    assert read.lstrip("0") == f"{serial:x}"


# ------------------------------------------------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("status", "revoked_at", "reason"),
    [
        ("revoked", None, 1),
        ("revoked", THEN, None),
        ("revoked", None, None),
        ("good", THEN, None),
        ("good", None, 1),
        ("good", THEN, 1),
        ("pending", None, None),
        ("revoked", THEN.replace(microsecond=500_000), 1),
        *(("revoked", THEN, reason) for reason in (-1, 7, 8, 11, 255)),
    ],
)
def test_a_row_says_revoked_with_time_and_reason_or_neither(
    status: str, revoked_at: datetime | None, reason: int | None, owner: Owner, issuer_id: int
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(owner, issuer_id, b"\x01", status=status, revoked_at=revoked_at, reason=reason)


@pytest.mark.parametrize("reason", [0, 1, 3, 4, 5, 9])
async def test_the_reasons_for_a_subscriber_certificate_are_accepted(
    reason: int, owner: Owner, issuer_id: int, database: Database
) -> None:
    insert(owner, issuer_id, b"\x01", status="revoked", revoked_at=THEN, reason=reason)
    async with database.connection() as connection:
        assert await store.look_up(connection, [(issuer_id, 1)]) == {(issuer_id, 1): Revoked(THEN, Reason(reason))}


@pytest.mark.parametrize(
    ("reason", "is_ca"),
    [(6, False), (6, True), (10, False), (10, True), (2, False), (0, True)],
    ids=["hold", "hold of a CA", "AA", "AA of a CA", "cACompromise of a leaf", "no reason for a CA"],
)
def test_what_the_baseline_requirements_forbid_is_refused_for_a_public_issuer(
    reason: int, is_ca: bool, owner: Owner, issuer_id: int
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="BR 7.2.2"):
        insert(owner, issuer_id, b"\x01", status="revoked", revoked_at=THEN, reason=reason, is_ca=is_ca)
    insert(owner, issuer_id, b"\x01", is_ca=is_ca)
    with pytest.raises(psycopg.errors.CheckViolation, match="BR 7.2.2"):
        revoke(owner, b"\x01", reason)
    # A private CA may, and cannot become public while it does.
    owner.execute("UPDATE ocsp.issuer SET public = false")
    revoke(owner, b"\x01", reason)
    with pytest.raises(psycopg.errors.CheckViolation, match="has revocations with reasons"):
        owner.execute("UPDATE ocsp.issuer SET public = true")
    revoke(owner, b"\x01", 1)
    owner.execute("UPDATE ocsp.issuer SET public = true")


def test_a_ca_certificate_is_revoked_for_its_own_compromise(owner: Owner, issuer_id: int) -> None:
    insert(owner, issuer_id, b"\x01", is_ca=True)
    revoke(owner, b"\x01", 2)


@pytest.mark.parametrize("not_after", [LATER, EXPIRED])
def test_nothing_leads_back_from_revoked(not_after: datetime, owner: Owner, issuer_id: int) -> None:
    insert(owner, issuer_id, b"\x01", not_after=not_after)
    revoke(owner, b"\x01")
    with pytest.raises(psycopg.errors.RestrictViolation, match="from revoked to good"):
        update(owner, b"\x01", status="good", revoked_at=None, reason=None)
    with pytest.raises(psycopg.errors.RestrictViolation):
        update(owner, b"\x01", status="pending", revoked_at=None, reason=None)


def test_time_and_reason_of_a_revocation_can_be_corrected(owner: Owner, issuer_id: int) -> None:
    insert(owner, issuer_id, b"\x01")
    revoke(owner, b"\x01", 0)
    revoke(owner, b"\x01", 1, THEN - timedelta(days=3))
    assert owner.execute("SELECT status, revoked_at, reason FROM ocsp.certificate").fetchall() == [
        ("revoked", THEN - timedelta(days=3), 1)
    ]
    history = owner.execute("SELECT old_status, new_status, reason FROM ocsp.status_change ORDER BY change_id")
    assert history.fetchall() == [(None, "good", None), ("good", "revoked", 0), ("revoked", "revoked", 1)]


@pytest.mark.parametrize(
    "column",
    [{"serial": b"\x02"}, {"not_before": THEN}, {"not_after": EXPIRED}, {"is_ca": True}, {"recorded_at": THEN}],
    ids=lambda column: next(iter(column)),
)
def test_a_row_never_changes_its_identity(column: dict[str, Any], owner: Owner, issuer_id: int) -> None:
    insert(owner, issuer_id, b"\x01")
    with pytest.raises(psycopg.errors.RestrictViolation, match="only status, time and reason"):
        update(owner, b"\x01", **column)


async def test_a_row_is_purged_only_after_its_certificate_expired(
    owner: Owner, issuer_id: int, database: Database
) -> None:
    for number, not_after in enumerate((LATER, EXPIRED), start=1):
        insert(owner, issuer_id, bytes([number]), not_after=not_after)
        insert(owner, issuer_id, bytes([number + 2]), not_after=not_after)
        revoke(owner, bytes([number + 2]))
    for serial in (1, 3):
        with pytest.raises(psycopg.errors.RestrictViolation, match="to purged"):
            update(owner, bytes([serial]), status="purged", revoked_at=None, reason=None)
    for serial in (2, 4):
        update(owner, bytes([serial]), status="purged", revoked_at=None, reason=None)
        with pytest.raises(psycopg.errors.RestrictViolation, match="from purged"):
            update(owner, bytes([serial]), status="good")
    async with database.connection() as connection:
        found = await store.look_up(connection, [(issuer_id, serial) for serial in range(1, 5)])
    assert [found[issuer_id, serial] for serial in range(1, 5)] == [
        Good(), Purged(), Revoked(THEN, Reason.KEY_COMPROMISE), Purged(),
    ]  # fmt: skip
    with pytest.raises(psycopg.errors.RestrictViolation, match="begins good or revoked"):
        insert(owner, issuer_id, b"\x09", status="purged")


GROWING = ["reservation", "status_change", "source_change", "document", "sighting", "quarantine", "finding", "ct_proof"]


@pytest.mark.parametrize("statement", ["DELETE FROM ocsp.{}", "TRUNCATE ocsp.{} CASCADE"])
@pytest.mark.parametrize("table", ["certificate", "ct_head", *GROWING])
def test_not_even_the_owner_deletes_what_is_known(statement: str, table: str, owner: Owner, issuer_id: int) -> None:
    insert(owner, issuer_id, b"\x01")
    with pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute(statement.format(table).encode())


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("reservation", "reserved_by"), ("status_change", "actor"), ("source_change", "what"), ("document", "der"),
        ("sighting", "kind"), ("quarantine", "detail"), ("finding", "detail"), ("ct_proof", "name"),
    ],
)  # fmt: skip
def test_not_even_the_owner_edits_history(table: str, column: str, owner: Owner) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match=f"ocsp.{table} only grows"):
        owner.execute(f"UPDATE ocsp.{table} SET {column} = {column}".encode())  # noqa: S608 - our own names


def test_every_change_is_written_down_with_who_made_it(owner: Owner, issuer_id: int) -> None:
    with owner.transaction():
        owner.execute("SELECT set_config('ocsp.actor', 'alice', true)")
        insert(owner, issuer_id, b"\x01")
    revoke(owner, b"\x01")
    update(owner, b"\x01", reason=1)  # says what the row says already: no change
    owner.execute("INSERT INTO ocsp.reservation (issuer_id, serial) VALUES (%s, '\\x02')", (issuer_id,))
    changes = owner.execute(
        "SELECT serial, old_status, new_status, revoked_at, reason, actor, changed_by = session_user"
        " FROM ocsp.status_change ORDER BY change_id"
    ).fetchall()
    assert changes == [
        (b"\x01", None, "good", None, None, "alice", True),
        (b"\x01", "good", "revoked", THEN, 1, None, True),
        (b"\x02", None, "pending", None, None, None, True),
    ]


async def test_a_serial_is_reserved_once_and_stays_so(issuer_id: int, database: Database, owner: Owner) -> None:
    async with database.connection() as connection:
        assert await store.reserve(connection, (issuer_id, 5))
        assert not await store.reserve(connection, (issuer_id, 5))
        insert(owner, issuer_id, b"\x06")
        asked = [(issuer_id, 5), (issuer_id, 6)]
        assert await store.reserved(connection, asked) == {(issuer_id, 5)}
        assert await store.look_up(connection, asked) == {(issuer_id, 6): Good()}


async def test_a_serial_belongs_to_its_issuer_alone(issuer_id: int, database: Database, owner: Owner) -> None:
    insert(owner, issuer_id, b"\x06")
    async with database.connection() as connection:
        assert await store.look_up(connection, [(issuer_id + 1, 6), (issuer_id, 7)]) == {}


async def test_notes_of_one_certificate_in_one_batch_are_counted_together(
    issuer_id: int, database: Database, owner: Owner
) -> None:
    key = (issuer_id, 9)
    async with database.connection() as connection:
        await store.note_unanswered(
            connection, [(key, "unknown", 2), ((issuer_id, 8), "unknown", 1), (key, "tryLater", 3)]
        )
        await store.note_unanswered(connection, [(key, "tryLater", 1)])
    found = owner.execute("SELECT serial, answer, times FROM ocsp.unanswered ORDER BY serial").fetchall()
    assert found == [(b"\x08", "unknown", 1), (b"\x09", "tryLater", 6)]
