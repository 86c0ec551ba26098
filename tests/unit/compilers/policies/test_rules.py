"""The semantics of one policy: intervals, families, ports, broken policies, names over content."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouter.compilers.policies import iptables
from kuberouter.compilers.policies.iptables.policies import policy_rules
from kuberouter.compilers.policies.rules import body, prefixes_of, span, subtract, union
from kuberouter.model.cluster import IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Selector
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix, Problem, Reason
from kuberouter.model.netfilter import Chain
from kuberouter.model.policy import Direction
from tests.support.examples import examples

REF = ObjectRef("NetworkPolicy", "x", "p")
HALF = examples(60)


def prefix(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def policy(*rules: PolicyRule, name: str = "p", problems: tuple[Problem, ...] = ()) -> NetworkPolicy:
    return NetworkPolicy(ObjectRef("NetworkPolicy", "x", name), 0.0, Selector(), ingress=rules, problems=problems)


def block(text: str, *excepts: str) -> PolicyPeer:
    return PolicyPeer(IpBlock(prefix(text), tuple(prefix(e) for e in excepts)))


def allowed_v4(*peers: PolicyPeer) -> set[str]:
    found = body(policy(PolicyRule(peers)), Direction.INGRESS, Family.IPV4) or frozenset()
    blocks = [a.peer for a in found if isinstance(a.peer, tuple)]
    return {str(ip_network((p.address, p.length))) for peer in blocks for p in peer}


def rules_of(*rules: PolicyRule) -> tuple[str, ...]:
    chain = policy_rules(policy(*rules), Direction.INGRESS, Family.IPV4)
    assert chain is not None
    return chain.rules


INTERVALS = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)).map(lambda p: (min(p), max(p))), max_size=5)


@HALF
@given(INTERVALS, INTERVALS)
def test_interval_algebra_is_set_algebra(wanted: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    """W4: what overlaps is joined before a set holds it."""
    meant = {n for first, last in wanted for n in range(first, last + 1)}
    pierced = {n for first, last in holes for n in range(first, last + 1)}
    left = union([part for interval in wanted for part in subtract(interval, holes)])
    assert {n for first, last in left for n in range(first, last + 1)} == meant - pierced
    assert all(a[1] + 1 < b[0] for a, b in pairwise(left))


@HALF
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_prefixes_cover_an_interval_exactly_and_in_order(one: int, other: int) -> None:
    first, last = min(one, other), max(one, other)
    spans = [span(p) for p in prefixes_of((first, last), Family.IPV4)]
    assert spans[0][0] == first
    assert spans[-1][1] == last
    assert all(a[1] + 1 == b[0] for a, b in pairwise(spans))


def test_an_exception_belongs_to_its_own_block() -> None:
    """W3, W4, except_then_allow: in any order."""
    assert allowed_v4(block("10.0.0.0/30", "10.0.0.1/32")) == {"10.0.0.0/32", "10.0.0.2/31"}
    assert allowed_v4(block("10.0.0.0/30", "10.0.0.1/32"), block("10.0.0.1/32")) == {"10.0.0.0/30"}
    assert allowed_v4(block("10.0.0.0/30"), block("10.0.0.0/30", "10.0.0.1/32")) == {"10.0.0.0/30"}
    assert allowed_v4(block("0.0.0.0/0")) == {"0.0.0.0/0"}
    assert allowed_v4(block("0.0.0.0/0", "0.0.0.0/0")) == set()
    assert len(allowed_v4(block("0.0.0.0/0", "10.1.2.3/32"))) == 32


def test_a_block_of_the_other_family_allows_nothing_in_this_one() -> None:
    rule = PolicyRule((block("::/0"),))
    assert body(policy(rule), Direction.INGRESS, Family.IPV4) == frozenset()
    assert body(policy(rule), Direction.INGRESS, Family.IPV6) != frozenset()


def test_an_empty_rule_allows_everything_and_no_rule_nothing() -> None:
    assert rules_of(PolicyRule()) == ("-g KUBE-NWPLCY-ALLOW",)
    assert rules_of() == ()
    assert body(policy(), Direction.EGRESS, Family.IPV4) is None


def test_a_broken_policy_allows_nothing() -> None:
    problem = Problem(REF, "spec.ingress[1]", Reason.MALFORMED, "is wrong")
    assert body(policy(PolicyRule(), problems=(problem,)), Direction.INGRESS, Family.IPV4) == frozenset()


def test_ports_merge_per_protocol_and_fill_matches_of_fifteen() -> None:
    two = PolicyRule(ports=(PolicyPort(number=81), PolicyPort(number=80), PolicyPort(L4Protocol.UDP, 53)))
    assert rules_of(two) == (
        "-p tcp -m tcp --dport 80:81 -g KUBE-NWPLCY-ALLOW",
        "-p udp -m udp --dport 53 -g KUBE-NWPLCY-ALLOW",
    )
    assert rules_of(PolicyRule(ports=(PolicyPort(L4Protocol.SCTP, 53),))) == (
        "-p sctp -m multiport --dports 53 -g KUBE-NWPLCY-ALLOW",
    )
    assert rules_of(PolicyRule(ports=(PolicyPort(), PolicyPort(number=80)))) == ("-p tcp -g KUBE-NWPLCY-ALLOW",)
    many = rules_of(PolicyRule(ports=tuple(PolicyPort(number=n, end=n + 1) for n in range(1, 60, 3))))
    slots = [rule.split("--dports ")[1].split()[0].replace(":", ",").count(",") + 1 for rule in many]
    assert sum(slots) == 40
    assert max(slots) <= 15


def chains_of(*rules: PolicyRule) -> dict[str, tuple[str, ...]]:
    rows = iptables.policy(policy(*rules), Direction.INGRESS, Family.IPV4)
    return {row.key.name: row.rules for row in rows if isinstance(row, Chain)}


def test_peers_share_a_chain_of_their_ports() -> None:
    """Two peers and two ports are two rules and two, not four; another policy with these ports adds none."""
    ports = (PolicyPort(number=80), PolicyPort(L4Protocol.UDP, 53))
    rule = PolicyRule((block("10.0.0.0/8"), PolicyPeer(pods=Selector())), ports)
    chains = chains_of(rule)
    own = rules_of(rule)
    (shared,) = (name for name, texts in chains.items() if texts != own)
    assert chains[shared] == (
        "-p tcp -m tcp --dport 80 -g KUBE-NWPLCY-ALLOW",
        "-p udp -m udp --dport 53 -g KUBE-NWPLCY-ALLOW",
    )
    assert len(own) == 2
    assert all(text.endswith(f" src -j {shared}") for text in own)
    assert shared in chains_of(PolicyRule((block("192.168.0.0/16"),), ports))


def test_a_peer_that_may_use_every_port_needs_no_chain_of_ports() -> None:
    anything, one = PolicyRule((block("10.0.0.0/8"),)), PolicyRule((block("10.0.0.0/8"),), (PolicyPort(number=80),))
    (text,) = rules_of(one, anything)
    assert text == rules_of(anything)[0]
    assert "--dport" not in text


def test_a_named_port_is_a_pair_of_address_and_port() -> None:
    """W2, W5, pain 30."""
    (rule,) = rules_of(PolicyRule(ports=(PolicyPort(name="web"),)))
    assert rule.startswith("-m set --match-set KUBE-DST-")
    assert rule.endswith(" dst,dst -g KUBE-NWPLCY-ALLOW")


@pytest.mark.parametrize("family", list(Family))
def test_equal_content_has_one_name_and_order_none(family: Family) -> None:
    one, two = PolicyRule(ports=(PolicyPort(number=1),)), PolicyRule(ports=(PolicyPort(L4Protocol.UDP, 2),))
    first = policy_rules(policy(one, two), Direction.INGRESS, family)
    second = policy_rules(policy(two, one, one, name="q"), Direction.INGRESS, family)
    assert first is not None
    assert first == second
    assert len(first.key.name) == 28
    third = policy_rules(policy(one), Direction.INGRESS, family)
    assert third is not None
    assert third.key != first.key
