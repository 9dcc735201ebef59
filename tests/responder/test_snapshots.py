# SPDX-License-Identifier: Apache-2.0
"""Numbers of several workers: counters never go back however workers end, gauges of the dead vanish, files stay few."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from responder.counting import Counts
from responder.metrics import CATALOGUE, Fold, Numbers, exposition, gauge, numbers_of
from responder.snapshots import Snapshots, Verdict, whole

FORK = multiprocessing.get_context("fork")
ANSWERS = ("foundling_responder_answers", "good", "GET", "no", "sha1")
IN_FLIGHT = gauge("in_flight_requests", "/")


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Snapshots]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    made = Snapshots.create()
    yield made
    made.remove()
    assert list(tmp_path.iterdir()) == []


def counted(answers: int, *, in_flight: int = 0) -> Counts:
    counts = Counts()
    for _ in range(answers):
        counts.answered("good", response_status=0, method="GET", octets=90, seconds=0.004, hash_name="sha1", age=0.0)
    counts.in_flight = in_flight
    return counts


def total(snapshots: Snapshots) -> float:
    return whole(*snapshots.read()).totals.get(ANSWERS, 0.0)


def test_counters_of_a_dead_worker_stay_and_its_gauges_go(snapshots: Snapshots) -> None:
    snapshots.writer(101).write(numbers_of(counted(3, in_flight=2)), {})
    snapshots.writer(102).write(numbers_of(counted(4, in_flight=1)), {})
    numbers = whole(*snapshots.read())
    assert (numbers.totals[ANSWERS], numbers.gauges[IN_FLIGHT]) == (7, 3)
    assert numbers.spreads[("ocsp_request_sizes",)].sum == 7 * 90
    snapshots.bury_all_but({102})
    numbers = whole(*snapshots.read())
    assert (numbers.totals[ANSWERS], numbers.gauges[IN_FLIGHT]) == (7, 1)
    assert numbers.spreads[("ocsp_request_sizes",)].sum == 7 * 90
    assert numbers.totals[("foundling_responder_workers_ended",)] == 1
    assert numbers.gauges[("foundling_responder_workers",)] == 1


def test_a_number_used_again_by_another_process_loses_nothing(snapshots: Snapshots) -> None:
    for _ in range(3):
        snapshots.writer(101).write(numbers_of(counted(2)), {})
        snapshots.bury_all_but(())
    snapshots.writer(101).write(numbers_of(counted(2)), {})
    assert total(snapshots) == 8


def test_many_restarts_leave_two_files(snapshots: Snapshots, tmp_path: Path) -> None:
    for pid in range(1000, 1500):
        snapshots.writer(pid).write(numbers_of(counted(1)), {"feed": Verdict(0, "")})
        snapshots.bury_all_but({pid})
    (directory,) = tmp_path.iterdir()
    assert len(list(directory.iterdir())) == 2
    assert sum(file.stat().st_size for file in directory.iterdir()) < 20_000
    assert total(snapshots) == 500


def test_a_reader_between_the_two_steps_of_a_burial_counts_nobody_twice(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.writer(101).write(numbers_of(counted(5)), {})
    (file,) = tmp_path.glob("*/worker-101")
    left = file.read_bytes()
    snapshots.bury_all_but(())
    file.write_bytes(left)  # as if the file had not been removed yet
    assert total(snapshots) == 5


def test_what_cannot_be_read_is_let_go_and_the_others_count(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.writer(101).write(numbers_of(counted(5)), {})
    snapshots.writer(102).write(numbers_of(counted(1)), {})
    (file,) = tmp_path.glob("*/worker-101")
    file.write_bytes(b"\x81broken")
    snapshots.bury_all_but({102})
    assert total(snapshots) == 1


def count_until(snapshots: Snapshots, stop: Event) -> None:
    writer, counts = snapshots.writer(os.getpid()), Counts()
    while not stop.is_set():
        counts.answered("good", response_status=0, method="GET", octets=90, seconds=0.0, hash_name="sha1", age=0.0)
        writer.write(numbers_of(counts), {})


def test_totals_never_go_back_while_workers_are_killed_and_buried(snapshots: Snapshots) -> None:
    stop = FORK.Event()
    workers = [FORK.Process(target=count_until, args=(snapshots, stop)) for _ in range(2)]
    for worker in workers:
        worker.start()
    seen = [0.0]
    for _ in range(6):
        killed = workers.pop(0)
        enough, deadline = seen[-1] + 20, time.monotonic() + 30
        while seen[-1] < enough:
            assert time.monotonic() < deadline
            seen.append(total(snapshots))
        killed.kill()
        killed.join()
        seen.append(total(snapshots))
        snapshots.bury_all_but([each.pid or 0 for each in workers])
        seen.append(total(snapshots))
        workers.append(FORK.Process(target=count_until, args=(snapshots, stop)))
        workers[-1].start()
    stop.set()
    for worker in workers:
        worker.join()
    seen.append(total(snapshots))
    assert seen == sorted(seen)


def test_every_metric_is_told_in_both_formats_and_read_back(snapshots: Snapshots) -> None:
    counts = counted(3, in_flight=1)
    counts.signed("ca-one", 0.002)
    counts.looked_up(17, 0.0004)
    counts.refused_http(431)
    counts.database_errors += 1
    snapshots.writer(101).write(numbers_of(counts), {})
    text, media_type = exposition(whole(*snapshots.read()), accept="text/plain")
    assert media_type.startswith("text/plain")
    read = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert set(read) == {told.name for told in CATALOGUE}
    for told in CATALOGUE:
        assert read[told.name].documentation == told.means
        assert all(set(sample.labels) - {"le"} == set(told.labels) for sample in read[told.name].samples)
    samples = {(each.name, *each.labels.values()): each.value for family in read.values() for each in family.samples}
    assert samples["ocsp_responses_total", "Success"] == 3
    assert samples["foundling_responder_answers_total", "sha1", "no", "GET", "good"] == 3
    assert samples["foundling_responder_lookup_batch_size_bucket", "16.0"] == 0
    assert samples["foundling_responder_lookup_batch_size_bucket", "32.0"] == 1
    assert samples["foundling_responder_lookup_batch_size_bucket", "+Inf"] == 1
    assert samples["response_time_count", "200", "/", "GET"] == 3
    _, media_type = exposition(Numbers(), accept="application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")


@pytest.mark.parametrize(("fold", "expected"), [(Fold.SUM, 5.0), (Fold.HIGHEST, 4.0), (Fold.LOWEST, 1.0)])
def test_gauges_of_several_workers_become_one(snapshots: Snapshots, fold: Fold, expected: float) -> None:
    told = next(each for each in CATALOGUE if each.fold is fold)
    series = (told.name, *("x" for _ in told.labels))
    snapshots.writer(101).write(Numbers(gauges={series: 1.0}), {})
    snapshots.writer(102).write(Numbers(gauges={series: 4.0}), {})
    assert whole(*snapshots.read()).gauges[series] == expected


def test_no_label_can_hold_a_serial() -> None:
    labels = {label for told in CATALOGUE for label in told.labels}
    assert labels == {
        "type", "endpoint", "method", "code", "outcome", "kept", "hash", "issuer", "key", "state", "check",
    }  # fmt: skip
