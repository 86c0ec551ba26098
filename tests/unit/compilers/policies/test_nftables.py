"""The nftables spelling of one policy and of one pod."""

from __future__ import annotations

from ipaddress import ip_network

from kuberouter.compilers.policies.nftables import guard, place, policy
from kuberouter.compilers.policies.nftables.policies import policy_rules, profile_rules
from kuberouter.compilers.policies.spelling import Place
from kuberouter.model.cluster import IpBlock, NetworkPolicy, PodLink, PolicyPeer, PolicyPort, PolicyRule, Selector
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Prefix
from kuberouter.model.nftables import NftChain, NftElement, NftFamily, NftVerdict
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings
from kuberouter.wire.text.nft import jumps

ADDRESS = bytes((10, 244, 1, 2))
PLAIN = FirewallSettings()


def ingress(*rules: PolicyRule) -> NetworkPolicy:
    return NetworkPolicy(ObjectRef("NetworkPolicy", "x", "p"), 0.0, Selector(), ingress=rules)


def texts(*rules: PolicyRule) -> tuple[str, ...]:
    chain = policy_rules(ingress(*rules), Direction.INGRESS, Family.IPV4)
    assert chain is not None
    return chain.rules


def block(text: str) -> PolicyPeer:
    network = ip_network(text)
    return PolicyPeer(IpBlock(Prefix(network.network_address.packed, network.prefixlen)))


def test_what_is_allowed_is_accepted_and_nothing_else_is_said() -> None:
    assert texts(PolicyRule()) == ("accept",)
    assert texts() == ()
    two = PolicyRule(ports=(PolicyPort(number=80, end=90), PolicyPort(L4Protocol.UDP, 53), PolicyPort(L4Protocol.SCTP)))
    assert texts(two) == ("meta l4proto sctp accept", "tcp dport 80-90 accept", "udp dport 53 accept")
    (named,) = texts(PolicyRule(ports=(PolicyPort(name="web"),)))
    assert named.startswith("ip daddr . meta l4proto . th dport @KUBE-DST-")


def test_blocks_are_ranges_with_both_ends() -> None:
    rows = list(policy(ingress(PolicyRule((block("10.0.0.0/8"),))), Direction.INGRESS, Family.IPV4))
    (element,) = [row for row in rows if isinstance(row, NftElement)]
    assert (element.key.first, element.key.last) == (bytes((10, 0, 0, 0)), bytes((10, 255, 255, 255)))
    (chain,) = [row for row in rows if isinstance(row, NftChain)]
    assert f"@{element.key.set.name} " in chain.rules[0]


def test_a_pod_is_one_element_that_leads_to_a_profile_or_to_nothing() -> None:
    governed = Place(Family.IPV4, Direction.INGRESS, (ADDRESS,), (ingress(PolicyRule()),))
    profile, verdict = place(governed, PLAIN)
    assert isinstance(profile, NftChain)
    assert isinstance(verdict, NftVerdict)
    assert (verdict.key.packed, verdict.chain) == (ADDRESS, profile.key.name)
    assert profile.fallback == ("drop",)
    free = Place(Family.IPV4, Direction.INGRESS, (ADDRESS,), ())
    (known,) = place(free, PLAIN)
    assert isinstance(known, NftVerdict)
    assert (known.key, known.chain) == (verdict.key, "")


def test_profiles_refuse_what_no_policy_accepts() -> None:
    chain = profile_rules(Family.IPV6, Direction.EGRESS, ("KUBE-NWPLCY-A", "KUBE-NWPLCY-B"))
    assert jumps(chain.rules) == ["KUBE-NWPLCY-INVALID", "KUBE-NWPLCY-A", "KUBE-NWPLCY-B"]
    assert chain.rules[-1].endswith("reject with icmpv6 type port-unreachable")
    cut = profile_rules(Family.IPV6, Direction.EGRESS, ("KUBE-NWPLCY-A", "KUBE-NWPLCY-B"), cut=True)
    assert cut.key != chain.key
    # What a kernel may lack of it: rules that tell of the refusal, and no other.
    for each in (chain, cut):
        spared = [rule for rule in each.rules if any(words in rule for words, _ in each.spares)]
        assert spared == [rule for rule in each.rules if "log " in rule or "reject" in rule]


def test_a_bridged_link_is_looked_up_at_the_port() -> None:
    for bridged, layer in ((True, NftFamily.BRIDGE), (False, NftFamily.IPV4)):
        link = PodLink(ObjectRef("PodLink", "", "veth1"), (ADDRESS,), bridged)
        for confined in (True, False):
            rows = [r for r in guard(Family.IPV4, link, ADDRESS, confined=confined) if isinstance(r, NftElement)]
            assert {row.key.set.family for row in rows} == {layer}
            assert any(row.key.first == b"veth1".ljust(16, b"\0") + ADDRESS for row in rows)
            assert any("CONFINED" in row.key.set.name for row in rows) is confined
