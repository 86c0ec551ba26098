"""Source ranges and marks for clients inside, as the kernel judges them; IPVS is not needed to see that.

A node with the service address on its loopback link and servers of its own behind it, and a client on a wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from kuberouter.cluster.allocations import ANYWHERE
from kuberouter.compilers.names import SOURCES_CHAIN
from kuberouter.decode.scalars import address
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Variant, Xtables
from kuberouter.drivers.memory import MemoryDriver
from kuberouter.model.cluster import MarkedPlace, MarkUse
from kuberouter.model.core import Family, L4Protocol
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member, Table
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.kernel.drive import sh
from tests.support.lab import netns
from tests.support.probes import Job, Outcome, Prober
from tests.support.world import NODE, ROWS, ProxyWorld

pytestmark = pytest.mark.root

FAMILIES = (Family.IPV4, Family.IPV6)
OWN, CLIENT, SECOND = ("192.0.2.1", "2001:db8::1"), ("192.0.2.100", "2001:db8::100"), "192.0.2.101"
VIPS = ("203.0.113.7", "2001:db8:2::7")
SETTINGS = ProxySettings(guard=False, addresses=AddressRules(strict=False))
BOUND = 0.5


class Place:
    """The node's and the client's namespace, and the proxy's rules in the former."""

    def __init__(self, variant: Variant) -> None:
        prefix = netns.unique_prefix()
        self.node, self.client = f"{prefix}-node", f"{prefix}-client"
        for name in (self.node, self.client):
            netns.add(name)
        netns.configure(self.node, f"link add eth0 type veth peer name eth0 netns {self.client}")
        for name, addresses in ((self.node, OWN), (self.client, (*CLIENT, SECOND))):
            for each in addresses:
                netns.configure(name, f"addr add {each}/{64 if ':' in each else 24} dev eth0 {'nodad' * (':' in each)}")
            netns.configure(name, "link set eth0 up")
        netns.configure(self.client, f"route add {VIPS[0]}/32 via {OWN[0]}", f"route add {VIPS[1]}/128 via {OWN[1]}")
        netns.configure(self.node, f"addr add {VIPS[0]}/32 dev lo", f"addr add {VIPS[1]}/128 dev lo nodad")
        self.probers = {name: Prober(netns.path(name), name) for name in (self.node, self.client)}
        self.probers[self.node].serve([(p, n) for p in ("tcp", "udp") for n in (80, 81, 30080)])
        with netns.inside(self.node):
            self.xtables = Xtables(variant)
            self.world = ProxyWorld(SETTINGS, FAMILIES, node=_node(), drivers=self._drivers())

    def _drivers(self) -> dict[Any, Any]:
        def ours(name: str) -> bool:
            return name.removeprefix("inet6:").startswith("kube-router-")

        drivers: dict[Any, Any] = {row: MemoryDriver() for row in ROWS}
        drivers[IpSet], drivers[Member] = SetDriver(ours), MemberDriver(ours)
        drivers[Chain] = ChainDriver(self.xtables, FAMILIES, ("KUBE-ROUTER-",))
        drivers[Hook] = HookDriver(self.xtables, FAMILIES)
        return drivers

    def apply(self, **spec: Any) -> None:
        """Have a Service with this in its spec."""
        given = {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "fd96::10"],
            "ports": [{"name": p, "protocol": p.upper(), "port": 80, "nodePort": 30080} for p in ("tcp", "udp")],
            **spec,
        }
        status = {"loadBalancer": {"ingress": [{"ip": ip} for ip in VIPS]}}
        metadata = {"name": "web", "namespace": "shop"}
        raw = {"kind": "Service", "metadata": metadata, "spec": given, "status": status}
        with netns.inside(self.node):
            self.world.feed(json.dumps(raw).encode())
            self.world.sync()

    def drift(self) -> int:
        """Rows in which the kernel differs from what was written."""
        with netns.inside(self.node):
            self.world.dataplane.resync([IpSet, Member, Chain, Hook])
            self.world.sync()
        return sum(self.world.report.drift.values())

    def outcomes(self, name: str, vip: str, port: int = 80) -> set[Outcome]:
        results = self.probers[name].probe([Job(p, vip, port) for p in ("tcp", "udp")], BOUND)
        return {result.outcome for result in results}

    def close(self) -> None:
        for prober in self.probers.values():
            prober.close()
        for name in (self.node, self.client):
            netns.remove(name)


