"""What the Go kube-router has left of its route controller in builtin chains of iptables, and the way out for it.

It lets packets of pods through and masquerades those that leave the cluster, as we do, but in its own words: beside
ours its rules would go on hiding pods from networks that are to see them, or from all when pod egress is turned off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Iterator

from kuberouter.drivers.former import Variants, untagged
from kuberouter.drivers.iptables import Xtables
from kuberouter.model.core import Batch, Family, Outcome
from kuberouter.model.netfilter import FormerEgress, FormerEgressKey, Table
from kuberouter.wire.text.iptables import Script, complaint

FORWARD = re.compile(
    r"-i kube-bridge -m comment --comment \"allow outbound traffic from pods\" -j ACCEPT"
    r"|-o kube-bridge -m comment --comment \"allow inbound traffic to pods\" -j ACCEPT"
    r"|-o \S+ -m comment --comment "
    r"\"allow outbound node port traffic on node interface with which node ip is associated\" -j ACCEPT"
)
EGRESS = re.compile(
    r"-m set --match-set (?P<pods>(inet6:)?kube-router-pod-subnets) src -m set ! --match-set (?P=pods) dst"
    r"( -m set ! --match-set (inet6:)?kube-router-node-ips dst)? -j MASQUERADE( --random-fully)?"
)
"""Its rules without `-A CHAIN`, as `iptables-save` prints them; before its release 0.2 nodes were not spared."""
PLACES = {Table.FILTER: ("FORWARD", FORWARD), Table.NAT: ("POSTROUTING", EGRESS)}


class FormerEgressDriver:
    """Driver of `FormerEgress` rows, one per family in which anything is left."""

    def __init__(self, variants: Variants, families: Collection[Family]) -> None:
        self._variants = tuple(variants)
        self._families = tuple(families)

    def owns(self, row: FormerEgress) -> bool:
        """`read` yields nothing but what looks as the Go kube-router makes it."""
        return True

    def read(self) -> Iterable[FormerEgress]:
        """The families in which anything is left."""
        for family in self._families:
            if any(True for _ in self._rules(family)):
                yield FormerEgress(FormerEgressKey(family))

    def write(self, batch: Batch[FormerEgress]) -> Outcome:
        """Take it all out; there are only removals."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            for xtables, table, rules in self._rules(row.key.family):
                script = Script(table.value)
                for chain, words in rules:
                    script.add(f"-D {chain} {words}", row.key)
                done = xtables.restore(row.key.family, script)
                if not done.ok:
                    failed[row.key] = complaint(done.errors)
        return Outcome(failed)

    def _rules(self, family: Family) -> Iterator[tuple[Xtables, Table, list[tuple[str, str]]]]:
        """Their rules in each variant and table, as chain and words; what cannot be looked at has none."""
        for xtables, table, rules in untagged(self._variants, family, PLACES):
            builtin, form = PLACES[table]
            here = [(chain, words) for chain, words in rules if chain == builtin and form.fullmatch(words)]
            if here:
                yield xtables, table, here
