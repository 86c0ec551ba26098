"""Which pod CIDRs a Node has: one answer for everybody who asks."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest

from kuberouter.decode.node import decode_node
from kuberouter.model.core import Reason

MANY, ONE = "kube-router.io/pod-cidrs", "kube-router.io/pod-cidr"
SPEC = {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]}


def read(annotations: dict[str, str], spec: dict[str, object]) -> tuple[list[str], list[str]]:
    """Pod CIDRs, and the fields with problems."""
    raw = {"metadata": {"name": "n", "annotations": annotations}, "spec": spec}
    node, problems = decode_node(json.dumps(raw).encode())
    assert node is not None
    assert {problem.reason for problem in problems} <= {Reason.UNSUPPORTED, Reason.MALFORMED}
    cidrs = [str(ip_network((block.address, block.length))) for block in node.pod_cidrs]
    return cidrs, [problem.field for problem in problems]


@pytest.mark.parametrize(
    ("annotations", "spec", "cidrs"),
    [
        ({}, SPEC, ["10.1.0.0/24", "fd01::/64"]),
        ({}, {"podCIDR": "10.1.0.0/24"}, ["10.1.0.0/24"]),
        ({}, {}, []),
        ({ONE: "10.2.0.0/24"}, SPEC, ["10.2.0.0/24"]),
        ({ONE: "10.2.0.0/24"}, {}, ["10.2.0.0/24"]),
        ({MANY: "10.3.0.0/24,fd03::/64"}, SPEC, ["10.3.0.0/24", "fd03::/64"]),
        ({MANY: " 10.3.0.0/24 , fd03::/64 ,"}, {}, ["10.3.0.0/24", "fd03::/64"]),
        ({MANY: "10.3.0.0/24", ONE: "10.2.0.0/24"}, SPEC, ["10.3.0.0/24"]),
        ({MANY: "10.3.0.7/24"}, SPEC, ["10.3.0.0/24"]),
        ({MANY: ""}, SPEC, ["10.1.0.0/24", "fd01::/64"]),
    ],
)
def test_b14_annotations_come_before_the_spec(
    annotations: dict[str, str], spec: dict[str, object], cidrs: list[str]
) -> None:
    """Those of the original, which are taken with spaces around them, or without a CIDR in the spec, too."""
    assert read(annotations, spec) == (cidrs, [])


def test_b14_one_that_is_none_is_told_and_the_next_source_counts() -> None:
    """The original ended, or left the node out of its sets, and which of the two depended on who read it."""
    assert read({MANY: "10.3.0.0/24,x"}, SPEC) == (["10.1.0.0/24", "fd01::/64"], [f"metadata.annotations[{MANY}]"])
    assert read({MANY: "x", ONE: "10.2.0.0/24"}, SPEC) == (["10.2.0.0/24"], [f"metadata.annotations[{MANY}]"])
    assert read({}, {"podCIDRs": ["x", "fd01::/64"]}) == (["fd01::/64"], ["spec.podCIDRs[0]"])
