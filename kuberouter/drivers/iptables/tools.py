"""The tools of iptables, in either variant: what they print, and what they are given."""

from __future__ import annotations

import enum
import time
from collections.abc import Hashable

from kuberouter.model.core import Family, Unavailable
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.netfilter import (
    CountedRule,
    Table,
)
from kuberouter.wire import xtlegacy
from kuberouter.wire.command import Completed, run
from kuberouter.wire.kept import MOST_BYTES, KeptRestore
from kuberouter.wire.nftables import NftSocket
from kuberouter.wire.text.iptables import (
    INCOMPATIBLE,
    SavedRule,
    SavedTable,
    Script,
    complaint,
    parse_counters,
    parse_save,
    parse_tables,
)
from kuberouter.wire.text.tags import SavedChain
from kuberouter.wire.xtmarks import marks

ATTEMPTS = 64
"""Most restores for one table of one batch; each failed one leaves out or replaces at least one row."""
LOCK_WAIT = "5"
"""Seconds that the legacy tools wait for the xtables lock (XTABLES_LOCKFILE moves it); the nft ones need none."""
SEEN = 1.0
"""Seconds for which what chains were read from serves hooks too; both are always read together."""
HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Chains that the kubelet creates with the variant that the node uses."""
TABLES = (Table.RAW, Table.MANGLE, Table.FILTER, Table.NAT)

Failures = dict[Hashable, str]


class Variant(enum.Enum):
    """Which kernel interface the tools speak to; the value is part of their names."""

    NFT = "nft"
    LEGACY = "legacy"


def detect_variant() -> Variant:
    """The variant in which the kubelet left its hint chains, nft unless only legacy has them.

    Raises Unavailable when neither is installed.
    """
    hinted = hinted_variant()
    if hinted is not None:
        return hinted
    missing: Unavailable | None = None
    for variant in Variant:
        try:
            Xtables(variant).check()
            return variant
        except Unavailable as error:
            missing = missing or error
    raise missing or Unavailable("iptables is not installed")


def hinted_variant() -> Variant | None:
    """The variant in which the kubelet left its hint chains, if it has yet.

    The legacy probe names no table, for that would create the table.
    """
    for variant, words in ((Variant.NFT, ("-t", "mangle")), (Variant.LEGACY, ())):
        for family in Family:
            try:
                saved = run((Xtables(variant).tool(family, "save"), *words))
            except Unavailable:
                continue
            if any(f":{hint} " in saved.output for hint in HINTS):
                return variant
    return None


class Xtables:
    """The tools of one variant."""

    def __init__(self, variant: Variant, meter: Meter = UNMETERED) -> None:
        self.variant = variant
        self.meter = meter
        self._seen: dict[Family, tuple[float, dict[str, dict[str, list[SavedRule]]]]] = {}
        self._link: NftSocket | None = None
        self._kept: dict[Family, KeptRestore | None] = {}
        """Tools that stay for small changes; None after the first of them, for there may be no second."""

    def tool(self, family: Family, verb: str) -> str:
        """Name of a program, for example `ip6tables-nft-restore`."""
        return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{self.variant.value}-{verb}"

    def check(self) -> None:
        """Raise Unavailable where the tools are not installed."""
        run((self.tool(Family.IPV4, "restore"), "--version"))

    def hooks(self, family: Family, table: Table) -> dict[str, list[SavedRule]]:
        """The builtin chains of a table. Raises Unavailable when the kernel or the tool cannot tell."""
        saved = self._save(family, "-t", table.value)
        if not self._readable(saved):
            return self._marks(family).get(table.value, SavedTable({}, {})).builtin
        return {name: rules for name, (builtin, rules) in parse_save(saved.output).items() if builtin}

    def chains(self, family: Family) -> dict[str, dict[str, SavedChain]]:
        """By table the chains that are not builtin. Raises Unavailable.

        What was seen of builtin chains is kept for a moment, for whoever reads chains will read hooks next.
        """
        tables = self._read(family)
        self._seen[family] = (time.monotonic(), {name: table.builtin for name, table in tables.items()})
        return {name: table.chains for name, table in tables.items()}

    def builtin(self, family: Family) -> dict[str, dict[str, list[SavedRule]]]:
        """By table the builtin chains with all their rules. Raises Unavailable."""
        at, seen = self._seen.pop(family, (0.0, {}))
        if time.monotonic() - at < SEEN:
            return seen
        return {name: table.builtin for name, table in self._read(family).items()}

    def _read(self, family: Family) -> dict[str, SavedTable]:
        # Without naming a table: the legacy tools then read those that exist, and make none.
        saved = self._save(family)
        return parse_tables(saved.output) if self._readable(saved) else self._marks(family)

    def _save(self, family: Family, *words: str) -> Completed:
        tool = self.tool(family, "save")
        began = time.perf_counter()
        saved = run((tool, *words))
        self.meter.observe(f"iptables {family.name} save", time.perf_counter() - began)
        return saved

    def _readable(self, saved: Completed) -> bool:
        return saved.ok and INCOMPATIBLE not in saved.output

    def _marks(self, family: Family) -> dict[str, SavedTable]:
        """What the kernel itself tells, where the tool cannot read somebody's rules and so shows nobody's."""
        if self.variant is Variant.LEGACY:
            return xtlegacy.marks(family, TABLES)
        self._link = self._link or NftSocket()
        return marks(self._link, family, TABLES)

    def told(self, family: Family) -> dict[str, SavedTable]:
        """What the kernel tells without the tools: chains, and rules without words. Raises Unavailable."""
        return self._marks(family)

    def restore(self, family: Family, script: Script) -> Completed:
        """Apply a script in one transaction, leaving everything that it does not name alone."""
        self._seen.pop(family, None)
        began = time.perf_counter()
        done = self._restore(family, str(script))
        self.meter.observe(f"iptables {family.name} restore", time.perf_counter() - began)
        return done

    def _restore(self, family: Family, text: str) -> Completed:
        tool = self.tool(family, "restore")
        # Legacy tools read and write the whole table each time; beside that their start is nothing.
        if self.variant is Variant.NFT and len(text) <= MOST_BYTES:
            if family in self._kept:
                kept = self._kept[family] = self._kept[family] or KeptRestore((tool, "--noflush", "--verbose"))
                if kept.apply(text):
                    return Completed(0, "", "")
            else:
                self._kept[family] = None
        return run((tool, "--noflush", "-w", LOCK_WAIT), text)

    def counters(self, family: Family, table: Table) -> dict[str, list[CountedRule]]:
        """The rules of a table by chain, with what they have counted. Raises Unavailable as `save` does."""
        tool = self.tool(family, "save")
        saved = run((tool, "-c", "-t", table.value))
        if not saved.ok:
            raise Unavailable(f"{tool} -c -t {table.value} fails: {complaint(saved.errors)}")
        return parse_counters(saved.output)
