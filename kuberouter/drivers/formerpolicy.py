"""What leads into the firewall of the Go kube-router, in either variant of iptables, and the way out for it.

Its chains are removed, or filled anew, by their names. The jumps to them stand in builtin chains without our comment:
beside ours they would lead every packet through our chains a second time, and hold chains that are to go.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Iterator

from kuberouter.drivers.former import FORMER_POLICY, Variants, untagged
from kuberouter.drivers.ipsets import SetDriver
from kuberouter.drivers.iptables import Xtables
from kuberouter.model.core import Batch, Family, Outcome, Unavailable
from kuberouter.model.netfilter import FormerPolicy, FormerPolicyKey, IpSet, Table
from kuberouter.wire.text.iptables import Script, complaint

DRAFT = re.compile(r"(inet6:)?TMP-[A-Z2-7]{16}")
"""Sets in which it gathers entries before it swaps them in; no rule refers to one. A crash leaves them behind."""


class FormerPolicyDriver:
    """Driver of `FormerPolicy` rows, one per family in which anything is left."""

    def __init__(self, variants: Variants, families: Collection[Family]) -> None:
        self._variants = tuple(variants)
        self._families = tuple(families)
        self._sets = SetDriver(lambda name: DRAFT.fullmatch(name) is not None)

    def owns(self, row: FormerPolicy) -> bool:
        """`read` yields nothing but what looks as the Go kube-router makes it."""
        return True

    def read(self) -> Iterable[FormerPolicy]:
        """The families in which anything is left."""
        for family in self._families:
            if self._drafts(family) or any(True for _ in self._jumps(family)):
                yield FormerPolicy(FormerPolicyKey(family))

    def write(self, batch: Batch[FormerPolicy]) -> Outcome:
        """Take it all out; there are only removals."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            family = row.key.family
            for xtables, jumps in self._jumps(family):
                script = Script(Table.FILTER.value)
                for chain, words in jumps:
                    script.add(f"-D {chain} {words}", row.key)
                done = xtables.restore(family, script)
                if not done.ok:
                    failed[row.key] = complaint(done.errors)
            refused = self._sets.write(Batch(remove=tuple(self._drafts(family)))).failed
            failed.update((row.key, text) for text in refused.values())
        return Outcome(failed)

    def _jumps(self, family: Family) -> Iterator[tuple[Xtables, list[tuple[str, str]]]]:
        for xtables, _, rules in untagged(self._variants, family, (Table.FILTER,)):
            jumps = [each for each in rules if FORMER_POLICY.fullmatch(" ".join(each))]
            if jumps:
                yield xtables, jumps

    def _drafts(self, family: Family) -> list[IpSet]:
        try:
            return [row for row in self._sets.read() if row.family is family]
        except Unavailable:
            return []
