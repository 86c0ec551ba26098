"""Chains with all their rules, as rows."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Sequence

from kuberouter.drivers.looks import Looks
from kuberouter.drivers.nftables.shared import ATTEMPTS, Failures, Nftables, reason
from kuberouter.drivers.standins import Losses
from kuberouter.drivers.walk import as_walked
from kuberouter.model.core import Batch, Outcome
from kuberouter.model.nftables import TABLE_NAME, BaseHook, NftChain, NftChainKey, NftFamily
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import Message
from kuberouter.wire.nftmessages import delete_chain, flush_chain, new_chain, new_rules
from kuberouter.wire.nftrules import Unspoken, expressions
from kuberouter.wire.text.nft import Script, complaint, jumps
from kuberouter.wire.text.tags import SavedChain, claim, claimed

HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output"}
"""enum nf_inet_hooks."""
NUMBERS = {name: number for number, name in HOOKS.items()}
CIRCLES = (errno.EMLINK, errno.ELOOP)

Pending = dict[NftChainKey, NftChain]
"""Rows that are still to be loaded."""
Step = tuple[NftChainKey, Sequence[str], Sequence[Message]]
"""Messages for one chain, and of which rule each is; empty if of none."""
Refused = dict[NftChainKey | None, tuple[str, list[str]]]
"""Why a transaction failed, and at which rules as far as that is known, by the chains that are to blame; by None if
nobody can tell which."""


class ChainDriver:
    """Driver of `NftChain` rows."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables
        self._looks: Looks[NftChainKey] = Looks()

    def read(self) -> Iterable[NftChain]:
        """All chains of our tables. One that others have changed has no tag of any rules, so is put right.

        A rule that was replaced by another shows in its expressions, if the chain has been read before.
        """
        link = self._nftables.link
        hooks: dict[NftChainKey, BaseHook | None] = {}
        chains: dict[NftChainKey, SavedChain] = {}
        for family in NftFamily:
            rules: dict[str, list[wire.RuleFacts]] = {}
            for rule in wire.rules(link, family, TABLE_NAME[family]):
                rules.setdefault(rule.chain, []).append(rule)
            for facts in wire.chains(link, family, TABLE_NAME[family]):
                key = NftChainKey(family, facts.name)
                hooks[key] = None
                if facts.hook is not None and facts.priority is not None:
                    hooks[key] = BaseHook(HOOKS.get(facts.hook, str(facts.hook)), facts.priority, facts.accepts)
                chains[key] = _saved(rules.get(facts.name, []))
        return [NftChain(key, tag, (), hooks[key]) for key, tag in self._looks.judged(chains.items())]

    def owns(self, row: NftChain) -> bool:
        """Everything in our tables is ours."""
        return True

    def write(self, batch: Batch[NftChain]) -> Outcome:
        """Replace and make chains in one transaction, then delete those to be removed in another."""
        moved = {new.key for old, new in batch.change if old.hook != new.hook}
        losses = Losses()
        wanted = [*batch.add, *(new for _, new in batch.change)]
        self._looks.forget(row.key for row in (*wanted, *batch.remove))
        self._load(wanted, moved, losses)
        return losses.outcome(self._unload([row.key for row in batch.remove]))

    def _load(self, rows: Sequence[NftChain], moved: Collection[NftChainKey], losses: Losses) -> None:
        pending = {row.key: row for row in rows}
        for _ in range(ATTEMPTS):
            if not pending or not (refused := self._apply(pending, moved)):
                return
            if None in refused and len(pending) > 1:
                self._halves(pending, moved, losses)
                return
            for key in list(pending) if None in refused else [key for key in refused if key is not None]:
                why, rules = refused.get(key) or refused[None]
                losses.weaken(pending, key, rules, why)
        losses.fail(pending, "not tried: too many others were refused")

    def _apply(self, pending: Pending, moved: Collection[NftChainKey]) -> Refused:
        """One transaction."""
        if self._nftables.direct:
            try:
                steps = _steps(pending, moved)
            except Unspoken:
                # Some other rule may stand for what the tool will say.
                pass
            else:
                return self._send(steps)
        script = Script(next(iter(pending)).family)
        for row in pending.values():
            if row.key in moved:
                script.drop_chain(row.key)
            script.chain(row)
        errors = self._nftables.nft.run(str(script))
        if not errors:
            return {}
        refused: Refused = {}
        for subject, rule in script.faults(errors):
            if isinstance(subject, NftChainKey):
                refused.setdefault(subject, (complaint(errors), []))[1].append(rule)
        return refused or {None: (complaint(errors), [])}

    def _send(self, steps: Sequence[Step]) -> Refused:
        whole, codes = self._nftables.link.apply([message for _, _, messages in steps for message in messages])
        if whole:
            return {None: (reason(whole), [])}
        refused: Refused = {}
        if not any(codes):
            return refused
        subjects = ((key, rule) for key, rules, _ in steps for rule in rules)
        for (key, rule), code in zip(subjects, codes, strict=True):
            if code:
                refused.setdefault(key, (reason(code), []))[1].append(rule)
            if code in CIRCLES:
                # The kernel looks for them with every rule from then on, so the rules behind are not to blame.
                break
        return refused

    def _halves(self, pending: Pending, moved: Collection[NftChainKey], losses: Losses) -> None:
        """Load in two transactions what fails in one without saying where; what is referred to comes first."""
        ordered = [pending[key] for key in _as_walked(pending)]
        middle = len(ordered) // 2
        for half in (ordered[:middle], ordered[middle:]):
            self._load(half, moved, losses)

    def _unload(self, keys: Sequence[NftChainKey]) -> Failures:
        """Empty all chains, for they refer to each other, then delete them."""
        pending = dict.fromkeys(keys)
        failed: Failures = {}
        for _ in range(ATTEMPTS):
            if not pending:
                return failed
            kinds = (flush_chain, delete_chain)
            steps = [(key, kind(key.family, TABLE_NAME[key.family], key.name)) for kind in kinds for key in pending]
            codes = self._nftables.link.commit([message for _, message in steps])
            refused = {key: code for (key, _), code in zip(steps, codes, strict=True) if code}
            if not refused:
                return failed
            for key, code in refused.items():
                del pending[key]
                if code != errno.ENOENT:
                    failed[key] = reason(code)
        return failed | dict.fromkeys(pending, "not tried: too many others were refused")


