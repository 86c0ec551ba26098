"""The service proxy's part: Services to IPVS, addresses, sets, guard and SNAT."""

from __future__ import annotations

from kuberouter.cluster.dependents import services
from kuberouter.compilers.names import (
    DUMMY_LINK,
    HAIRPIN_SET,
    LOCAL_ADDRESS_SET,
    SERVICE_ADDRESS_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
    SOURCES_CHAIN,
)
from kuberouter.compilers.services import COMPILERS
from kuberouter.daemon.parts.part import Once, Part, register, shared
from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.healthports import HealthPortDriver
from kuberouter.drivers.ipvs import DestinationDriver, TimeoutDriver, VirtualServiceDriver
from kuberouter.drivers.ownership import Ownership
from kuberouter.model.host import HealthPort, Sysctl
from kuberouter.model.ipvs import Destination, IpvsTimeout, VirtualService
from kuberouter.model.netfilter import Chain, Hook, HookRank, IpSet, Member
from kuberouter.model.network import Address, Link, LocalRoute
from kuberouter.model.settings import ProxySettings


def proxy_part(settings: ProxySettings) -> Part:
    """What the service proxy brings along."""
    part = Part("service-proxy")
    part.watched = ("nodes", "services", "endpointslices")
    part.needs = frozenset((*part.watched, "interfaces"))
    part.dependents = [services]
    register(part, COMPILERS, settings)
    excluded = settings.excluded
    addresses = Once(lambda: AddressDriver((DUMMY_LINK,), lambda key: key in part.desired(Address), excluded=excluded))
    ownership = Ownership(
        lambda key: key in part.desired(VirtualService),
        former_addresses=lambda: addresses.get().former(),
        excluded=excluded,
    )
    part.drivers = {
        **dict.fromkeys((Sysctl, IpSet, Member, Chain, Hook, Link), shared),
        IpvsTimeout: TimeoutDriver,
        VirtualService: lambda: VirtualServiceDriver(ownership),
        Destination: lambda: DestinationDriver(ownership, lambda key: key in part.desired(Destination)),
        HealthPort: lambda: HealthPortDriver(lambda: part.alive()),
        Address: addresses.get,
        LocalRoute: lambda: LocalRouteDriver(lambda key: key in part.desired(LocalRoute), excluded=excluded),
    }
    part.chain_prefixes = (SERVICES_CHAIN, SNAT_CHAIN, SOURCES_CHAIN)
    part.hooks = (HookRank.SERVICES, HookRank.MASQUERADE)
    part.sets = (SERVICE_ADDRESS_SET, LOCAL_ADDRESS_SET, HAIRPIN_SET)
    part.links = (DUMMY_LINK,)
    part.audits = [(settings.sync_period, tuple(part.drivers))]
    return part
