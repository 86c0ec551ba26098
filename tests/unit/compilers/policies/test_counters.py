"""From the counters of a profile's rules back to what they mean."""

from __future__ import annotations

import pytest

from kuberouter.compilers.policies.iptables.counters import profile_counts
from kuberouter.compilers.policies.iptables.policies import profile_rules
from kuberouter.model.core import Family
from kuberouter.model.netfilter import CountedRule
from kuberouter.model.policy import Count, Direction, ProfileCount
from kuberouter.wire.text.iptables import parse_counters, tagged

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
