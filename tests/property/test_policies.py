"""Policies by any road: the same objects give the same rows, whatever came before and in whatever order."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.derived import namespace_isolation
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.decode.annotations import NAMESPACE_POLICY
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, ObjectRef, Row
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, MemberKey
from kuberouter.model.nftables import (
    NftChain,
    NftChainKey,
    NftElement,
    NftElementKey,
    NftSet,
    NftSetKey,
    NftTable,
    NftVerdict,
)
from kuberouter.model.settings import FirewallSettings
from kuberouter.wire.nftrules import expressions
from kuberouter.wire.text.nft import jumps
from tests.conformance.generate import drawn
from tests.support.examples import examples
from tests.support.world import NODE, World

ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Chain, Hook)
NFT_ROWS: tuple[type[Row], ...] = (Sysctl, NftTable, NftSet, NftElement, NftChain, NftVerdict)
BACKENDS = {"iptables": (IPTABLES, ROWS), "nftables": (NFTABLES, NFT_ROWS)}
LABELS: tuple[dict[str, str], ...] = ({}, {"app": "web"}, {"app": "api", "tier": "front"}, {"tier": "back"})
SPACES: tuple[dict[str, str], ...] = ({}, {"team": "red"}, {"team": "blue"})
Object = dict[str, Any]
Key = tuple[str, str, str]


def pod(namespace: str, name: str, number: int, labels: int, phase: str, node: str) -> Object:
    address = f"10.244.{number}.{ord(name)}"
    return {
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": LABELS[labels]},
        "spec": {"nodeName": node, "containers": [{"ports": [{"name": "http", "containerPort": 80 + labels}]}]},
        "status": {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}, {"ip": f"fd00::{number}:{ord(name)}"}],
        },
    }


def space(name: str, labels: int, isolated: bool = False) -> Object:
    metadata = {"name": name, "labels": SPACES[labels]}
    if isolated:
        metadata["annotations"] = {NAMESPACE_POLICY.key: '{"ingress":{"isolation":"DefaultDeny"}}'}
    return {"kind": "Namespace", "metadata": metadata}


def some_policy(seed: int) -> Object:
    return drawn(seed)[0]


def link(number: int, whose: str, bridged: bool) -> Object:
    """Not an object of the API: what the kernel tells of a link to a pod.

    One link per address: of two the older one counts, so there the order would matter.
    """
    metadata = {"name": f"veth-{number}-{whose}"}
    return {"kind": "PodLink", "metadata": metadata, "address": [10, 244, number, ord(whose)], "bridged": bridged}


def service(namespace: str, name: str, port: int) -> Object:
    spec = {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": port}]}
    return {"kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def take(made: World, obj: Object) -> None:
    if obj["kind"] != "PodLink":
        made.feed(json.dumps(obj).encode())
        return
    made.put(Upserted(PodLink(ObjectRef(*key(obj)), (bytes(obj["address"]),), obj["bridged"])))


NAMES = st.sampled_from("xyz")
OBJECTS: st.SearchStrategy[Object] = st.one_of(
    st.builds(
        pod,
        NAMES,
        st.sampled_from("ab"),
        st.integers(1, 2),
        st.integers(0, 3),
        st.sampled_from(("Running", "Running", "Succeeded")),
        st.sampled_from((NODE, "other")),
    ),
    st.builds(space, NAMES, st.integers(0, 2), st.booleans()),
    st.builds(some_policy, st.integers(0, 40)),
    st.builds(link, st.integers(1, 2), st.sampled_from("ab"), st.booleans()),
    st.builds(service, NAMES, st.sampled_from("ab"), st.sampled_from((30080, 30081))),
)
STEPS = st.lists(st.tuples(OBJECTS, st.booleans()), max_size=16)


def key(obj: Object) -> Key:
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


PLAIN = FirewallSettings(namespace_annotation=True)
STRICT = FirewallSettings(namespace_annotation=True, default_deny=True, cut_flows=True)


def world(settings: FirewallSettings = PLAIN, backend: str = "iptables") -> World:
    compilers, rows = BACKENDS[backend]
    made = World(
        [policies],
        compilers,
        settings,
        rows,
        (Family.IPV4, Family.IPV6),
        derive=[namespace_isolation],
    )
    made.feed(node("192.0.2.1", "2001:db8::1"))
    made.sync()
    return made


def node(*addresses: str) -> bytes:
    """This node with some addresses; its pods have both families, whatever it has."""
    return json.dumps(
        {
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00::1:0/112"]},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
        }
    ).encode()


def kernel(made: World) -> dict[type[Row], dict[Any, Any]]:
    return {row: dict(made.table(row)) for row in made.drivers}


@examples(60)
@given(STEPS, st.randoms(use_true_random=False), st.sampled_from((PLAIN, STRICT)), st.sampled_from(list(BACKENDS)))
def test_incremental_equals_from_scratch_in_any_order(
    steps: list[tuple[Object, bool]], dice: Any, how: FirewallSettings, backend: str
) -> None:
    walked = world(how, backend)
    final: dict[Key, Object] = {}
    for obj, exists in steps:
        if exists:
            final[key(obj)] = obj
            take(walked, obj)
        elif final.pop(key(obj), None) is not None:
            walked.put(Deleted(ObjectRef(*key(obj))))
        walked.sync()
    fresh = world(how, backend)
    objects = list(final.values())
    dice.shuffle(objects)
    for obj in objects:
        take(fresh, obj)
    fresh.sync()
    assert kernel(walked) == kernel(fresh)
    assert walked.sync() == 0


@examples(40)
@given(
    st.lists(OBJECTS, max_size=8),
    st.sampled_from((PLAIN, STRICT)),
    st.sampled_from(list(BACKENDS)),
    st.sampled_from((("192.0.2.1",), ("2001:db8::1",), ())),
)
def test_an_address_that_the_node_loses_takes_no_rule_with_it(
    objects: list[Object], how: FirewallSettings, backend: str, left: tuple[str, ...]
) -> None:
    made = world(how, backend)
    for obj in objects:
        take(made, obj)
    made.sync()
    before = kernel(made)
    made.feed(node(*left))
    made.sync()
    after = kernel(made)
    # Only what tells that the address is the node's is gone: an entry in the set of addresses that no pod may borrow.
    # (That nobody asks any more for IPv6 to be on turns nothing off.)
    gone = [key for row, rows in before.items() for key in rows.keys() - after[row].keys() if row is not Sysctl]
    assert all(isinstance(key, MemberKey | NftElementKey) and "KUBE-SRC-CLUSTER" in str(key) for key in gone)
    for row, rows in after.items():
        assert rows.items() <= before[row].items()


def test_nothing_refers_to_what_does_not_exist() -> None:
    for seed in range(40):
        made = world(STRICT if seed % 2 else PLAIN)
        for obj in (*(space(n, i) for i, n in enumerate("xyz")), *drawn(seed)):
            made.feed(json.dumps(obj).encode())
        for number, namespace in enumerate("xyz"):
            made.feed(json.dumps(pod(namespace, "a", 1, number, "Running", NODE)).encode())
        made.sync()
        sets = {k.name for k in made.table(IpSet)}
        chains = {(k.family, k.name) for k in made.table(Chain)}
        assert {k.set for k in made.table(Member)} <= sets
        for where, chain in made.table(Chain).items():
            for rule in chain.rules:
                words = rule.split()
                assert {words[i + 1] for i, w in enumerate(words) if w == "--match-set"} <= sets
                targets = {words[i + 1] for i, w in enumerate(words) if w in ("-j", "-g")}
                assert all((where.family, t) in chains for t in targets if t.startswith("KUBE-"))


def test_nothing_in_nftables_refers_to_what_does_not_exist() -> None:
    for seed in range(40):
        made = world(STRICT if seed % 2 else PLAIN, "nftables")
        for obj in (*(space(n, i) for i, n in enumerate("xyz")), *drawn(seed), link(1, "a", bool(seed % 3))):
            take(made, obj)
        for number, namespace in enumerate("xyz"):
            made.feed(json.dumps(pod(namespace, "a", 1, number, "Running", NODE)).encode())
        made.sync()
        tables = {k.family for k in made.table(NftTable)}
        sets, chains = set(made.table(NftSet)), set(made.table(NftChain))
        assert {k.family for k in (*sets, *chains)} == tables
        assert {k.set for k in made.table(NftElement)} <= sets
        for where, chain in made.table(NftChain).items():
            for rule in (*chain.rules, *(chain.fallback or ())):
                words = rule.split()
                assert {NftSetKey(where.family, w[1:]) for w in words if w.startswith("@")} <= sets
                assert {NftChainKey(where.family, name) for name in jumps([rule])} <= chains
                # None of them has to be left to the tool.
                assert expressions(where.family, rule)
        for where, verdict in made.table(NftVerdict).items():
            assert where.map in sets
            assert not verdict.chain or NftChainKey(where.map.family, verdict.chain) in chains


def test_a_pod_that_joins_costs_elements_and_its_verdicts_in_nftables() -> None:
    """W24, W29, pain 26."""
    made = world(backend="nftables")
    for obj in (space("x", 0), *({**p, "metadata": {**p["metadata"], "namespace": "x"}} for p in drawn(7))):
        made.feed(json.dumps(obj).encode())
    for number in range(1, 3):
        made.feed(json.dumps(pod("x", "a", number, 1, "Running", NODE)).encode())
    made.sync()
    made.feed(json.dumps(pod("x", "b", 1, 1, "Running", NODE)).encode())
    assert made.sync()
    assert {row for row, _ in made.report.batches} <= {NftElement, NftVerdict}
    address = bytes((10, 244, 1, ord("b")))
    named = [row for _, batch in made.report.batches for row in (*batch.add, *batch.remove)]
    assert any(address in getattr(row.key, "packed", b"") for row in named)
    assert not any(batch.change for _, batch in made.report.batches)


def test_a_pod_that_joins_costs_its_own_entries_only() -> None:
    """W24, W29, pain 26."""
    made = world()
    for obj in (space("x", 0), *({**p, "metadata": {**p["metadata"], "namespace": "x"}} for p in drawn(7))):
        made.feed(json.dumps(obj).encode())
    for number in range(1, 3):
        made.feed(json.dumps(pod("x", "a", number, 1, "Running", NODE)).encode())
    made.feed(json.dumps(pod("x", "b", 1, 1, "Running", NODE)).encode())
    made.sync()
    chains = dict(made.table(Chain))
    entries = sum(1 for k in made.table(Member) if k.address == bytes((10, 244, 1, ord("b"))))
    made.put(Deleted(ObjectRef("Pod", "x", "b")))
    assert made.sync() <= 2 * max(entries, 1)
    assert made.table(Chain) == chains
