# SPDX-License-Identifier: Apache-2.0
"""Log lists: both real ones, lists that say too much, and lists that contradict themselves."""

import base64
import contextlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ct.head import LogKey
from reconciler.ct.loglist import FinalTreeHead, LogKind, LogState, TemporalInterval, parse_log_list
from reconciler.errors import ReconcilerError, UnreadableAnswer


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def an_rfc6962_log(**changes: Any) -> dict[str, Any]:
    log = {
        "description": "a log",
        "log_id": encoded(sha256(b"key").digest()),
        "key": encoded(b"key"),
        "url": "https://log.example/",
        "mmd": 86400,
        "state": {"usable": {"timestamp": "2026-01-02T03:04:05Z"}},
    }
    return {name: value for name, value in {**log, **changes}.items() if value is not None}


def a_tiled_log(**changes: Any) -> dict[str, Any]:
    urls = {"url": None, "monitoring_url": "https://read.example/", "submission_url": "https://write.example/"}
    return an_rfc6962_log(**{**urls, **changes})


def a_list(*, logs: list[Any] | None = None, tiled_logs: list[Any] | None = None, **more: Any) -> bytes:
    operator = {"name": "an operator", "email": [], "logs": logs or [], "tiled_logs": tiled_logs or []}
    return json.dumps({"operators": [operator], **more}).encode()


@pytest.mark.parametrize(
    ("name", "version", "published", "states"),
    [
        (
            "google",
            "85.50",
            datetime(2026, 4, 19, 13, 39, 58, tzinfo=UTC),
            {
                (LogKind.RFC6962, LogState.USABLE): 27,
                (LogKind.RFC6962, LogState.READONLY): 4,
                (LogKind.RFC6962, LogState.RETIRED): 4,
                (LogKind.STATIC, LogState.USABLE): 21,
            },
        ),
        (
            "apple",
            "511",
            None,
            {
                (LogKind.RFC6962, LogState.USABLE): 27,
                (LogKind.RFC6962, LogState.READONLY): 6,
                (LogKind.RFC6962, LogState.REJECTED): 102,
                (LogKind.STATIC, LogState.USABLE): 24,
                (LogKind.STATIC, LogState.REJECTED): 6,
                (LogKind.STATIC, LogState.PENDING): 1,
            },
        ),
    ],
)
def test_every_log_of_a_real_list_is_read(
    ct_corpus: Path, name: str, version: str, published: datetime | None, states: dict[tuple[LogKind, LogState], int]
) -> None:
    raw = (ct_corpus / "loglist" / f"{name}-log-list.json").read_bytes()
    parsed = parse_log_list(raw)
    assert (parsed.version, parsed.published) == (version, published)
    assert Counter((log.kind, log.state) for log in parsed.logs) == states
    listed = {
        log["log_id"]: (operator["name"], log)
        for operator in json.loads(raw)["operators"]
        for log in operator["logs"] + operator["tiled_logs"]
    }
    for log in parsed.logs:
        operator, given_log = listed[encoded(log.log_id)]
        assert (log.operator, log.description) == (operator, given_log["description"])
        assert LogKey.from_spki(log.key).log_id == log.log_id
        assert log.mmd == timedelta(seconds=given_log["mmd"])
        assert log.monitoring_url == given_log.get("monitoring_url", given_log.get("url"))
        assert log.submission_url == given_log.get("submission_url", given_log.get("url"))
        assert (log.final_tree_head is not None) == (log.state == LogState.READONLY)
        assert (log.temporal_interval is not None) == ("temporal_interval" in given_log)
        assert log.state_timestamp is not None


def test_a_read_only_log_ends_at_its_final_tree_head() -> None:
    final = {"sha256_root_hash": encoded(bytes(32)), "tree_size": 65_240_567, "timestamp": 1}
    state = {"readonly": {"timestamp": "2025-09-18T17:20:00Z", "final_tree_head": final}}
    (log,) = parse_log_list(a_list(logs=[an_rfc6962_log(state=state)])).logs
    assert log.final_tree_head == FinalTreeHead(65_240_567, bytes(32))
    assert log.state_timestamp == datetime(2025, 9, 18, 17, 20, tzinfo=UTC)


