"""Where iptables is not in use, be it one variant or one family: what stands there, and the way out for what is ours.

The kernel applies the rules of both variants, so what a former run left in the other one would go on judging packets;
so would what it left in a family that has been turned off since.
Nothing is ever written there but deletions, and no table is looked at that does not exist: legacy tools would make it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any

from kuberouter.drivers.ipsets import SetDriver
from kuberouter.drivers.iptables import TABLES, ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.core import Batch, Family, Outcome, Unavailable, Value
from kuberouter.model.netfilter import Chain, FormerChain, FormerHook, FormerIptables, FormerIptablesKey, Hook, Table
from kuberouter.wire.command import run
from kuberouter.wire.text.iptables import complaint, parse_save
from kuberouter.wire.text.tags import MARKER
from kuberouter.wire.xtlegacy import table_names

SKEW = ("is incompatible, use 'nft' tool", "[unsupported revision]")
"""What the tools say of rules that nft or another version of them wrote and that they cannot read."""

FORMER_POLICY = re.compile(
    r"(?P<chain>INPUT|FORWARD|OUTPUT) (?:"
    r"(?:-m comment --comment (?:\"[^\"]*\"|\S+) )?-j KUBE-ROUTER-(?P=chain)|.*-[jg] KUBE-POD-FW-[A-Z2-7]{16})"
)
"""Chain and words of what leads into the firewall of the Go kube-router, as `iptables-save` prints them.

