"""Chains of ours and our hooks in builtin chains, through iptables-save and iptables-restore --noflush.

One transaction per table and family changes every chain of a batch at once. Rules of others are never written: the
restore names only our chains, and hooks are deleted and inserted by their own words.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from operator import attrgetter

from kuberouter.drivers.standins import Losses
from kuberouter.drivers.walk import as_walked
from kuberouter.model.core import Batch, Family, Outcome, Unavailable
from kuberouter.model.meter import UNMETERED, Meter
from kuberouter.model.netfilter import (
    OTHERWISE,
    Chain,
    ChainKey,
    CountedRule,
    Hook,
    HookKey,
    Position,
    Table,
    rule_tag,
)
from kuberouter.wire import xtlegacy
from kuberouter.wire.command import Completed, run
from kuberouter.wire.kept import MOST_BYTES, KeptRestore
from kuberouter.wire.nftables import NftSocket
from kuberouter.wire.text.iptables import (
    DISPENSABLE,
    INCOMPATIBLE,
    SavedChain,
    SavedRule,
    SavedTable,
    Script,
    complaint,
    jumps,
    parse_counters,
    parse_save,
    parse_tables,
    placed,
)
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


class ChainDriver:
    """Driver of `Chain` rows."""

    def __init__(
        self,
        xtables: Xtables,
        families: Collection[Family],
        prefixes: tuple[str, ...],
        tables: Collection[Table] = TABLES,
    ) -> None:
        self._xtables = xtables
        self._families = tuple(families)
        self._prefixes = prefixes
        self._tables = tuple(tables)
        self._prints: dict[tuple[Family, bytes], int] = {}
        """How the tools printed the rules of each tag when they were first read after they were written."""

    def read(self) -> Iterable[Chain]:
        """The chains with one of our prefixes. One that others have changed has no tag of any rules, so is put right.

        A rule that was replaced by another shows in how the chain is printed, if it has been read before.
        """
        known, self._prints = self._prints, {}
        for family in self._families:
            saved = self._xtables.chains(family) if self._tables else {}
            for table in self._tables:
                for name, chain in saved.get(table.value, {}).items():
                    if name.startswith(self._prefixes):
                        yield Chain(ChainKey(family, table, name), self._judged(known, family, chain))

    def _judged(self, known: Mapping[tuple[Family, bytes], int], family: Family, chain: SavedChain) -> bytes:
        place = family, chain.tag
        seen = self._prints[place] = known.get(place) or chain.print
        return chain.tag if chain.print in (0, seen) else OTHERWISE

    def owns(self, row: Chain) -> bool:
        """Chains are recognised as ours by the prefix of their name."""
        return row.key.name.startswith(self._prefixes)

    def write(self, batch: Batch[Chain]) -> Outcome:
        """Replace and create chains, then delete those to be removed: one transaction each per table and family."""
        failed: Failures = {}
        losses = Losses()
        wanted = [*batch.add, *(new for _, new in batch.change)]
        for family in Family:
            for table in Table:
                here = [c for c in wanted if c.key.family is family and c.key.table is table]
                if here:
                    # Had somebody changed them before they were first read, they would be written for ever.
                    for chain in here:
                        self._prints.pop((family, chain.tag), None)
                    self._load(family, table, here, losses)
                gone = [c.key for c in batch.remove if c.key.family is family and c.key.table is table]
                if gone:
                    failed |= self._unload(family, table, gone)
        return losses.outcome(failed)

    def _load(self, family: Family, table: Table, chains: Iterable[Chain], losses: Losses) -> None:
        pending = {chain.key: chain for chain in chains}
        for _ in range(ATTEMPTS):
            if not pending:
                return
            script = Script(table.value)
            # In order of their names the nft tool takes a thousand chains in two thirds of the time.
            ordered = sorted(pending, key=attrgetter("name"))
            for key in ordered:
                script.declare(key.name, key)
            for key in _as_walked(pending) if self._xtables.variant is Variant.NFT else ordered:
                script.fill(key.name, pending[key].rules, key, tag=pending[key].tag)
            result = self._xtables.restore(family, script)
            if result.ok:
                return
            culprits: dict[ChainKey, list[str]] = {}
            for subject, rule in script.faults(result.errors):
                if isinstance(subject, ChainKey):
                    culprits.setdefault(subject, []).append(rule)
            if not culprits and len(pending) > 1:
                self._halves(family, table, pending, losses)
                return
            for key, refused in (culprits or {key: [] for key in pending}).items():
                losses.weaken(pending, key, refused, complaint(result.errors))
        losses.fail(pending, "not tried: too many other chains were refused")

    def _halves(self, family: Family, table: Table, pending: dict[ChainKey, Chain], losses: Losses) -> None:
        """Load in two transactions what fails in one without saying where; what is referred to comes first."""
        ordered = _as_walked(pending)
        for half in (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]):
            self._load(family, table, [pending[key] for key in half], losses)

    def _unload(self, family: Family, table: Table, keys: Iterable[ChainKey]) -> Failures:
        """Delete chains. One that somebody still jumps to stays and is told of, but empty: it judges nobody."""
        pending = dict.fromkeys(keys)
        emptied: dict[ChainKey, None] = {}
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            script = Script(table.value)
            for key in (*pending, *emptied):
                # Declaring empties a chain, and makes the deletion hold even if somebody else was faster.
                script.declare(key.name, key)
            for key in pending:
                script.add(f"-X {key.name}", key)
            result = self._xtables.restore(family, script)
            if result.ok:
                return failed
            culprits = [key for key in script.culprits(result.errors) if isinstance(key, ChainKey)]
            if not culprits and len(pending) > 1:
                for key in (*pending, *emptied):
                    failed |= self._unload(family, table, (key,))
                return failed
            for key in culprits or [*pending, *emptied]:
                failed.setdefault(key, complaint(result.errors))
                if key in pending:
                    del pending[key]
                    emptied[key] = None
                else:
                    emptied.pop(key, None)
            if not pending and not emptied:
                return failed
        return failed | dict.fromkeys(pending, "not tried: too many other chains were refused")


def _as_walked(chains: dict[ChainKey, Chain]) -> list[ChainKey]:
    by_name = {key.name: key for key in chains}
    return [by_name[name] for name in as_walked({key.name: jumps(row.rules) for key, row in chains.items()})]


class HookDriver:
    """Driver of `Hook` rows of the given ranks, or of all of them."""

    def __init__(
        self,
        xtables: Xtables,
        families: Collection[Family],
        tables: Collection[Table] = TABLES,
        ranks: Collection[int] = (),
    ) -> None:
        self._xtables = xtables
        self._ranks = frozenset(ranks)
        self._families = tuple(families)
        self._tables = tuple(tables)
        self._texts: dict[str, str] = {}
        """Rule texts by tag, as far as this process wrote them."""
        self._plain: dict[str, str] = {}
        """Those of which the kernel holds less: what that is, by tag."""

    def read(self) -> Iterable[Hook]:
        """Our rules in builtin chains; those that should lead their chain in order of rank but do not are misplaced."""
        for family in self._families:
            saved = self._xtables.builtin(family) if self._tables else {}
            for table in self._tables:
                for chain, rules in saved.get(table.value, {}).items():
                    yield from self._hooks(family, table, chain, rules)

    def _hooks(self, family: Family, table: Table, chain: str, rules: list[SavedRule]) -> Iterator[Hook]:
        ours = [rule for rule in rules if rule.place]
        tags = [rule.tag for rule in ours]
        leading = rules[: len([rule for rule in ours if rule.place == Position.FIRST.value])]
        in_order = all(rule.place == Position.FIRST.value for rule in leading) and leading == sorted(
            leading, key=_order
        )
        for rule in dict.fromkeys(ours):
            in_place = tags.count(rule.tag) == 1 and (in_order or rule.place == Position.LAST.value)
            in_place = in_place and rule.tag not in self._plain
            key = HookKey(family, table, chain, self._texts.get(rule.tag, rule.text))
            yield Hook(key, rule.rank, Position(rule.place), in_place)

    def owns(self, row: Hook) -> bool:
        """Hooks are recognised by the comment that carries their tag, place and rank; `read` yields no others.

        The rank tells whose they are: another daemon on the node may run the other controllers.
        """
        return not self._ranks or row.rank in self._ranks

    def write(self, batch: Batch[Hook]) -> Outcome:
        """Put hooks in their places and take others out: one transaction per table and family."""
        wanted = {row.key: row for row in (*batch.add, *(new for _, new in batch.change))}
        gone = {row.key for row in batch.remove}
        self._texts.update((rule_tag(key.text), key.text) for key in wanted)
        failed: Failures = {}
        instead: Failures = {}
        for family, table in dict.fromkeys((key.family, key.table) for key in (*wanted, *gone)):
            put = {key: row for key, row in wanted.items() if key.family is family and key.table is table}
            take = {key for key in gone if key.family is family and key.table is table}
            failed |= self._place(family, table, put, take, instead)
        return Outcome(failed, {key: text for key, text in instead.items() if key not in failed})

    def _place(
        self, family: Family, table: Table, put: dict[HookKey, Hook], take: set[HookKey], instead: Failures
    ) -> Failures:
        saved = self._xtables.hooks(family, table)
        failed: Failures = {}
        plain: dict[HookKey, str] = {}
        for _ in range(ATTEMPTS):
            script = Script(table.value)
            for chain in dict.fromkeys(key.chain for key in (*put, *take)):
                rules = saved.get(chain, [])
                here = [row for key, row in put.items() if key.chain == chain]
                self._rearrange(script, chain, rules, here, [key for key in take if key.chain == chain], plain)
            result = self._xtables.restore(family, script)
            if result.ok:
                for key in put:
                    self._plain.pop(rule_tag(key.text), None)
                self._plain.update((rule_tag(key.text), plain[key]) for key in put if key in plain)
                return failed
            why = complaint(result.errors)
            named = [k for k in script.culprits(result.errors) if isinstance(k, HookKey)]
            rich = [k for k in named or put if k in put and k not in plain and DISPENSABLE in k.text]
            for key in rich:
                plain[key] = key.text.replace(DISPENSABLE, "")
                instead[key] = f"rules with {DISPENSABLE.strip()!r} are refused ({why}); they go without it"
            for key in () if rich else named or [*put, *take]:
                failed[key] = why
                put.pop(key, None)
                take.discard(key)
            if not put and not take:
                return failed
        return failed | dict.fromkeys((*put, *take), "not tried: too many other rules were refused")

    def _rearrange(
        self,
        script: Script,
        chain: str,
        rules: list[SavedRule],
        put: list[Hook],
        take: list[HookKey],
        plain: Mapping[HookKey, str],
    ) -> None:
        """Delete every rule of ours that leads the chain and those to go, then insert the ones to stay in order."""
        stale = {rule_tag(key.text) for key in take}
        texts = {key.text for key in take}
        fresh = {rule_tag(row.key.text): row for row in put}
        stay: dict[str, tuple[int, str, object]] = {}
        for rule in rules:
            meant = self._texts.get(rule.tag, "")
            words = rule.words or placed(self._plain.get(rule.tag, meant), rule.place, rule.rank, meant=meant)
            if not rule.place or (not rule.words and rule.tag not in self._texts):
                continue
            goes = rule.tag in stale or (rule.text in texts and rule.tag not in self._texts)
            if goes or rule.tag in fresh or rule.place == Position.FIRST.value:
                script.add(f"-D {chain} {words}", fresh[rule.tag].key if rule.tag in fresh else None)
            if not goes and rule.tag not in fresh and rule.place == Position.FIRST.value:
                stay[words] = (rule.rank, self._texts.get(rule.tag, rule.text), None)
        for row in put:
            text = plain.get(row.key, row.key.text)
            words = placed(text, row.position.value, row.rank, meant=row.key.text)
            if row.position is Position.FIRST:
                stay[words] = (row.rank, row.key.text, row.key)
            else:
                script.add(f"-A {chain} {words}", row.key)
        ordered = sorted(stay.items(), key=lambda item: item[1][:2])
        for number, (words, (_, _, subject)) in enumerate(ordered, 1):
            script.add(f"-I {chain} {number} {words}", subject)


def _order(rule: SavedRule) -> tuple[int, str]:
    return rule.rank, rule.text
