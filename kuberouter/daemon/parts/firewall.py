"""The firewall's part: network policies as iptables with ipsets, or as nftables."""

from __future__ import annotations

from kuberouter.cluster.dependents import policies
from kuberouter.compilers.policies import IPTABLES, NFTABLES
from kuberouter.compilers.policies.names import NFLOG_GROUP
from kuberouter.daemon.drops import DropLog
from kuberouter.daemon.parts.part import DriverMaker, Once, Part, register, shared
from kuberouter.daemon.xtables import XtablesChoice
from kuberouter.drivers import nftables as nft
from kuberouter.drivers.former import FormerIptablesDriver
from kuberouter.drivers.formerpolicy import FormerPolicyDriver
from kuberouter.model.core import Family, Row
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, FormerIptables, FormerPolicy, Hook, HookRank, IpSet, Member
from kuberouter.model.nftables import FormerTable, NftChain, NftElement, NftSet, NftTable, NftVerdict
from kuberouter.model.settings import FirewallSettings
from kuberouter.sources.drops import DropSource
from kuberouter.sources.podlinks import PodLinkSource

CHAINS = (
    "KUBE-ROUTER-INPUT",
    "KUBE-ROUTER-FORWARD",
    "KUBE-ROUTER-OUTPUT",
    "KUBE-ROUTER-POD-",
    "KUBE-POD-FW-",
    "KUBE-NWPLCY-",
)
"""Prefixes of the firewall's chains in iptables."""
SETS = ("KUBE-SRC-", "KUBE-DST-", "kube-router-local-pods")
"""Prefixes of its ipsets, without `inet6:`; the last one is made by the Go kube-router only."""


def firewall_part(settings: FirewallSettings, *, per_pod: bool = False) -> Part:
    """What the firewall brings along. `per_pod`: the metrics tell pods apart."""
    part = Part("firewall")
    needed = ("nodes", "namespaces", "pods", "networkpolicies")
    # Services only widen what a pod may reach; whoever does not grant them gets policy all the same.
    part.watched = (*needed, "services")
    part.needs = frozenset((*needed, "interfaces", "podlinks"))
    part.dependents = [policies]
    part.sources = [PodLinkSource()]
    if settings.log_drops:
        _log_drops(part, per_pod=per_pod)
    if settings.nftables:
        register(part, NFTABLES, settings)
        kernel = Once(nft.Nftables)
        part.drivers = {
            Sysctl: shared,
            NftTable: lambda: nft.TableDriver(kernel.get()),
            NftSet: lambda: nft.SetDriver(kernel.get()),
            NftElement: lambda: nft.ElementDriver(kernel.get()),
            NftChain: lambda: nft.ChainDriver(kernel.get()),
            NftVerdict: lambda: nft.VerdictDriver(kernel.get()),
        }
    else:
        register(part, IPTABLES, settings)
        part.drivers = dict.fromkeys((Sysctl, IpSet, Member, Chain, Hook), shared)
        part.chain_prefixes = CHAINS
        part.hooks = (HookRank.POLICY,)
        part.sets = SETS
    part.audits = [("iptables-sync-period", settings.sync_period, tuple(part.drivers))]
    return part


def _log_drops(part: Part, *, per_pod: bool) -> None:
    """Tell of what is dropped."""
    drops = DropLog(lambda: part.view(), per_pod=per_pod)
    source = DropSource(NFLOG_GROUP, drops.tell)
    part.sources.append(source)
    part.shows.append(lambda: drops.show(reading=source.reading))


def former_firewall(settings: FirewallSettings, xtables: XtablesChoice) -> dict[type[Row], DriverMaker]:
    """What removes the rules that the firewall's other backend, or the Go kube-router, has left behind."""
    tools = (xtables.get, xtables.other)
    former: dict[type[Row], DriverMaker] = {FormerPolicy: lambda: FormerPolicyDriver(tools, tuple(Family))}
    if settings.nftables:
        return former | {
            FormerIptables: lambda: FormerIptablesDriver(tools, tuple(Family), CHAINS, (HookRank.POLICY,), SETS)
        }
    return former | {FormerTable: lambda: nft.FormerTableDriver(nft.Nftables())}
