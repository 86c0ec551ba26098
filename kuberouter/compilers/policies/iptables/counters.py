"""Back from chains to meaning: what the rules of profiles have counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from kuberouter.compilers.policies.counting import accepted
from kuberouter.compilers.policies.names import (
    DISPATCH_CHAIN,
    INVALID_CHAIN,
    POLICY_PREFIX,
    PROFILE_PREFIX,
    REFUSED_CHAIN,
)
from kuberouter.model.core import Family
from kuberouter.model.netfilter import CountedRule
from kuberouter.model.policy import Count, Direction, ProfileCount


def profile_counts(family: Family, chains: Mapping[str, Sequence[CountedRule]]) -> Iterator[ProfileCount]:
    """The counts of the profiles in force, from the rules of the filter table by chain."""
    for direction, dispatch in DISPATCH_CHAIN.items():
        targets = (_target(rule) for rule in chains.get(dispatch, ()))
        for name in dict.fromkeys(target for target in targets if target.startswith(PROFILE_PREFIX)):
            yield _profile(family, direction, name, chains.get(name, ()))


def _profile(family: Family, direction: Direction, name: str, rules: Sequence[CountedRule]) -> ProfileCount:
    asked: list[tuple[str, Count]] = []
    refused = invalid = Count()
    for rule in rules:
        target = _target(rule)
        count = Count(rule.packets, rule.bytes)
        if target == INVALID_CHAIN:
            invalid = count
        elif target in ("DROP", "REJECT", REFUSED_CHAIN):
            # With --netpol-existing-flows=cut there is a rule for open flows before the one for everything else.
            refused = Count(refused.packets + count.packets, refused.bytes + count.bytes)
        elif target.startswith(POLICY_PREFIX):
            asked.append((target, count))
    return ProfileCount(family, name, direction, accepted(asked, refused), refused, invalid)


def _target(rule: CountedRule) -> str:
    return next((word for option, word in pairwise(rule.text.split()) if option in ("-j", "-g")), "")
