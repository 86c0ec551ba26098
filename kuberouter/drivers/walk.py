"""In which order chains are loaded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def as_walked(below: Mapping[K, Sequence[K]]) -> list[K]:
    """Chains in the order in which a walk leaves them: what a chain leads to (`below`) comes before it.

    With every rule that has a verdict nf_tables walks from the base chains of the table through all others
    (nft_chain_validate), in two thirds of the time where rules lie in memory as it meets them.
    """
    # Most chains lead nowhere.
    leading = {name: leads for name, leads in below.items() if leads}
    targets = {name: [target for target in dict.fromkeys(leads) if target in below] for name, leads in leading.items()}
    referred = {target for found in targets.values() for target in found}
    # Walks begin where nobody leads to; chains that only lead to each other in a circle come last.
    waiting = [*(name for name in below if name in referred), *(name for name in below if name not in referred)]
    left: dict[K, None] = {}
    entered: set[K] = set()
    while waiting:
        name = waiting[-1]
        if name in entered or name not in targets:
            left[waiting.pop()] = None
            continue
        entered.add(name)
        waiting += [target for target in reversed(targets[name]) if target not in entered]
    return list(left)
