"""From the counters of a profile's rules back to what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import pytest

from kuberouter.compilers.policies.iptables.counters import profile_counts
from kuberouter.compilers.policies.iptables.policies import profile_rules
from kuberouter.compilers.policies.nftables.counters import profile_counts as nftables_counts
from kuberouter.compilers.policies.nftables.policies import profile_rules as nftables_profile
from kuberouter.model.core import Family
from kuberouter.model.netfilter import CountedRule, rule_tag
from kuberouter.model.policy import Count, Direction, ProfileCount
from kuberouter.wire.text.iptables import parse_counters
from kuberouter.wire.text.nft import parse_listing
from kuberouter.wire.text.tags import MARKER

BODIES = ("KUBE-NWPLCY-AAAAAAAAAAAAAAAA", "KUBE-NWPLCY-BBBBBBBBBBBBBBBB")
DISPATCH = {Direction.INGRESS: "KUBE-ROUTER-POD-INGRESS", Direction.EGRESS: "KUBE-ROUTER-POD-EGRESS"}


def tagged(text: str) -> str:
    """The words of a rule in a chain of ours."""
    return f"-m comment --comment {MARKER}{rule_tag(text)} {text}"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("bodies", [(), BODIES[:1], BODIES])
def test_every_rule_of_a_profile_has_a_meaning(
    family: Family, direction: Direction, cut: bool, bodies: tuple[str, ...]
) -> None:
    profile = profile_rules(family, direction, bodies, cut=cut)
    name = profile.key.name
    lines = [
        f"[{packets}:{packets * 100}] -A {name} {tagged(text)}"
        for text, packets in counted(profile.rules, ("-j KUBE-NWPLCY-" in text for text in profile.rules))
    ]
    lead = f"-m set --match-set KUBE-DST-X dst -g {name}"
    lines += [f"[5:500] -A {DISPATCH[direction]} {tagged(text)}" for text in ("-j MARK --set-xmark 0x0/0x10000", lead)]
    output = "\n".join(("*filter", ":INPUT ACCEPT [1:2]", f":{name} - [0:0]", *lines, "COMMIT"))
    (found,) = profile_counts(family, parse_counters(output))
    check(found, name, direction, bodies, cut=cut)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("bodies", [(), BODIES[:1], BODIES])
@pytest.mark.parametrize("mute", [False, True])
def test_every_rule_of_an_nftables_profile_has_a_meaning(
    family: Family, direction: Direction, cut: bool, bodies: tuple[str, ...], mute: bool
) -> None:
    """Also in a kernel that cannot answer what it refuses, where something stands in for the rules that would."""
    profile = nftables_profile(family, direction, bodies, cut=cut)
    name = profile.key.name
    rules = []
    stands_in = dict(profile.spares)["reject with"]
    held = [stands_in if mute and "reject with" in text else text for text in profile.rules]
    for text, packets in counted(held, ("jump" in text for text in held)):
        counts = f"counter packets {packets} bytes {packets * 100}"
        rules.append(f'\t\t{text.replace("counter", counts)} comment "kube-router:0123456789"')
    output = "\n".join(("table ip x {", "\tset s {", "\t}", "", f"\tchain {name} {{", *rules, "\t}", "}"))
    (found,) = nftables_counts(family, parse_listing(output))
    check(found, name, direction, bodies, cut=cut)


def counted(rules: Sequence[str], asks: Iterable[bool]) -> Iterator[tuple[str, int]]:
    """Of 1000 packets every rule takes 10 out; those that ask a policy count all that have come so far."""
    for left, (text, asking) in zip(range(1000, 0, -10), zip(rules, asks, strict=True), strict=False):
        yield text, left if asking else 10


def check(found: ProfileCount, name: str, direction: Direction, bodies: tuple[str, ...], *, cut: bool) -> None:
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
