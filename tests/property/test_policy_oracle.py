"""Compiled rows, read by a small interpreter instead of a kernel, agree with the truth table on many random states."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from kuberouter.cluster.dependents import policies
from kuberouter.model.core import Family
from kuberouter.model.settings import FirewallSettings
from tests.conformance.generate import drawn
from tests.conformance.oracle import Endpoint, State, Verdict, side, verdict
from tests.property.test_policies import BACKENDS
from tests.support.verdicts import packet, verdicts
from tests.support.world import NODE, World

LABELS = ({}, {"app": "web"}, {"app": "api", "tier": "front"}, {"app": "db"}, {"tier": "front"})
OUTSIDE = Endpoint("outside", "outside", ("10.253.0.99", "fd53::99"))
Probe = tuple[int, str, int]
Object = dict[str, Any]


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


@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("seed", range(12))
def test_the_rows_mean_what_the_manifests_say(seed: int, backend: str) -> None:
    dice = random.Random(seed)
    found, ends, nodes = objects(dice)
    found += drawn(5000 + seed)
    compilers, rows = BACKENDS[backend]
    world = World([policies], compilers, FirewallSettings(), rows, (Family.IPV4, Family.IPV6))
    addresses = [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]
    world.feed(json.dumps({"kind": "Node", "metadata": {"name": NODE}, "status": {"addresses": addresses}}).encode())
    dice.shuffle(found)
    for obj in found:
        world.feed(json.dumps(obj).encode())
    world.sync()
    kernel, state = verdicts(world), State.of(found)
    wrong = []
    for source, target in itertools.permutations((*ends.values(), OUTSIDE), 2):
        for probe in itertools.product((4, 6), ("tcp", "udp", "sctp"), (80, 81)):
            version, protocol, port = probe
            sent = packet(source.ip(version) or "", target.ip(version) or "", protocol, port)
            want = expected(state, source, target, probe, nodes)
            if kernel.passes("FORWARD", sent) != want or kernel.passes("OUTPUT", sent) != want:
                wrong.append((source.name, target.name, probe, want))
            both = {nodes.get(source.name, NODE), nodes.get(target.name, NODE)} == {NODE}
            if both:
                whole = verdict(state, source, target, version, protocol.upper(), port, nodes)
                assert want == (whole is Verdict.ALLOW)
    assert not wrong, wrong[:5]
