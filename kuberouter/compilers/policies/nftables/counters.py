"""Back from chains to meaning: what the rules of profiles have counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kuberouter.compilers.policies.counting import accepted
from kuberouter.compilers.policies.names import PROFILE_PREFIX, REFUSED_CHAIN
from kuberouter.model.core import Family
from kuberouter.model.netfilter import CountedRule
from kuberouter.model.policy import Count, Direction, ProfileCount

_DIRECTION = re.compile(rf'log prefix "\S+ ({"|".join(direction.value for direction in Direction)})"')


def profile_counts(family: Family, chains: Mapping[str, Sequence[CountedRule]]) -> Iterator[ProfileCount]:
    """The counts of all profiles, from the rules of our table by chain.

    A profile that the kernel took in its closed form, or without the rule that logs, counts nothing.
    """
    for name, rules in chains.items():
        said = next((found for rule in rules if (found := _DIRECTION.search(rule.text))), None)
        if name.startswith(PROFILE_PREFIX) and said is not None:
            yield _profile(family, Direction(said[1]), name, rules)


def _profile(family: Family, direction: Direction, name: str, rules: Sequence[CountedRule]) -> ProfileCount:
    asked: list[tuple[str, Count]] = []
    refused = invalid = Count()
    for rule in rules:
        count = Count(rule.packets, rule.bytes)
        if rule.text.startswith("jump "):
            asked.append((rule.text.removeprefix("jump "), count))
        elif rule.text.startswith("ct state invalid"):
            invalid = count
        elif "reject" in rule.text or rule.text == "drop" or rule.text.endswith(f" {REFUSED_CHAIN}"):
            # With --netpol-existing-flows=cut there is a rule for open flows before the one for everything else.
            refused = Count(refused.packets + count.packets, refused.bytes + count.bytes)
    return ProfileCount(family, name, direction, accepted(asked, refused), refused, invalid)
