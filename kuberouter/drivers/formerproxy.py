"""What the Go kube-router has left of its service proxy in builtin chains, and the way out for it.

Its guard and its SNAT stand there without our comment. Beside ours they would go on deciding: its SNAT takes what
touches only one of several pod CIDRs for foreign, and goes by flags that were given to it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Iterator

from kuberouter.drivers.former import Variants, untagged
from kuberouter.drivers.iptables import Xtables
from kuberouter.model.core import Batch, Family, Outcome
from kuberouter.model.netfilter import FormerProxy, FormerProxyKey, Table
from kuberouter.wire.text.iptables import Script, complaint

HAIRPIN_CHAIN = "KUBE-ROUTER-HAIRPIN"
FIRST_SETS = ("kube-router-service-ips", "kube-router-ipvs-services")
"""Sets of its guard before its release 2.0."""
JUMPS = {Table.FILTER: ("INPUT", "KUBE-ROUTER-SERVICES"), Table.NAT: ("POSTROUTING", HAIRPIN_CHAIN)}
"""By table: the builtin chain and the chain of the Go kube-router that it jumps to from there."""
SNAT = re.compile(
    r"(! -s \S+ ! -d \S+ )?-m ipvs (--ipvs )?--vdir ORIGINAL --vmethod MASQ -m comment --comment \"\" "
    r"-j (SNAT --to-source \S+|MASQUERADE)( --random-fully)?"
)
"""Its rules in POSTROUTING, with the empty comment that nobody else gives them."""


class FormerProxyDriver:
    """Driver of `FormerProxy` rows, one per family in which anything is left."""

    def __init__(self, variants: Variants, families: Collection[Family]) -> None:
        self._variants = tuple(variants)
        self._families = tuple(families)

    def owns(self, row: FormerProxy) -> bool:
        """`read` yields nothing but what looks as the Go kube-router makes it."""
        return True

    def read(self) -> Iterable[FormerProxy]:
        """The families in which anything is left."""
        for family in self._families:
            if any(True for _ in self._rules(family)):
                yield FormerProxy(FormerProxyKey(family))

    def write(self, batch: Batch[FormerProxy]) -> Outcome:
        """Take it all out; there are only removals."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            for xtables, table, rules in self._rules(row.key.family):
                script = Script(table.value)
                for chain, words in rules:
                    script.add(f"-D {chain} {words}", row.key)
                if table is Table.NAT:
                    # Declaring makes an empty chain, and so holds for one that is not there as well.
                    script.declare(HAIRPIN_CHAIN, row.key)
                    script.add(f"-X {HAIRPIN_CHAIN}", row.key)
                done = xtables.restore(row.key.family, script)
                if not done.ok:
                    failed[row.key] = complaint(done.errors)
        return Outcome(failed)

    def _rules(self, family: Family) -> Iterator[tuple[Xtables, Table, list[tuple[str, str]]]]:
        """Their rules in each variant and table, as chain and words; what cannot be looked at has none."""
        for xtables, table, rules in untagged(self._variants, family, JUMPS):
            builtin, target = JUMPS[table]
            here = [(chain, words) for chain, words in rules if chain == builtin]
            jumps = [each for each in here if each[1].endswith(f"-j {target}")]
            nats = [each for each in here if table is Table.NAT and SNAT.fullmatch(each[1])]
            if jumps or nats:
                yield xtables, table, [*jumps, *nats]
