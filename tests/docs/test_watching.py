# SPDX-License-Identifier: Apache-2.0
"""Alert rules and dashboard: promtool takes them, they name metrics that exist, and each alert leads to what to do."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.reading import DOCS, ROOT, code, links, sections, table
from tests.docs.test_documented import metrics_of_the_code

Find = Callable[[str], str]
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-responder.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# What PromQL has for itself; everything else outside of braces is a metric, and `up` is Prometheus' own.
_LANGUAGE = {
    "sum", "max", "min", "by", "rate", "increase", "histogram_quantile", "and", "label_values", "instance", "up",
    "type", "outcome", "check", "issuer", "key", "le", "state", "method", "kept", "hash", "code",
}  # fmt: skip
SEVERITIES = {"page", "critical", "warning", "info"}


def metrics_in(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"[a-z_:][a-z0-9_:]*", bare)) - _LANGUAGE


def known_metrics() -> set[str]:
    """Return every name under which Prometheus has a sample of ours."""
    known = set()
    for name, (kind, _, _) in metrics_of_the_code().items():
        known |= {f"{name}{part}" for part in ("_bucket", "_count", "_sum")} if kind == "histogram" else {name}
    return known


def expressions_of_the_dashboard() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_promtool_takes_the_rules(program: Find) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(DOCS / "alerts.yml")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, f"{len(RULES)} rules found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_the_alerts_fire_when_they_should_and_not_otherwise(program: Find) -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", "tests/docs/alerts.test.yml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_most_alerts_are_tried() -> None:
    tried = {
        case["alertname"]
        for test in yaml.safe_load((ROOT / "tests/docs/alerts.test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried <= {rule["alert"] for rule in RULES}
    assert {rule["alert"] for rule in RULES if rule["labels"]["severity"] == "page"} <= tried
    assert len(tried) >= 12


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_names_metrics_that_exist_and_leads_to_its_part_of_the_runbook(rule: dict[str, Any]) -> None:
    metrics = metrics_in(rule["expr"])
    assert metrics <= known_metrics()
    assert metrics or rule["expr"].startswith("up{")
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"]["summary"]
    document, _, part = rule["annotations"]["runbook"].partition("#")
    headings = {path[-1]: body for path, body in sections((ROOT / document).read_text(encoding="utf-8"))}
    assert part == rule["alert"].lower()
    assert headings[rule["alert"]].strip().startswith(f"**{rule['labels']['severity']}.**")


def test_every_part_of_the_runbook_is_about_an_alert_in_the_same_order() -> None:
    parts = [path[-1] for path, _ in sections((DOCS / "runbook.md").read_text(encoding="utf-8")) if len(path) == 2]
    assert parts == [rule["alert"] for rule in RULES]


def test_what_the_dashboard_asks_for_exists_and_no_metric_of_the_responder_is_left_out() -> None:
    named = {metric for _, expression in expressions_of_the_dashboard() for metric in metrics_in(expression)}
    assert named <= known_metrics()
    catalogue = {
        name for name in metrics_of_the_code() if re.match(r"ocsp_|response_|in_flight|foundling_responder_", name)
    }
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in catalogue else name for name in named}
    assert catalogue - shown == set()


def test_promtool_takes_what_the_dashboard_asks(program: Find, tmp_path: Path) -> None:
    """As recording rules: Grafana puts an interval for $__rate_interval, and hosts for $instance."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, (_, expression) in enumerate(expressions_of_the_dashboard())
    ]
    assert len(rules) > 30
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_have_numbers_of_their_own_and_do_not_cover_each_other() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    covered: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & covered, panel["title"]
        covered |= cells


def test_a_metric_that_does_not_exist_would_be_noticed() -> None:
    assert metrics_in('sum by (issuer) (rate(foundling_responder_nothing_total{issuer="up"}[5m])) > 0') == {
        "foundling_responder_nothing_total"
    }
    assert "foundling_responder_nothing_total" not in known_metrics()
    assert "foundling_responder_lookup_seconds_bucket" in known_metrics()


def test_the_checks_in_operating_md_are_those_of_readyz() -> None:
    source = (ROOT / "responder/checks.py").read_text() + (ROOT / "responder/readiness.py").read_text()
    operating = (DOCS / "operating.md").read_text(encoding="utf-8")
    (body,) = [body for path, body in sections(operating) if path[-1] == "What makes a host unready"]
    documented = [code(row[0]) for row in table(body)]
    assert sorted(documented) == sorted(["database", "feed", "signers", "signer_expiry", "sources", "workers", "drain"])
    assert all(f'"{name}"' in source for name in documented)
    assert links(operating)
