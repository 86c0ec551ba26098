"""The dashboard and the alerts against the table of metrics, judged by Prometheus itself."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from dashboard import generate
from kuberouter.daemon.metrics import METRICS, PREFIX
from tests.support.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "dashboard"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "kube-router.json").read_text())
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
SERIES = {
    f"{PREFIX}{metric.name}{suffix}": f"{PREFIX}{metric.name}"
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
}
"""What a query may name, and the metric that it is of."""


def panels() -> Iterator[dict[str, Any]]:
    """All but the headings."""
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def named(text: str) -> set[str]:
    """The metrics that a query names, of whomever."""
    return set(re.findall(r"\b(?:kube_router|process|go)_[a-z0-9_]+", text))


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert generate.text() == (FOLDER / "kube-router.json").read_text(), "run `python dashboard/generate.py`"


def test_every_metric_is_in_a_panel_and_every_panel_shows_what_there_is() -> None:
    shown = set().union(*map(named, queries()))
    process = {sample.name for m in _of_the_process() for sample in m.samples}
    assert shown - SERIES.keys() - process == set()
    assert set(SERIES.values()) - {SERIES[name] for name in shown & SERIES.keys()} == set()


def _of_the_process() -> list[Any]:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return list(registry.collect())


def test_grafana_finds_its_way() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert all(each["datasource"] == wanted for each in (*others, *panels()))
    assert all(target["datasource"] == wanted for panel in panels() for target in panel["targets"])
    known = {each["name"] for each in (source, *others)} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) <= known
    for panel in panels():
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) > 0, panel["title"]
        assert panel["description"], panel["title"]


def test_panels_neither_overlap_nor_stick_out() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    plain = [re.sub(r"\$__rate_interval", "5m", re.sub(r"\$(?!__)\w+", ".*", query)) for query in queries()]
    rules = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(plain)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    status, said = promtool(["check", "rules", str(file)])
    assert status == 0, said


def test_prometheus_takes_the_alerts_and_they_fire_when_they_should() -> None:
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        status, said = promtool([*words[:-1], str(FOLDER / words[-1])])
        assert status == 0, said
    tests = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    for case in tests:
        expected = [len(each["exp_alerts"]) for each in case["alert_rule_test"]]
        assert expected == [0, 1], case["name"]
    assert [case["name"] for case in tests] == [rule["alert"] for rule in ALERTS]


def test_every_alert_is_about_what_there_is_and_leads_to_its_section() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = re.findall(r"^## (.+)$", page, re.M)
    assert sections == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert named(rule["expr"]) <= SERIES.keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
    for anchor in re.findall(r"\]\(#([^)]+)\)", page):
        assert anchor in map(str.lower, sections)
