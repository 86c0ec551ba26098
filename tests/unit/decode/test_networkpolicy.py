"""What cannot be understood of a NetworkPolicy closes the pods that it selects, as far as these can be told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuberouter.compilers.policies.rules import body
from kuberouter.decode.networkpolicy import decode_networkpolicy
from kuberouter.model.cluster import NetworkPolicy, Selector
from kuberouter.model.core import Family
from kuberouter.model.policy import Direction

WEB = {"matchLabels": {"app": "web"}}
GOOD: dict[str, Any] = {"podSelector": WEB, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]}


def decoded(spec: object) -> tuple[NetworkPolicy | None, list[str]]:
    """The policy, and the fields that something is wrong with."""
    raw = {"kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "web"}, "spec": spec}
    found, problems = decode_networkpolicy(json.dumps(raw).encode())
    assert {(problem.owner.namespace, problem.owner.name) for problem in problems} <= {("shop", "web")}
    return found, [problem.field for problem in problems]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policyTypes": ["ingress"]}, "spec.policyTypes[0]"),
        ({"policyTypes": ["Ingress", "Sideways"]}, "spec.policyTypes[1]"),
        ({"policyTypes": "Ingress"}, "spec.policyTypes"),
        ({"ingress": {}}, "spec.ingress"),
        ({"ingress": "all"}, "spec.ingress"),
        ({"egress": 1}, "spec.egress"),
    ],
)
def test_a_policy_that_does_not_tell_which_way_it_closes_closes_both(change: dict[str, Any], field: str) -> None:
    """Pain 29: whatever is wrong with a policy, its pods are not open for it."""
    found, fields = decoded({**GOOD, **change})
    assert fields == [field]
    assert found is not None
    assert found.pods.requirements[0].values == ("web",)
    for direction in Direction:
        for family in Family:
            assert body(found, direction, family) == frozenset()


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"ports": [{"port": 0}]}, "ports[0].port"),
        ({"ports": [{"port": 65536}]}, "ports[0].port"),
        ({"ports": [{"port": ""}]}, "ports[0].port"),
        ({"ports": [{"port": "80"}]}, "ports[0].port"),
        ({"ports": [{"port": "HTTP"}]}, "ports[0].port"),
        ({"ports": [{"port": 80, "endPort": 79}]}, "ports[0].endPort"),
        ({"ports": [{"port": "http", "endPort": 80}]}, "ports[0].endPort"),
        ({"ports": [{"endPort": 80}]}, "ports[0].endPort"),
        ({"ports": [{"protocol": "ICMP"}]}, "ports[0].protocol"),
        ({"ports": 80}, "ports"),
        ({"from": [{}]}, "from[0]"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}, "from[0].ipBlock.cidr"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}, "from[0].ipBlock.except[0]"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, "from[0]"),
        ({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}, "from[0].podSelector"),
        ("all", ""),
    ],
)
def test_a_rule_that_is_not_understood_closes_the_direction_of_its_policy(rule: object, field: str) -> None:
    """Pain 29: half of a policy may open more than was meant, so none of it counts; the other direction stays free."""
    found, fields = decoded({**GOOD, "ingress": [{"ports": [{"port": 80}]}, rule]})
    assert fields == [f"spec.ingress[1].{field}".rstrip(".")]
    assert found is not None
    assert body(found, Direction.INGRESS, Family.IPV4) == frozenset()
    assert body(found, Direction.EGRESS, Family.IPV4) is None


@pytest.mark.parametrize("name", ["http", "h", "8080-tcp", "0-a-1", "h" * 15])
def test_a_port_may_have_any_name_that_the_api_takes(name: str) -> None:
    found, fields = decoded({**GOOD, "ingress": [{"ports": [{"port": name}]}]})
    assert fields == []
    assert found is not None
    assert found.ingress is not None
    assert [port.name for port in found.ingress[0].ports] == [name]


@pytest.mark.parametrize("name", ["-h", "h-", "h--p", "8080", "8-0", "h_p", "h.p", "h\n", "\xe9", "h" * 16])
def test_a_port_with_another_name_is_a_mistake(name: str) -> None:
    assert decoded({**GOOD, "ingress": [{"ports": [{"port": name}]}]})[1] == ["spec.ingress[0].ports[0].port"]


def test_a_policy_without_a_spec_closes_its_namespace() -> None:
    found, fields = decoded(None)
    assert found is not None
    assert found.pods == Selector()
    assert (found.ingress, found.egress) == ((), ())
    assert fields == ["spec"]


@pytest.mark.parametrize("selector", ["web", {"matchExpressions": [{"key": "app", "operator": "Near"}]}])
def test_a_policy_whose_pods_cannot_be_told_is_told_and_closes_nobody(selector: object) -> None:
    found, fields = decoded({**GOOD, "podSelector": selector})
    assert found is None
    assert fields == ["spec.podSelector"]
