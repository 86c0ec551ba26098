"""Changes by others to our chains, sets and tables, as drift, from the notices of nf_tables.

iptables-nft is nf_tables too, so its tables are watched as well; of ipsets and of iptables-legacy the kernel tells
nothing, and they wait for the audit.
"""

from __future__ import annotations

import logging
import time

from kuberouter.model.core import Row
from kuberouter.model.events import Drifted, Synced
from kuberouter.model.netfilter import Chain, Hook
from kuberouter.model.nftables import TABLE_NAME, NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire import nftables as wire
from kuberouter.wire.netlink import NetlinkSocket

log = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds after which a silent wait looks at `stop` again."""
PAUSE = 0.2
"""Seconds between two tellings: whoever writes rules without end must not make us read them without end."""
OURS = {(family.value, name) for family, name in TABLE_NAME.items()}
XTABLES = {(family, table) for family in (2, 10) for table in ("raw", "mangle", "filter", "nat")}
BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
NFT_ROWS: frozenset[type[Row]] = frozenset((NftTable, NftSet, NftElement, NftChain, NftVerdict))
XTABLES_ROWS: frozenset[type[Row]] = frozenset((Chain, Hook))
NOTHING: frozenset[type[Row]] = frozenset()


class NetfilterSource:
    """Watches nf_tables. What this process and the tools that it runs change themselves is never news."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.name = "netfilter"
        self.trouble = ""
        self._prefixes = prefixes
        """Of our chains in iptables."""

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Follow the notices until `stop`."""
        with NetlinkSocket(wire.NETLINK_NETFILTER, groups=(wire.NFNLGRP_NFTABLES,)) as notices:
            inbox.put(Synced(self.name))
            drifted: set[type[Row]] = set()
            told = 0.0
            while not stop.is_set():
                found = notices.notices(PAUSE if drifted else WAIT, foreign=True)
                if found is None:
                    log.info("notices of nf_tables were lost; reading everything again")
                    drifted |= NFT_ROWS | XTABLES_ROWS
                else:
                    for kind, body, _ in found:
                        drifted |= self._touched(kind, body)
                if drifted and time.monotonic() - told >= PAUSE:
                    for table in drifted:
                        inbox.put(Drifted(table))
                    drifted.clear()
                    told = time.monotonic()

    def _touched(self, kind: int, body: bytes) -> frozenset[type[Row]]:
        """The tables of rows that somebody's change may have touched."""
        change = wire.parse_change(kind, body)
        if change is None:
            return NOTHING
        where = change.family, change.table
        if where in OURS:
            return _OF_OURS.get(change.what, NFT_ROWS)
        if where not in XTABLES:
            return NOTHING
        if change.what == wire.DELTABLE:
            return XTABLES_ROWS
        if change.chain.startswith(self._prefixes):
            return XTABLES_ROWS - {Hook}
        return XTABLES_ROWS - {Chain} if change.chain in BUILTIN else NOTHING


CHAINS: frozenset[type[Row]] = frozenset((NftChain,))
ELEMENTS: frozenset[type[Row]] = frozenset((NftElement, NftVerdict))
SETS: frozenset[type[Row]] = frozenset((NftSet,))
_OF_OURS: dict[int, frozenset[type[Row]]] = {
    wire.NEWTABLE: frozenset((NftTable,)),
    wire.NEWCHAIN: CHAINS,
    wire.DELCHAIN: CHAINS,
    wire.NEWRULE: CHAINS,
    wire.DELRULE: CHAINS,
    wire.NEWSET: SETS,
    wire.DELSET: SETS | ELEMENTS,
    wire.NEWSETELEM: ELEMENTS,
    wire.DELSETELEM: ELEMENTS,
}
"""What a message about our own tables may have touched; one that is not named here may be about everything."""
