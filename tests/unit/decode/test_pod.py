"""What a Pod says of its end, read whole and in brief."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.decode.node import decode_pod, decode_pod_end
from kuberouter.model.core import ObjectRef


def pod(spec: dict[str, Any], phase: str = "Running", **metadata: Any) -> bytes:
    return json.dumps(
        {
            "kind": "Pod",
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}, **metadata},
            "spec": {"nodeName": "node-1", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}], **spec},
            "status": {"phase": phase, "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd44::5"}]},
        }
    ).encode()


@pytest.mark.parametrize(
    ("spec", "metadata", "seconds"),
    [
        ({}, {}, 30),
        ({"terminationGracePeriodSeconds": None}, {}, 30),
        ({"terminationGracePeriodSeconds": 90}, {}, 90),
        ({"terminationGracePeriodSeconds": 0}, {}, 0),
        ({"terminationGracePeriodSeconds": 90}, {"deletionGracePeriodSeconds": 5}, 5),
        ({}, {"deletionGracePeriodSeconds": 0}, 0),
        ({"terminationGracePeriodSeconds": -1}, {}, 0),
    ],
)
def test_the_time_to_end_is_that_of_the_deletion_or_of_the_pod(
    spec: dict[str, Any], metadata: dict[str, Any], seconds: int
) -> None:
    for decode in (decode_pod, decode_pod_end):
        found, problems = decode(pod(spec, **metadata))
        assert found is not None
        assert not problems
        assert found.grace == seconds


def test_in_brief_a_pod_is_its_addresses_and_its_end() -> None:
    whole, _ = decode_pod(pod({"hostNetwork": True}))
    brief, problems = decode_pod_end(pod({"hostNetwork": True}))
    assert whole is not None
    assert brief is not None
    assert not problems
    assert brief.ref == whole.ref == ObjectRef("Pod", "shop", "web-1")
    assert brief.addresses == whole.addresses == tuple(ip_address(a).packed for a in ("10.244.1.5", "fd44::5"))
    assert (brief.node, brief.labels, brief.ports) == ("", (), ())
    assert whole.labels == (("app", "web"),)
    finished, _ = decode_pod_end(pod({}, phase="Succeeded"))
    assert finished is not None
    assert finished.finished


def test_what_is_no_pod_is_a_problem_in_brief_too() -> None:
    for raw in (b"{}", b"[", b'{"metadata": {"name": "x"}, "spec": {"terminationGracePeriodSeconds": "soon"}}'):
        found, problems = decode_pod_end(raw)
        assert found is None
        assert problems
    found, problems = decode_pod_end(b'{"metadata": {"name": "x"}, "status": {"podIP": "nonsense"}}')
    assert found is not None
    assert [problem.field for problem in problems] == ["status.podIPs[0]"]
