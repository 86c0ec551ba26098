"""What a Node says of its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuberouter.decode.node import decode_node
from kuberouter.model.core import Reason


def raw(annotations: dict[str, str], spec: Any) -> bytes:
    return json.dumps({"metadata": {"name": "node-1", "annotations": annotations}, "spec": spec}).encode()


@pytest.mark.parametrize(
    ("annotations", "spec", "draining", "unschedulable"),
    [
        ({}, None, False, False),
        ({"kube-router.io/drain": "true"}, {}, True, False),
        ({"kube-router.io/drain": "false"}, {}, False, False),
        ({"kube-router.io/drain": "false"}, {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}, True, False),
        ({}, {"taints": [{"key": "other", "value": "", "effect": "NoSchedule"}]}, False, False),
        (
            {},
            {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "value": "7", "effect": "NoSchedule"}]},
            True,
            False,
        ),
        ({}, {"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable"}]}, False, True),
    ],
)
def test_a_node_that_is_about_to_go(
    annotations: dict[str, str], spec: Any, draining: bool, unschedulable: bool
) -> None:
    node, problems = decode_node(raw(annotations, spec))
    assert node is not None
    assert (node.draining, node.unschedulable, problems) == (draining, unschedulable, ())


def test_a_word_that_is_neither_is_told_and_drains_nothing() -> None:
    node, (problem,) = decode_node(raw({"kube-router.io/drain": "yes"}, {}))
    assert node is not None
    assert not node.draining
    assert (problem.field, problem.reason) == ("metadata.annotations[kube-router.io/drain]", Reason.UNSUPPORTED)
