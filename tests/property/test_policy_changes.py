"""What a change may do on its way, and what it must leave: edits, restarts, other settings, objects without sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouter.decode.scalars import prefix
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.model.core import Batch, Outcome
from kuberouter.model.settings import FirewallSettings
from tests.conformance.generate import Dice, edited, state
from tests.conformance.vocabulary import (
    BLUE,
    NODES,
    PODS,
    WEB,
    into,
    key_of,
    labels,
    merged,
    pod,
    policy,
    port,
    source,
    spaces,
)
from tests.property.paths import BASE, PATHS, Manifest, Paths, expected, mismatches
from tests.property.test_decode import JUNK, paths, replaced
from tests.property.test_policies import BACKENDS
from tests.support.examples import examples
from tests.support.lanes import full

LISTED = BASE[: len(NODES)]
FEW = tuple(p for p in PATHS if (p.protocol, p.port) in (("tcp", 80), ("udp", 81)) and {p.source, p.target} <= {*PODS})
EVERYWHERE = policy("x", "p", policyTypes=["Ingress", "Egress"], ingress=[source(spaces(BLUE))], egress=[{}])


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Watched(MemoryDriver[Any]):
    """Has somebody look after every write."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look

    def write(self, batch: Batch[Any]) -> Outcome:
        outcome = super().write(batch)
        self._look()
        return outcome


class Glances:
    """What passes after each write of a change."""

    def __init__(self, backend: str) -> None:
        _, rows = BACKENDS[backend]
        self.seen: list[set[Any]] = []
        self._ready = False
        drivers = {node: {row: Watched(self._look) for row in rows} for node in NODES}
        self.nodes = Paths(backend, drivers=drivers)

    def _look(self) -> None:
        if self._ready:
            self.seen.append(self.nodes.passing(FEW))

    def apply(self, manifests: list[Manifest]) -> set[Any]:
        """What passes at the end; `seen` has what passed on the way."""
        self.seen.clear()
        self.nodes.apply(manifests)
        self._ready = True
        return self.nodes.passing(FEW)


def rules_changed(dice: Dice, before: Any) -> Any:
    """The state after a change of the rules of one direction of one policy: reordered, one more, one less."""
    while True:
        word, after = edited(dice, before)
        if word.endswith("changed") and " rules of " in word and "," not in word:
            return after


def test_no_step_of_an_edit_judges_by_half_of_it(backend: str) -> None:
    """W17: whatever is written first, a packet meets the policy as it was or as it will be."""
    steps, seeds = 0, 30 if full() else 3
    for seed in range(seeds):
        dice = Dice(seed)
        nodes, now = Glances(backend), state(seed)
        before = nodes.apply([*LISTED, *now.manifests()])
        for _ in range(10):
            now = rules_changed(dice, now)
            after = nodes.apply([*LISTED, *now.manifests()])
            for seen in nodes.seen:
                assert before & after <= seen <= before | after
            steps += len(nodes.seen)
            before = after
    assert steps > 15 * seeds


SETTINGS = (
    FirewallSettings(),
    FirewallSettings(cluster_ranges=(prefix("10.96.0.0/12"), prefix("fd96::/108"))),
    FirewallSettings(
        cluster_ranges=(prefix("10.100.0.0/16"),),
        external_ranges=(prefix("198.51.100.0/24"),),
        load_balancer_ranges=(prefix("203.0.113.0/24"),),
        node_ports=(30080, 30081),
        default_deny=True,
        cut_flows=True,
    ),
)
SHOP: Manifest = {
    "kind": "Service",
    "metadata": {"namespace": "x", "name": "web"},
    "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 31000}]},
}


@pytest.mark.parametrize("before", range(len(SETTINGS)))
@pytest.mark.parametrize("after", range(len(SETTINGS)))
def test_a_restart_finds_what_it_wants_and_removes_what_other_settings_wanted(
    backend: str, before: int, after: int
) -> None:
    """W15, W24, startup_keeps_policy: with the same settings a restart writes nothing at all."""
    manifests = merged(BASE, [SHOP, EVERYWHERE])
    first = Paths(backend, SETTINGS[before])
    first.apply(manifests)
    drivers = {node: world.drivers for node, world in first.worlds.items()}
    second, fresh = Paths(backend, SETTINGS[after], drivers), Paths(backend, SETTINGS[after])
    writes = second.apply(manifests)
    fresh.apply(manifests)
    assert second.rows == fresh.rows
    assert (writes == 0) is (before == after)


def test_a_hundred_syncs_of_the_same_are_one(backend: str) -> None:
    """W24, pain 28, idempotent_100: nothing is written, nothing piles up, by one process or by many."""
    manifests = merged(BASE, [SHOP, EVERYWHERE])
    nodes = Paths(backend)
    nodes.apply(manifests)
    rows = nodes.rows
    for number in range(100):
        if number % 2:
            nodes = Paths(backend, drivers={node: world.drivers for node, world in nodes.worlds.items()})
        assert nodes.apply(manifests) == 0
        assert nodes.rows == rows


def test_what_is_gone_leaves_nothing(backend: str) -> None:
    """policy_delete, all_pods_gone, pain 28: in any order, and with pods that come and go meanwhile."""
    bare = Paths(backend)
    bare.apply(BASE)
    nodes = Paths(backend)
    for number in range(5):
        nodes.apply(merged(BASE, [{**EVERYWHERE, "metadata": {"namespace": "x", "name": f"p{number}"}}]))
        nodes.apply([m for m in merged(BASE, [EVERYWHERE]) if m["kind"] != "Pod"])
        nodes.apply(merged(BASE, [pod("x/new", "x/b", labels={"app": "web"}), EVERYWHERE]))
    nodes.apply(BASE)
    assert nodes.rows == bare.rows
    no_pods = [manifest for manifest in BASE if manifest["kind"] != "Pod"]
    empty = Paths(backend)
    empty.apply(no_pods)
    nodes.apply(no_pods)
    assert nodes.rows == empty.rows


