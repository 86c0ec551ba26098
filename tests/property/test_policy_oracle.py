"""Compiled rows, read by a small interpreter instead of a kernel, agree with the truth table on many random states."""

from __future__ import annotations

import itertools
import json
import random
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.compilers.policies import IPTABLES
from kuberouter.model.core import Family, Row
from kuberouter.model.host import Sysctl
from kuberouter.model.netfilter import Chain, ChainKey, Hook, IpSet, Member, Table
from kuberouter.model.settings import FirewallSettings
from tests.conformance.generate import drawn
from tests.conformance.oracle import Endpoint, State, Verdict, side, verdict
from tests.support.world import NODE, World

ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Chain, Hook)
NUMBER = {"tcp": 6, "udp": 17, "sctp": 132}
LABELS = ({}, {"app": "web"}, {"app": "api", "tier": "front"}, {"app": "db"}, {"tier": "front"})
OUTSIDE = Endpoint("outside", "outside", ("10.253.0.99", "fd53::99"))
Packet = tuple[bytes, bytes, str, int]
Probe = tuple[int, str, int]
Object = dict[str, Any]


class Refused(Exception):
    """The packet met DROP or REJECT."""


class Interpreter:
    """First packets of flows through the chains of one node."""

    def __init__(self, world: World) -> None:
        self._chains: dict[ChainKey, Chain] = dict(world.table(Chain))
        self._sets: dict[str, set[tuple[int, int, int, int]]] = {}
        for key in world.table(Member):
            value = int.from_bytes(key.address, "big") >> (len(key.address) * 8 - key.length)
            self._sets.setdefault(key.set, set()).add((key.length, value, key.protocol, key.port))
        self._mark = 0

    def passes(self, hook: str, packet: Packet) -> bool:
        """Whether our rules let a packet of somebody else than the node go on; it may bring any mark along."""
        self._mark = 0xFFFFFFFF
        family = Family.IPV4 if len(packet[0]) == 4 else Family.IPV6
        try:
            self._walk(family, f"KUBE-ROUTER-{hook}", packet)
        except Refused:
            return False
        return True

    def _walk(self, family: Family, name: str, packet: Packet) -> None:
        for rule in self._chains[ChainKey(family, Table.FILTER, name)].rules:
            words = rule.split()
            at = next(i for i, word in enumerate(words) if word in ("-j", "-g"))
            if not self._matches(words[:at], packet):
                continue
            match words[at + 1]:
                case "REJECT" | "DROP":
                    raise Refused
                case "RETURN":
                    return
                case "MARK":
                    value, mask = (int(part, 16) for part in words[-1].split("/"))
                    self._mark = (self._mark & ~mask) ^ value
                case "NFLOG":
                    pass
                case chain:
                    self._walk(family, chain, packet)
                    if words[at] == "-g":
                        return

    def _matches(self, words: list[str], packet: Packet) -> bool:
        found = {}
        sets = []
        for flag, value in itertools.pairwise(words):
            found[flag] = value
            if flag == "--match-set":
                sets.append((value, words[words.index(value) + 1]))
        if "--ctstate" in found or "--src-type" in found or found.get("-p", packet[2]) != packet[2]:
            return False
        if "--mark" in found:
            value, mask = (int(part, 16) for part in found["--mark"].split("/"))
            if self._mark & mask != value:
                return False
        if "--dports" in found:
            spans = [part.split(":") for part in found["--dports"].split(",")]
            if not any(int(span[0]) <= packet[3] <= int(span[-1]) for span in spans):
                return False
        return all(self._contains(name, flags, packet) for name, flags in sets)

    def _contains(self, name: str, flags: str, packet: Packet) -> bool:
        address = packet[0] if flags == "src" else packet[1]
        value, bits = int.from_bytes(address, "big"), len(address) * 8
        number, port = (NUMBER[packet[2]], packet[3]) if flags == "dst,dst" else (0, 0)
        held = self._sets.get(name, set())
        return any((length, value >> (bits - length), number, port) in held for length in {e[0] for e in held})


def objects(dice: random.Random) -> tuple[list[Object], dict[str, Endpoint], dict[str, str]]:
    """Namespaces and pods of two nodes; endpoints and nodes by pod."""
    found: list[Object] = []
    ends: dict[str, Endpoint] = {}
    nodes: dict[str, str] = {}
    for namespace in "xyz":
        labels = dice.choice(({}, {"team": "red"}, {"team": "blue"}))
        found.append({"kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        for name in "abc":
            number = len(ends) + 8
            local = dice.random() < 0.6
            ips = (f"10.253.{1 if local else 2}.{number}", f"fd53:{1 if local else 2}::{number:x}")
            ports = [
                {"name": "http", "containerPort": dice.choice((80, 81))},
                {"name": "dns", "protocol": "UDP", "containerPort": dice.choice((80, 81))},
                {"name": "http", "protocol": "UDP", "containerPort": 80},
            ]
            pod: Object = {
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": dice.choice(LABELS)},
                "spec": {
                    "nodeName": NODE if local else "other",
                    "containers": [{"ports": ports[: dice.randrange(4)]}],
                },
                "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]},
            }
            found.append(pod)
            ends[f"{namespace}/{name}"] = Endpoint(f"{namespace}/{name}", "pod", ips)
            nodes[f"{namespace}/{name}"] = NODE if local else "other"
    return found, ends, nodes


def expected(state: State, source: Endpoint, target: Endpoint, probe: Probe, nodes: dict[str, str]) -> bool:
    """What this node alone has to say: it enforces for its own pods only, the other node for the rest."""
    version, protocol, port = probe
    sender, receiver = state.pods.get(source.name), state.pods.get(target.name)
    source_ip, target_ip = source.ip(version) or "", target.ip(version) or ""
    name = protocol.upper()
    if nodes.get(source.name) == NODE and not side(state, "Egress", sender, receiver, target_ip, receiver, name, port):
        return False
    return nodes.get(target.name) != NODE or side(state, "Ingress", receiver, sender, source_ip, receiver, name, port)


@pytest.mark.parametrize("seed", range(12))
def test_the_rows_mean_what_the_manifests_say(seed: int) -> None:
    dice = random.Random(seed)
    found, ends, nodes = objects(dice)
    found += drawn(5000 + seed)
    world = World([policies], IPTABLES, FirewallSettings(), ROWS, (Family.IPV4, Family.IPV6))
    addresses = [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]
    world.feed(json.dumps({"kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": addresses}}).encode())
    dice.shuffle(found)
    for obj in found:
        world.feed(json.dumps(obj).encode())
    world.sync()
    kernel, state = Interpreter(world), State.of(found)
    wrong = []
    for source, target in itertools.permutations((*ends.values(), OUTSIDE), 2):
        for probe in itertools.product((4, 6), ("tcp", "udp", "sctp"), (80, 81)):
            version, protocol, port = probe
            packet = (
                ip_address(source.ip(version) or "").packed,
                ip_address(target.ip(version) or "").packed,
                protocol,
                port,
            )
            want = expected(state, source, target, probe, nodes)
            if kernel.passes("FORWARD", packet) != want or kernel.passes("OUTPUT", packet) != want:
                wrong.append((source.name, target.name, probe, want))
            both = {nodes.get(source.name, NODE), nodes.get(target.name, NODE)} == {NODE}
            if both:
                whole = verdict(state, source, target, version, protocol.upper(), port, nodes)
                assert want == (whole is Verdict.ALLOW)
    assert not wrong, wrong[:5]
