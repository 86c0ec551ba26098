"""Counts of chains become counts of policies: shared, replaced and rewritten chains, policies that come and go."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable

import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.compilers.policies import IPTABLES
from kuberouter.compilers.policies.iptables.policies import policy_rules
from kuberouter.daemon.policycounts import EVERY, PolicyCounts
from kuberouter.model.core import Family, ObjectRef, Row, Unavailable
from kuberouter.model.events import Deleted
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, ChainKey, Hook, IpSet, Member, Table
from kuberouter.model.policy import Count, Direction, ProfileCount
from kuberouter.model.settings import FirewallSettings
from tests.support.world import NODE, World, node_bytes

V4, IN = Family.IPV4, Direction.INGRESS


class Kernel:
    """Counters as somebody sets them."""

    row: type[Row] = Chain

    def __init__(self) -> None:
        self.found: list[ProfileCount] = []
        self.away = False
        self.reads = 0

    def key(self, family: Family, chain: str) -> Hashable:
        return ChainKey(family, Table.FILTER, chain)

    def read(self) -> Iterable[ProfileCount]:
        self.reads += 1
        if self.away:
            raise Unavailable("iptables-nft-save is not installed")
        return self.found


class Firewall(World):
    """A node with pods in two namespaces."""

    def __init__(self) -> None:
        super().__init__([policies], IPTABLES, FirewallSettings(), (Sysctl, IpSet, Member, Chain, Hook))
        self.feed(node_bytes())
        self.kernel = Kernel()
        self.time = 0.0
        self.counts = PolicyCounts(self.planner, self.kernel, clock=lambda: self.time)
        for number, namespace in enumerate(("a", "b")):
            self.feed(json.dumps({"kind": "Namespace", "metadata": {"name": namespace}}).encode())
            self._pod(namespace, f"10.244.1.{number + 2}")
        self.sync()

    def _pod(self, namespace: str, address: str) -> None:
        raw = {
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"nodeName": NODE, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        }
        self.feed(json.dumps(raw).encode())

    def policy(self, namespace: str, name: str, *ports: int) -> str:
        """A policy for all pods that lets these ports in; the name of its chain."""
        rules = [{"ports": [{"port": port} for port in ports]}] if ports else []
        raw = {
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules},
        }
        self.feed(json.dumps(raw).encode())
        self.sync()
        policy = self.planner.cluster.policy(ObjectRef("NetworkPolicy", namespace, name))
        assert policy is not None
        chain = policy_rules(policy, IN, V4)
        assert chain is not None
        return chain.key.name

    def profile(self, namespace: str) -> str:
        """The name of the profile of the pod in a namespace."""
        owner = ObjectRef("Pod", namespace, "web")
        ledger = self.planner.ledgers[Chain]
        names = [k.name for k in ledger.desired if any(o.subject == owner for o in ledger.owners(k))]  # type: ignore[attr-defined]
        (name,) = (name for name in names if name.startswith("KUBE-POD-FW-"))
        return str(name)

    def count(self, *found: ProfileCount) -> None:
        """The kernel has counted this, and so long has passed that it is looked at again."""
        self.kernel.found = list(found)
        self.time += EVERY

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """Values by the values of the labels."""
        (one,) = (one for one in self.counts.show() if one.name == f"kube_router_netpol_{name}")
        return {tuple(text for _, text in sample.labels): sample.value for sample in one.samples}


@pytest.fixture
def firewall() -> Firewall:
    return Firewall()


def counted(profile: str, accepted: dict[str, int], refused: int = 0, invalid: int = 0) -> ProfileCount:
    """Packets of 60 bytes."""
    passed = tuple((chain, Count(n, 60 * n)) for chain, n in accepted.items())
    return ProfileCount(V4, profile, IN, passed, Count(refused, 60 * refused), Count(invalid, 60 * invalid))


def test_each_policy_gets_what_its_chain_let_pass_and_all_what_nobody_did(firewall: Firewall) -> None:
    web, dns = firewall.policy("a", "web", 80), firewall.policy("a", "dns", 53)
    profile = firewall.profile("a")
    firewall.count(counted(profile, {web: 7, dns: 2}, refused=3, invalid=1))
    assert firewall.shown("packets_total") == {
        ("a", "web", "ingress", "accepted"): 7,
        ("a", "web", "ingress", "refused"): 3,
        ("a", "dns", "ingress", "accepted"): 2,
        ("a", "dns", "ingress", "refused"): 3,
    }
    assert firewall.shown("bytes_total")["a", "web", "ingress", "accepted"] == 420
    assert firewall.shown("profile_packets_total") == {
        (profile, "ingress", "accepted"): 9,
        (profile, "ingress", "refused"): 3,
        (profile, "ingress", "invalid"): 1,
    }
    assert firewall.shown("profile_bytes_total")[profile, "ingress", "invalid"] == 60
    assert firewall.shown("profile_info") == {(profile, "ingress", "a", name): 1 for name in ("web", "dns")}


def test_a_policy_that_allows_nothing_is_there_from_the_beginning(firewall: Firewall) -> None:
    firewall.policy("a", "deny")
    firewall.count(counted(firewall.profile("a"), {}))
    verdicts = {("a", "deny", "ingress", "accepted"): 0, ("a", "deny", "ingress", "refused"): 0}
    assert firewall.shown("packets_total") == verdicts


def test_equal_policies_of_two_namespaces_share_a_profile_and_its_counts(firewall: Firewall) -> None:
    chain = firewall.policy("a", "web", 80)
    assert firewall.policy("b", "same", 80) == chain
    profile = firewall.profile("a")
    assert firewall.profile("b") == profile
    firewall.count(counted(profile, {chain: 5}))
    shown = firewall.shown("packets_total")
    assert shown["a", "web", "ingress", "accepted"] == shown["b", "same", "ingress", "accepted"] == 5
    assert firewall.shown("profile_packets_total")[profile, "ingress", "accepted"] == 5


def test_equal_policies_in_different_profiles_are_told_apart(firewall: Firewall) -> None:
    chain = firewall.policy("a", "web", 80)
    firewall.policy("b", "same", 80)
    other = firewall.policy("b", "dns", 53)
    ours, theirs = firewall.profile("a"), firewall.profile("b")
    assert ours != theirs
    firewall.count(counted(ours, {chain: 5}), counted(theirs, {chain: 1, other: 0}, refused=2))
    shown = firewall.shown("packets_total")
    assert shown["a", "web", "ingress", "accepted"] == 5
    assert shown["a", "web", "ingress", "refused"] == 0
    assert shown["b", "same", "ingress", "accepted"] == 1
    assert shown["b", "same", "ingress", "refused"] == 2


def test_totals_go_on_when_a_chain_is_replaced_or_written_anew(firewall: Firewall) -> None:
    chain = firewall.policy("a", "web", 80)
    labels = ("a", "web", "ingress", "accepted")
    firewall.count(counted(firewall.profile("a"), {chain: 5}))
    assert firewall.shown("packets_total")[labels] == 5
    changed = firewall.policy("a", "web", 80, 443)
    assert changed != chain
    firewall.count(counted(firewall.profile("a"), {changed: 2}))
    assert firewall.shown("packets_total")[labels] == 7
    firewall.count(counted(firewall.profile("a"), {changed: 4}))
    assert firewall.shown("packets_total")[labels] == 9
    firewall.count(counted(firewall.profile("a"), {changed: 1}))
    assert firewall.shown("packets_total")[labels] == 10


def test_a_count_that_seems_to_go_back_is_neither_lost_nor_counted_twice(firewall: Firewall) -> None:
    web, dns = firewall.policy("a", "web", 80), firewall.policy("a", "dns", 53)
    profile = firewall.profile("a")
    labels = ("a", "web", "ingress", "accepted")
    for accepted, other, total in ((100, 10, 100), (99, 30, 100), (101, 40, 101)):
        firewall.count(counted(profile, {web: accepted, dns: other}))
        assert firewall.shown("packets_total")[labels] == total


def test_what_is_gone_is_not_shown(firewall: Firewall) -> None:
    chain = firewall.policy("a", "web", 80)
    firewall.count(counted(firewall.profile("a"), {chain: 5}))
    assert firewall.shown("packets_total")
    firewall.put(Deleted(ObjectRef("NetworkPolicy", "a", "web")))
    firewall.sync()
    firewall.count()
    for name in ("packets_total", "bytes_total", "profile_packets_total", "profile_info"):
        assert firewall.shown(name) == {}


def test_the_kernel_is_asked_only_every_few_seconds(firewall: Firewall) -> None:
    firewall.count()
    for _ in range(10):
        firewall.shown("packets_total")
    assert firewall.kernel.reads == 1
    firewall.time += EVERY
    firewall.shown("packets_total")
    assert firewall.kernel.reads == 2


def test_while_counters_cannot_be_read_the_last_ones_stand(firewall: Firewall) -> None:
    chain = firewall.policy("a", "web", 80)
    firewall.count(counted(firewall.profile("a"), {chain: 5}))
    assert firewall.shown("counters_up") == {(): 1}
    firewall.kernel.away = True
    firewall.time += EVERY
    assert firewall.shown("counters_up") == {(): 0}
    assert firewall.shown("packets_total")["a", "web", "ingress", "accepted"] == 5
