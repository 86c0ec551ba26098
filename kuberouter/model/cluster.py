"""Cluster objects as the daemon knows them: only the fields that some compiler reads, annotations already typed.

Addresses are packed bytes, label sets are tuples of pairs sorted by key, times are seconds since the epoch. Field
meanings follow the Kubernetes API reference of the kind; what differs is said at the field.
"""

from __future__ import annotations

import enum

from kuberouter.model.balancer import BalancedService
from kuberouter.model.bgp import NodeBgp
from kuberouter.model.core import KeyValue, L4Protocol, ObjectRef, Prefix, Problem, Value
from kuberouter.model.ipvs import DestinationKey, Forward

Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by key."""


class Operator(enum.StrEnum):
    """Operators of a label selector requirement (meta/v1 LabelSelectorRequirement)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One `matchExpressions` item; `values` sorted and without duplicates. `matchLabels` become IN with one value."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A label selector in normal form: all requirements must hold, sorted, so that equal selectors are equal values.

    No requirements selects everything. An absent selector is None in the field that holds it.
    """

    requirements: tuple[Requirement, ...] = ()


# --- Services -------------------------------------------------------------------------------------------------------


class ServiceType(enum.Enum):
    """`spec.type` of a Service."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class ServicePort(Value, frozen=True, gc=False):
    """One port of a Service. `name` is empty for the only, unnamed port; it ties the port to EndpointSlice ports."""

    name: str
    protocol: L4Protocol
    port: int
    node_port: int = 0


class ServiceOptions(Value, frozen=True, gc=False):
    """The `kube-router.io/service.*` annotations, typed."""

    scheduler: str = "rr"
    sched_flags: int = 0
    """Bits of IP_VS_SVC_F_SCHED1 to 3 (linux/ip_vs.h), which only the schedulers mh and sh read."""
    local: bool = False
    """External traffic goes to endpoints of this node only, internal traffic to all, whatever the policies say."""
    hairpin: bool = False
    """Endpoints may reach themselves through the Service, also where `--hairpin-mode` is off."""
    hairpin_external: bool = False
    """Kept for its users: hairpin holds for external and load balancer addresses anyway."""
    skip_lb_ips: bool = False
    """Load balancer addresses are not served here."""
    dsr: bool = False
    """Endpoints answer outside clients themselves, past this node."""
    advertise_cluster_ip: bool | None = None
    advertise_external_ip: bool | None = None
    advertise_load_balancer_ip: bool | None = None
    """Whether peers outside the cluster are told of addresses of a kind; None leaves it to the flag."""


