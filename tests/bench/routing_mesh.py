"""A node among 500 that are played: the daemon with its gobgpd, from its start until all routes are where they belong.

Half of the others call, the other half is called. Their hold time is 9 seconds, so that heartbeats are often enough for
one that is missed to show.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kuberouter.drivers.network import RouteDriver
from tests.bench.routing_kernel import TABLES, Figure
from tests.bench.routing_nodes import cidr
from tests.support.bgpspeaker import Router, Speaker
from tests.support.lab import Lab, Node, netns
from tests.support.lab.objects import Object

OTHERS = 500
ASN = 64512
OWN = "172.31.128.1"
OWN_PODS = "10.250.0.0/24"
CONVERGED = 30.0
BOUND = 120.0
WATCHED = 12.0
"""Seconds for which heartbeats are watched after that: longer than the hold time."""
PATIENCE = 1.0
"""Seconds within which the daemon says that it lives, as kubelet would have it by default."""
PORT = 20244


def address(number: int) -> str:
    """Half of the others have lower addresses than the node, so they call, and half have higher ones."""
    half = OTHERS // 2
    high, rest = (200, number - half) if number >= half else (0, number)
    return f"172.31.{high + (rest >> 7)}.{1 + (rest & 127)}"


def _node(name: str, where: str, pods: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {"addresses": [{"type": "InternalIP", "address": where}]},
    }


class Pulse:
    """Asks a daemon once a second whether it lives, and counts how often it has no answer in time."""

    def __init__(self, node: Node) -> None:
        self.asked = self.missed = 0
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            alive = self._alive()
            if alive or self.asked:
                # Before its first answer it is not there yet.
                self.asked += 1
                self.missed += not alive

    def _alive(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        try:
            with netns.inside(self._node.namespace):
                connection.connect()
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()


@contextmanager
def _others(lab: Lab) -> Iterator[Speaker]:
    name, link = f"{lab.prefix}-others", "others"
    netns.add(name)
    netns.configure(lab.fabric.name, f"link add {link} type veth peer name eth0 netns {name}")
    netns.configure(lab.fabric.name, f"link set {link} master sub1 up")
    addresses = [address(number) for number in range(OTHERS)]
    netns.configure(name, *(f"addr add {each}/16 dev eth0" for each in addresses), "link set eth0 up")
    routers = [
        Router(each, {each: [cidr(number)]}, dials=number < OTHERS // 2) for number, each in enumerate(addresses)
    ]
    with Speaker(name, OWN, routers, asn=ASN, peer_asn=ASN) as speaker:
        yield speaker


def measure() -> list[Figure]:
    """Seconds until everybody knows everything, and heartbeats that were missed until well after that."""
    arguments = ["--run-service-proxy=false", "--run-firewall=false"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab, _others(lab) as others:
        node = lab.nodes[0]
        netns.configure(node.namespace, f"addr add {OWN}/16 dev eth0")
        lab.api.apply(_node(node.name, OWN, OWN_PODS))
        for number in range(OTHERS):
            lab.api.apply(_node(f"other{number}", address(number), cidr(number)))
        with netns.inside(node.namespace):
            kernel = RouteDriver(TABLES)
        began = time.monotonic()
        lab.start_node(node)
        pulse = Pulse(node)
        marks: dict[str, float] = {}
        while len(marks) < 3:
            now = time.monotonic() - began
            found = {
                "sessions": others.established(),
                "routes": sum(1 for _ in kernel.read()),
                "told": others.heard(OWN_PODS),
            }
            for what, count in found.items():
                if count == OTHERS:
                    marks.setdefault(what, now)
            if now > BOUND:
                raise TimeoutError(f"of {OTHERS} each there are {found} after {BOUND:g} s")
            lab.check_alive()
            time.sleep(0.1)
        time.sleep(WATCHED)
        pulse.stop()
        routers = others.routers.values()
        ends = [end for router in routers for end in router.ends]
        late = sum(router.late for router in routers)
        took = max(marks.values())
    said = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in marks.items())
    print(f"# mesh-{OTHERS}: {said}; {len(ends)} sessions ended {sorted(set(ends))}, {late} keepalives late, ")
    print(f"# mesh-{OTHERS}: {pulse.missed} of {pulse.asked} answers of /healthz missed", flush=True)
    return [
        (f"routing-mesh-{OTHERS}", took, CONVERGED, "s"),
        (f"routing-mesh-{OTHERS}-missed", float(len(ends) + late + pulse.missed), 0.0, " heartbeats"),
    ]
