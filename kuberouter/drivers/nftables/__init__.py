"""Our nftables tables: sets, elements, chains, verdicts. Everything in a table of ours is ours.

Everything goes by netlink; every batch is one transaction (of very many elements, one per two megabytes), so a packet
meets either all of it or nothing. Sets, to which nothing refers yet, go in several, each with its elements. Only chains
with a rule for which we have no words go as a script to the tool. A row that the kernel refuses is left out, or stood
in for, and the others are tried again.
"""

from kuberouter.drivers.nftables.chains import ChainDriver
from kuberouter.drivers.nftables.sets import ElementDriver, SetDriver, VerdictDriver
from kuberouter.drivers.nftables.shared import Nftables
from kuberouter.drivers.nftables.tables import FormerTableDriver, TableDriver

__all__ = [
    "ChainDriver",
    "ElementDriver",
    "FormerTableDriver",
    "Nftables",
    "SetDriver",
    "TableDriver",
    "VerdictDriver",
]
