"""The service proxy's part: Services to IPVS, addresses, sets, guard and SNAT."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from itertools import islice

from kuberouter.cluster.allocations import ANYWHERE, MARK_MASK, candidates
from kuberouter.cluster.dependents import services
from kuberouter.compilers.names import (
    DIRECT_CHAIN,
    DUMMY_LINK,
    HAIRPIN_SET,
    INSIDE_PORT_SET,
    INSIDE_SET,
    LOCAL_ADDRESS_SET,
    POD_SUBNET_SET,
    SERVICE_ADDRESS_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
    SOURCES_CHAIN,
)
from kuberouter.compilers.services import COMPILERS
from kuberouter.daemon.parts.drain import drain, follow_flows
from kuberouter.daemon.parts.part import DriverMaker, Once, Part, register, shared
from kuberouter.daemon.xtables import XtablesChoice
from kuberouter.decode.localpod import LOCAL_PODS
from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.formerdirect import FormerDirectDriver
from kuberouter.drivers.formerproxy import FormerProxyDriver
from kuberouter.drivers.healthports import HealthPortDriver
from kuberouter.drivers.iptables import Xtables
from kuberouter.drivers.ipvs import DestinationDriver, TimeoutDriver, VirtualServiceDriver
from kuberouter.drivers.network import BridgePortDriver
from kuberouter.drivers.ownership import GoServices, Ownership
from kuberouter.drivers.podnetns import PodReceiverDriver
from kuberouter.model.cluster import MarkedPlace, MarkUse
from kuberouter.model.core import Family, L4Protocol, Row
from kuberouter.model.host import HealthPort, Sysctl
from kuberouter.model.ipvs import Destination, IpvsTimeout, VirtualService
from kuberouter.model.netfilter import Chain, FormerDirect, FormerProxy, Hook, HookRank, IpSet, Member
from kuberouter.model.network import Address, BridgePort, Link, LocalRoute
from kuberouter.model.receivers import PodReceiver
from kuberouter.model.settings import ProxySettings
from kuberouter.sources.marks import MarkSource
from kuberouter.sources.podlinks import PodLinkSource
from kuberouter.wire.cri.client import Runtime

log = logging.getLogger(__name__)

LEFT_IN_PODS = (
    "pods have answered clients directly, and --runtime-endpoint is not given: tunnels and service addresses stay in "
    "those that run, which reach themselves there instead of their Service until they are made anew"
)
PROXY_CHAINS = (DIRECT_CHAIN, SERVICES_CHAIN, SNAT_CHAIN, SOURCES_CHAIN)
"""Prefixes of the proxy's chains in iptables, and of its sets, without `inet6:`."""
PROXY_SETS = (SERVICE_ADDRESS_SET, LOCAL_ADDRESS_SET, HAIRPIN_SET, POD_SUBNET_SET)
GO_TRIES = 8
"""Most marks that the Go kube-router may have tried before it found one that was free."""


def proxy_part(settings: ProxySettings) -> Part:
    """What the service proxy brings along."""
    log.info("net.ipv4.vs.conn_reuse_mode=%d fits Linux %s", settings.reuse_mode, os.uname().release)
    part = Part("service-proxy")
    part.watched = ("nodes", "services", "endpointslices", *((LOCAL_PODS,) if settings.runtime_endpoint else ()))
    sets = {INSIDE_SET: None, INSIDE_PORT_SET: ANYWHERE}
    warning = "" if settings.runtime_endpoint else LEFT_IN_PODS
    marks = MarkSource({DIRECT_CHAIN: MarkUse.DSR}, MARK_MASK, sets=sets, revisit=(PodReceiver,), warning=warning)
    part.sources = [marks, PodLinkSource()]
    part.needs = frozenset((*part.watched, "interfaces", marks.name))
    part.dependents = [services]
    register(part, COMPILERS, settings)
    excluded = settings.excluded
    served = follow_flows(part)
    addresses = Once(
        lambda: AddressDriver(
            (DUMMY_LINK,), lambda key: key in part.desired(Address), excluded=excluded, arrived=served.arrived
        )
    )
    destinations = Once(
        lambda: DestinationDriver(ownership, lambda key: key in part.desired(Destination), served=served)
    )
    left = GoServices(
        left=lambda: addresses.get().former(),
        local=lambda: addresses.get().everywhere(),
        node_ports=settings.node_ports,
        plain=lambda key: destinations.get().plain(key),
    )
    ownership = Ownership(lambda key: key in part.desired(VirtualService), former=left.among, excluded=excluded)
    part.drivers = {
        **dict.fromkeys((Sysctl, IpSet, Member, Chain, Hook, Link), shared),
        IpvsTimeout: TimeoutDriver,
        VirtualService: lambda: VirtualServiceDriver(ownership),
        Destination: destinations.get,
        HealthPort: lambda: HealthPortDriver(lambda: part.alive()),
        BridgePort: BridgePortDriver,
        Address: addresses.get,
        LocalRoute: lambda: LocalRouteDriver(
            lambda key: key in part.desired(LocalRoute), excluded=excluded, arrived=served.arrived
        ),
    }
    if settings.runtime_endpoint:
        runtime = Runtime(settings.runtime_endpoint)
        part.drivers[PodReceiver] = lambda: PodReceiverDriver(runtime, lambda: marks.found)
        part.lenient = frozenset((PodReceiver,))
    part.chain_prefixes = PROXY_CHAINS
    part.hooks = (HookRank.SERVICES, HookRank.MASQUERADE, HookRank.MARK, HookRank.INSIDE)
    part.sets = PROXY_SETS
    part.read_late = (VirtualService, Destination, Address, LocalRoute)
    part.links = (DUMMY_LINK,)
    part.audits = [("ipvs-sync-period", settings.sync_period, tuple(part.drivers))]
    if settings.graceful:
        drain(part, settings)
    return part


def former_proxy(families: tuple[Family, ...], xtables: XtablesChoice) -> dict[type[Row], DriverMaker]:
    """Tables of what the Go kube-router has left in builtin chains, and of direct server return."""
    tools: tuple[Callable[[], Xtables], ...] = (xtables.get, xtables.other)
    return {
        FormerDirect: lambda: FormerDirectDriver(tools, families, of_the_go_kube_router),
        FormerProxy: lambda: FormerProxyDriver(tools, families),
    }


def of_the_go_kube_router(address: bytes, protocol: L4Protocol, port: int, mark: int) -> bool:
    """Whether the Go kube-router would choose this mark for a place."""
    return mark in islice(candidates(MarkedPlace(address, protocol, port)), GO_TRIES)