def test_a_static_log_is_read_at_one_url_and_written_at_another() -> None:
    interval = {"start_inclusive": "2026-01-01T00:00:00Z", "end_exclusive": "2026-07-01T02:00:00+02:00"}
    (log,) = parse_log_list(a_list(tiled_logs=[a_tiled_log(temporal_interval=interval)])).logs
    assert log.kind == LogKind.STATIC
    assert (log.monitoring_url, log.submission_url) == ("https://read.example/", "https://write.example/")
    assert log.temporal_interval == TemporalInterval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))


def test_keys_we_do_not_know_are_ignored_everywhere() -> None:
    state = {"usable": {"timestamp": "2026-01-02T03:04:05Z", "new": 1}, "new": []}
    logs, tiled = [an_rfc6962_log(new={}, state=state)], [a_tiled_log(new=[1])]
    parsed = parse_log_list(a_list(logs=logs, tiled_logs=tiled, new="x"))
    assert [log.state for log in parsed.logs] == [LogState.USABLE, LogState.USABLE]


@pytest.mark.parametrize("state", [None, {}, {"new": {"timestamp": "2026-01-02T03:04:05Z"}}])
def test_a_log_in_no_state_that_we_know_is_listed_without_one(state: dict[str, Any] | None) -> None:
    (log,) = parse_log_list(a_list(logs=[an_rfc6962_log(state=state)])).logs
    assert (log.state, log.state_timestamp) == (None, None)


def test_a_key_of_a_kind_we_cannot_use_does_not_cost_us_the_list() -> None:
    other = an_rfc6962_log(key=encoded(b"ML-DSA"), log_id=encoded(sha256(b"ML-DSA").digest()))
    assert len(parse_log_list(a_list(logs=[other, an_rfc6962_log()])).logs) == 2


def test_a_log_id_that_is_not_the_hash_of_the_key_is_named() -> None:
    log = an_rfc6962_log(description="the odd one", log_id=encoded(bytes(32)))
    with pytest.raises(UnreadableAnswer, match="'the odd one' the log_id AAAA.*, but its key hashes to"):
        parse_log_list(a_list(logs=[an_rfc6962_log(), log]))


BAD_FINAL = {"sha256_root_hash": encoded(bytes(31)), "tree_size": 1}
NOW = "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(an_rfc6962_log(url=None), id="no url"),
        pytest.param(an_rfc6962_log(key=None), id="no key"),
        pytest.param(an_rfc6962_log(mmd=-1), id="negative mmd"),
        pytest.param(an_rfc6962_log(mmd=10**30), id="endless mmd"),
        pytest.param(an_rfc6962_log(log_id="%"), id="log_id not in base64"),
        pytest.param(an_rfc6962_log(state={"usable": {"timestamp": "2026-01-02T03:04:05"}}), id="no time zone"),
        pytest.param(an_rfc6962_log(state={"usable": {}}), id="no time"),
        pytest.param(an_rfc6962_log(state={"usable": {"timestamp": NOW}, "retired": {"timestamp": NOW}}), id="two"),
        pytest.param(
            an_rfc6962_log(state={"readonly": {"timestamp": NOW, "final_tree_head": BAD_FINAL}}), id="short root"
        ),
        pytest.param(a_tiled_log(), id="tiled log among the others"),
    ],
)
def test_a_damaged_log_makes_the_list_unreadable(log: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_log_list(a_list(logs=[log]))


GOOD = a_list(logs=[an_rfc6962_log()], tiled_logs=[a_tiled_log()])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(an_rfc6962_log())), JSON)
def test_any_value_in_any_place_ends_in_a_list_or_in_our_errors(name: str, value: Any) -> None:
    with contextlib.suppress(ReconcilerError):
        parse_log_list(a_list(logs=[{**an_rfc6962_log(), name: value}]))


@given(st.binary(max_size=100), st.integers(0, len(GOOD)))
def test_any_bytes_end_in_a_list_or_in_our_errors(noise: bytes, at: int) -> None:
    for raw in (noise, GOOD[:at], GOOD[:at] + noise + GOOD[at:]):
        with contextlib.suppress(ReconcilerError):
            parse_log_list(raw)


def test_json_nested_without_end_is_no_list() -> None:
    with pytest.raises(UnreadableAnswer):
        parse_log_list(b'{"x": ' + b"[" * 100_000)