Since its release 1.3 a jump to the chain of ours that has the same name; before that one per pod.
"""


class Stock(Value, frozen=True, gc=False):
    """What stands in one variant: rules of others by family and table, and where rules could not be read."""

    others: tuple[tuple[Family, str, int], ...] = ()
    unread: tuple[tuple[Family, str], ...] = ()


def survey(xtables: Xtables, families: Collection[Family], prefixes: tuple[str, ...]) -> Stock:
    """Look at everything in a variant; rules in chains with our prefixes or with our comment are not others'.

    A tool that is missing or fails has nothing to tell.
    """
    others: list[tuple[Family, str, int]] = []
    unread: list[tuple[Family, str]] = []
    for family in families:
        tool = xtables.tool(family, "save")
        try:
            # Without naming a table: the legacy tools then list those that exist and make none.
            saved = run((tool,))
        except Unavailable:
            continue
        if not saved.ok:
            unread.append((family, complaint(saved.errors)))
            continue
        said = f"{saved.errors}\n{saved.output}"
        unread += [(family, line.lstrip("# ")) for line in said.splitlines() if any(sign in line for sign in SKEW)][:1]
        counts = Counter(table for table, line in _rules(saved.output) if not _ours(line, prefixes))
        others += [(family, table, count) for table, count in sorted(counts.items())]
    return Stock(tuple(others), tuple(unread))


def _rules(output: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in output.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            yield table, line


def _ours(line: str, prefixes: tuple[str, ...]) -> bool:
    rule = line.removeprefix("-A ")
    return rule.startswith(prefixes) or MARKER in line or FORMER_POLICY.fullmatch(rule) is not None


def existing(xtables: Xtables, family: Family) -> tuple[Table, ...]:
    """Those of the tables that we use which exist in this variant; looking at them makes none."""
    if xtables.variant is Variant.NFT:
        return TABLES
    names = table_names(family)
    return tuple(table for table in TABLES if table.value in names)


def unseen(xtables: Xtables, family: Family) -> str:
    """Why the tools do not show rules that there are in a variant; empty if they do, or if there are none."""
    try:
        saved = run((xtables.tool(family, "save"),))
        why = "" if saved.ok else complaint(saved.errors)
    except Unavailable as error:
        why = str(error)
    try:
        tables = xtables.told(family).values() if why else ()
    except Unavailable:
        # Where the kernel has no such tables the tools fail as well. Of legacy ones the names can always be read.
        return why if xtables.variant is Variant.LEGACY and table_names(family) else ""
    return why if any(table.chains or any(table.builtin.values()) for table in tables) else ""


Variants = Iterable[Callable[[], Xtables]]
"""What finds the tools of a variant, or raises Unavailable."""


def untagged(
    variants: Variants, family: Family, tables: Collection[Table]
) -> Iterator[tuple[Xtables, Table, list[tuple[str, str]]]]:
    """In each variant and table that exists the rules in builtin chains that are not ours, as chain and words.

    What cannot be looked at has none.
    """
    for find in variants:
        try:
            xtables = find()
            there = [table for table in tables if table in existing(xtables, family)]
            saved = {table: run((xtables.tool(family, "save"), "-t", table.value)) for table in there}
        except Unavailable:
            continue
        for table, text in saved.items():
            chains = parse_save(text.output).items()
            builtin = ((chain, rules) for chain, (is_builtin, rules) in chains if is_builtin)
            yield xtables, table, [(chain, rule.words) for chain, rules in builtin for rule in rules if not rule.tag]


Places = Sequence[tuple[Xtables, Collection[Family]]]
"""Tools, each with the families in which ours is not in use there."""


class FormerHookDriver:
    """Driver of `FormerHook` rows: hooks of the given ranks, or all of ours, where they are not in use."""

    def __init__(self, places: Places, ranks: Collection[int] = ()) -> None:
        self._places = places
        self._ranks = tuple(ranks)

    def read(self) -> Iterable[FormerHook]:
        """Our rules in builtin chains of tables that exist; none where the tools are missing."""
        return [FormerHook(hook.key, hook.rank) for _, found in self._found() for hook in found]

    def _found(self) -> Iterator[tuple[HookDriver, list[Hook]]]:
        for xtables, families in self._places:
            for family in families:
                driver = HookDriver(xtables, (family,), existing(xtables, family), self._ranks)
                try:
                    yield driver, list(driver.read())
                except Unavailable:
                    continue

    def owns(self, row: FormerHook) -> bool:
        """As for `Hook`: by our comment, and by rank, for another daemon may still use that variant."""
        return not self._ranks or row.rank in self._ranks

    def write(self, batch: Batch[FormerHook]) -> Outcome:
        """Take hooks out; there are only removals."""
        gone = {row.key for row in batch.remove}
        failed: dict[Hashable, str] = {}
        for driver, found in self._found():
            here = tuple(hook for hook in found if hook.key in gone and driver.owns(hook))
            failed.update(driver.write(Batch(remove=here)).failed)
        return Outcome(failed)


class FormerChainDriver:
    """Driver of `FormerChain` rows: our chains where they are not in use."""

    def __init__(self, places: Places, prefixes: tuple[str, ...]) -> None:
        self._places = places
        self._prefixes = prefixes

    def read(self) -> Iterable[FormerChain]:
        """Chains with our prefixes in tables that exist; none where the tools are missing."""
        return [FormerChain(chain.key) for _, found in self._found() for chain in found]

    def _found(self) -> Iterator[tuple[ChainDriver, list[Chain]]]:
        for xtables, families in self._places:
            for family in families:
                driver = ChainDriver(xtables, (family,), self._prefixes, existing(xtables, family))
                try:
                    yield driver, list(driver.read())
                except Unavailable:
                    continue

    def owns(self, row: FormerChain) -> bool:
        """Chains are recognised as ours by the prefix of their name."""
        return row.key.name.startswith(self._prefixes)

    def write(self, batch: Batch[FormerChain]) -> Outcome:
        """Delete chains; there are only removals."""
        gone = {row.key for row in batch.remove}
        failed: dict[Hashable, str] = {}
        for driver, found in self._found():
            failed.update(driver.write(Batch(remove=tuple(chain for chain in found if chain.key in gone))).failed)
        return Outcome(failed)


class FormerIptablesDriver:
    """Driver of `FormerIptables` rows: what the firewall has left in iptables, in either variant, and in ipsets."""

    def __init__(
        self,
        variants: Variants,
        families: Collection[Family],
        chains: tuple[str, ...],
        ranks: tuple[int, ...],
        sets: tuple[str, ...],
    ) -> None:
        self._variants = tuple(variants)
        self._families = tuple(families)
        self._chains = chains
        self._ranks = ranks
        self._sets = SetDriver(lambda name: name.removeprefix("inet6:").startswith(sets))

    def read(self) -> Iterable[FormerIptables]:
        """The families in which anything is left."""
        for family in self._families:
            if any(found for _, found in self._rows(family)):
                yield FormerIptables(FormerIptablesKey(family))

    def owns(self, row: FormerIptables) -> bool:
        """By rank of a hook and prefix of a name; `read` yields nothing else."""
        return True

    def write(self, batch: Batch[FormerIptables]) -> Outcome:
        """Take out hooks, then chains, then sets; there are only removals."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            for driver, found in self._rows(row.key.family):
                outcome = driver.write(Batch(remove=tuple(found)))
                failed.update((row.key, text) for text in outcome.failed.values())
        return Outcome(failed)

    def _rows(self, family: Family) -> Iterator[tuple[Any, list[Any]]]:
        """What is left in a family with the driver that removes it; what can't be looked at has nothing left."""
        drivers: list[Any] = []
        for find in self._variants:
            try:
                xtables = find()
            except Unavailable:
                continue
            tables = [table for table in existing(xtables, family) if table is Table.FILTER]
            drivers.append(HookDriver(xtables, (family,), tables, self._ranks))
            drivers.append(ChainDriver(xtables, (family,), self._chains, tables))
        for driver in drivers:
            try:
                found = [row for row in driver.read() if driver.owns(row)]
            except Unavailable:
                continue
            yield driver, found
        try:
            yield self._sets, [row for row in self._sets.read() if row.family is family]
        except Unavailable:
            return
