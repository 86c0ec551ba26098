"""Node, Pod and Namespace bytes to model values (core/v1)."""

from __future__ import annotations

from functools import lru_cache
from sys import intern

import msgspec

from kuberouter.decode.annotations import DRAIN_TAINT, NAMESPACE_POLICY, NODE_DRAIN, ZONE_LABEL, node_options
from kuberouter.decode.common import Bytes, Trouble, labels, reference, shared, struct
from kuberouter.decode.scalars import address, port, prefix, protocol
from kuberouter.decode.schema import NodeSpec, PodStatus, RawContainer, RawNamespace, RawNode, RawPod, RawPodEnd
from kuberouter.model.cluster import ContainerPort, Namespace, Node, Pod
from kuberouter.model.core import Problem

_NODE = msgspec.json.Decoder(RawNode)
_POD = msgspec.json.Decoder(RawPod)
_POD_END = msgspec.json.Decoder(RawPodEnd)
_NAMESPACE = msgspec.json.Decoder(RawNamespace)
DEFAULT_GRACE = 30
"""Seconds; what the API gives a pod that does not say."""
_FINISHED = frozenset(("Succeeded", "Failed"))


def decode_node(raw: Bytes) -> tuple[Node | None, tuple[Problem, ...]]:
    """A Node, or None and problems. Bad addresses and CIDRs are left out by themselves. Never raises."""
    found, problems = struct(_NODE, raw, "Node")
    if found is None:
        return None, problems
    trouble = Trouble(reference("Node", found.metadata))
    lists: dict[str, list[bytes]] = {"InternalIP": [], "ExternalIP": []}
    for index, item in enumerate((found.status.addresses or ()) if found.status is not None else ()):
        if item.type in lists:
            packed = trouble.value(f"status.addresses[{index}]", address, item.address)
            if packed is not None:
                lists[item.type].append(packed)
    spec = found.spec or NodeSpec()
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    annotations = found.metadata.annotations
    draining = NODE_DRAIN.read(annotations, trouble) or any(t.key == DRAIN_TAINT for t in spec.taints or ())
    node = Node(
        trouble.ref,
        tuple(lists["InternalIP"]),
        tuple(lists["ExternalIP"]),
        trouble.values("spec.podCIDRs", prefix, cidrs),
        node_options(annotations, trouble),
        intern((found.metadata.labels or {}).get(ZONE_LABEL, "")),
        draining,
        spec.unschedulable,
        spec.provider_id,
    )
    return node, tuple(trouble.problems)


def decode_pod(raw: Bytes) -> tuple[Pod | None, tuple[Problem, ...]]:
    """A Pod, or None and problems. Never raises."""
    found, problems = struct(_POD, raw, "Pod")
    if found is None:
        return None, problems
    trouble = Trouble(reference("Pod", found.metadata))
    status = found.status or PodStatus()
    pod = Pod(
        trouble.ref,
        intern(found.spec.node_name),
        labels(found.metadata.labels),
        _addresses(status, trouble),
        found.spec.host_network,
        status.phase in _FINISHED,
        _ports(found, trouble),
        _grace(found),
    )
    return pod, tuple(trouble.problems)


def decode_pod_end(raw: Bytes) -> tuple[Pod | None, tuple[Problem, ...]]:
    """Of a Pod only whose addresses they are and how long it may take to end; or None and problems. Never raises."""
    found, problems = struct(_POD_END, raw, "Pod")
    if found is None:
        return None, problems
    trouble = Trouble(reference("Pod", found.metadata))
    status = found.status or PodStatus()
    finished = status.phase in _FINISHED
    pod = Pod(trouble.ref, "", (), _addresses(status, trouble), finished=finished, grace=_grace(found))
    return pod, tuple(trouble.problems)


def _addresses(status: PodStatus, trouble: Trouble) -> tuple[bytes, ...]:
    texts = [entry.ip for entry in status.pod_ips or () if entry.ip] or ([status.pod_ip] if status.pod_ip else [])
    return trouble.values("status.podIPs", address, texts)


def _grace(found: RawPod | RawPodEnd) -> int:
    """Seconds; who deletes a pod may give it more or less than the pod asks for."""
    given, asked = found.metadata.deletion_grace_period_seconds, found.spec.termination_grace_period_seconds
    if given is None:
        given = DEFAULT_GRACE if asked is None else asked
    return max(0, given)


def _ports(found: RawPod, trouble: Trouble) -> tuple[ContainerPort, ...]:
    containers: list[RawContainer] = found.spec.containers or []
    if found.spec.init_containers:
        # One that restarts always is a sidecar: it runs, and listens, beside the others.
        containers = [*containers, *(c for c in found.spec.init_containers if c.restart_policy == "Always")]
    ports: list[ContainerPort] = []
    for container in containers:
        for raw in container.ports or ():
            if not raw.name:
                continue
            try:
                ports.append(_port(raw.name, raw.protocol, raw.container_port))
            except ValueError:
                trouble.value(f"spec.containers.ports[{raw.name}].protocol", protocol, raw.protocol)
                trouble.value(f"spec.containers.ports[{raw.name}].containerPort", port, raw.container_port)
    return shared(tuple(ports)) if ports else ()


@lru_cache(maxsize=1024)
def _port(name: str, proto: str, number: int) -> ContainerPort:
    """A named port; most pods of a cluster have the same ones. Raises ValueError."""
    return ContainerPort(intern(name), protocol(proto), port(number))


def decode_namespace(raw: Bytes) -> tuple[Namespace | None, tuple[Problem, ...]]:
    """A Namespace, or None and problems. Never raises."""
    found, problems = struct(_NAMESPACE, raw, "Namespace")
    if found is None:
        return None, problems
    trouble = Trouble(reference("Namespace", found.metadata))
    default_deny = NAMESPACE_POLICY.read(found.metadata.annotations, trouble)
    return Namespace(trouble.ref, labels(found.metadata.labels), default_deny), tuple(trouble.problems)
