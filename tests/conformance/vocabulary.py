"""The cluster of the conformance runs and the words in which its states are written: plain manifests, as a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Manifest = dict[str, Any]

N1, N2 = "10.253.1.0/24", "10.253.2.0/24"
N1V6, N2V6 = "fd53:1::/64", "fd53:2::/64"
ALL4, ALL6 = "0.0.0.0/0", "::/0"
HOSTS4, HOSTS6 = "10.253.0.0/16", "fd53::/16"
"""Every address of the topology: nodes and the outside host are in 10.253.0.0/24, pods in N1 and N2."""

PODS: dict[str, tuple[str, dict[str, str], str]] = {
    "x/a": ("n1", {"app": "web", "tier": "front"}, "http"),
    "x/b": ("n1", {"app": "api"}, "serve"),
    "x/c": ("n2", {"app": "web"}, "http"),
    "y/a": ("n1", {"app": "web", "tier": "back"}, "http"),
    "y/b": ("n2", {"app": "db", "empty": ""}, "serve"),
    "z/a": ("n2", {}, "http"),
    "z/b": ("n1", {"app": "api", "tier": "front"}, "other"),
}
"""Pods by namespace/name: node, labels, and the name of TCP port 80; UDP port 81 is `dns` everywhere.

Where port 80 is called otherwise, port 81 is `http`, so that one name means different numbers.
"""
NAMESPACES: dict[str, dict[str, str]] = {"x": {"team": "red"}, "y": {"team": "blue", "env": "prod"}, "z": {}}
ADDRESSES: dict[str, tuple[str, str]] = {
    name: (f"10.253.{node[1:]}.{number}", f"fd53:{node[1:]}::{number:x}")
    for number, (name, (node, _, _)) in enumerate(PODS.items(), 10)
}
"""Where each pod lives: x/a at 10.253.1.10 and fd53:1::a, and so on."""
NODES: dict[str, tuple[str, str]] = {"n1": ("10.253.0.1", "fd53::1"), "n2": ("10.253.0.2", "fd53::2")}
OUTSIDE = ("10.253.0.99", "fd53::99")

BOTH = ["Ingress", "Egress"]


def base(addresses: Mapping[str, Sequence[str]], cidrs: Mapping[str, Sequence[str]]) -> list[Manifest]:
    """Nodes, namespaces and pods as manifests; `addresses` are by host name, `cidrs` by node."""
    found = [node(name, addresses[name], blocks) for name, blocks in cidrs.items()]
    found += [namespace(name, **labels) for name, labels in NAMESPACES.items()]
    return found + [pod(name, ips=addresses[name]) for name in PODS]


def node(name: str, ips: Sequence[str], cidrs: Sequence[str]) -> Manifest:
    """A Node."""
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]},
    }


def namespace(name: str, **wanted: str) -> Manifest:
    """A Namespace with the label that the API server gives to each."""
    full = {"kubernetes.io/metadata.name": name, **wanted}
    return {"kind": "Namespace", "metadata": {"name": name, "labels": full}}


def container(*ports: tuple[str, int, str], **more: Any) -> Manifest:
    """A container with named ports."""
    return {"ports": [{"name": n, "containerPort": p, "protocol": kind} for n, p, kind in ports], **more}


def usual_ports(first: str) -> Manifest:
    """The container of a pod whose TCP port 80 has this name."""
    renamed = (("http", 81, "TCP"),) if first != "http" else ()
    return container((first, 80, "TCP"), ("dns", 81, "UDP"), *renamed)


def pod(
    name: str,
    slot: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    ips: Sequence[str] | None = None,
    containers: Sequence[Manifest] | None = None,
    phase: str = "Running",
    **spec: Any,
) -> Manifest:
    """A Pod, by default one of PODS as it is there; `slot` names the one whose place it takes."""
    place, usual_labels, first = PODS[slot or name]
    own, _, short = name.partition("/")
    listed = ADDRESSES[slot or name] if ips is None else ips
    status: Manifest = {"phase": phase}
    if listed:
        status |= {"podIP": listed[0], "podIPs": [{"ip": ip} for ip in listed]}
    return {
        "kind": "Pod",
        "metadata": {"namespace": own, "name": short, "labels": dict(usual_labels if labels is None else labels)},
        "spec": {"nodeName": place, "containers": list(containers or (usual_ports(first),)), **spec},
        "status": status,
    }


def host_pod(name: str, place: str, **wanted: str) -> Manifest:
    """A pod in the network of its node."""
    own, _, short = name.partition("/")
    status = {"phase": "Running", "podIP": NODES[place][0], "podIPs": [{"ip": ip} for ip in NODES[place]]}
    return {
        "kind": "Pod",
        "metadata": {"namespace": own, "name": short, "labels": wanted},
        "spec": {"nodeName": place, "hostNetwork": True, "containers": [usual_ports("http")]},
        "status": status,
    }


def policy(own: str, name: str, selector: Manifest | None = None, **spec: Any) -> Manifest:
    """A NetworkPolicy; `selector` None selects every pod of the namespace."""
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": own, "name": name},
        "spec": {"podSelector": selector or {}, **spec},
    }


def into(*rules: Manifest, of: Manifest | None = None, own: str = "x", name: str = "p") -> Manifest:
    """A policy for what comes in."""
    return policy(own, name, of, policyTypes=["Ingress"], ingress=list(rules))


def out(*rules: Manifest, of: Manifest | None = None, own: str = "x", name: str = "p") -> Manifest:
    """A policy for what goes out."""
    return policy(own, name, of, policyTypes=["Egress"], egress=list(rules))


def source(*peers: Manifest, ports: Sequence[Manifest] = ()) -> Manifest:
    """A rule for what comes in."""
    return {"from": list(peers), **({"ports": list(ports)} if ports else {})}


def goal(*peers: Manifest, ports: Sequence[Manifest] = ()) -> Manifest:
    """A rule for what goes out."""
    return {"to": list(peers), **({"ports": list(ports)} if ports else {})}


def labels(**wanted: str) -> Manifest:
    """A selector by labels."""
    return {"matchLabels": wanted}


def where(key: str, operator: str, *values: str) -> Manifest:
    """A selector by one expression."""
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def both(*selectors: Manifest) -> Manifest:
    """A selector that asks for everything that these ask for."""
    found: Manifest = {"matchLabels": {}, "matchExpressions": []}
    for each in selectors:
        found["matchLabels"] |= each.get("matchLabels", {})
        found["matchExpressions"] += each.get("matchExpressions", [])
    return found


def pods(selector: Manifest) -> Manifest:
    """A peer: pods of the policy's own namespace."""
    return {"podSelector": selector}


