"""From the counters of a profile's rules back to what they mean."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kuberouter.compilers.policies.iptables.counters import profile_counts
from kuberouter.compilers.policies.iptables.policies import profile_rules
from kuberouter.compilers.policies.nftables.counters import profile_counts as nftables_counts
from kuberouter.compilers.policies.nftables.policies import profile_rules as nftables_profile
from kuberouter.model.core import Family
from kuberouter.model.netfilter import CountedRule
from kuberouter.model.policy import Count, Direction, ProfileCount
from kuberouter.wire.text.iptables import parse_counters, tagged
from kuberouter.wire.text.nft import parse_listing

BODIES = ("KUBE-NWPLCY-AAAAAAAAAAAAAAAA", "KUBE-NWPLCY-BBBBBBBBBBBBBBBB")
DISPATCH = {Direction.INGRESS: "KUBE-ROUTER-POD-INGRESS", Direction.EGRESS: "KUBE-ROUTER-POD-EGRESS"}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", Family)
def test_every_rule_of_a_profile_has_a_meaning(family: Family, direction: Direction, cut: bool) -> None:
    profile = profile_rules(family, direction, BODIES, cut=cut)
    name = profile.key.name
    # Rule n has counted 10 to the power of n packets, each of 100 bytes.
    lines = [f"[{10**n}:{10 ** (n + 2)}] -A {name} {tagged(text)}" for n, text in enumerate(profile.rules)]
    lead = f"-m set --match-set KUBE-DST-X dst -g {name}"
    lines += [f"[5:500] -A {DISPATCH[direction]} {tagged(text)}" for text in ("-j MARK --set-xmark 0x0/0x10000", lead)]
    output = "\n".join(("*filter", ":INPUT ACCEPT [1:2]", f":{name} - [0:0]", *lines, "COMMIT"))
    (found,) = profile_counts(family, parse_counters(output))
    # The rules: invalid, then jump and return per policy, log, with cut connection mark and reset, refusal.
    accepted = tuple((body, Count(10**n, 10 ** (n + 2))) for body, n in zip(BODIES, (2, 4), strict=True))
    refused = 10**6 if not cut else 10**7 + 10**8
    expected = Count(refused, refused * 100)
    assert found == ProfileCount(family, name, direction, accepted, expected, Count(1, 100))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("bodies", [(), BODIES[:1], BODIES])
def test_every_rule_of_an_nftables_profile_has_a_meaning(
    family: Family, direction: Direction, cut: bool, bodies: tuple[str, ...]
) -> None:
    profile = nftables_profile(family, direction, bodies, cut=cut)
    name = profile.key.name
    # 1000 packets of 100 bytes, of which each rule that counts takes 10 out.
    left, rules = 1000, []
    for text in profile.rules:
        counts = f"counter packets {left if 'jump' in text else 10} bytes {(left if 'jump' in text else 10) * 100}"
        left -= 10
        rules.append(f'\t\t{text.replace("counter", counts)} comment "kube-router:0123456789"')
    output = "\n".join(("table ip x {", "\tset s {", "\t}", "", f"\tchain {name} {{", *rules, "\t}", "}"))
    (found,) = nftables_counts(family, parse_listing(output))
    assert (found.profile, found.direction, found.invalid) == (name, direction, Count(10, 1000))
    refused = 20 if cut else 10
    assert found.refused == Count(refused, refused * 100)
    asked = [990 - 10 * n for n in range(len(bodies))] + [refused]
    accepted = [Count(one - other, (one - other) * 100) for one, other in pairwise(asked)]
    assert found.accepted == tuple(zip(bodies, accepted, strict=True))


def test_a_profile_that_the_kernel_took_in_its_closed_form_refuses() -> None:
    name = "KUBE-POD-FW-X"
    chains = {name: [CountedRule("-j DROP", 3, 180)], DISPATCH[Direction.EGRESS]: [CountedRule(f"-g {name}", 3, 180)]}
    (found,) = profile_counts(Family.IPV4, chains)
    assert (found.accepted, found.refused, found.invalid) == ((), Count(3, 180), Count())


def test_a_profile_that_nothing_leads_to_is_not_in_force() -> None:
    assert list(profile_counts(Family.IPV4, {"KUBE-POD-FW-X": [CountedRule("-j DROP", 3, 180)]})) == []


def test_rules_of_others_are_read_as_they_are() -> None:
    output = '[7:420] -A INPUT -m comment --comment "somebody [1:2] -A else" -j ACCEPT\nnonsense\n'
    rule = CountedRule('-m comment --comment "somebody [1:2] -A else" -j ACCEPT', 7, 420)
    assert parse_counters(output) == {"INPUT": [rule]}
