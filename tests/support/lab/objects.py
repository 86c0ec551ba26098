"""Kubernetes objects as the control plane would have them: Nodes, Pods, Services and the slices of their endpoints.

Pure functions from what the lab holds to API objects. `endpoint_slices` stands in for the endpoint controller of
kube-controller-manager.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeGuard

from tests.support.lab.fabric import Site
from tests.support.lab.pods import Pod

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Object: TypeAlias = "dict[str, Json]"
SLICE_SIZE = 100


def field(value: Json, *path: str) -> Json:
    """The value at a path of keys; None where the path ends early."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text(value: Json, *path: str, default: str = "") -> str:
    """The string at a path."""
    found = field(value, *path)
    return found if isinstance(found, str) else default


def items(value: Json, *path: str) -> list[Json]:
    """The list at a path; empty when there is none."""
    found = field(value, *path)
    return found if isinstance(found, list) else []


def identity(obj: Object) -> tuple[str, str, str]:
    """Kind, namespace (empty for cluster scope) and name."""
    return text(obj, "kind"), text(obj, "metadata", "namespace"), text(obj, "metadata", "name")


def node(site: Site, families: Sequence[int], annotations: Mapping[str, str]) -> Object:
    """A Node as kubelet and the node IPAM controller leave it."""
    chosen = [index for index, family in enumerate((4, 6)) if family in families]
    addresses: list[Json] = [{"type": "InternalIP", "address": site.addresses[index]} for index in chosen]
    cidrs: list[Json] = [site.pod_cidrs[index] for index in chosen]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": site.name,
            "labels": {"kubernetes.io/hostname": site.name},
            "annotations": dict(annotations),
        },
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": site.name}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Object:
    """A Namespace with the label that the API server adds."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}},
    }


def pod(it: Pod, host: str, families: Sequence[int]) -> Object:
    """A running Pod with the status that kubelet reports."""
    ips = [ip for ip in it.ips if ipaddress.ip_address(ip).version in families]
    meta: Object = {"name": it.name, "namespace": it.space, "labels": dict(it.labels)}
    if it.terminating:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ports: list[Json] = [
        {"name": name, "containerPort": number, "protocol": protocol.upper()} for protocol, number, name in it.ports
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": it.node, "containers": [{"name": "main", "image": "probe", "ports": ports}]},
        "status": {
            "phase": "Running",
            "hostIP": host,
            "podIP": ips[0] if ips else "",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True" if it.ready else "False"}],
            "containerStatuses": [
                {"name": "main", "containerID": f"lab://{it.container}", "state": {"running": {}}, "ready": it.ready}
            ],
        },
    }


def endpoint_slices(service: Object, pods: Iterable[Pod]) -> list[Object]:
    """EndpointSlices of a Service: one series per IP family, at most 100 endpoints each; none without a selector."""
    selector = field(service, "spec", "selector")
    if not isinstance(selector, dict) or not selector or text(service, "spec", "type") == "ExternalName":
        return []
    space, name = text(service, "metadata", "namespace"), text(service, "metadata", "name")
    chosen = [it for it in pods if it.space == space and it.ips and selector.items() <= it.labels.items()]
    result: list[Object] = []
    for family in items(service, "spec", "ipFamilies") or ["IPv4"]:
        version = 4 if family == "IPv4" else 6
        for ports, group in _by_ports(service, chosen):
            rows = [_endpoint(it, ip) for it in group for ip in it.ips if ipaddress.ip_address(ip).version == version]
            for start in range(0, max(len(rows), 1), SLICE_SIZE):
                result.append(
                    {
                        "apiVersion": "discovery.k8s.io/v1",
                        "kind": "EndpointSlice",
                        "metadata": {
                            "name": f"{name}-{family}-{len(result)}".lower(),
                            "namespace": space,
                            "labels": {"kubernetes.io/service-name": name},
                        },
                        "addressType": family,
                        "ports": ports,
                        "endpoints": rows[start : start + SLICE_SIZE],
                    }
                )
    return result


def _by_ports(service: Object, pods: Sequence[Pod]) -> list[tuple[list[Json], list[Pod]]]:
    """Pods grouped by what the Service's target ports mean on them (a named port may differ from pod to pod)."""
    groups: list[tuple[list[Json], list[Pod]]] = []
    for it in pods:
        ports = _ports(service, it)
        for known, group in groups:
            if known == ports:
                group.append(it)
                break
        else:
            groups.append((ports, [it]))
    return groups or [(_ports(service, None), [])]


def _ports(service: Object, it: Pod | None) -> list[Json]:
    result: list[Json] = []
    for port in items(service, "spec", "ports"):
        protocol = text(port, "protocol", default="TCP")
        target = field(port, "targetPort") or field(port, "port")
        if isinstance(target, str):
            named = {(p, n): number for p, number, n in (it.ports if it else ())}
            number = named.get((protocol.lower(), target))
            if number is None:
                continue
            target = number
        result.append({"name": text(port, "name"), "protocol": protocol, "port": target})
    return result


def _endpoint(it: Pod, ip: str) -> Json:
    return {
        "addresses": [ip],
        "nodeName": it.node,
        "conditions": {
            "ready": it.ready and not it.terminating,
            "serving": it.ready,
            "terminating": it.terminating,
        },
        "targetRef": {"kind": "Pod", "namespace": it.space, "name": it.name},
    }


def is_object(value: object) -> TypeGuard[Object]:
    """Whether a parsed document is an API object."""
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and isinstance(value.get("metadata"), dict)