def _saved(rules: Sequence[wire.RuleFacts]) -> SavedChain:
    comment = rules[0].comment if rules else ""
    return SavedChain(claimed(comment, len(rules)), hash(tuple(rule.expressions for rule in rules)))


def _as_walked(pending: Pending) -> list[NftChainKey]:
    return as_walked({key: [NftChainKey(key.family, to) for to in jumps(row.rules)] for key, row in pending.items()})


def _steps(pending: Pending, moved: Collection[NftChainKey]) -> list[Step]:
    """The messages that make chains hold exactly their rules, whether they exist or not. Raises Unspoken."""
    found: list[Step] = []
    for key, row in pending.items():
        place = key.family, TABLE_NAME[key.family], key.name
        # A hook cannot be changed in place.
        away = (new_chain(*place), flush_chain(*place), delete_chain(*place)) if key in moved else ()
        hook = (NUMBERS[row.hook.hook], row.hook.priority) if row.hook is not None else None
        messages = (*away, new_chain(*place, hook), flush_chain(*place))
        found.append((key, ("",) * len(messages), messages))
    # Rules may refer to any of these chains, so all chains are made first.
    for key in _as_walked(pending):
        row = pending[key]
        first = claim(row.tag, len(row.rules))
        rules = [(expressions(key.family, text), "" if at else first) for at, text in enumerate(row.rules)]
        found.append((key, row.rules, new_rules(key.family, TABLE_NAME[key.family], key.name, rules)))
    return found
