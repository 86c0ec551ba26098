"""Our rules in builtin chains, beside those of others: put in and taken out by their words, found by their comment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from kuberouter.drivers.iptables.tools import ATTEMPTS, TABLES, Failures, Xtables
from kuberouter.model.core import Batch, Family, Outcome
from kuberouter.model.netfilter import (
    Hook,
    HookKey,
    Position,
    Table,
    rule_tag,
)
from kuberouter.wire.text.iptables import (
    DISPENSABLE,
    SavedRule,
    Script,
    complaint,
    placed,
)


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
