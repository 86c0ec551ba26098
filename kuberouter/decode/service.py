"""Service bytes to `Service` (core/v1)."""

from __future__ import annotations

import msgspec

from kuberouter.decode.annotations import HEADLESS_LABEL, OUR_PROXY_NAME, PROXY_NAME_LABEL, service_options
from kuberouter.decode.common import Bytes, Trouble, created, reference, struct
from kuberouter.decode.scalars import address, port, prefix, protocol
from kuberouter.decode.schema import RawService, RawServicePort, ServiceSpec
from kuberouter.model.cluster import Service, ServicePort, ServiceType
from kuberouter.model.core import Prefix, Problem, Reason

_DECODER = msgspec.json.Decoder(RawService)
DEFAULT_AFFINITY = 10800
MOST_AFFINITY = 86400
"""Seconds of ClientIP affinity: the API's default and its maximum."""


def decode_service(raw: Bytes) -> tuple[Service | None, tuple[Problem, ...]]:
    """A Service, or None and problems. Bad ports and addresses are left out by themselves. Never raises."""
    found, problems = struct(_DECODER, raw, "Service")
    if found is None:
        return None, problems
    trouble = Trouble(reference("Service", found.metadata))
    spec = found.spec
    try:
        kind = ServiceType(spec.type or "ClusterIP")
    except ValueError:
        trouble.add("spec.type", f"{spec.type!r} is not a type of Service", Reason.UNSUPPORTED)
        return None, tuple(trouble.problems)
    labels = found.metadata.labels or {}
    service = Service(
        trouble.ref,
        created(found.metadata, trouble),
        kind,
        _cluster_ips(spec, kind, trouble),
        trouble.values("spec.externalIPs", address, spec.external_ips),
        _load_balancer_ips(found, trouble),
        _ports(spec.ports, trouble),
        _affinity(spec, trouble),
        _local("spec.internalTrafficPolicy", spec.internal_traffic_policy, trouble),
        _local("spec.externalTrafficPolicy", spec.external_traffic_policy, trouble),
        spec.health_check_node_port,
        spec.publish_not_ready_addresses,
        _source_ranges(spec, trouble),
        labels.get(PROXY_NAME_LABEL, OUR_PROXY_NAME) == OUR_PROXY_NAME and HEADLESS_LABEL not in labels,
        service_options(found.metadata.annotations, trouble),
    )
    return service, tuple(trouble.problems)


def _cluster_ips(spec: ServiceSpec, kind: ServiceType, trouble: Trouble) -> tuple[bytes, ...]:
    if kind is ServiceType.EXTERNAL_NAME or spec.cluster_ip.lower() == "none":
        return ()
    texts = [text for text in (spec.cluster_ip, *(spec.cluster_ips or ())) if text and text.lower() != "none"]
    return trouble.values("spec.clusterIPs", address, list(dict.fromkeys(texts)))


def _load_balancer_ips(found: RawService, trouble: Trouble) -> tuple[bytes, ...]:
    balancer = found.status.load_balancer if found.status is not None else None
    # ipMode Proxy asks that traffic goes through the load balancer itself (KEP-1860): then the address is not ours.
    texts = [i.ip for i in (balancer.ingress or () if balancer else ()) if i.ip and i.ip_mode != "Proxy"]
    return trouble.values("status.loadBalancer.ingress", address, texts)


def _ports(raws: list[RawServicePort] | None, trouble: Trouble) -> tuple[ServicePort, ...]:
    found: list[ServicePort] = []
    for index, raw in enumerate(raws or ()):
        field = f"spec.ports[{index}]"
        proto = trouble.value(f"{field}.protocol", protocol, raw.protocol)
        number = trouble.value(f"{field}.port", port, raw.port)
        node_port = trouble.value(f"{field}.nodePort", port, raw.node_port) if raw.node_port else 0
        if proto is not None and number is not None and node_port is not None:
            found.append(ServicePort(raw.name, proto, number, node_port))
    return tuple(found)


def _local(field: str, policy: str | None, trouble: Trouble) -> bool:
    if policy not in (None, "", "Cluster", "Local"):
        trouble.add(field, f"{policy!r} is neither Cluster nor Local; Cluster is used", Reason.UNSUPPORTED)
    return policy == "Local"


def _source_ranges(spec: ServiceSpec, trouble: Trouble) -> tuple[Prefix, ...] | None:
    """None where everybody may come. A range that cannot be read lets nobody in."""
    if not spec.load_balancer_source_ranges:
        return None
    texts = [text.strip() for text in spec.load_balancer_source_ranges]
    return tuple(dict.fromkeys(trouble.values("spec.loadBalancerSourceRanges", prefix, texts)))


def _affinity(spec: ServiceSpec, trouble: Trouble) -> int:
    if spec.session_affinity in ("", "None"):
        return 0
    if spec.session_affinity != "ClientIP":
        trouble.add("spec.sessionAffinity", f"{spec.session_affinity!r} is not known; none is used", Reason.UNSUPPORTED)
        return 0
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
    if seconds is None:
        return DEFAULT_AFFINITY
    if not 1 <= seconds <= MOST_AFFINITY:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        trouble.add(field, f"{seconds} is not from 1 to {MOST_AFFINITY}; {DEFAULT_AFFINITY} is used")
        return DEFAULT_AFFINITY
    return seconds
