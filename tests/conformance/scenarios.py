"""The cluster of the conformance runs, and the policies that are put on it: by hand, and drawn from small alphabets."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

Manifest = dict[str, Any]

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

Pods of x/b and y/b call port 81 `http`, so that one name means different numbers.
"""
NAMESPACES: dict[str, dict[str, str]] = {"x": {"team": "red"}, "y": {"team": "blue", "env": "prod"}, "z": {}}


def base(addresses: Mapping[str, tuple[str, ...]], cidrs: Mapping[str, tuple[str, str]]) -> list[Manifest]:
    """Nodes, namespaces and pods as manifests; `addresses` are by host name, `cidrs` by node."""
    found: list[Manifest] = []
    for node, blocks in cidrs.items():
        listed = [{"type": "InternalIP", "address": ip} for ip in addresses[node]]
        found.append(
            {
                "kind": "Node",
                "metadata": {"name": node},
                "spec": {"podCIDRs": list(blocks)},
                "status": {"addresses": listed},
            }
        )
    for name, labels in NAMESPACES.items():
        full = {"kubernetes.io/metadata.name": name, **labels}
        found.append({"kind": "Namespace", "metadata": {"name": name, "labels": full}})
    for pod, (node, labels, first) in PODS.items():
        namespace, _, name = pod.partition("/")
        ports = [
            {"name": first, "containerPort": 80, "protocol": "TCP"},
            {"name": "dns", "containerPort": 81, "protocol": "UDP"},
        ]
        if first != "http":
            ports.append({"name": "http", "containerPort": 81, "protocol": "TCP"})
        found.append(
            {
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
                "spec": {"nodeName": node, "containers": [{"ports": ports}]},
                "status": {
                    "phase": "Running",
                    "podIP": addresses[pod][0],
                    "podIPs": [{"ip": ip} for ip in addresses[pod]],
                },
            }
        )
    return found


def policy(namespace: str, name: str, selector: Manifest | None = None, **spec: Any) -> Manifest:
    """A NetworkPolicy; `selector` None selects every pod of the namespace."""
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": selector or {}, **spec},
    }


def labels(**wanted: str) -> Manifest:
    """A selector by labels."""
    return {"matchLabels": wanted}


def where(key: str, operator: str, *values: str) -> Manifest:
    """A selector by one expression."""
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


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


WEB = labels(app="web")
API = labels(app="api")
BOTH = ["Ingress", "Egress"]

N1, N2 = "10.253.1.0/24", "10.253.2.0/24"
V6 = "fd53::/16"

