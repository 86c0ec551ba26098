"""One node's firewall from manifests to the kernel of a namespace: decode, cluster, compilers, ledger, real drivers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kuberouter.cluster.dependents import policies
from kuberouter.cluster.store import Cluster
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.decode import DECODERS
from kuberouter.drivers import nftables as nft
from kuberouter.drivers.host import SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.engine.dataplane import Dataplane, Report, Table
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import Planner, Registered
from kuberouter.model.core import Family, ObjectRef, Row
from kuberouter.model.events import Deleted, Event, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, Rule
from kuberouter.model.nftables import NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.settings import FirewallSettings, NodeSettings
from tests.support.lab.netns import inside

PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
SETS = ("KUBE-SRC-", "KUBE-DST-", "inet6:KUBE-SRC-", "inet6:KUBE-DST-")
FAMILIES = {4: Family.IPV4, 6: Family.IPV6}
VARIANTS = {"iptables-nft": Variant.NFT, "iptables-legacy": Variant.LEGACY}

PATIENCE = 10.0
"""Seconds that the kernel may take to let go of a set."""

Manifest = Mapping[str, Any]


def ours(name: str) -> bool:
    """Whether a set is the firewall's."""
    return name.startswith(SETS)


def _iptables(variant: Variant, families: tuple[Family, ...]) -> list[Table[Any]]:
    xtables = Xtables(variant)
    return [
        Table(IpSet, SetDriver(ours)),
        Table(Member, MemberDriver(ours)),
        Table(Chain, ChainDriver(xtables, families, PREFIXES)),
        Table(Hook, HookDriver(xtables, families)),
    ]


def _nftables() -> list[Table[Any]]:
    kernel = nft.Nftables()
    return [
        Table(NftTable, nft.TableDriver(kernel)),
        Table(NftSet, nft.SetDriver(kernel)),
        Table(NftElement, nft.ElementDriver(kernel)),
        Table(NftChain, nft.ChainDriver(kernel)),
        Table(NftVerdict, nft.VerdictDriver(kernel)),
    ]


def _only_busy(report: Report) -> bool:
    """Whether nothing failed, except that sets were not removed because they are in use: a matter of time.

    The kernel frees what a removed rule of iptables-nft held at its leisure; the daemon tries again as well.
    """
    return all("IPSET_ERR_BUSY" in text for text in report.failed.values())


class Firewall:
    """What the daemon runs for NetworkPolicy on one node, without its threads and sources."""

    def __init__(self, node: str, namespace: str, backend: str, versions: Sequence[int] = (4, 6)) -> None:
        """`backend` is nftables, iptables-nft or iptables-legacy; `versions` are those of IP that the cluster has."""
        self._namespace = namespace
        families = tuple(FAMILIES[version] for version in versions)
        cluster = Cluster(NodeSettings(node, families), (policies,))
        settings = FirewallSettings()
        variant = VARIANTS.get(backend)
        named = NFTABLES if variant is None else IPTABLES
        compilers = [Registered(name, "firewall", compiler, settings) for name, compiler in named]
        with inside(namespace):
            kernel = _nftables() if variant is None else _iptables(variant, families)
            tables = [Table(Sysctl, SysctlDriver()), *kernel]
            rows: list[type[Row]] = [table.row for table in tables]
            self.planner = Planner(cluster, compilers, [*rows, Rule], Journal())
            self.dataplane = Dataplane(tables, self.planner.ledgers)
        self._objects: dict[ObjectRef, Manifest] = {}

    def apply(self, manifests: Iterable[Manifest]) -> Report:
        """Make these the cluster's objects and write what follows from the difference."""
        events: list[Event] = []
        wanted: dict[ObjectRef, Manifest] = {}
        for manifest in manifests:
            obj, problems = DECODERS[manifest["kind"]](json.dumps(manifest).encode())
            assert not problems, problems
            assert obj is not None
            wanted[obj.ref] = manifest
            if self._objects.get(obj.ref) != manifest:
                events.append(Upserted(obj))
        events += [Deleted(ref) for ref in self._objects if ref not in wanted]
        self._objects = wanted
        with inside(self._namespace):
            changes = self.planner.step(events)
            assert not self.planner.backlog
            report = self.dataplane.converge(changes, synced=self.planner.synced, now=time.monotonic())
            end = time.monotonic() + PATIENCE
            while _only_busy(report) and (due := self.dataplane.next_due()) and time.monotonic() < end:
                time.sleep(0.05)
                report = self.dataplane.converge({}, synced=self.planner.synced, now=due)
        assert not report.failed, report.failed
        assert self.dataplane.next_due() is None, "something is still to be done"
        errors = {row.__name__: table.error for row, table in self.dataplane.tables.items() if table.error}
        assert not errors, errors
        assert not self.planner.journal.standing, self.planner.journal.standing
        return report
