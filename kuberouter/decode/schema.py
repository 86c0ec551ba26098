"""The JSON fields that we read, kind by kind: bytes to struct in one pass, everything else skipped unread.

Field names follow the Kubernetes API reference. A field of a wrong type fails the object, with its path.
"""

from __future__ import annotations

import msgspec

NULL = msgspec.Raw(b"null")
"""A field that is kept as bytes and is not there: the same as null."""


class Json(msgspec.Struct, gc=False, rename="camel"):
    """Base of the raw structs: camelCase names, unknown fields skipped."""


class OwnerReference(Json):
    kind: str = ""
    name: str = ""


class Metadata(Json):
    name: str = ""
    namespace: str | None = None
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class Identity(Json):
    """What names an object, whatever the rest of it looks like."""

    name: str = ""
    namespace: str | None = None
    resource_version: str = ""


class Named(Json):
    """The least that any object has; tells which object it is that cannot be read."""

    kind: str = ""
    metadata: Identity = msgspec.field(default_factory=Identity)


class RawServicePort(Json):
    port: int
    name: str = ""
    protocol: str = ""
    node_port: int = 0


class ClientIp(Json):
    timeout_seconds: int | None = None


class AffinityConfig(Json):
    client_ip: ClientIp | None = msgspec.field(default=None, name="clientIP")


class Ingress(Json):
    ip: str = ""
    ip_mode: str | None = None


class LoadBalancer(Json):
    ingress: list[Ingress] | None = None


class ServiceStatus(Json):
    load_balancer: LoadBalancer | None = None


class ServiceSpec(Json):
    type: str = ""
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    ports: list[RawServicePort] | None = None
    session_affinity: str = ""
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    load_balancer_source_ranges: list[str] | None = None


class RawService(Json):
    metadata: Metadata
    spec: ServiceSpec
    status: ServiceStatus | None = None


class RawConditions(Json):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class HintTarget(Json):
    name: str


class RawHints(Json):
    for_zones: list[HintTarget] | None = None
    for_nodes: list[HintTarget] | None = None


class RawEndpoint(Json):
    addresses: list[str]
    conditions: RawConditions | None = None
    node_name: str | None = None
    hints: RawHints | None = None


class RawSlicePort(Json):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class RawEndpointSlice(Json):
    metadata: Metadata
    address_type: str = ""
    endpoints: list[RawEndpoint] | None = None
    ports: list[RawSlicePort] | None = None


class RawContainerPort(Json):
    container_port: int
    name: str = ""
    protocol: str = ""


class RawContainer(Json):
    ports: list[RawContainerPort] | None = None
    restart_policy: str | None = None


class PodEndMetadata(Identity):
    deletion_grace_period_seconds: int | None = None


class PodMetadata(PodEndMetadata):
    """There are more pods than anything else, and what else they say of themselves is for others."""

    labels: dict[str, str] | None = None


class PodSpec(Json):
    node_name: str = ""
    termination_grace_period_seconds: int | None = None
    host_network: bool = False
    containers: list[RawContainer] | None = None
    init_containers: list[RawContainer] | None = None


class PodAddress(Json):
    ip: str = ""


class PodStatus(Json):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodAddress] | None = msgspec.field(default=None, name="podIPs")


class RawPod(Json):
    metadata: PodMetadata
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus | None = None


class Running(Json):
    """Only that it is there counts."""


class RawState(Json):
    running: Running | None = None


class RawContainerStatus(Json):
    container_id: str = msgspec.field(default="", name="containerID")
    state: RawState | None = None


class LocalPodStatus(Json):
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodAddress] | None = msgspec.field(default=None, name="podIPs")
    container_statuses: list[RawContainerStatus] | None = None
    init_container_statuses: list[RawContainerStatus] | None = None
    ephemeral_container_statuses: list[RawContainerStatus] | None = None


class LocalPodSpec(Json):
    node_name: str = ""
    host_network: bool = False


class RawLocalPod(Json):
    """A Pod, read for where it runs."""

    metadata: Metadata
    spec: LocalPodSpec = msgspec.field(default_factory=LocalPodSpec)
    status: LocalPodStatus | None = None


class PodEndSpec(Json):
    termination_grace_period_seconds: int | None = None


class RawPodEnd(Json):
    """Of a pod only whose addresses they are and how long it may take to end."""

    metadata: PodEndMetadata
    spec: PodEndSpec = msgspec.field(default_factory=PodEndSpec)
    status: PodStatus | None = None


class RawNamespace(Json):
    metadata: Metadata


class IngressIsolation(Json):
    isolation: str = ""


class NamespacePolicy(Json):
    """The annotation by which a namespace asked for isolation before there was a NetworkPolicy API."""

    ingress: IngressIsolation | None = None


class NodeAddress(Json):
    type: str
    address: str


class NodeTaint(Json):
    key: str = ""


class NodeSpec(Json):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[NodeTaint] | None = None
    unschedulable: bool = False
    provider_id: str = msgspec.field(default="", name="providerID")


class NodeStatus(Json):
    addresses: list[NodeAddress] | None = None


class RawNode(Json):
    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class RawExpression(Json):
    key: str
    operator: str
    values: list[str] | None = None


class RawSelector(Json):
    match_labels: dict[str, str | None] | None = None
    match_expressions: list[RawExpression] | None = None


class RawRequirements(Json):
    """A selector that is read requirement by requirement."""

    match_labels: msgspec.Raw = NULL
    match_expressions: msgspec.Raw = NULL


class RawIpBlock(Json):
    cidr: str
    excepts: list[str] | None = msgspec.field(default=None, name="except")


class RawPeer(Json):
    pod_selector: RawSelector | None = None
    namespace_selector: RawSelector | None = None
    ip_block: RawIpBlock | None = None


class RawPolicyPort(Json):
    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class RawIngressRule(Json):
    peers: list[RawPeer] | None = msgspec.field(default=None, name="from")
    ports: list[RawPolicyPort] | None = None


class RawEgressRule(Json):
    peers: list[RawPeer] | None = msgspec.field(default=None, name="to")
    ports: list[RawPolicyPort] | None = None


class PolicySpec(Json):
    pod_selector: msgspec.Raw = NULL
    policy_types: list[str] | None = None
    ingress: list[msgspec.Raw] | None = None
    egress: list[msgspec.Raw] | None = None


class RawNetworkPolicy(Json):
    metadata: Metadata
    spec: PolicySpec


class PolicyTarget(Json):
    pod_selector: msgspec.Raw = NULL


class RawPolicyTarget(Json):
    """A NetworkPolicy of which nothing is asked but which pods it selects."""

    metadata: Identity
    spec: msgspec.Raw = NULL


class ListMetadata(Json):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class RawList(Json):
    """A page of a list; the items stay bytes until each is decoded by itself."""

    metadata: ListMetadata = msgspec.field(default_factory=ListMetadata)
    items: list[msgspec.Raw] | None = None


class WatchEvent(Json):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Status(Json):
    """meta/v1 Status: what the apiserver says of a failed request."""

    message: str = ""
    reason: str = ""
    code: int = 0
