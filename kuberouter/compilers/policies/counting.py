"""What the counts of a profile's rules come down to, however they are spelled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from kuberouter.model.policy import Count


def accepted(asked: Sequence[tuple[str, Count]], refused: Count) -> tuple[tuple[str, Count], ...]:
    """What each policy chain let pass, from what each in turn was asked about, and what none of them let pass.

    What a policy lets pass is not what the next one is asked about.
    """
    return tuple(
        (chain, Count(count.packets - left.packets, count.bytes - left.bytes))
        for (chain, count), (_, left) in pairwise([*asked, ("", refused)])
    )
