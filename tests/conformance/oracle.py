"""The truth table of NetworkPolicy: a pure function from manifests to verdicts.

Written from the meaning of the API alone and sharing no code with the package, so that agreement proves something. It
reads manifests as plain dictionaries, the way a user wrote them. Who an address belongs to is decided by what running
pods say of themselves: the address of a pod that is finished, gone or in the network of its node is just an address.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]
FINISHED = ("Succeeded", "Failed")


class Verdict(enum.Enum):
    ALLOW = "allow"
    DENY = "deny"
    DONT_CARE = "don't care"


address = functools.lru_cache(maxsize=4096)(ipaddress.ip_address)
network = functools.lru_cache(maxsize=4096)(functools.partial(ipaddress.ip_network, strict=False))


@dataclass(frozen=True)
class Endpoint:
    """One end of a probe: the place of a pod, a node, or an outside host; with the addresses that it really has."""

    name: str
    kind: str
    ips: tuple[str, ...]

    def ip(self, version: int) -> str | None:
        return next((ip for ip in self.ips if address(ip).version == version), None)


@dataclass
class State:
    """The manifests by kind."""

    pods: dict[str, Manifest] = field(default_factory=dict)
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    policies: list[Manifest] = field(default_factory=list)
    owners: dict[object, Manifest] = field(default_factory=dict)

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> State:
        state = cls()
        for manifest in manifests:
            meta = manifest["metadata"]
            match manifest["kind"]:
                case "Pod":
                    state.pods[f"{meta['namespace']}/{meta['name']}"] = manifest
                case "Namespace":
                    state.namespaces[meta["name"]] = meta.get("labels") or {}
                case "NetworkPolicy":
                    state.policies.append(manifest)
        for pod in state.pods.values():
            if alive(pod):
                state.owners.update(dict.fromkeys(map(address, addresses_of(pod)), pod))
        return state

    def pod_at(self, end: Endpoint) -> Manifest | None:
        """The running pod that one of an endpoint's addresses belongs to."""
        return next((pod for ip in end.ips if (pod := self.owners.get(address(ip)))), None)


def selected(selector: Manifest | None, labels: Mapping[str, str]) -> bool:
    """LabelSelector: matchLabels and matchExpressions together; NotIn and DoesNotExist hold for an absent key."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or ()
        if operator == "In" and not (key in labels and labels[key] in values):
            return False
        if operator == "NotIn" and key in labels and labels[key] in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return True


def labels_of(pod: Manifest) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def addresses_of(pod: Manifest) -> list[str]:
    status = pod.get("status") or {}
    return [entry["ip"] for entry in status.get("podIPs") or ()] or ([status["podIP"]] if status.get("podIP") else [])


def alive(pod: Manifest) -> bool:
    """Pods that policies can apply to or refer to."""
    if (pod.get("status") or {}).get("phase") in FINISHED or (pod.get("spec") or {}).get("hostNetwork"):
        return False
    return bool(addresses_of(pod))


def types_of(policy: Manifest) -> set[str]:
    """policyTypes; by default Ingress, and Egress if there are egress rules."""
    spec = policy["spec"]
    if spec.get("policyTypes"):
        return set(spec["policyTypes"])
    return {"Ingress", "Egress"} if spec.get("egress") else {"Ingress"}


def selects(policy: Manifest, pod: Manifest) -> bool:
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and alive(pod) and selected(policy["spec"].get("podSelector"), labels_of(pod))


def in_block(block: Manifest, ip: str) -> bool:
    """An exception takes away from its own block, not from what others allow."""
    here, whole = address(ip), network(block["cidr"])
    if here.version != whole.version or here not in whole:
        return False
    return not any(here in network(e) for e in block.get("except") or ())


def peer_matches(state: State, policy: Manifest, peer: Manifest, other: Manifest | None, ip: str) -> bool:
    """One item of from or to, against the other end (its pod if it is one) and the address it is seen by."""
    if peer.get("ipBlock") is not None:
        return in_block(peer["ipBlock"], ip)
    if other is None or not alive(other):
        return False
    namespace = other["metadata"]["namespace"]
    if peer.get("namespaceSelector") is None:
        if namespace != policy["metadata"]["namespace"]:
            return False
    elif namespace not in state.namespaces or not selected(peer["namespaceSelector"], state.namespaces[namespace]):
        return False
    return peer.get("podSelector") is None or selected(peer["podSelector"], labels_of(other))


def ports_match(ports: Sequence[Manifest] | None, target: Manifest | None, protocol: str, number: int) -> bool:
    """The ports of a rule against a destination port; names are those of the destination pod."""
    if not ports:
        return True
    for entry in ports:
        if (entry.get("protocol") or "TCP") != protocol:
            continue
        port = entry.get("port")
        if port is None:
            return True
        if isinstance(port, int):
            if port <= number <= (entry.get("endPort") or port):
                return True
        elif target is not None and alive(target) and has_port(target, port, protocol, number):
            return True
    return False


def has_port(pod: Manifest, name: str, protocol: str, number: int) -> bool:
    """Whether a container that runs along calls a port so; of the init containers those do that restart always."""
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    ports = [
        port for container in (*(spec.get("containers") or ()), *sidecars) for port in container.get("ports") or ()
    ]
    return any(
        p.get("name") == name and (p.get("protocol") or "TCP") == protocol and p["containerPort"] == number
        for p in ports
    )


def side(
    state: State, direction: str, pod: Manifest | None, other: Manifest | None, ip: str, target: Manifest | None,
    protocol: str, number: int,
) -> bool:  # fmt: skip
    """Whether one end agrees: it is not isolated in that direction, or some rule of some policy matches."""
    if pod is None or not alive(pod):
        return True
    policies = [p for p in state.policies if direction in types_of(p) and selects(p, pod)]
    if not policies:
        return True
    for policy in policies:
        for rule in policy["spec"].get(direction.lower()) or ():
            peers = rule.get("from" if direction == "Ingress" else "to")
            if peers and not any(peer_matches(state, policy, peer, other, ip) for peer in peers):
                continue
            if ports_match(rule.get("ports"), target, protocol, number):
                return True
    return False


def verdict(
    state: State, source: Endpoint, destination: Endpoint, version: int, protocol: str, number: int,
    nodes: Mapping[str, str],
) -> Verdict:  # fmt: skip
    """What must happen to a first packet. `nodes` maps the place of a pod to the name of its node.

    A pod that does not list its address of this family is not judged: nobody can tell that the address is its own.
    """
    source_ip, destination_ip = source.ip(version), destination.ip(version)
    if source.name == destination.name or source_ip is None or destination_ip is None:
        return Verdict.DONT_CARE
    if source.kind == "node" and nodes.get(destination.name) == source.name:
        return Verdict.ALLOW
    sender = state.pod_at(source) if source.kind == "pod" else None
    receiver = state.pod_at(destination) if destination.kind == "pod" else None
    for pod, ip in ((sender, source_ip), (receiver, destination_ip)):
        if pod is not None and address(ip) not in map(address, addresses_of(pod)):
            return Verdict.DONT_CARE
    out = side(state, "Egress", sender, receiver, destination_ip, receiver, protocol, number)
    into = side(state, "Ingress", receiver, sender, source_ip, receiver, protocol, number)
    return Verdict.ALLOW if out and into else Verdict.DENY
