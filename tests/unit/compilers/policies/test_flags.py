"""What the firewall's switches change in the rows, and that they change nothing while they are off."""

from __future__ import annotations

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.policies import IPTABLES
from kuberouter.compilers.policies.iptables.policies import profile_rules
from kuberouter.compilers.policies.names import CUT_CHAIN, REFUSED_CHAIN, SERVICE_CUT_CHAIN, UNKNOWN_CHAIN
from kuberouter.model.cluster import NetworkPolicy, Pod, Selector
from kuberouter.model.core import Family, ObjectRef, Owner, Prefix, Reason
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Chain, Hook, Member, Rule
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings, NodeSettings

CIDR = Prefix(b"\x0a\xf4\x01\x00", 24)
NODE = NodeFacts("n1", (b"\xc0\x00\x02\x01",), (CIDR,))
POD = Pod(ObjectRef("Pod", "shop", "web"), "n1", addresses=(b"\x0a\xf4\x01\x07",))
FIREWALL, ISOLATION = Owner("firewall", ObjectRef("Node", "", "n1")), Owner("isolation", POD.ref)
DENY = FirewallSettings(default_deny=True)
compile_firewall, compile_isolation = (dict(IPTABLES)[name] for name in ("firewall", "isolation"))


def cluster(*objects: Pod | NetworkPolicy) -> Cluster:
    made = Cluster(NodeSettings("n1", (Family.IPV4,)), [policies])
    for obj in objects:
        made.apply(Upserted(obj))
    return made


def rules(rows: object) -> dict[str, list[str]]:
    """Texts of shared rules by chain."""
    found: dict[str, list[str]] = {}
    assert isinstance(rows, tuple)
    for row in rows:
        if isinstance(row, Rule):
            found.setdefault(row.key.chain.name, []).append(row.key.text)
    return found


def test_a_pod_without_policy_costs_nothing_unless_only_known_pods_may_speak() -> None:
    known = cluster(POD)
    assert compile_isolation(ISOLATION, known, node=NODE, settings=FirewallSettings()).rows == ()
    rows = compile_isolation(ISOLATION, known, node=NODE, settings=DENY).rows
    assert [row.key.address for row in rows if isinstance(row, Member)] == [POD.addresses[0]] * 2
    for chain, option in (("KUBE-ROUTER-POD-EGRESS", "src"), ("KUBE-ROUTER-POD-INGRESS", "dst")):
        (text,) = rules(rows)[chain]
        assert text.endswith(f" {option} -j RETURN")


def test_a_pod_that_one_direction_isolates_is_known_in_the_other() -> None:
    policy = NetworkPolicy(ObjectRef("NetworkPolicy", "shop", "p"), 0.0, Selector(), ingress=())
    found = rules(compile_isolation(ISOLATION, cluster(POD, policy), node=NODE, settings=DENY).rows)
    assert "-g KUBE-POD-FW-" in found["KUBE-ROUTER-POD-INGRESS"][0]
    assert found["KUBE-ROUTER-POD-EGRESS"][0].endswith("-j RETURN")


def test_default_deny_closes_the_nodes_pod_cidrs_behind_all_profiles() -> None:
    fragment = compile_firewall(FIREWALL, cluster(), node=NODE, settings=DENY)
    assert fragment.problems == ()
    last = {row.key.chain.name: (row.key.rank, row.key.text) for row in fragment.rows if isinstance(row, Rule)}
    assert last["KUBE-ROUTER-POD-EGRESS"] == (90, f"-s 10.244.1.0/24 -j {UNKNOWN_CHAIN}")
    assert last["KUBE-ROUTER-POD-INGRESS"] == (90, f"-d 10.244.1.0/24 -j {UNKNOWN_CHAIN}")


def test_default_deny_without_a_pod_cidr_is_a_problem_of_the_node() -> None:
    bare = NodeFacts("n1", NODE.addresses)
    fragment = compile_firewall(FIREWALL, cluster(), node=bare, settings=DENY)
    (problem,) = fragment.problems
    assert (problem.owner, problem.field, problem.reason) == (FIREWALL.subject, "spec.podCIDRs", Reason.MISSING)
    assert compile_firewall(FIREWALL, cluster(), node=bare, settings=FirewallSettings()).problems == ()


def test_an_enabled_family_without_an_address_of_the_node_is_closed_and_said() -> None:
    six = Prefix(bytes.fromhex("fd44") + bytes(14), 64)
    bare = NodeFacts("n1", NODE.addresses, (CIDR,), enabled=(Family.IPV4, Family.IPV6), other_cidrs=(six,))
    fragment = compile_firewall(FIREWALL, cluster(), node=bare, settings=DENY)
    (problem,) = fragment.problems
    assert (problem.owner, problem.field, problem.reason) == (FIREWALL.subject, "status.addresses", Reason.MISSING)
    assert "IPv6" in problem.message
    assert "--enable-ipv6" in problem.message
    closed = [row.key for row in fragment.rows if isinstance(row, Rule) and row.key.rank == 90]
    assert {key.chain.family for key in closed} == {Family.IPV4, Family.IPV6}
    # Of both families the firewall has the same rules.
    hooks = [row.key for row in fragment.rows if isinstance(row, Hook)]
    assert {key.family for key in hooks} == {Family.IPV4, Family.IPV6}
    assert {key.chain for key in hooks if key.family is Family.IPV6} == {"INPUT", "FORWARD", "OUTPUT"}


def test_a_kernel_may_lack_what_tells_of_a_refusal_and_nothing_else() -> None:
    for cut in (False, True):
        profile = profile_rules(Family.IPV6, Direction.EGRESS, ("KUBE-NWPLCY-A",), cut=cut)
        spared = [rule for rule in profile.rules if any(words in rule for words, _ in profile.spares)]
        assert spared == [rule for rule in profile.rules if "NFLOG" in rule or "REJECT" in rule]
        assert profile.fallback == ("-j DROP",)


def test_cut_flows_are_judged_in_the_direction_in_which_they_began() -> None:
    def chains(settings: FirewallSettings) -> dict[str, tuple[str, ...]]:
        rows = compile_firewall(FIREWALL, cluster(), node=NODE, settings=settings).rows
        return {row.key.name: row.rules for row in rows if isinstance(row, Chain)}

    kept, cut = chains(FirewallSettings()), chains(FirewallSettings(cut_flows=True))
    assert cut.keys() - kept.keys() == {REFUSED_CHAIN, CUT_CHAIN, SERVICE_CUT_CHAIN}
    for name in ("KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT"):
        guarded = ("-j KUBE-ROUTER-POD-GUARD",) if name != "KUBE-ROUTER-OUTPUT" else ()
        first = (*guarded, "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN")
        assert kept[name][: len(first)] == first
        passing = [rule for rule in cut[name] if "ESTABLISHED" in rule and rule.endswith("-j RETURN")]
        assert all("--ctdir REPLY" in rule or "--ctstatus EXPECTED" in rule for rule in passing)
        assert cut[name][-1].endswith("-j CONNMARK --set-xmark 0x0/0xc0000")
