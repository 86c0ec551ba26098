"""Services as the allocator of load balancer addresses sees them, and the part of their status that it writes."""

from __future__ import annotations

from kuberouter.model.core import Family, KeyValue, ObjectRef, Prefix, Value


class Ingress(Value, frozen=True, gc=False):
    """One item of `status.loadBalancer.ingress`: its address, empty for a host name, and the item as JSON."""

    address: bytes
    raw: bytes


class Condition(Value, frozen=True, gc=False):
    """One item of `status.conditions` (meta/v1 Condition), and the item as JSON."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    since: str = ""
    raw: bytes = b""


class BalancedService(Value, frozen=True, gc=False):
    """A Service of any type: those that want no address may still hold one."""

    ref: ObjectRef
    created: float
    version: str
    balanced: bool
    """Its type is LoadBalancer."""
    balancer_class: str = ""
    families: tuple[Family, ...] = ()
    all_families: bool = False
    """RequireDualStack: an address of one family alone is of no use."""
    requested: tuple[bytes, ...] = ()
    external_ips: tuple[bytes, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def rank(self) -> tuple[float, str, str]:
        """Of two that have one address the lower rank keeps it: the older Service."""
        return self.created, self.ref.namespace, self.ref.name


class ServiceStatusKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A Service by namespace and name."""

    namespace: str
    name: str


class ServiceStatus(Value, frozen=True, gc=False):
    """What a Service's status is to say of its addresses; items as JSON, those of others among them."""

    key: ServiceStatusKey
    version: str
    """The resourceVersion on which this is founded: with any other it is not written."""
    ingress: tuple[bytes, ...]
    conditions: tuple[bytes, ...]


class AddressPool(Value, frozen=True, gc=False):
    """Addresses for some Services: of these namespaces (none is all) and with these labels."""

    name: str
    blocks: tuple[Prefix, ...]
    namespaces: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


class BalancerSettings(Value, frozen=True, gc=False):
    """The allocator of load balancer addresses."""

    ranges: tuple[Prefix, ...]
    pools: tuple[AddressPool, ...] = ()
    """Parts of the ranges, each for its own Services only."""
    default_class: bool = True
    """Services without a class are ours."""
    edges: bool = False
    """First and last addresses of a range are given away as any other."""
    sync_period: float = 60.0
    namespace: str = ""
    """Where the lease is."""
    identity: str = ""
    """Who holds the lease."""
