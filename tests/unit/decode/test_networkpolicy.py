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


@pytest.mark.parametrize("spec", [5, [], "all"])
def test_a_policy_whose_spec_is_no_object_closes_its_namespace(spec: object) -> None:
    found, fields = decoded(spec)
    assert found is not None
    assert (found.pods, found.ingress, found.egress) == (Selector(), (), ())
    assert fields == ["spec"]


def test_metadata_of_a_wrong_type_opens_nothing() -> None:
    raw = {"metadata": {"namespace": "shop", "name": "web", "labels": 5}, "spec": GOOD}
    found, (problem,) = decode_networkpolicy(json.dumps(raw).encode())
    assert found is not None
    assert (str(found.ref), found.ingress, found.egress) == ("NetworkPolicy shop/web", (), ())
    assert found.pods.requirements[0].values == ("web",)
    assert problem.field == "metadata.labels"


NEAR = {"key": "app", "operator": "Near"}
EXISTS = {"key": "app", "operator": "Exists"}


@pytest.mark.parametrize(
    ("selector", "left", "fields"),
    [
        ("web", [], [""]),
        ([], [], [""]),
        ({"matchExpressions": [NEAR]}, [], [".matchExpressions[0]"]),
        ({**WEB, "matchExpressions": [NEAR, EXISTS]}, [("app", ()), ("app", ("web",))], [".matchExpressions[0]"]),
        ({**WEB, "matchExpressions": [{**EXISTS, "values": ["x"]}]}, [("app", ("web",))], [".matchExpressions[0]"]),
        ({**WEB, "matchExpressions": [None]}, [("app", ("web",))], [".matchExpressions[0]"]),
        ({**WEB, "matchExpressions": NEAR}, [("app", ("web",))], [".matchExpressions"]),
        ({"matchLabels": {"app": 1, "tier": "front"}}, [("tier", ("front",))], [".matchLabels[app]"]),
        ({"matchLabels": ["app"], "matchExpressions": [EXISTS]}, [("app", ())], [".matchLabels"]),
    ],
)
def test_what_is_not_understood_of_the_selector_is_left_out_and_a_superset_is_closed(
    selector: object, left: list[tuple[str, tuple[str, ...]]], fields: list[str]
) -> None:
    found, wrong = decoded({**GOOD, "podSelector": selector})
    assert wrong == [f"spec.podSelector{field}" for field in fields]
    assert found is not None
    assert [(needed.key, needed.values) for needed in found.pods.requirements] == left
    # In the directions that it tells of, and it tells of one.
    assert body(found, Direction.INGRESS, Family.IPV4) == frozenset()
    assert body(found, Direction.EGRESS, Family.IPV4) is None


@pytest.mark.parametrize("selector", [{"matchLabels": {"app": None}}, {"matchLabels": {"app": ""}}])
def test_null_as_a_label_is_the_empty_text(selector: object) -> None:
    found, fields = decoded({**GOOD, "podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
    assert fields == []
    assert found is not None
    assert found.ingress is not None
    for each in (found.pods, found.ingress[0].peers[0].pods):
        assert each is not None
        assert [(needed.key, needed.values) for needed in each.requirements] == [("app", ("",))]


@pytest.mark.parametrize("selector", [None, {}, {"matchLabels": None, "matchExpressions": None}])
def test_an_empty_selector_is_every_pod_of_the_namespace(selector: object) -> None:
    found, fields = decoded({**GOOD, "podSelector": selector})
    assert fields == []
    assert found is not None
    assert found.pods == Selector()
