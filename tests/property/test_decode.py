"""Whatever bytes come in, decoding gives a value or problems that name object and field; it never raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.decode import DECODERS
from kuberouter.decode.annotations import NAMESPACE_POLICY
from tests.conformance.generate import drawn
from tests.conformance.vocabulary import base
from tests.support.examples import examples
from tests.support.world import node_bytes

ADDRESSES = dict.fromkeys(("n1", "x/a", "x/b", "x/c", "y/a", "y/b", "z/a", "z/b"), ("10.0.0.1", "fd00::1"))
ISOLATION = '{"ingress":{"isolation":"DefaultDeny"}}'
GOOD: list[dict[str, Any]] = [
    {"kind": "Namespace", "metadata": {"name": "x", "annotations": {NAMESPACE_POLICY.key: ISOLATION}}},
    *base(ADDRESSES, {"n1": ("10.244.1.0/24", "fd44::/64")}),
    *drawn(3),
    *drawn(5),
    json.loads(node_bytes()),
    {
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"kube-router.io/service.scheduler": "rr"}},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}], "sessionAffinity": "ClientIP"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    },
    {
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.9"], "conditions": {"ready": True}}],
    },
]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    found = [here] if here else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*here, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    copy = json.loads(json.dumps(value))
    where = copy
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = junk
    return copy


@examples(150)
@given(st.sampled_from(GOOD), st.data(), JUNK)
def test_any_field_may_hold_anything(good: dict[str, Any], data: st.DataObject, junk: Any) -> None:
    path = data.draw(st.sampled_from([p for p in paths(good) if p != ("kind",)]))
    obj, problems = DECODERS[good["kind"]](json.dumps(replaced(good, path, junk)).encode())
    for problem in problems:
        assert problem.owner.kind == good["kind"]
        assert problem.message
        if path[0] != "metadata":
            assert problem.owner.name == good["metadata"]["name"]
            assert problem.owner.namespace == good["metadata"].get("namespace", "")
    assert obj is None or obj.ref.kind == good["kind"]


@examples(200)
@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=40) | JUNK.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_problem_at_worst(kind: str, raw: bytes) -> None:
    obj, problems = DECODERS[kind](raw)
    assert obj is not None or problems or kind == "EndpointSlice"


def test_what_is_good_decodes_without_problems() -> None:
    for good in GOOD:
        obj, problems = DECODERS[good["kind"]](json.dumps(good).encode())
        assert problems == ()
        assert obj is not None
