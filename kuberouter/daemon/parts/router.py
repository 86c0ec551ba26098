"""The route controller's part: gobgpd, learned routes, tunnels, pod bridge and CNI settings."""

from __future__ import annotations

from kuberouter.cluster.dependents import routing
from kuberouter.compilers.names import (
    BGP_SETS,
    BRIDGE_LINK,
    IMPORT_SETS,
    NODE_ADDRESS_SET,
    PLAIN_SET,
    POD_SUBNET_SET,
    POLICY_PREFIX,
    TUNNEL_PREFIX,
    TUNNEL_TABLE,
)
from kuberouter.compilers.routing import COMPILERS, OF_ANNOTATIONS
from kuberouter.daemon.cloud import CloudWorker
from kuberouter.daemon.gobgpd import Supervisor
from kuberouter.daemon.parts.part import DriverMaker, Part, register, shared
from kuberouter.daemon.xtables import XtablesChoice
from kuberouter.drivers.cloud import SourceCheckDriver
from kuberouter.drivers.formeregress import FormerEgressDriver
from kuberouter.drivers.fouports import FouPortDriver
from kuberouter.drivers.host import CniDriver
from kuberouter.drivers.network import PolicyRuleDriver, RouteDriver
from kuberouter.engine.planner import POD_CIDR_KNOWN
from kuberouter.model import bgp
from kuberouter.model.core import Family, ObjectRef, Row
from kuberouter.model.events import ANNOTATIONS
from kuberouter.model.host import CniSettings, NoSourceCheck, Sysctl
from kuberouter.model.netfilter import FormerEgress, Hook, HookRank, IpSet, Member
from kuberouter.model.network import TABLE_MAIN, FouPort, Link, PolicyRule, Route
from kuberouter.model.settings import RouterSettings
from kuberouter.wire.aws import Ec2

ROUTER_SETS = (POD_SUBNET_SET, NODE_ADDRESS_SET, PLAIN_SET)
"""Names of the route controller's sets, without `inet6:`."""


def router_part(settings: RouterSettings, node: str) -> Part:
    """What the route controller of a node brings along."""
    # gRPC is heavy, and only this controller speaks it.
    from kuberouter.daemon.bgpcounts import BgpCounts
    from kuberouter.drivers import bgp as drivers
    from kuberouter.sources.learned import LearnedSource
    from kuberouter.sources.sessions import SessionSource
    from kuberouter.wire.gobgp.client import Connection
    from kuberouter.wire.gobgp.gobgpd import Gobgp

    gobgp = Gobgp(Connection(f"unix://{settings.gobgp_socket}"))
    part = Part("router")
    part.watched = ("nodes", "services", "endpointslices")
    # What is learned is no condition for a start: gobgpd learns nothing before it is told who it is.
    part.needs = frozenset((*part.watched, "interfaces"))
    part.dependents = [routing]
    deferral = settings.graceful.deferral_time if settings.graceful is not None else 0
    learned = LearnedSource(gobgp, longest=deferral)
    part.sources = [learned, SessionSource(gobgp, ObjectRef("Node", "", node))]
    if settings.gobgp_spawn:
        part.sources.append(Supervisor(settings.gobgp_socket, settings.gobgp_listeners))
    part.shows.append(BgpCounts(gobgp, lambda: learned.received).show)
    register(part, COMPILERS, settings, besides=dict.fromkeys(OF_ANNOTATIONS, ANNOTATIONS))
    tables = (TABLE_MAIN, TUNNEL_TABLE)
    part.drivers = {
        **dict.fromkeys((Sysctl, IpSet, Member, Hook, Link), shared),
        FouPort: lambda: FouPortDriver((TUNNEL_PREFIX,), lambda key: key in part.desired(FouPort)),
        Route: lambda: RouteDriver(tables),
        PolicyRule: lambda: PolicyRuleDriver((TUNNEL_TABLE,)),
        bgp.Speaker: lambda: drivers.SpeakerDriver(gobgp),
        bgp.DefinedSet: lambda: drivers.DefinedSetDriver(gobgp, BGP_SETS),
        bgp.PrefixSetEntry: lambda: drivers.PrefixEntryDriver(gobgp, BGP_SETS, imports=IMPORT_SETS),
        bgp.NeighborSetEntry: lambda: drivers.NeighborEntryDriver(gobgp, BGP_SETS),
        bgp.Statement: lambda: drivers.StatementDriver(gobgp, BGP_SETS),
        bgp.Policy: lambda: drivers.PolicyDriver(gobgp, POLICY_PREFIX),
        bgp.PolicyAssignment: lambda: drivers.AssignmentDriver(gobgp),
        bgp.Peer: lambda: drivers.PeerDriver(gobgp),
        bgp.Path: lambda: drivers.PathDriver(gobgp),
    }
    if settings.cni:
        # No pod gets an address before.
        part.ready_with = frozenset((POD_CIDR_KNOWN,))
        part.drivers[CniSettings] = lambda: CniDriver((settings.cni_file,))
    if settings.disable_source_check:
        checks = SourceCheckDriver(Ec2())
        part.drivers[NoSourceCheck] = lambda: checks
        part.lenient = frozenset((NoSourceCheck,))
        part.sources.append(CloudWorker(NoSourceCheck, checks.work))
    part.removals_await = {**dict.fromkeys((Link, Route), "learned"), **dict.fromkeys(bgp.TABLES, ANNOTATIONS)}
    part.hooks = (HookRank.FORWARD, HookRank.EGRESS)
    part.sets = ROUTER_SETS
    part.links = (BRIDGE_LINK,)
    part.link_prefixes = (TUNNEL_PREFIX,)
    kernel = (FouPort, Link, Route, PolicyRule)
    others = tuple(row for row in part.drivers if row not in kernel)
    part.audits = [
        ("injected-routes-sync-period", settings.route_sync_period, kernel),
        ("routes-sync-period", settings.sync_period, others),
    ]
    return part


def former_router(xtables: XtablesChoice) -> dict[type[Row], DriverMaker]:
    """The table of what the Go kube-router has left in builtin chains; in either variant, and in both families."""
    return {FormerEgress: lambda: FormerEgressDriver((xtables.get, xtables.other), tuple(Family))}