def test_a_pod_joins_its_sets_in_both_families(backend: str) -> None:
    """v6_sets_fresh, pain 30: as peer and as target, by label and by namespace."""
    manifests = merged([m for m in BASE if key_of(m)[1:] != ("y", "a")], [into(source(spaces(BLUE, WEB)))])
    nodes = Paths(backend)
    nodes.apply(manifests)
    for added in (pod("y/a"), pod("y/a", labels={"app": "api"}), pod("y/a", labels={"app": "web", "more": "1"})):
        manifests = merged(manifests, [added])
        nodes.apply(manifests)
        assert mismatches(nodes.passing(), expected(manifests)) == []


@pytest.mark.parametrize("old", ["z/old", "x/0"])
@pytest.mark.parametrize("how", SETTINGS)
def test_an_address_that_two_running_pods_tell_is_as_closed_as_the_more_closed_one(
    backend: str, old: str, how: FirewallSettings
) -> None:
    """Pain 31: the API still shows the pod that had the address before, and that no policy selects."""
    nodes = Paths(backend, how)
    closed = policy("x", "closed", labels(tier="front"), policyTypes=["Ingress", "Egress"])
    late, without = pod(old, "x/a", labels={"app": "old"}), [m for m in BASE if key_of(m)[1:] != ("x", "a")]
    for pods, reached in (([late], True), ([late, pod("x/a")], False), ([pod("x/a")], False), ([late], True)):
        nodes.apply(merged(without, pods, [closed]))
        ends = {end for path in nodes.passing(FEW) for end in (path.source, path.target)}
        assert ("x/a" in ends) is reached


# --- objects that make no sense --------------------------------------------------------------------------------------

GOOD = into(source(spaces(BLUE), ports=[port(80)]), own="y", name="good")
VICTIM = policy("x", "bad", labels(tier="front"), policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}])
MISTAKES: dict[str, Any] = {
    "a type that is none": {"policyTypes": ["Ingress", "Outgress"]},
    "types that are no list": {"policyTypes": "Ingress"},
    "rules that are no list": {"ingress": {"from": []}},
    "a block that is none": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
    "a peer of two kinds": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
    "an operator that is none": {
        "ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}]
    },
    "a protocol that is none": {"egress": [{"ports": [{"protocol": "GRE"}]}]},
    "a range backwards": {"ingress": [{"ports": [{"port": 90, "endPort": 80}]}]},
    "a port that is none": {"ingress": [{"ports": [{"port": 0}]}]},
    "a port with an empty name": {"ingress": [{"ports": [{"port": ""}]}]},
    "a number as a name": {"egress": [{"ports": [{"port": "80"}]}]},
    "a requirement that is none": {
        "podSelector": {**labels(tier="front"), "matchExpressions": [{"key": "app", "operator": "Like"}]}
    },
    "a selector that is none": {"podSelector": "front"},
    "a selector of what is no text": {"podSelector": {"matchLabels": {"tier": ["front"]}}},
    "a spec that is none": "closed",
}
WHOLE_NAMESPACE = ("a selector that is none", "a selector of what is no text", "a spec that is none")
"""Of these nothing can be understood that would narrow the selection."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_policy_that_makes_no_sense_closes_its_own_pods_and_is_told(backend: str, mistake: str) -> None:
    """bad_policy_isolated, pain 29, W19: the other policies are in force, all other pods as they were.

    What cannot be understood of a selector is left out of it, so then it is more pods, but of its namespace.
    """
    wrong = MISTAKES[mistake]
    bad = {**VICTIM, "spec": {**VICTIM["spec"], **wrong} if isinstance(wrong, dict) else wrong}
    pods = {} if mistake in WHOLE_NAMESPACE else VICTIM["spec"]["podSelector"]
    closed = {**VICTIM, "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"]}}
    nodes = Paths(backend)
    nodes.apply(merged(BASE, [GOOD, bad]))
    assert mismatches(nodes.passing(), expected(merged(BASE, [GOOD, closed]))) == []
    for world in nodes.worlds.values():
        assert {p.owner.name for p in world.journal.standing} == {"bad"}
    nodes.apply(merged(BASE, [GOOD, VICTIM]))
    assert mismatches(nodes.passing(), expected(merged(BASE, [GOOD, VICTIM]))) == []


@examples(30)
@given(st.sampled_from([VICTIM, GOOD, EVERYWHERE]), st.data(), JUNK, st.sampled_from(list(BACKENDS)))
def test_whatever_stands_in_a_policy_hurts_nobody_else(
    good: Manifest, data: st.DataObject, junk: Any, backend: str
) -> None:
    """Pain 29, weird_objects: pods that the policy does not select are judged as if there were none."""
    path = data.draw(st.sampled_from([p for p in paths(good) if p[0] == "spec"]))
    odd = replaced(good, path, junk)
    odd["metadata"] = {"namespace": "x", "name": "odd"}
    nodes = Paths(backend)
    nodes.apply(merged(BASE, [GOOD]))
    before = nodes.passing(FEW)
    nodes.apply(merged(BASE, [GOOD, odd]))
    assert all(problem.owner.name == "odd" for world in nodes.worlds.values() for problem in world.journal.standing)
    strangers = {name for name in PODS if not name.startswith("x/")}
    among = {p for p in FEW if {p.source, p.target} <= strangers}
    assert nodes.passing(among) == before & among
    nodes.apply(merged(BASE, [GOOD]))
    assert nodes.passing(FEW) == before
