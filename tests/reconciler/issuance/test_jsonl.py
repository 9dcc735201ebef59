# SPDX-License-Identifier: Apache-2.0
"""A growing file of JSON lines, followed into a real database through every kind of rotation and accident."""

import base64
import hashlib
import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from demo.ca import Authority
from reconciler import follow, store
from reconciler.errors import RetrySource
from reconciler.issuance import document, jsonl
from reconciler.issuance.jsonl import JsonlSettings, JsonlSource
from reconciler.issuance.record import RecordSettings
from reconciler.model import Batch, FileMove, FilePosition
from tests.reconciler.issuance.conftest import Reconciler, der

RECORD = RecordSettings(certificate_field="certificate", encoding="base64", where={"event": "issued"})


def json_line(certificate: x509.Certificate) -> bytes:
    text = base64.b64encode(der(certificate)).decode()
    return json.dumps({"event": "issued", "certificate": text}).encode() + b"\n"


class Log:
    """The file as a CA's software and logrotate treat it. Keeps count of the serials it was given."""

    def __init__(self, path: Path, ca: Authority) -> None:
        self.path = path
        self.ca = ca
        self.serials: set[int] = set()
        path.touch()

    def issue(self, *, to: Path | None = None, newline: bool = True) -> x509.Certificate:
        """Append a line about a new certificate."""
        certificate = self.ca.issue(f"{len(self.serials)}.example")
        self.append(json_line(certificate) if newline else json_line(certificate)[:-1], to=to)
        self.serials.add(certificate.serial_number)
        return certificate

    def append(self, data: bytes, *, to: Path | None = None) -> None:
        with (self.path if to is None else to).open("ab") as file:
            file.write(data)

    def numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def rotate(self) -> None:
        """Rename as logrotate does, and create the file anew."""
        number = 1
        while self.numbered(number).exists():
            number += 1
        for older in range(number, 1, -1):
            self.numbered(older - 1).rename(self.numbered(older))
        self.path.rename(self.numbered(1))
        self.path.touch()

    def copytruncate(self) -> None:
        shutil.copyfile(self.path, self.numbered(1))
        os.truncate(self.path, 0)


@pytest.fixture
def log(tmp_path: Path, ca: Authority) -> Log:
    return Log(tmp_path / "issued.jsonl", ca)


def source_on(log: Log, reconciler: Reconciler, **settings: Any) -> JsonlSource:
    chosen = {"settle": timedelta(0)} | settings
    return JsonlSource(reconciler.settings, JsonlSettings(path=log.path, record=RECORD, **chosen))


async def unfinished(reconciler: Reconciler) -> list[str]:
    return [Path(position.path).name for position in await reconciler.ledger().file_positions()]


async def kinds(reconciler: Reconciler) -> list[tuple[str, str]]:
    return [(kind, severity) for kind, severity, _ in await reconciler.findings()]