class Service(Value, frozen=True, gc=False):
    """A Service. Headless and foreign-proxied ones are kept (`cluster_ips` empty, `proxied` False)."""

    ref: ObjectRef
    created: float
    type: ServiceType
    cluster_ips: tuple[bytes, ...] = ()
    external_ips: tuple[bytes, ...] = ()
    load_balancer_ips: tuple[bytes, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    affinity_seconds: int = 0
    """ClientIP session affinity timeout; 0 is no affinity."""
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0
    publish_not_ready: bool = False
    source_ranges: tuple[Prefix, ...] | None = None
    """Who may reach the load balancer addresses; None is everybody, none at all is nobody."""
    proxied: bool = True
    """False when the labels `service-proxy-name` or `headless` hand the Service to somebody else."""
    options: ServiceOptions = ServiceOptions()

    @property
    def served(self) -> bool:
        """Whether a proxy has anything to do: not for ExternalName, headless ones and those of other proxies."""
        return self.proxied and bool(self.cluster_ips)


class EndpointCondition(enum.IntFlag):
    """Conditions of an endpoint (discovery/v1 EndpointConditions), nil values already defaulted."""

    READY = 1
    SERVING = 2
    TERMINATING = 4


class Hints(KeyValue, frozen=True, gc=False, cache_hash=True):
    """For which zones and which nodes an endpoint is meant (discovery/v1 EndpointHints); empty is no hint."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Endpoint(Value, frozen=True, gc=False):
    """One endpoint of a slice; `address` is its first address (the API says all are interchangeable)."""

    address: bytes
    conditions: int
    """Bits of `EndpointCondition`."""
    node: str = ""
    hints: Hints | None = None


class SlicePort(Value, frozen=True, gc=False):
    """One port of an EndpointSlice. `name` matches the Service port's name."""

    name: str
    protocol: L4Protocol
    port: int


class EndpointSlice(Value, frozen=True, gc=False):
    """An EndpointSlice of addressType IPv4 or IPv6, tied to its Service by name in the same namespace."""

    ref: ObjectRef
    service: ObjectRef
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


# --- Pods, namespaces, policies -------------------------------------------------------------------------------------


class ContainerPort(Value, frozen=True, gc=False):
    """A named container port; unnamed ones are not kept."""

    name: str
    protocol: L4Protocol
    number: int


class Pod(Value, frozen=True, gc=False):
    """A Pod. `addresses` are `status.podIPs` (or `podIP` where that list is empty), first of each family first."""

    ref: ObjectRef
    node: str
    labels: Labels = ()
    addresses: tuple[bytes, ...] = ()
    host_network: bool = False
    finished: bool = False
    """Phase Succeeded or Failed: neither target nor peer of a policy, and its addresses may be somebody else's."""
    ports: tuple[ContainerPort, ...] = ()
    grace: int = 30
    """Seconds that it has from being told to end until it is killed."""


class Namespace(Value, frozen=True, gc=False):
    """A Namespace: its labels, and what it says of its own isolation."""

    ref: ObjectRef
    labels: Labels = ()
    default_deny: bool = False
    """The annotation `net.beta.kubernetes.io/network-policy` asks for ingress isolation of all its pods."""


class IpBlock(KeyValue, frozen=True, gc=False, cache_hash=True):
    """`ipBlock` of a policy peer: inside `prefix` and in none of `excepts`."""

    prefix: Prefix
    excepts: tuple[Prefix, ...] = ()


class PolicyPeer(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One item of `from` or `to`: either `block`, or pods by `namespaces` and `pods` (None: selector absent)."""

    block: IpBlock | None = None
    namespaces: Selector | None = None
    pods: Selector | None = None


class PolicyPort(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One item of `ports`: a named port, a number (`end` 0) or an inclusive range; neither is the whole protocol."""

    protocol: L4Protocol = L4Protocol.TCP
    number: int = 0
    end: int = 0
    name: str = ""


class PolicyRule(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One ingress or egress rule. Empty `peers` is anybody, empty `ports` is everything, as in the API."""

    peers: tuple[PolicyPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


class NetworkPolicy(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A networking.k8s.io/v1 NetworkPolicy with `policyTypes` already defaulted.

    `ingress` is None when the policy does not govern ingress; an empty tuple denies everything. Likewise `egress`.
    `problems` is not empty when a part could not be understood: the policy then closes the pods it selects, in the
    directions it governs, until it is mended.
    """

    ref: ObjectRef
    created: float
    pods: Selector
    ingress: tuple[PolicyRule, ...] | None = None
    egress: tuple[PolicyRule, ...] | None = None
    problems: tuple[Problem, ...] = ()


# --- Nodes and what the node itself tells ----------------------------------------------------------------------------


class NodeOptions(Value, frozen=True, gc=False):
    """The `kube-router.io/*` annotations of a Node that are typed so far."""

    pod_cidrs: tuple[Prefix, ...] = ()
    """`kube-router.io/pod-cidrs` or the older `pod-cidr`; overrides `spec.podCIDRs`."""
    bgp: NodeBgp = NodeBgp()


class Node(Value, frozen=True, gc=False):
    """A Node. Address lists keep the order of `status.addresses`; hostnames are left out."""

    ref: ObjectRef
    internal_addresses: tuple[bytes, ...] = ()
    external_addresses: tuple[bytes, ...] = ()
    spec_pod_cidrs: tuple[Prefix, ...] = ()
    options: NodeOptions = NodeOptions()
    zone: str = ""
    """Label `topology.kubernetes.io/zone`."""
    draining: bool = False
    """It is about to go, by an annotation or a taint."""
    unschedulable: bool = False
    """It takes no new pods (`spec.unschedulable`)."""
    provider_id: str = ""
    """What the cloud calls it (`spec.providerID`)."""

    @property
    def pod_cidrs(self) -> tuple[Prefix, ...]:
        """The annotation's CIDRs where given, else those of the spec."""
        return self.options.pod_cidrs or self.spec_pod_cidrs


class InterfaceAddress(Value, frozen=True, gc=False):
    """An address on a local link with the length of its connected prefix."""

    address: bytes
    length: int


class Interface(Value, frozen=True, gc=False):
    """A local network link as the kernel tells it (rtnetlink(7)). ref: kind `Interface`, name is the link name."""

    ref: ObjectRef
    index: int
    mtu: int
    addresses: tuple[InterfaceAddress, ...] = ()


class PodLink(Value, frozen=True, gc=False):
    """The host's end of a link into another namespace. ref: kind `PodLink`, name is the link name.

    `addresses` are the first global ones of each family that the other end had when it was first seen with any;
    `bridged` says that the link is the port of a bridge, `witnessed` that the addresses are known to be those that the
    pod was given: it was seen to come, or its maker has written them down.
    """

    ref: ObjectRef
    addresses: tuple[bytes, ...]
    bridged: bool = False
    witnessed: bool = False


class LearnedRoute(Value, frozen=True, gc=False):
    """Best paths that gobgpd learned for a prefix. ref: kind `LearnedRoute`, name is the prefix as text."""

    ref: ObjectRef
    prefix: Prefix
    next_hops: tuple[bytes, ...]


class ForeignRoute(Value, frozen=True, gc=False):
    """What this host has in its main table for a prefix by other means than ours. ref: kind `ForeignRoute`.

    The name of the ref is the prefix as text, as in a learned route's. `text` shows the routes as `ip route` does.
    """

    ref: ObjectRef
    text: str


class LocalPod(Value, frozen=True, gc=False):
    """A pod of this node as its container runtime knows it. ref: kind `LocalPod`, named as the pod.

    `container` is the first by id of its containers that run, init and ephemeral ones too, as the runtime names it
    (without `containerd://`); empty while none does.
    """

    ref: ObjectRef
    node: str
    addresses: tuple[bytes, ...] = ()
    container: str = ""
    host_network: bool = False


class MarkUse(enum.StrEnum):
    """Why packets to a place are marked; the value is the part of the mark's name that says so."""

    DSR = ""
    """Endpoints answer directly."""
    INSIDE = "inside"
    """Clients of the cluster find other endpoints than those outside."""


class MarkedPlace(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Packets to an address, protocol and port that are told apart by a firewall mark."""

    address: bytes
    protocol: L4Protocol
    port: int
    use: MarkUse = MarkUse.DSR


class KnownMark(Value, frozen=True, gc=False):
    """A firewall mark that the kernel was found to use at the start. ref: kind `KnownMark`, name says where.

    `place` is None where the mark belongs to somebody else.
    """

    ref: ObjectRef
    mark: int
    place: MarkedPlace | None = None


class Departed(Value, frozen=True, gc=False):
    """A destination that is no longer wanted and keeps the connections that it has: what happened, held as state.

    ref: kind `Departed`; its name is the destination with `since`, so that one which returns and departs again is
    another object. It is gone once its connections are, at its deadline, or when the destination is wanted again.
    """

    ref: ObjectRef
    key: DestinationKey
    forward: Forward
    since: float
    """When it was released, in seconds of the engine's clock."""


ClusterObject = (
    Service
    | BalancedService
    | EndpointSlice
    | Pod
    | Namespace
    | NetworkPolicy
    | Node
    | Interface
    | PodLink
    | LearnedRoute
    | ForeignRoute
    | LocalPod
    | KnownMark
    | Departed
)