WRITTEN: dict[str, list[Manifest]] = {
    "deny ingress": [policy("x", "p", policyTypes=["Ingress"])],
    "deny egress": [policy("x", "p", policyTypes=["Egress"])],
    "deny both": [policy("x", "p", policyTypes=BOTH)],
    "deny ingress by an empty list": [policy("x", "p", ingress=[])],
    "deny some pods": [policy("x", "p", WEB)],
    "types default to ingress": [policy("y", "p", ingress=[{}])],
    "types default to both with egress rules": [policy("y", "p", egress=[{"to": [pods(WEB)]}])],
    "allow everything in": [policy("x", "p", ingress=[{}])],
    "allow everything out": [policy("x", "p", policyTypes=["Egress"], egress=[{}])],
    "empty from is everybody": [policy("x", "p", ingress=[{"from": [], "ports": [port(80)]}])],
    "empty ports are all": [policy("x", "p", ingress=[{"from": [pods(API)], "ports": []}])],
    "pods of the own namespace": [policy("x", "p", ingress=[{"from": [pods({})]}])],
    "a peer that matches nothing": [policy("x", "p", ingress=[{"from": [pods(labels(app="none"))]}])],
    "namespaces by label": [policy("x", "p", ingress=[{"from": [spaces(labels(team="blue"))]}])],
    "all namespaces": [policy("x", "p", ingress=[{"from": [spaces({})]}])],
    "namespace and pods together": [policy("x", "p", ingress=[{"from": [spaces(labels(team="blue"), WEB)]}])],
    "namespace or pods": [policy("x", "p", ingress=[{"from": [spaces(labels(team="blue")), pods(WEB)]}])],
    "namespace by its name": [
        policy("x", "p", ingress=[{"from": [spaces(labels(**{"kubernetes.io/metadata.name": "z"}))]}])
    ],
    "In": [policy("x", "p", ingress=[{"from": [spaces({}, where("app", "In", "web", "db"))]}])],
    "NotIn holds for an absent key": [policy("x", "p", ingress=[{"from": [spaces({}, where("app", "NotIn", "web"))]}])],
    "Exists": [policy("x", "p", ingress=[{"from": [spaces({}, where("tier", "Exists"))]}])],
    "DoesNotExist": [policy("x", "p", ingress=[{"from": [spaces({}, where("app", "DoesNotExist"))]}])],
    "an empty label value needs the key": [policy("x", "p", ingress=[{"from": [spaces({}, labels(empty=""))]}])],
    "selectors of targets by expression": [policy("x", "p", where("tier", "DoesNotExist"), policyTypes=["Ingress"])],
    "one port": [policy("x", "p", ingress=[{"ports": [port(80)]}])],
    "one port of UDP": [policy("x", "p", ingress=[{"ports": [port(81, "UDP")]}])],
    "a whole protocol": [policy("x", "p", ingress=[{"ports": [port(protocol="UDP")]}])],
    "a nil protocol without a port is all of TCP": [policy("x", "p", ingress=[{"ports": [port()]}])],
    "a range": [policy("x", "p", ingress=[{"ports": [port(79, end=80)]}])],
    "a range of both": [policy("x", "p", ingress=[{"ports": [port(80, "TCP", 81), port(81, "UDP")]}])],
    "a named port differs per pod": [policy("x", "p", ingress=[{"ports": [port("http")]}])],
    "a named port and its protocol": [policy("x", "p", ingress=[{"ports": [port("dns", "UDP")]}])],
    "a name of another protocol": [policy("x", "p", ingress=[{"ports": [port("dns", "TCP")]}])],
    "a name that nobody has": [policy("x", "p", ingress=[{"from": [spaces({})], "ports": [port("nobody")]}])],
    "a name and a number": [policy("x", "p", ingress=[{"ports": [port("serve"), port(81, "UDP")]}])],
    "named ports of destinations": [
        policy("x", "p", policyTypes=["Egress"], egress=[{"to": [spaces({})], "ports": [port("http")]}])
    ],
    "named ports of any destination": [policy("x", "p", policyTypes=["Egress"], egress=[{"ports": [port("http")]}])],
    "a block": [policy("x", "p", ingress=[{"from": [block(N1)]}])],
    "a block with an exception": [policy("x", "p", ingress=[{"from": [block("10.253.0.0/16", N2)]}])],
    "two exceptions": [policy("x", "p", ingress=[{"from": [block("0.0.0.0/0", "10.253.1.10/32", "10.253.0.99/32")]}])],
    "an exception of one rule spares another rule": [
        policy("x", "p", ingress=[{"from": [block("10.253.0.0/16", N2)]}, {"from": [pods(WEB)]}])
    ],
    "an exception spares a sibling": [
        policy("x", "p", ingress=[{"from": [block("10.253.0.0/16", N2), block("10.253.2.12/32")]}])
    ],
    "overlapping blocks": [policy("x", "p", ingress=[{"from": [block(N1), block("10.253.1.8/29"), block(N2)]}])],
    "everything of one family": [policy("x", "p", ingress=[{"from": [block("0.0.0.0/0")]}])],
    "everything of IPv6": [policy("x", "p", ingress=[{"from": [block("::/0")]}])],
    "a block of IPv6": [policy("x", "p", ingress=[{"from": [block(V6, "fd53:2::/64")]}])],
    "blocks outwards": [policy("x", "p", policyTypes=["Egress"], egress=[{"to": [block(N2), block("fd53:1::/64")]}])],
    "policies add up": [
        policy("x", "p", ingress=[{"from": [pods(WEB)]}]),
        policy("x", "q", ingress=[{"from": [spaces(labels(team="blue"))], "ports": [port(81, "UDP")]}]),
    ],
    "a deny takes nothing back": [policy("x", "deny"), policy("x", "allow", ingress=[{}])],
    "both ends have a say": [
        policy("x", "out", WEB, policyTypes=["Egress"], egress=[{"to": [spaces(labels(team="blue"))]}]),
        policy("y", "in", policyTypes=["Ingress"], ingress=[{"from": [spaces(labels(team="red"), WEB)]}]),
    ],
    "one policy of both types keeps its directions apart": [
        policy("x", "p", policyTypes=BOTH, ingress=[], egress=[{}])
    ],
    "overlapping policies select different pods": [
        policy("x", "p", WEB, ingress=[{"from": [pods(API)]}]),
        policy("x", "q", where("tier", "Exists"), ingress=[{"from": [spaces(labels(team="blue"))]}]),
    ],
    "the same body in every namespace": [
        policy(namespace, "same", ingress=[{"from": [spaces({}, WEB)], "ports": [port(80)]}]) for namespace in "xyz"
    ],
    "names that join alike": [
        policy("x", "yz", WEB, policyTypes=["Ingress"]),
        policy("y", "z", WEB, ingress=[{"ports": [port(81)]}]),
    ],
}
"""Policies by what they show."""