def spaces(selector: Manifest, of: Manifest | None = None) -> Manifest:
    """A peer: pods of the namespaces that a selector finds, all of them or those that `of` selects."""
    return {"namespaceSelector": selector, **({"podSelector": of} if of is not None else {})}


def block(cidr: str, *excepts: str) -> Manifest:
    """A peer: addresses."""
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def port(number: int | str | None = None, protocol: str = "", end: int = 0) -> Manifest:
    """A port of a rule."""
    found: Manifest = {}
    if number is not None:
        found["port"] = number
    if protocol:
        found["protocol"] = protocol
    if end:
        found["endPort"] = end
    return found


WEB, API, FRONT = labels(app="web"), labels(app="api"), labels(tier="front")
RED, BLUE = labels(team="red"), labels(team="blue")
NOBODY = labels(app="nobody")


def ip4(name: str) -> str:
    """A pod's IPv4 address as a block."""
    return f"{ADDRESSES[name][0]}/32"


def ip6(name: str) -> str:
    """A pod's IPv6 address as a block."""
    return f"{ADDRESSES[name][1]}/128"


def key_of(manifest: Manifest) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    meta = manifest["metadata"]
    return manifest["kind"], meta.get("namespace", ""), meta["name"]


def merged(*states: Sequence[Manifest]) -> list[Manifest]:
    """Manifests, later ones in the place of earlier ones with the same name."""
    return list({key_of(manifest): manifest for state in states for manifest in state}.values())
