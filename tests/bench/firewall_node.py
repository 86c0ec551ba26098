"""The node of the firewall bench: bytes in, through everything but the watch, into memory or a real kernel."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from kuberouter.cluster.dependents import policies
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.decode import DECODERS
from kuberouter.drivers import nftables as nft
from kuberouter.drivers.host import SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.model.core import Batch, Family, Outcome, Row
from kuberouter.model.events import Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member
from kuberouter.model.nftables import NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.settings import FirewallSettings
from tests.bench import content
from tests.bench.yardstick import stopwatch
from tests.support.world import World

ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Chain, Hook)
NFT_ROWS: tuple[type[Row], ...] = (Sysctl, NftTable, NftSet, NftElement, NftChain, NftVerdict)
PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")


def events(raws: Iterable[bytes]) -> list[Upserted]:
    """Objects as events, decoded."""
    found = []
    for raw in raws:
        kind = next(k for k in ("Pod", "Namespace", "NetworkPolicy", "Node") if f'"kind": "{k}"'.encode() in raw)
        obj, problems = DECODERS[kind](raw)
        assert obj is not None
        assert not problems, problems
        found.append(Upserted(obj))
    return found


def owns_set(name: str) -> bool:
    """Whether a set is the firewall's."""
    return name.removeprefix("inet6:").startswith(("KUBE-SRC-", "KUBE-DST-"))


class Nowhere:
    """A driver of a kernel that holds everything and costs us no memory."""

    def read(self) -> list[Row]:
        return []

    def owns(self, row: Row) -> bool:
        del row
        return True

    def write(self, batch: Batch[Row]) -> Outcome:
        del batch
        return Outcome()


class Node:
    """A node over memory drivers or those given; with a variant of iptables over those of this thread's namespace."""

    def __init__(self, variant: Variant | None = None, drivers: Mapping[type[Row], Any] | None = None) -> None:
        if variant is not None:
            self.xtables = Xtables(variant)
            drivers = {
                Sysctl: SysctlDriver(),
                IpSet: SetDriver(owns_set),
                Member: MemberDriver(owns_set),
                Chain: ChainDriver(self.xtables, tuple(Family), PREFIXES),
                Hook: HookDriver(self.xtables, tuple(Family)),
            }
        self._begin(IPTABLES, ROWS, drivers)

    def _begin(self, compilers: tuple[tuple[str, Any], ...], rows: tuple[type[Row], ...], drivers: Any) -> None:
        self.rows = rows
        self.world = World([policies], compilers, FirewallSettings(), rows, tuple(Family), drivers=drivers)
        self.world.feed(content.node())
        self.world.sync()

    def load(self) -> None:
        """Hear of the whole cluster; `world.sync` works it off."""
        for raws in (content.namespaces(), content.pods(), content.policies()):
            for raw in raws:
                self.world.feed(raw)

    def check(self) -> None:
        """The content is as big as the figures say, and stands."""
        members, chains = self._ledger(Member, NftElement), self._ledger(Chain, NftChain)
        rules = sum(len(chain.rules) for chain in chains.values())
        assert len(members) > 60_000, len(members)
        assert rules > 10_000, rules
        assert not self.world.journal.standing, self.world.journal.standing[:3]
        failed = {key: text for (row, key), text in self.world.report.failed.items() if row is not Sysctl}
        assert not failed, list(failed.items())[:3]

    def _ledger(self, *rows: type[Row]) -> Mapping[Hashable, Any]:
        """What is desired of the one of these rows that the backend has."""
        return self.world.planner.ledgers[next(row for row in rows if row in self.rows)].desired

    def take(self, changes: Iterable[Upserted]) -> int:
        """Work off events; how many rows were written."""
        for change in changes:
            self.world.put(change)
        return self.world.sync()

    def event(self, raw: bytes, *, writes: int) -> None:
        """From the bytes of one object to the last answer of the kernel."""
        self.world.feed(raw)
        written = self.world.sync()
        assert written == writes, (written, writes)

    def audit(self) -> float:
        """Seconds to read every table and to find nothing to do."""
        with stopwatch() as seconds:
            self.world.dataplane.resync(self.rows)
            written = self.world.sync()
        assert written == 0, self.world.report.batches[:1]
        assert not any(self.world.report.drift.values()), self.world.report.drift
        return seconds()


class NftNode(Node):
    """The same node with the nftables backend, in this thread's namespace."""

    def __init__(self) -> None:
        self.nftables = nft.Nftables()
        drivers = {
            Sysctl: SysctlDriver(),
            NftTable: nft.TableDriver(self.nftables),
            NftSet: nft.SetDriver(self.nftables),
            NftElement: nft.ElementDriver(self.nftables),
            NftChain: nft.ChainDriver(self.nftables),
            NftVerdict: nft.VerdictDriver(self.nftables),
        }
        self._begin(NFTABLES, NFT_ROWS, drivers)
