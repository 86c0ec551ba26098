"""The Helm chart: values that its schema allows, templates that say what the manifests say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from kuberouter import __version__
from tests.support.helm import KUBERNETES, helm
from tests.support.kubectl import Missing
from tests.support.manifests import HOME, Object, complaints, load, shipped

CHART = HOME / "chart"
ALL = "generic-kuberouter-all-features"
EVERYTHING: dict[str, Any] = {"run": {"serviceProxy": True}, "apiserver": "%APISERVER%"}
SAME: Mapping[str, dict[str, Any]] = {
    "generic-kuberouter": {},
    ALL: EVERYTHING,
    f"{ALL}-nftables": {**EVERYTHING, "args": ["--use-nftables-for-netpol=true"]},
    f"{ALL}-dual-stack": {
        **EVERYTHING,
        "args": [
            "--enable-ipv6=true",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--service-cluster-ip-range=fd00:10:96::/112",
        ],
    },
    f"{ALL}-loadbalancer": {**EVERYTHING, "loadBalancerRanges": ["<CHANGE ME>"]},
    f"{ALL}-least-privilege": {**EVERYTHING, "leastPrivilege": True},
    f"{ALL}-least-privilege-dsr": {
        **EVERYTHING,
        "leastPrivilege": True,
        "runtimeSocket": "/run/containerd/containerd.sock",
    },
    f"{ALL}-gobgpd-apart": {**EVERYTHING, "gobgpd": {"apart": True}},
    "generic-kuberouter-only-advertise-routes": {
        "run": {"firewall": False},
        "args": [
            "--enable-cni=false",
            "--enable-ibgp=false",
            "--enable-overlay=false",
            "--advertise-cluster-ip=true",
            "--advertise-external-ip=true",
            "--advertise-loadbalancer-ip=true",
            "--peer-router-ips=<CHANGE ME>",
            "--peer-router-asns=<CHANGE ME>",
        ],
    },
}
"""Manifests, and the values with which the chart is the same."""
OPENING = ("if", "range", "with", "define", "block")


def values() -> Object:
    """The chart's own values."""
    found: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def mistakes(given: Object) -> list[str]:
    """What the chart's schema says against some values."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    return [error.message for error in Draft7Validator(schema).iter_errors(given)]


def merged(old: Object, new: Mapping[str, Any]) -> Object:
    """Values over values, as helm does it."""
    found = dict(old)
    for key, value in new.items():
        found[key] = merged(found[key], value) if isinstance(value, dict) and key in found else value
    return found


def rendered(given: Mapping[str, Any], folder: Path) -> list[Object]:
    """The objects that helm makes of the chart."""
    done = run(["template", "kube-router", str(CHART)], given, folder)
    assert done.returncode == 0, done.stderr
    return load(done.stdout)


def run(words: Sequence[str], given: Mapping[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run helm with some values. Raises Missing without one."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(given)))
    options = ["--namespace=kube-system", f"--values={file}", f"--kube-version={KUBERNETES}"]
    return subprocess.run([helm(), *words, *options], capture_output=True, text=True, timeout=60, check=False)


def plain(value: Any) -> Any:
    """The same with lists of named things by name: their order is of no meaning but to readers."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        items = [plain(each) for each in value]
        return sorted(items, key=lambda each: str(each.get("name"))) if all("name" in each for each in items) else items
    return value


def rights(objects: list[Object]) -> list[Object]:
    """Objects with the words of their roles in one order."""
    return [
        obj | {"rules": [{key: sorted(words) for key, words in rule.items()} for rule in obj["rules"]]}
        if "rules" in obj
        else obj
        for obj in objects
    ]


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize("name", SAME)
def test_values_are_as_the_schema_has_them(name: str) -> None:
    assert mistakes(merged(values(), SAME[name])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"leastPriviledge": True},
        {"image": {"tags": "1"}},
        {"run": {"router": "yes"}},
        {"run": {"router": False, "firewall": False}},
        {"args": ["run-router=true"]},
        {"runtimeSocket": "unix:///run/containerd/containerd.sock"},
        {"probes": {"startupFailures": 0}},
    ],
)
def test_the_schema_refuses_what_would_go_unnoticed(wrong: Object) -> None:
    assert mistakes(merged(values(), wrong)) != []


def test_templates_are_whole_and_ask_for_values_that_there_are() -> None:
    """As far as can be told without helm."""
    known = values()
    for file in sorted((CHART / "templates").iterdir()):
        text = file.read_text()
        actions = re.findall(r"\{\{-?(.*?)-?\}\}", text, re.S)
        assert text.count("{{") == text.count("}}") == len(actions), file
        words = [action.split()[0] for action in actions if action.split()]
        assert sum(word in OPENING for word in words) == words.count("end"), file
        for path in re.findall(r"(?:\.Values|\$v)((?:\.\w+)+)", " ".join(actions)):
            at: Any = known
            for step in path.split(".")[1:]:
                assert isinstance(at, dict), path
                assert step in at, f"{file.name}: {path}"
                at = at[step]


@pytest.mark.parametrize("name", SAME)
def test_helm_makes_of_the_chart_what_the_manifest_says(name: str, tmp_path: Path) -> None:
    try:
        found = rendered(SAME[name], tmp_path)
    except Missing as error:
        pytest.skip(str(error))
    assert [text for obj in found for text in complaints(obj)] == []
    assert plain(rights(found)) == plain(rights(shipped(name)))


def test_helm_finds_the_schema_and_nothing_to_complain_of(tmp_path: Path) -> None:
    """Its lint also renders the notes."""
    try:
        done = run(["lint", "--strict", str(CHART)], SAME[f"{ALL}-gobgpd-apart"], tmp_path)
        refused = run(["template", "kube-router", str(CHART)], {"leastPriviledge": True}, tmp_path)
    except Missing as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stdout
    assert "leastPriviledge is not allowed" in refused.stderr
