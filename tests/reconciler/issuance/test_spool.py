# SPDX-License-Identifier: Apache-2.0
"""A spool directory, followed into a real database: nothing lost, nothing read twice, nothing moved too early."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.ca import Authority, write_certificates
from reconciler.errors import RetrySource
from reconciler.issuance import document, spool
from reconciler.issuance.spool import SpoolSettings, SpoolSource
from tests.reconciler.issuance.conftest import Reconciler, der, pem


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


def source_on(directory: Path, reconciler: Reconciler, **settings: Any) -> SpoolSource:
    return SpoolSource(reconciler.settings, SpoolSettings(directory=directory, **settings))


def age(path: Path, seconds: float) -> None:
    moment = datetime.now(UTC).timestamp() - seconds
    os.utime(path, (moment, moment))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_every_file_earns_its_row_and_is_read_once(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    precert = ca.precertificate("one.example")
    write_certificates(directory / "one.der", precert)
    write_certificates(directory / "two.PEM", ca.certificate_from(precert), *ca.chain)
    source = source_on(directory, reconciler)
    before = datetime.now(UTC)
    first = await reconciler.follow(source)
    assert (first.rows, first.sightings, first.quarantined, first.caught_up) == (1, 2, 0, True)
    assert first.counts == {"files": 2, "passed_over": 2}
    assert await reconciler.serials() == {precert.serial_number}
    assert {file for file, _ in await reconciler.sightings()} == {
        str(directory / "one.der"),
        str(directory / "two.PEM"),
    }
    verified = await reconciler.verified_at()
    assert verified is not None
    assert verified >= before
    second = await reconciler.follow(source)
    assert (second.counts, second.caught_up) == ({}, True)


async def test_nothing_new_yields_one_empty_batch_that_is_caught_up(directory: Path, reconciler: Reconciler) -> None:
    began = datetime.now(UTC)
    (batch,) = await reconciler.batches(source_on(directory, reconciler))
    assert batch.move is None
    assert batch.caught_up_at is not None
    assert began <= batch.caught_up_at <= datetime.now(UTC)


async def test_the_moment_of_being_caught_up_lies_before_the_listing(
    directory: Path, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_on(directory, reconciler)
    listed: list[datetime] = []
    real = source._list

    def watched() -> Any:
        listed.append(datetime.now(UTC))
        return real()

    monkeypatch.setattr(source, "_list", watched)
    (batch,) = await reconciler.batches(source)
    assert batch.caught_up_at is not None
    assert batch.caught_up_at <= listed[0]


async def test_an_absent_directory_is_stale_and_not_caught_up(tmp_path: Path, reconciler: Reconciler) -> None:
    with pytest.raises(RetrySource, match=r"nowhere: cannot be listed: No such file or directory$"):
        await reconciler.follow(source_on(tmp_path / "nowhere", reconciler))
    assert await reconciler.verified_at() is None


async def test_one_file_that_cannot_be_read_keeps_the_source_stale_but_not_the_others_unknown(
    directory: Path, ca: Authority, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = ca.issue("readable.example")
    write_certificates(directory / "b.der", certificate)
    blocked = write_certificates(directory / "a.der", ca.issue("unreadable.example"))
    if os.geteuid() == 0:
        # The superuser reads everything. A link to itself is a file nobody can open; it is put in after the listing.
        real = SpoolSource._list

        def list_then_block(self: SpoolSource) -> Any:
            listing = real(self)
            blocked.unlink()
            blocked.symlink_to(blocked)
            return listing

        monkeypatch.setattr(SpoolSource, "_list", list_then_block)
    else:
        blocked.chmod(0)
    with pytest.raises(RetrySource, match=r"1 files not read, first a\.der: "):
        await reconciler.follow(source_on(directory, reconciler))
    assert await reconciler.serials() == {certificate.serial_number}
    assert await reconciler.verified_at() is None


async def test_a_file_that_vanishes_before_it_is_read_does_not_count_as_covered(
    directory: Path, ca: Authority, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_certificates(directory / "gone.der", ca.issue("gone.example"))
    real = SpoolSource._list

    def list_then_remove(self: SpoolSource) -> Any:
        listing = real(self)
        path.unlink(missing_ok=True)
        return listing

    monkeypatch.setattr(SpoolSource, "_list", list_then_remove)
    source = source_on(directory, reconciler)
    with pytest.raises(RetrySource, match=r"gone\.der: No such file"):
        await reconciler.follow(source)
    assert (await reconciler.follow(source)).caught_up


async def test_names_that_are_not_finished_are_ignored_until_they_are_renamed(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    certificate = ca.issue("late.example")
    for name in (".late.der", "late.der.tmp", "late.der.part", "late.txt"):
        (directory / name).write_bytes(der(certificate))
    (directory / "folder.der").mkdir()
    source = source_on(directory, reconciler)
    assert (await reconciler.follow(source)).counts == {"others": 4}
    (directory / ".late.der").rename(directory / "late.der")
    assert (await reconciler.follow(source)).rows == 1


async def test_a_young_file_that_does_not_parse_waits_and_an_old_one_is_quarantined(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    certificate = ca.issue("slow.example")
    path = directory / "slow.pem"
    path.write_bytes(pem(certificate)[:200])
    source = source_on(directory, reconciler)
    waiting = await reconciler.follow(source)
    assert (waiting.quarantined, waiting.caught_up) == (0, True)
    path.write_bytes(pem(certificate))
    assert (await reconciler.follow(source)).rows == 1
    path.write_bytes(pem(certificate)[:200])
    age(path, 60)
    assert (await reconciler.follow(source)).quarantined == 1
    assert [(reason, raw) for reason, _, raw in await reconciler.quarantined()] == [
        ("unparsable", pem(certificate)[:200])
    ]


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    directory: Path, ca: Authority, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_certificates(directory / "bundle.pem", ca.issue("first.example"))
    late = ca.issue("late.example")
    real, looks = os.fstat, []

    def grow_before_the_second_look(handle: int) -> os.stat_result:
        looks.append(handle)
        if len(looks) == 2:
            with path.open("ab") as file:
                file.write(pem(late))
        return real(handle)

    source = source_on(directory, reconciler)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", grow_before_the_second_look)
        await reconciler.follow(source)
    await reconciler.follow(source)
    assert late.serial_number in await reconciler.serials()


async def test_a_clock_far_ahead_does_not_keep_a_broken_file_waiting_for_years(
    directory: Path, reconciler: Reconciler
) -> None:
    path = directory / "future.der"
    path.write_bytes(b"nothing")
    age(path, -3_000_000_000)
    assert (await reconciler.follow(source_on(directory, reconciler))).quarantined == 1


async def test_a_certificate_of_an_issuer_we_do_not_serve_is_quarantined_as_foreign(
    directory: Path, stranger: Authority, reconciler: Reconciler
) -> None:
    certificate = stranger.issue("theirs.example")
    write_certificates(directory / "theirs.der", certificate)
    done = await reconciler.follow(source_on(directory, reconciler))
    assert (done.rows, done.quarantined, done.caught_up) == (0, 1, True)
    ((reason, detail, raw),) = await reconciler.quarantined()
    assert (reason, raw) == ("foreign", der(certificate))
    assert "Somebody else's CA" in detail


async def test_a_file_that_is_too_large_is_kept_by_its_beginning_and_its_size(
    directory: Path, reconciler: Reconciler
) -> None:
    path = directory / "huge.der"
    path.write_bytes(b"\x30" * 300_000)
    age(path, 60)
    assert (await reconciler.follow(source_on(directory, reconciler, most_octets=200_000))).quarantined == 1
    ((_, detail, raw),) = await reconciler.quarantined()
    assert "300000 octets" in detail
    assert raw == b"\x30" * document.PREFIX_OCTETS


async def test_a_replaced_file_is_read_again(directory: Path, ca: Authority, reconciler: Reconciler) -> None:
    source = source_on(directory, reconciler)
    first, second = ca.issue("first.example"), ca.issue("second.example")
    write_certificates(directory / "latest.der", first)
    await reconciler.follow(source)
    write_certificates(directory / "new.tmp", second).rename(directory / "latest.der")
    assert (await reconciler.follow(source)).rows == 1
    assert await reconciler.serials() == {first.serial_number, second.serial_number}


async def test_a_crash_before_the_commit_repeats_the_batch(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    certificate = write_certificates(directory / "one.der", ca.issue("one.example"))
    age(certificate, 60)
    source = source_on(directory, reconciler, done="rename")
    batches = source.read(reconciler.ledger(), reconciler.issuers)
    assert len((await anext(batches)).sightings) == 1
    await batches.aclose()
    assert await reconciler.serials() == set()
    assert names(directory) == ["one.der"]
    assert (await reconciler.follow(source_on(directory, reconciler, done="rename"))).rows == 1


async def test_a_crash_between_commit_and_rename_is_made_good_by_the_next_pass(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    age(write_certificates(directory / "one.der", ca.issue("one.example")), 60)
    await reconciler.batches(source_on(directory, reconciler, done="rename"))
    assert len(await reconciler.serials()) == 1
    assert names(directory) == ["one.der"]
    again = await reconciler.follow(source_on(directory, reconciler, done="rename"))
    assert (again.counts, again.caught_up) == ({}, True)
    assert names(directory) == ["one.der.done"]
    assert len(await reconciler.sightings()) == 1


async def test_finished_files_move_to_their_directory_and_overwrite_nothing(
    directory: Path, tmp_path: Path, ca: Authority, reconciler: Reconciler
) -> None:
    done = tmp_path / "done"
    done.mkdir()
    (done / "one.der").write_bytes(b"from last year")
    certificate = ca.issue("one.example")
    age(write_certificates(directory / "one.der", certificate), 60)
    await reconciler.follow(source_on(directory, reconciler, done="rename", done_directory=done))
    assert names(directory) == []
    assert (done / "one.der").read_bytes() == b"from last year"
    assert {path.read_bytes() for path in done.iterdir()} == {b"from last year", der(certificate)}


async def test_a_young_file_is_read_at_once_but_renamed_only_when_nobody_can_be_writing_it(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    path = write_certificates(directory / "one.der", ca.issue("one.example"))
    source = source_on(directory, reconciler, done="rename", settle=timedelta(hours=1))
    assert (await reconciler.follow(source)).rows == 1
    assert names(directory) == ["one.der"]
    age(path, 7200)
    assert (await reconciler.follow(source)).caught_up
    await reconciler.follow(source)
    assert names(directory) == ["one.der.done"]


async def test_a_file_that_took_the_name_of_a_finished_one_is_not_renamed_unread(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    age(write_certificates(directory / "one.der", ca.issue("one.example")), 60)
    source = source_on(directory, reconciler, done="rename")
    (batch, _) = await reconciler.batches(source)
    newer = write_certificates(directory / "two.tmp", ca.issue("two.example"))
    age(newer, 60)
    newer.rename(directory / "one.der")
    await source.committed(batch)
    assert names(directory) == ["one.der"]
    assert (await reconciler.follow(source)).rows == 1
    assert names(directory) == ["one.der.done"]


async def test_a_rename_that_fails_is_told_and_leaves_the_source_fresh(
    directory: Path, tmp_path: Path, ca: Authority, reconciler: Reconciler
) -> None:
    age(write_certificates(directory / "one.der", ca.issue("one.example")), 60)
    source = source_on(directory, reconciler, done="rename", done_directory=tmp_path / "missing")
    assert (await reconciler.follow(source)).rows == 1
    assert (await reconciler.follow(source)).caught_up
    await reconciler.follow(source)
    ((kind, severity, detail),) = await reconciler.findings()
    assert (kind, severity) == ("spool_rename", "low")
    assert "one.der: No such file or directory" in detail


async def test_batches_are_bounded_and_each_is_complete(
    directory: Path, ca: Authority, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MOST_DOCUMENTS", 4)
    monkeypatch.setattr(spool, "_SLICE", 7)
    for number in range(10):
        write_certificates(directory / f"{number}.der", ca.issue(f"{number}.example"))
    batches = await reconciler.batches(source_on(directory, reconciler))
    assert [len(batch.sightings) for batch in batches] == [4, 3, 3, 0]
    assert [batch.caught_up_at is not None for batch in batches] == [False, False, False, True]
    assert len(await reconciler.serials()) == 10


async def test_a_name_that_is_not_text_is_read_all_the_same(
    directory: Path, ca: Authority, reconciler: Reconciler
) -> None:
    write_certificates(directory / os.fsdecode(b"caf\xe9.der"), ca.issue("cafe.example"))
    source = source_on(directory, reconciler)
    assert (await reconciler.follow(source)).rows == 1
    assert (await reconciler.follow(source)).counts == {}
    assert (await reconciler.sightings())[0][0].endswith("/caf\\xe9.der")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"suffixes": ()}, "suffixes"),
        ({"suffixes": ("der",)}, "suffixes"),
        ({"suffixes": (".der", ".done"), "done": "rename"}, "suffixes"),
        ({"done_directory": Path("/elsewhere")}, "done_directory"),
        ({"done": "rename", "done_directory": Path("/spool")}, "done_directory"),
        ({"settle": timedelta(seconds=-1)}, "settle"),
        ({"most_octets": 0}, "most_octets"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SpoolSettings(directory=Path("/spool"), **settings)
