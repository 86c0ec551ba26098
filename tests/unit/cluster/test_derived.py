"""The isolation annotation of a namespace stands for a policy: it comes, adds to others, and goes."""

from __future__ import annotations

from kuberouter.cluster.dependents import Key, policies
from kuberouter.cluster.derived import ANNOTATION_POLICY, namespace_isolation
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.policies import IPTABLES
from kuberouter.compilers.policies.rules import body
from kuberouter.model.cluster import Namespace, NetworkPolicy, Pod, PolicyRule, Selector
from kuberouter.model.core import Family, ObjectRef, Owner, Reason
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings, NodeSettings

SHOP, OTHER = ObjectRef("Namespace", "", "shop"), ObjectRef("Namespace", "", "other")
POD = Pod(ObjectRef("Pod", "shop", "web"), "node1", addresses=(b"\x0a\x00\x00\x01",))
STRANGER = Pod(ObjectRef("Pod", "other", "web"), "node1", addresses=(b"\x0a\x00\x00\x02",))
DERIVED = ObjectRef("NetworkPolicy", "shop", ANNOTATION_POLICY)
OPEN = NetworkPolicy(ObjectRef("NetworkPolicy", "shop", "open"), 1.0, Selector(), ingress=(PolicyRule(),))


def cluster(*, flag: bool) -> Cluster:
    made = Cluster(NodeSettings("node1"), [policies], [namespace_isolation] if flag else [])
    for obj in (POD, STRANGER, Namespace(SHOP), Namespace(OTHER)):
        made.apply(Upserted(obj))
    return made


def dirtied(known: Cluster, event: Upserted | Deleted) -> set[tuple[str, Key]]:
    return {(compiler, key) for compiler, keys in known.apply(event) for key in keys}


def test_an_annotated_namespace_has_a_policy_that_denies_ingress_to_all_its_pods_and_to_no_others() -> None:
    known = cluster(flag=True)
    dirty = dirtied(known, Upserted(Namespace(SHOP, default_deny=True)))
    assert {("policy", DERIVED), ("isolation", POD.ref)} <= dirty
    assert ("isolation", STRANGER.ref) not in dirty
    assert set(known.matches.policies_of(POD.ref)) == {DERIVED}
    assert set(known.matches.policies_of(STRANGER.ref)) == set()
    policy = known.policy(DERIVED)
    assert policy is not None
    assert body(policy, Direction.INGRESS, Family.IPV4) == frozenset()
    assert body(policy, Direction.EGRESS, Family.IPV4) is None
    known.apply(Upserted(OPEN))
    assert set(known.matches.policies_of(POD.ref)) == {DERIVED, OPEN.ref}


def test_the_policy_goes_with_the_annotation_and_with_the_namespace() -> None:
    known = cluster(flag=True)
    for gone in (Upserted(Namespace(SHOP)), Deleted(SHOP)):
        known.apply(Upserted(Namespace(SHOP, default_deny=True)))
        assert ("isolation", POD.ref) in dirtied(known, gone)
        assert known.policy(DERIVED) is None
        assert set(known.matches.policies_of(POD.ref)) == set()


def test_an_event_that_changes_nothing_derives_nothing() -> None:
    known = cluster(flag=True)
    known.apply(Upserted(Namespace(SHOP, default_deny=True)))
    assert dirtied(known, Upserted(Namespace(SHOP, default_deny=True))) == set()


def test_without_the_flag_nothing_closes_and_one_problem_names_the_flag() -> None:
    known = cluster(flag=False)
    assert dirtied(known, Upserted(Namespace(SHOP, default_deny=True))) == {("annotation", SHOP)}
    compile_ = dict(IPTABLES)["annotation"]
    node = NodeFacts("node1", (b"\xc0\x00\x02\x01",))
    owner = Owner("annotation", SHOP)
    (problem,) = compile_(owner, known, node=node, settings=FirewallSettings()).problems
    assert (problem.owner, problem.reason) == (SHOP, Reason.IGNORED)
    assert "--netpol-namespace-annotation" in problem.message
    assert not compile_(owner, known, node=node, settings=FirewallSettings(namespace_annotation=True)).problems
    dirty = dirtied(known, Upserted(Namespace(SHOP)))
    assert dirty == {("annotation", SHOP)}, "so that the problem is withdrawn"
    assert not compile_(owner, known, node=node, settings=FirewallSettings()).problems
