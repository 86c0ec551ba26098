"""The content of the firewall bench: 10k pods, 150 on this node, and 1k policies, as the apiserver sends them.

The node is the worst one for its size: every policy selects at least one of its pods, so nothing may be left out.
A hundred namespaces of a hundred pods; each policy selects 1 to 50 pods and has three rules.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

NODE = "node-1"
NAMESPACES = 100
PODS = 100
"""Pods per namespace; the first one or two are on this node, which makes 150."""
POLICIES = 10
"""Policies per namespace."""
APPS = 20
TEAMS = 10
TIERS = ("web", "api", "data", "batch")

Json = dict[str, Any]


def namespace_name(number: int) -> str:
    """Name of the number-th namespace."""
    return f"space-{number:03d}"


def node() -> bytes:
    """This node, dual-stack."""
    return _bytes(
        {
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDRs": ["10.0.0.0/24", "fd00:10::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]},
        }
    )


def namespace(number: int, **labels: str) -> bytes:
    """One namespace; a tenth of all have the same team."""
    found = {"kubernetes.io/metadata.name": namespace_name(number), "team": f"team-{number % TEAMS}", **labels}
    return _bytes({"kind": "Namespace", "metadata": {"name": namespace_name(number), "labels": found}})


def namespaces() -> Iterator[bytes]:
    """All namespaces."""
    return map(namespace, range(NAMESPACES))


def pod(space: int, number: int, *, labels: dict[str, str] | None = None) -> bytes:
    """One pod of about 5 KB, as much as real ones have with their managedFields."""
    local = number < 1 + space % 2
    app = number % APPS
    name = f"app-{app:02d}-6d4b75cb6d-{space:02d}{number:02d}x"
    addresses = pod_addresses(space, number)
    manager: Json = {f"f:field-{n}": {".": {}, "f:type": {}, "f:status": {}, "f:lastProbeTime": {}} for n in range(24)}
    return _bytes(
        {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "generateName": f"app-{app:02d}-6d4b75cb6d-",
                "namespace": namespace_name(space),
                "uid": f"0a4d9c3e-6f5b-4c0e-9a59-{space:06d}{number:06d}",
                "resourceVersion": str(100_000 + space * PODS + number),
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": labels
                or {
                    "app": f"app-{app:02d}",
                    "tier": TIERS[app % len(TIERS)],
                    "pod-template-hash": "6d4b75cb6d",
                    "track": "stable" if number % 10 else "canary",
                },
                "annotations": {"checksum/config": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"app-{app:02d}-6d4b"}],
                "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": manager}],
            },
            "spec": {
                "nodeName": NODE if local else f"node-{2 + (space * PODS + number) % 98}",
                "containers": [_container(name) for name in ("main", "proxy")],
                "restartPolicy": "Always",
                "serviceAccountName": "default",
                "tolerations": [{"key": f"node.kubernetes.io/{k}", "operator": "Exists"} for k in ("a", "b", "c")],
            },
            "status": {
                "phase": "Running",
                "podIP": addresses[0],
                "podIPs": [{"ip": address} for address in addresses],
                "conditions": [
                    {"type": kind, "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}
                    for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
                ],
                "containerStatuses": [{"name": name, "ready": True, "state": {}} for name in ("main", "proxy")],
            },
        }
    )


def pod_addresses(space: int, number: int) -> tuple[str, str]:
    """IPv4 and IPv6 address of a pod."""
    return f"10.{space + 1}.{number >> 8}.{number & 255}", f"fd00:10:{space + 1:x}::{number + 1:x}"


def _container(name: str) -> Json:
    return {
        "name": name,
        "image": f"registry.example.org/{name}:v1.2.3",
        "env": [{"name": f"SETTING_{n}", "value": f"value of the setting {n}"} for n in range(12)],
        "ports": [{"name": "http" if name == "main" else "admin", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": f"volume-{n}", "mountPath": f"/var/lib/volume-{n}"} for n in range(3)],
    }


def pods() -> Iterator[bytes]:
    """All pods."""
    return (pod(space, number) for space in range(NAMESPACES) for number in range(PODS))


def policies(seed: int = 1) -> Iterator[bytes]:
    """All policies, each with three rules, in peers and ports as people write them."""
    dice = random.Random(seed)
    for space in range(NAMESPACES):
        for number in range(POLICIES):
            yield policy(space, number, dice)


def policy(space: int, number: int, dice: random.Random) -> bytes:
    """One policy that selects pod 0 of its namespace, alone or with up to 49 others."""
    app = {"app": f"app-{dice.randrange(APPS):02d}"}
    tier = {"tier": dice.choice(TIERS)}
    team = {"team": f"team-{dice.randrange(TEAMS)}"}
    first, others = dice.randrange(1024, 32000), dice.sample(range(1, APPS), dice.randrange(10))
    return _bytes(
        {
            "kind": "NetworkPolicy",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {
                "name": f"policy-{number}",
                "namespace": namespace_name(space),
                "uid": f"1b4d9c3e-6f5b-4c0e-9a59-{space:06d}{number:06d}",
                "resourceVersion": "4711",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:ingress": {}, "f:egress": {}}}}],
            },
            "spec": {
                "podSelector": {
                    "matchExpressions": [
                        {"key": "app", "operator": "In", "values": [f"app-{n:02d}" for n in (0, *others)]}
                    ]
                },
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "from": [{"podSelector": {"matchLabels": app}}],
                        "ports": [{"protocol": "TCP", "port": first}, {"protocol": "TCP", "port": first + 1}],
                    },
                    {
                        "from": [
                            {"namespaceSelector": {"matchLabels": team}, "podSelector": {"matchLabels": app}},
                        ],
                        "ports": [{"protocol": "TCP", "port": first, "endPort": first + 9}],
                    },
                ],
                "egress": [
                    {
                        "to": [
                            {"podSelector": {"matchLabels": tier}},
                            {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{space + 1}.0.0/16"]}},
                        ],
                        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": "http"}],
                    }
                ],
            },
        }
    )


def _bytes(obj: Json) -> bytes:
    return json.dumps(obj).encode()


# --- what single events are measured with ----------------------------------------------------------------------------

JOINED = 20
"""Sets that the joining pod enters."""
CROWD = 1000
"""Pods of the namespace whose label changes."""


def joined() -> Iterator[bytes]:
    """Policies on a local pod whose peers, each selected in another way, are joined by one pod."""
    for number in range(JOINED):
        peer = {"matchExpressions": [{"key": "joins", "operator": "In", "values": ["yes", f"only-{number}"]}]}
        yield _allowing(f"joined-{number}", namespace_name(0), {"podSelector": peer})


def joiner(joins: bool) -> bytes:
    """A pod of another node that is a peer of all those policies, or of none."""
    return pod(0, PODS + 1, labels={"joins": "yes" if joins else "no"})


def crowd() -> Iterator[bytes]:
    """A namespace of a thousand pods, and a policy that lets it in while it has a label."""
    yield crowd_namespace(False)
    for number in range(CROWD):
        yield pod(NAMESPACES, 2 + number, labels={"crowd": f"c{number % 7}"})
    yield _allowing("crowd", namespace_name(0), {"namespaceSelector": {"matchLabels": {"let": "in"}}})


def crowd_namespace(let_in: bool) -> bytes:
    """The namespace of the crowd."""
    return namespace(NAMESPACES, let="in" if let_in else "out")


def _allowing(name: str, space: str, peer: Json) -> bytes:
    return _bytes(
        {
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": space},
            "spec": {
                "podSelector": {"matchLabels": {"app": "app-00"}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [peer]}],
            },
        }
    )