def _node() -> bytes:
    return json.dumps(
        {
            "kind": "Node",
            "metadata": {"name": NODE},
            # The client is taken for a pod, so that one wire will do.
            "spec": {"podCIDRs": [f"{CLIENT[0]}/32", f"{CLIENT[1]}/128"]},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in OWN]},
        }
    ).encode()


@pytest.fixture(params=list(Variant), ids=lambda v: v.value)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.param)
    try:
        yield made
    finally:
        made.close()


def test_only_listed_clients_get_through_and_the_node_is_one_of_them_or_not(place: Place) -> None:
    allowed, dropped = {Outcome.ALLOWED}, {Outcome.DROPPED}
    place.apply(loadBalancerSourceRanges=[f"{CLIENT[0]}/32", f"{OWN[1]}/128"])
    assert place.outcomes(place.client, VIPS[0]) == allowed
    assert place.outcomes(place.client, VIPS[1]) == dropped
    # On the loopback link the node asks with the address that it asks for; that its datagram was dropped it is told.
    assert Outcome.ALLOWED not in place.outcomes(place.node, VIPS[0])
    assert place.outcomes(place.client, VIPS[0], 81) == allowed, "another port is somebody else's matter"
    assert place.outcomes(place.client, OWN[0]) == allowed
    place.apply(loadBalancerSourceRanges=[f"{SECOND}/32", f"{CLIENT[1]}/127", f"{VIPS[0]}/32"])
    assert place.outcomes(place.client, VIPS[0]) == dropped
    assert place.outcomes(place.client, VIPS[1]) == allowed
    assert place.outcomes(place.node, VIPS[0]) == allowed
    place.apply(loadBalancerSourceRanges=["0.0.0.0/0", "::/0"])
    for vip in VIPS:
        assert place.outcomes(place.client, vip) == allowed
    place.apply()
    with netns.inside(place.node):
        assert not [key for key in place.world.dataplane.tables[Hook].mirror.failures if key.table is Table.RAW]
        assert SOURCES_CHAIN not in sh(f"iptables-{place.xtables.variant.value}-save")


def test_clients_inside_get_the_mark_of_the_place_that_they_ask_for(place: Place) -> None:
    place.apply(externalTrafficPolicy="Local", loadBalancerSourceRanges=[f"{CLIENT[0]}/31", "::/0"])
    assert place.drift() == 0
    place.apply(externalTrafficPolicy="Local")
    assert place.drift() == 0
    marks = place.world.planner.cluster.marks
    variant = place.xtables.variant.value
    with netns.inside(place.node):
        for index, tool in enumerate(("iptables", "ip6tables")):
            places = [
                MarkedPlace(address(VIPS[index]), L4Protocol.TCP, 80, MarkUse.INSIDE),
                MarkedPlace(ANYWHERE, L4Protocol.UDP, 30080, MarkUse.INSIDE),
            ]
            for each in places:
                sh(f"{tool}-{variant}", "-A", "INPUT", "-m", "mark", "--mark", hex(marks.mark(each)), "-j", "ACCEPT")
    for name, vip in ((place.client, VIPS[0]), (place.client, VIPS[1]), (place.node, VIPS[0])):
        assert place.outcomes(name, vip) == {Outcome.ALLOWED}
    assert place.outcomes(place.client, OWN[0], 30080) == {Outcome.ALLOWED}
    assert place.outcomes(place.client, OWN[1], 30080) == {Outcome.ALLOWED}
    assert place.outcomes(place.client, VIPS[0], 81) == {Outcome.ALLOWED}
    with netns.inside(place.node):
        for tool in ("iptables", "ip6tables"):
            saved = sh(f"{tool}-{variant}-save", "-c", "-t", "filter")
            counts = [int(count) for count in re.findall(r"\[(\d+):\d+\] -A INPUT -m mark", saved)]
            assert len(counts) == 2
            assert min(counts) > 0, saved
