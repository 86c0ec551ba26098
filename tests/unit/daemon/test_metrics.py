"""The table of metrics and its text form, read back by the parser of the Prometheus client library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kuberouter.daemon.metrics import BY_NAME, METRICS, PREFIX, Sample, Series, expose, reference, series
from tests.support.gometrics import COUNTERS, FACTS, MORE_LABELS, excused
from tests.support.promtool import promtool

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_every_metric_is_explained_and_well_named() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.type in ("counter", "gauge", "histogram"), metric
        assert re.fullmatch(r"[a-z][a-z0-9_]+", metric.name), metric
        assert re.fullmatch(r"\S.+\.", metric.help), metric
        counts = metric.type == "counter" and metric.name not in COUNTERS
        assert metric.name.endswith("_total") is counts, metric
        assert not metric.name.endswith(("_created", "_count", "_sum", "_bucket")), metric


def test_every_metric_of_the_go_kube_router_is_there_with_its_type_and_labels() -> None:
    assert len({fact.name for fact in FACTS}) == len(FACTS) == 33
    for fact in FACTS:
        metric = BY_NAME[fact.name]
        assert metric.type == fact.type, fact
        assert set(metric.labels) == fact.labels | MORE_LABELS.get(fact.name, frozenset()), fact
        assert metric.condition == fact.controller.replace("any", ""), fact


def test_prometheus_objects_to_no_name_or_help_but_those_kept_from_before() -> None:
    def made() -> Iterator[Series]:
        for metric in METRICS:
            if metric.type == "histogram":
                bucket = Sample("_bucket", (("le", "+Inf"),), 1)
                samples = (bucket, Sample("_sum", (), 1), Sample("_count", (), 1))
                yield Series(PREFIX + metric.name, metric.type, metric.help, samples)
            else:
                yield series(metric.name, {tuple("x" for _ in metric.labels): 1})

    _, said = promtool(["check", "metrics"], expose(made()))
    lines = said.splitlines()
    assert [line for line in lines if not excused(line)] == []
    # A list of excuses longer than what is to be excused would hide something one day.
    assert {line.split()[0].removeprefix(PREFIX) for line in lines} == set(COUNTERS)


def test_the_page_shows_the_table() -> None:
    assert reference() in (DOCS / "metrics.md").read_text()


def test_values_and_labels_survive_the_text() -> None:
    odd = 'a "quoted"\nline \\ and a backslash'
    text = expose(
        [series("problems", {("Service", odd): 3, ("Node", "ä"): 0.25}), series("heartbeat_age_seconds", 1e300)]
    )
    problems, age = text_string_to_metric_families(text)
    assert {tuple(s.labels.values()): s.value for s in problems.samples} == {("Service", odd): 3, ("Node", "ä"): 0.25}
    assert (age.name, age.type, age.samples[0].value) == (f"{PREFIX}heartbeat_age_seconds", "gauge", 1e300)


@pytest.mark.parametrize("value", [0.0, 17.0, 1.5, float("inf"), float("-inf"), 2.0**60])
def test_numbers(value: float) -> None:
    (family,) = text_string_to_metric_families(expose([Series("x", "gauge", "X.", (Sample("", (), value),))]))
    assert family.samples[0].value == value


def test_help_is_one_line() -> None:
    text = expose([Series("x", "gauge", "two\nlines \\", (Sample("", (), 1),))])
    assert text == "# HELP x two\\nlines \\\\\n# TYPE x gauge\nx 1\n"


def test_nothing_to_show_is_not_shown() -> None:
    assert expose([series("drift_found_total", {})]) == ""
