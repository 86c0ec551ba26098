"""Tables of iptables as nf_tables itself tells of them: which chains there are, and the comments of ours.

The tools show nothing of a table in which somebody has put a rule that they have no words for (with nft, or with an
extension that is not installed here). Writing to it goes on all the same, so it must be known what is there.
"""

from __future__ import annotations

from collections.abc import Collection

from kuberouter.model.core import Family
from kuberouter.wire.nftables import NftSocket, chains, rule_marks
from kuberouter.wire.text.iptables import SavedTable, commented
from kuberouter.wire.text.tags import MARKER


def marks(link: NftSocket, family: Family, tables: Collection[str]) -> dict[str, SavedTable]:
    """These tables, as far as they exist; rules and chains of ours have their tags, and no rule has words."""
    found: dict[str, SavedTable] = {}
    for table in tables:
        hooked = {facts.name: facts.hook is not None for facts in chains(link, family, table)}
        if hooked:
            rules = rule_marks(link, family, table, MARKER.encode())
            found[table] = commented(rules, [n for n, is_base in hooked.items() if is_base], hooked)
    return found
