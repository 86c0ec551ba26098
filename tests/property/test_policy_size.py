"""How much a node holds for its policies, and how much a change costs: numbers of rows, not of seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.compilers.policies.names import content_name
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Chain, IpSet, Member
from tests.property.test_policies import PLAIN, world
from tests.support.world import NODE, World

Object = dict[str, Any]
FIXED = 60
"""Rules of a node without pods and policies, both families, and some to spare."""


def pod(number: int, node: str = NODE, **labels: str) -> Object:
    addresses = [f"10.244.{1 if node == NODE else 2}.{number}", f"fd00::{1 if node == NODE else 2}:{number:x}"]
    return {
        "kind": "Pod",
        "metadata": {"namespace": "x", "name": f"{node}-{number}", "labels": labels},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": a} for a in addresses]},
    }


def policy(name: str, app: str, sources: Iterable[str], port: int = 80) -> Object:
    """A policy with one rule per source."""
    rules = [
        {"from": [{"podSelector": {"matchLabels": {"app": source}}}], "ports": [{"port": port + n}]}
        for n, source in enumerate(sources)
    ]
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "x", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"], "ingress": rules},
    }


def fed(objects: Iterable[Object]) -> World:
    made = world(PLAIN)
    made.feed(json.dumps({"kind": "Namespace", "metadata": {"name": "x"}}).encode())
    for obj in objects:
        made.feed(json.dumps(obj).encode())
    made.sync()
    return made


def rules(made: World) -> int:
    return sum(len(chain.rules) for chain in made.table(Chain).values())


@given(st.integers(1, 12), st.integers(0, 8), st.integers(0, 3))
def test_rules_grow_with_pods_and_policies_and_not_with_their_product(pods: int, policies: int, each: int) -> None:
    some = [pod(n + 2, app=f"a{n % 2}") for n in range(pods)]
    made = fed([*some, *(policy(f"p{n}", f"a{n % 2}", ["a0", "a1", "b"][:each], 80 + n) for n in range(policies))])
    for n in range(pods):
        link = PodLink(ObjectRef("PodLink", "", f"veth{n}"), (bytes((10, 244, 1, n + 2)),), bridged=True)
        made.put(Upserted(link))
    made.sync()
    # Two families; two directions of a policy; a profile's own handful of rules, of which there are four at most.
    bound = 2 * (FIXED + pods + 2 * policies * 2 + policies * each + 4 * 6)
    assert rules(made) <= bound


def test_a_hundred_pods_of_one_kind_have_the_rules_of_one() -> None:
    one, many = (fed([*(pod(n + 2, app="a") for n in range(count)), policy("p", "a", ["b"])]) for count in (1, 100))
    assert many.table(Chain) == one.table(Chain)
    assert len(many.table(IpSet)) == len(one.table(IpSet))
    assert len(many.table(Member)) - len(one.table(Member)) == 99 * 2 * 2


def test_policies_with_the_same_selectors_share_one_set_and_with_the_same_rules_one_chain() -> None:
    one, both = (fed([pod(2, app="a"), *(policy(name, "a", ["b"]) for name in names)]) for names in (["p"], ["p", "q"]))
    assert both.table(IpSet) == one.table(IpSet)
    assert both.table(Chain) == one.table(Chain)


def test_a_policy_without_a_pod_here_is_nothing_here() -> None:
    nothing = fed([])
    elsewhere = fed([pod(2, "other", app="a"), pod(3, "other", app="b"), policy("p", "a", ["b"])])
    for row in (Chain, IpSet):
        assert elsewhere.table(row) == nothing.table(row)
    # The peers of a policy that does select one are followed wherever they run.
    here = fed([pod(2, app="a"), pod(3, "other", app="b"), policy("p", "a", ["b"])])
    assert any(key.address == bytes((10, 244, 2, 3)) for key in here.table(Member))


def test_a_label_of_a_pod_elsewhere_writes_entries_and_no_rule() -> None:
    made = fed([pod(2, app="a"), *(pod(n, "other", app="c") for n in range(3, 50)), policy("p", "a", ["b"])])
    before = dict(made.table(Chain))
    made.feed(json.dumps(pod(7, "other", app="b")).encode())
    assert made.sync() == 2
    assert made.table(Chain) == before
    made.feed(json.dumps(pod(8, "other", app="d")).encode())
    assert made.sync() == 0


def test_an_edited_policy_is_a_new_chain_and_never_an_old_one_with_other_sets() -> None:
    made = fed([pod(2, app="a"), policy("p", "a", ["b", "c"])])
    before = dict(made.table(Chain))
    made.feed(json.dumps(policy("p", "a", ["c", "b", "d"])).encode())
    made.sync()
    for key, chain in made.table(Chain).items():
        if key.name.startswith("KUBE-NWPLCY-") and key in before:
            assert chain == before[key]


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_names_differ_wherever_contents_do(one: list[str], other: list[str]) -> None:
    assert (content_name("P-", one) == content_name("P-", other)) == (one == other)


def test_names_are_within_the_kernels_limits() -> None:
    made = fed([pod(2, app="a"), policy("p", "a", ["b", "c"])])
    # linux/netfilter/x_tables.h: 28 characters and NUL; linux/netfilter/ipset/ip_set.h: 31 and NUL.
    assert max(len(key.name) for key in made.table(Chain)) <= 28
    assert max(len(key.name) for key in made.table(IpSet)) <= 31
    assert {key.family for key in made.table(Chain)} == set(Family)
