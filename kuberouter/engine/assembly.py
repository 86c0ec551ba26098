"""Shared rules into chains: the winning `Rule` rows of a chain, in order, become the `Chain` row that drivers see."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from kuberouter.engine.ledger import Ledger
from kuberouter.model.core import ObjectRef, Owner
from kuberouter.model.netfilter import Chain, ChainKey, Rule, RuleKey, make_chain

SEVERABLE = (("", ""),)
"""Any rule of a shared chain may be left out."""


def chain_owner(chain: ChainKey) -> Owner:
    """The owner under which an assembled chain is claimed."""
    return Owner("assembly", ObjectRef("Chain", f"{chain.table.value}/{chain.family.name}", chain.name))


class Assembler:
    """Keeps the rules of every shared chain and claims the chains made of them."""

    def __init__(self, rules: Ledger[Rule], chains: Ledger[Chain]) -> None:
        self._rules = rules
        self._chains = chains
        self._content: dict[ChainKey, set[RuleKey]] = {}

    def assemble(self, changed: Iterable[Hashable]) -> None:
        """Rules under these keys came, changed or went: claim their chains anew."""
        touched: set[ChainKey] = set()
        for key in changed:
            if not isinstance(key, RuleKey):
                raise TypeError(f"not the key of a rule: {key!r}")
            content = self._content.setdefault(key.chain, set())
            if self._rules.winner(key) is None:
                content.discard(key)
            else:
                content.add(key)
            touched.add(key.chain)
        for chain in touched:
            keys = sorted(self._content[chain], key=lambda k: (k.rank, k.text))
            if not keys:
                del self._content[chain]
            rows = (make_chain(chain, tuple(k.text for k in keys), spares=SEVERABLE),) if keys else ()
            self._chains.claim(chain_owner(chain), rows)

    def blamed(self, chain: ChainKey, text: str) -> Iterator[Owner]:
        """The owners of those rules of a shared chain that a text names."""
        for key in self._content.get(chain, ()):
            if key.text in text:
                yield from self._rules.owners(key)

    def contributor(self, chain: ChainKey) -> Owner | None:
        """One of the owners whose rules make up a shared chain, or None."""
        return next((self._rules.holder(key) for key in self._content.get(chain, ())), None)