async def test_lines_are_read_as_they_come_and_never_twice(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    before = datetime.now(UTC)
    for _ in range(3):
        log.issue()
        log.append(b'{"event": "login"}\n\n  \n')
        done = await reconciler.follow(source)
        assert (done.rows, done.counts, done.caught_up) == (1, {"lines": 2, "skipped": 1}, True)
    assert await reconciler.serials() == log.serials
    assert (await reconciler.follow(source)).counts == {}
    assert await reconciler.findings() == []
    verified = await reconciler.verified_at()
    assert verified is not None
    assert verified >= before
    await source.close()


async def test_a_sighting_names_file_and_octet(log: Log, reconciler: Reconciler) -> None:
    log.append(b'{"event": "login"}\n')
    log.issue()
    source = source_on(log, reconciler)
    await reconciler.follow(source)
    assert await reconciler.sightings() == [(str(log.path), 19)]
    await source.close()


async def test_a_pass_that_finds_nothing_moves_nothing(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    first = await reconciler.batches(source)
    # Even an empty file is recorded, or its rotation would go unnoticed.
    assert [isinstance(batch.move, FileMove) for batch in first] == [True, False]
    (second,) = await reconciler.batches(source)
    assert second.move is None
    assert second.caught_up_at is not None
    await source.close()


async def test_the_position_never_stands_inside_a_line(log: Log, reconciler: Reconciler) -> None:
    certificate = log.ca.issue("partial.example")
    whole = json_line(certificate)
    source = source_on(log, reconciler)
    for part in (whole[:1], whole[1:300], whole[300:-1]):
        log.append(part)
        assert (await reconciler.follow(source)).caught_up
        (position,) = await reconciler.ledger().file_positions()
        assert position.position == 0
    log.append(whole[-1:])
    assert (await reconciler.follow(source)).rows == 1
    (position,) = await reconciler.ledger().file_positions()
    assert position.position == len(whole)
    await source.close()


async def test_what_is_no_issuance_line_is_quarantined_and_reading_goes_on(
    log: Log, stranger: Authority, reconciler: Reconciler
) -> None:
    log.append(b"what is this\n" + b'{"event": "issued"}\n' + b"\xff\xfe\n" + b"{" + b" " * 3000 + b"}\n")
    theirs = stranger.issue("theirs.example")
    log.append(json_line(theirs))
    log.issue()
    source = source_on(log, reconciler, most_octets=2000)
    done = await reconciler.follow(source)
    assert (done.rows, done.quarantined, done.caught_up) == (1, 5, True)
    found = {(reason, raw[:10]) for reason, _, raw in await reconciler.quarantined()}
    assert found == {
        ("unparsable", b"what is th"),
        ("unparsable", b'{"event": '),
        ("unparsable", b"\xff\xfe"),
        ("unparsable", b"{         "),
        ("foreign", der(theirs)[:10]),
    }
    assert await reconciler.serials() == log.serials
    await source.close()


async def test_batches_are_bounded_and_each_ends_behind_a_whole_line(
    log: Log, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_DOCUMENTS", 4)
    monkeypatch.setattr(jsonl, "_CHUNK", 1000)
    for _ in range(10):
        log.issue()
    source = source_on(log, reconciler)
    batches = await reconciler.batches(source)
    assert [len(batch.sightings) for batch in batches] == [4, 4, 2, 0]
    ends = [batch.move.new.position for batch in batches if isinstance(batch.move, FileMove)]
    content = log.path.read_bytes()
    assert all(content[end - 1 : end] == b"\n" for end in ends)
    assert ends[-1] == len(content)
    await source.close()


async def test_lines_that_are_skipped_bound_a_batch_too(
    log: Log, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_OCTETS", 1000)
    log.append(b'{"event": "login"}\n' * 200)
    source = source_on(log, reconciler)
    batches = await reconciler.batches(source)
    assert [batch.counts.get("skipped", 0) for batch in batches] == [56, 56, 56, 32, 0]
    await source.close()


async def test_a_crash_before_the_commit_repeats_the_batch(log: Log, reconciler: Reconciler) -> None:
    log.issue()
    source = source_on(log, reconciler)
    batches = source.read(reconciler.ledger(), reconciler.issuers)
    assert len((await anext(batches)).sightings) == 1
    await batches.aclose()
    await source.close()
    assert await reconciler.serials() == set()
    again = source_on(log, reconciler)
    assert (await reconciler.follow(again)).rows == 1
    await again.close()


async def test_after_every_crash_point_a_new_process_ends_up_with_all_lines(
    log: Log, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_DOCUMENTS", 2)
    log.issue()
    first = source_on(log, reconciler)
    await reconciler.follow(first)
    await first.close()
    for _ in range(3):
        for _ in range(3):
            log.issue()
        log.rotate()
        time.sleep(0.02)  # noqa: ASYNC251 - files must differ in their times, which are counted in clock ticks
    log.issue(newline=False)
    log.rotate()
    log.issue()
    for number in (1, 2):
        await mark_finished(reconciler, source_on(log, reconciler), log.numbered(number))
    # Each process dies after one commit; no two of them may do the same work, or this would not end.
    for _ in range(40):
        source = source_on(log, reconciler)
        batches = source.read(reconciler.ledger(), reconciler.issuers)
        batch = await anext(batches)
        await commit(reconciler, source, batch)
        await batches.aclose()
        await source.close()
        if batch.caught_up_at is not None:
            break
    assert batch.caught_up_at is not None
    assert await reconciler.serials() == log.serials
    assert await reconciler.findings() == []
    assert await unfinished(reconciler) == ["issued.jsonl"]


async def mark_finished(reconciler: Reconciler, source: JsonlSource, path: Path) -> None:
    """Enter a finished file under the inode number of this one, as if the number had been given out again."""
    seen = os.stat(path)  # noqa: PTH116 - asyncio is not kept waiting by a file that was just written
    empty = hashlib.sha256(b"").digest()
    finished = FilePosition(
        device=seen.st_dev,
        inode=seen.st_ino,
        path="old",
        position=0,
        tail_sha256=empty,
        tail_octets=0,
        finished=True,
    )
    await commit(reconciler, source, Batch(move=FileMove(old=None, new=finished)))


async def commit(reconciler: Reconciler, source: JsonlSource, batch: Batch) -> None:
    await follow._commit(batch, source, reconciler.database, source_id=reconciler.source_id)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_rotated_file_is_read_to_its_end_before_the_new_one(
    restarted: bool, log: Log, reconciler: Reconciler
) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    log.issue()
    log.rotate()
    log.issue()
    if restarted:
        await source.close()
        source = source_on(log, reconciler)
    assert (await reconciler.follow(source)).rows == 2
    assert await reconciler.serials() == log.serials
    assert [Path(file).name for file, _ in await reconciler.sightings()] == [
        "issued.jsonl",
        "issued.jsonl.1",
        "issued.jsonl",
    ]
    assert await unfinished(reconciler) == ["issued.jsonl"]
    assert await reconciler.findings() == []
    assert (await reconciler.follow(source)).counts == {}
    await source.close()


async def test_the_last_line_of_a_finished_file_needs_no_newline(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    await reconciler.follow(source)
    log.issue(newline=False)
    assert (await reconciler.follow(source)).rows == 0
    log.rotate()
    assert (await reconciler.follow(source)).rows == 1
    await source.close()


async def test_a_writer_that_has_not_heard_of_the_rotation_loses_no_line(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler, settle=timedelta(minutes=1))
    log.issue()
    await reconciler.follow(source)
    log.rotate()
    log.issue()
    await reconciler.follow(source)
    assert await unfinished(reconciler) == ["issued.jsonl.1", "issued.jsonl"]
    log.issue(to=log.numbered(1))
    assert (await reconciler.follow(source)).rows == 1
    moment = datetime.now(UTC).timestamp() - 120
    os.utime(log.numbered(1), (moment, moment))
    await reconciler.follow(source)
    assert await unfinished(reconciler) == ["issued.jsonl"]
    assert await reconciler.serials() == log.serials
    await source.close()


@pytest.mark.parametrize("restarted", [False, True])
async def test_several_rotations_between_two_passes_lose_no_line(
    restarted: bool, log: Log, reconciler: Reconciler
) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    for _ in range(3):
        log.issue()
        log.rotate()
    log.issue()
    if restarted:
        await source.close()
        source = source_on(log, reconciler)
    assert (await reconciler.follow(source)).rows == 4
    assert await reconciler.serials() == log.serials
    assert await unfinished(reconciler) == ["issued.jsonl"]
    assert await reconciler.findings() == []
    await source.close()


async def test_a_never_read_generation_under_a_finished_inode_number_is_read(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    log.rotate()
    log.issue()
    await reconciler.follow(source)
    await source.close()
    # While nobody looks: the finished file makes room, and its number goes to a generation that comes and goes.
    number = log.numbered(1).stat().st_ino
    log.numbered(1).unlink()
    log.path.rename(log.numbered(2))
    log.path.touch()
    # Some file systems give numbers out again and some do not, so what is remembered is made to say so.
    await reconciler.renumber(number, log.path.stat().st_ino)
    log.issue()
    log.path.rename(log.numbered(1))
    log.path.touch()
    log.issue()
    again = source_on(log, reconciler)
    await reconciler.follow(again)
    assert await reconciler.serials() == log.serials
    assert await reconciler.findings() == []
    await again.close()


async def test_a_file_deleted_behind_an_open_handle_is_still_read_to_its_end(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    log.issue()
    log.rotate()
    log.numbered(1).unlink()
    log.issue()
    assert (await reconciler.follow(source)).rows == 2
    assert await reconciler.serials() == log.serials
    assert await reconciler.findings() == []
    await source.close()


@pytest.mark.parametrize("packed", [False, True])
async def test_a_file_that_is_gone_before_its_end_was_read_is_a_gap(
    packed: bool, log: Log, reconciler: Reconciler
) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    await source.close()
    (position,) = await reconciler.ledger().file_positions()
    log.issue()
    log.rotate()
    if packed:
        shutil.copyfile(log.numbered(1), log.path.with_name("issued.jsonl.1.gz"))
    log.numbered(1).unlink()
    last = log.issue()
    source = source_on(log, reconciler)
    done = await reconciler.follow(source)
    assert (done.rows, done.quarantined, done.caught_up) == (1, 0, True)
    assert last.serial_number in await reconciler.serials()
    ((kind, severity, detail),) = await reconciler.findings()
    assert (kind, severity) == ("gap", "high")
    assert str(log.path) in detail
    assert f"octet {position.position}" in detail
    await reconciler.follow(source)
    assert len(await reconciler.findings()) == 1
    assert await unfinished(reconciler) == ["issued.jsonl"]
    await source.close()


async def test_after_a_gap_every_generation_that_is_left_is_read(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    await source.close()
    log.rotate()
    log.issue()
    log.rotate()
    log.numbered(2).unlink()
    source = source_on(log, reconciler)
    await mark_finished(reconciler, source, log.numbered(1))
    assert (await reconciler.follow(source)).rows == 1
    assert await kinds(reconciler) == [("gap", "high")]
    assert await reconciler.serials() == log.serials
    await source.close()


async def test_a_rotated_file_that_may_still_grow_is_held_open(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    await source.close()
    log.rotate()
    source = source_on(log, reconciler, settle=timedelta(minutes=1))
    await reconciler.follow(source)
    log.issue(to=log.numbered(1))
    log.numbered(1).unlink()
    assert (await reconciler.follow(source)).rows == 1
    assert await reconciler.findings() == []
    assert await unfinished(reconciler) == ["issued.jsonl.1", "issued.jsonl"]
    await source.close()


async def test_copytruncate_is_told_and_the_copy_is_read(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    log.issue()
    log.copytruncate()
    await reconciler.follow(source)
    log.issue()
    assert (await reconciler.follow(source)).rows == 1
    assert await reconciler.serials() == log.serials
    ((kind, severity, detail),) = await reconciler.findings()
    assert (kind, severity) == ("truncated", "high")
    assert "has only 0 octets now" in detail
    await source.close()


async def test_two_truncations_at_the_same_octet_are_two_findings(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.append(b'{"event": "a"}\n')
    await reconciler.follow(source)
    os.truncate(log.path, 0)
    await reconciler.follow(source)
    log.append(b'{"event": "b"}\n')
    await reconciler.follow(source)
    os.truncate(log.path, 0)
    await reconciler.follow(source)
    assert await kinds(reconciler) == [("truncated", "high")] * 2
    await source.close()


async def test_a_file_truncated_and_grown_past_its_position_is_read_again(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    os.truncate(log.path, 0)
    for _ in range(3):
        log.issue()
    assert (await reconciler.follow(source)).rows == 3
    assert await kinds(reconciler) == [("rewritten", "high")]
    assert await reconciler.serials() == log.serials
    await source.close()


async def test_an_absent_file_is_stale_but_what_was_rotated_away_is_read(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    log.issue()
    await reconciler.follow(source)
    verified = await reconciler.verified_at()
    log.issue()
    log.path.rename(log.numbered(1))
    with pytest.raises(RetrySource, match=r"issued\.jsonl: there is no such file$"):
        await reconciler.follow(source)
    assert await reconciler.serials() == log.serials
    assert await reconciler.verified_at() == verified
    assert await reconciler.findings() == []
    log.path.touch()
    log.issue()
    assert (await reconciler.follow(source)).rows == 1
    await source.close()


async def test_an_empty_mount_point_raises_no_false_alarm(log: Log, reconciler: Reconciler, tmp_path: Path) -> None:
    log.issue()
    source = source_on(log, reconciler)
    await reconciler.follow(source)
    await source.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log.path.rename(elsewhere / log.path.name)
    source = source_on(log, reconciler)
    with pytest.raises(RetrySource):
        await reconciler.follow(source)
    assert await reconciler.findings() == []
    (elsewhere / log.path.name).rename(log.path)
    log.issue()
    assert (await reconciler.follow(source)).rows == 1
    assert await reconciler.findings() == []
    await source.close()


async def test_a_file_system_mounted_under_another_device_number_is_no_gap(log: Log, reconciler: Reconciler) -> None:
    log.issue()
    source = source_on(log, reconciler)
    await reconciler.follow(source)
    await source.close()
    async with reconciler.database.connection() as connection:
        await connection.execute("UPDATE ocsp.file_position SET device = device + 1")
    log.issue()
    source = source_on(log, reconciler)
    done = await reconciler.follow(source)
    assert (done.rows, done.counts) == (1, {"lines": 1})
    assert await reconciler.findings() == []
    assert await unfinished(reconciler) == ["issued.jsonl"]
    await source.close()


@pytest.mark.parametrize("kind", ["directory", "pipe", "nothing"])
async def test_a_path_that_is_no_file_is_stale(kind: str, log: Log, reconciler: Reconciler, tmp_path: Path) -> None:
    log.path.unlink()
    if kind == "directory":
        log.path.mkdir()
    elif kind == "pipe":
        os.mkfifo(log.path)
    source = source_on(log, reconciler)
    with pytest.raises(RetrySource):
        await reconciler.follow(source)
    assert await reconciler.verified_at() is None


async def test_names_of_other_logs_in_the_directory_are_left_alone(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler)
    for name in ("issued.json", "other.jsonl", "issued.jsonl.1.gz", "issuedXjsonl.1"):
        log.append(b"not for us\n", to=log.path.with_name(name))
    log.append(json_line(log.ca.issue("dated.example")), to=log.path.with_name("issued.jsonl-20260101"))
    done = await reconciler.follow(source)
    assert (done.rows, done.quarantined) == (1, 0)
    await source.close()


async def test_other_rotation_schemes_are_named_by_patterns(log: Log, reconciler: Reconciler) -> None:
    source = source_on(log, reconciler, rotated=("issued-*.jsonl",))
    log.issue(to=log.path.with_name("issued-2026-01-01.jsonl"))
    log.issue()
    assert (await reconciler.follow(source)).rows == 2
    await source.close()


async def test_the_pass_ends_at_the_end_the_file_had_when_it_began(
    log: Log, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_DOCUMENTS", 1)
    log.issue()
    source = source_on(log, reconciler)
    seen = []
    async for batch in source.read(reconciler.ledger(), reconciler.issuers):
        await commit(reconciler, source, batch)
        seen.append(len(batch.sightings))
        assert len(seen) < 5
        log.issue()
    assert seen == [1, 0]
    assert (await reconciler.follow(source)).rows == 2
    await source.close()


async def test_two_reconcilers_on_one_file_do_no_harm(log: Log, reconciler: Reconciler) -> None:
    log.issue()
    one, other = source_on(log, reconciler), source_on(log, reconciler)
    batches = one.read(reconciler.ledger(), reconciler.issuers)
    stale = await anext(batches)
    assert (await reconciler.follow(other)).rows == 1
    log.issue()
    with pytest.raises(store.Overtaken):
        await commit(reconciler, one, stale)
    await batches.aclose()
    assert (await reconciler.follow(one)).rows == 1
    assert await reconciler.serials() == log.serials
    await one.close()
    await other.close()


@pytest.mark.parametrize(("settings", "word"), [({"settle": timedelta(-1)}, "settle"), ({"most_octets": 0}, "most")])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        JsonlSettings(path=Path("log"), record=RECORD, **settings)