def drawn(seed: int) -> list[Manifest]:
    """One to four policies from alphabets so small that they collide often."""
    dice = random.Random(seed)

    def selector() -> Manifest:
        return dice.choice(
            (
                {},
                labels(app=dice.choice(("web", "api", "db"))),
                labels(tier="front"),
                where("app", dice.choice(("In", "NotIn")), "web"),
                where(dice.choice(("app", "tier")), dice.choice(("Exists", "DoesNotExist"))),
            )
        )

    def space() -> Manifest:
        return dice.choice(({}, labels(team="red"), labels(team="blue"), where("team", "DoesNotExist")))

    def peer() -> Manifest:
        number = dice.randrange(8, 18)
        kinds: tuple[Callable[[], Manifest], ...] = (
            lambda: pods(selector()),
            lambda: spaces(space()),
            lambda: spaces(space(), selector()),
            lambda: block(dice.choice((N1, N2, "10.253.0.0/16", "0.0.0.0/0"))),
            lambda: block("10.253.0.0/16", dice.choice((N1, N2, f"10.253.1.{number}/32"))),
            lambda: block("fd53::/16", f"fd53:{dice.choice('12')}::/64"),
        )
        return dice.choice(kinds)()

    def one_port() -> Manifest:
        return dice.choice(
            (
                port(80),
                port(81),
                port(81, "UDP"),
                port(80, "TCP", 81),
                port("http"),
                port("dns", "UDP"),
                port(protocol="UDP"),
            )
        )

    def rules(side: str) -> list[Manifest]:
        return [
            {
                **({side: [peer() for _ in range(dice.randrange(1, 3))]} if dice.random() < 0.8 else {}),
                **({"ports": [one_port() for _ in range(dice.randrange(1, 3))]} if dice.random() < 0.5 else {}),
            }
            for _ in range(dice.randrange(3))
        ]

    found: list[Manifest] = []
    for number in range(dice.randrange(1, 5)):
        types = dice.choice((["Ingress"], ["Egress"], BOTH))
        spec: Manifest = {"policyTypes": types}
        if "Ingress" in types:
            spec["ingress"] = rules("from")
        if "Egress" in types:
            spec["egress"] = rules("to")
        found.append(policy(dice.choice("xyz"), f"p{number}", selector(), **spec))
    return found


DRAWN = {f"drawn {seed}": drawn(seed) for seed in range(1000, 1020)}
"""Random policies by seed: the same ones every time."""
