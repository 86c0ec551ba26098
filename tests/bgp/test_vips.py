"""A node with a router outside the cluster that is told of Services: what the router hears, and how soon."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from kuberouter.daemon.bgpcounts import BgpCounts
from kuberouter.decode import DECODERS
from kuberouter.model import bgp
from kuberouter.model.bgp import Peer, PeerKey
from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import Batch, Family
from kuberouter.model.settings import AddressRules, Advertise, RouterSettings
from kuberouter.wire.gobgp.client import Connection
from kuberouter.wire.gobgp.codec import LOCAL_SOURCES
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.bgp.test_nodes import SESSION, log_lines, reaches
from tests.support import gobgpd as programs
from tests.support.bgp import Router, Wire, annotated, bgp_drivers, node, prefix, wait
from tests.support.lab import netns
from tests.support.world import kind_of
from tests.unit.compilers.services.test_services import endpoints, service

pytestmark = pytest.mark.root

A, B, TOR, A6 = "192.0.2.1", "192.0.2.2", "192.0.2.254", "2001:db8::1"
CIDR_A, CIDR_B = "10.244.1.0/24", "10.244.2.0/24"
PEERS = f"- {{remoteip: {TOR}, remoteasn: 65000}}"
CLUSTER, EXTERNAL, SHARED = "10.96.0.10/32", "203.0.113.10/32", "203.0.113.11/32"
RULES = AddressRules(True, (prefix("10.96.0.0/12"),), (prefix("203.0.113.0/24"), prefix("2001:db8:1::/64")))
SETTINGS = RouterSettings(advertise=Advertise(cluster_ip=True, external_ip=True), addresses=RULES)
AT_ONCE = 2.0
"""Seconds from an event to the router's table."""


def read(raw: bytes) -> ClusterObject:
    found, _ = DECODERS[kind_of(raw)](raw)
    assert found is not None
    return found


def web(*external: str, name: str = "web", cluster_ip: str = "10.96.0.10", **spec: Any) -> ClusterObject:
    return read(service(name, clusterIP=cluster_ip, externalIPs=list(external), **spec))


def behind(conditions: str, name: str = "web", where: str = "a") -> ClusterObject:
    return read(endpoints(("10.244.1.5", where, conditions), service=name))


class Rack:
    """Two nodes that peer, of which one tells the router of the rack of Services."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.a, self.b = wire.station("a", A), wire.station("b", B)
        self.at_a, self.at_b = wire.daemon(self.a, SETTINGS), wire.daemon(self.b)
        self.tor = Router(
            wire.station("tor", TOR, programs.V3),
            65000,
            Peer(PeerKey(ip_address(A).packed), 64512, ip_address(TOR).packed),
        )
        self.at_b.put(annotated("a", A, CIDR_A), node("b", [B], [CIDR_B]))
        self.begin()

    def begin(self) -> None:
        """What the one daemon knows at first: one Service with an endpoint."""
        self.at_a.put(annotated("a", A, CIDR_A, peers=PEERS), node("b", [B], [CIDR_B]))
        self.at_a.put(web("203.0.113.10"), behind("rs"))

    def heard(self) -> set[str]:
        """The prefixes in the router's table."""
        return set(self.tor.knows())

    def hears(self, *prefixes: str, within: float = AT_ONCE) -> None:
        """Wait until the router knows the node's pods, these prefixes and nothing else."""
        expected = {CIDR_A, *prefixes}
        wait(
            lambda: self.heard() == expected, within, f"{sorted(expected)} at the router; it has {sorted(self.heard())}"
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, gobgpd: str) -> Iterator[Rack]:
    with Wire(tmp_path_factory.mktemp("bgp"), gobgpd) as wire:
        rack = Rack(wire)
        wait(lambda: reaches(rack.at_a, CIDR_B, B) and reaches(rack.at_b, CIDR_A, A), SESSION, "routes")
        rack.hears(CLUSTER, EXTERNAL, within=SESSION)
        yield rack


@pytest.fixture
def rack(whole: Rack) -> Iterator[Rack]:
    downs = log_lines(whole.a, "Peer Down")
    yield whole
    whole.begin()
    for name in ("other", "alone"):
        whole.at_a.delete(name, kind="Service", namespace="shop")
    whole.hears(CLUSTER, EXTERNAL, within=5)
    wait(whole.at_a.told, 5, "agreement")
    assert log_lines(whole.a, "Peer Down") == downs, "sessions stay, whatever becomes of Services"


def test_the_router_hears_of_exactly_what_is_served_and_other_nodes_of_nothing(rack: Rack) -> None:
    found = rack.tor.knows()
    assert {found[text]["nexthop"] for text in (CLUSTER, EXTERNAL)} == {A}
    assert [asn for segment in found[EXTERNAL]["as_paths"] for asn in segment["asns"]] == [64512]
    known = {str(route.ref.name) for route in rack.at_b.planner.cluster.learned_routes()}
    assert known == {CIDR_A}


def test_b03_what_goes_is_withdrawn_at_once_and_back_at_once(rack: Rack) -> None:
    for gone, back in (("EndpointSlice", behind("rs")), ("Service", web("203.0.113.10"))):
        rack.at_a.delete("web-v4" if gone == "EndpointSlice" else "web", kind=gone, namespace="shop")
        rack.hears()
        rack.at_a.put(back)
        rack.hears(CLUSTER, EXTERNAL)


def test_b04_scaled_to_zero_is_withdrawn_as_soon_as_the_last_endpoint_begins_to_end(rack: Rack) -> None:
    for conditions in ("st", "s", ""):
        rack.at_a.put(behind(conditions))
        rack.hears()
        rack.at_a.put(behind("rs"))
        rack.hears(CLUSTER, EXTERNAL)


def test_local_follows_the_endpoints_of_this_node(rack: Rack) -> None:
    rack.at_a.put(web("203.0.113.10", externalTrafficPolicy="Local", type="NodePort"))
    rack.hears(CLUSTER, EXTERNAL)
    rack.at_a.put(behind("rs", where="b"))
    rack.hears(CLUSTER)


def test_b01_and_a_service_without_slices_or_with_forbidden_addresses_harms_nobody(rack: Rack) -> None:
    rack.at_a.put(web("203.0.113.12", "198.51.100.1", name="alone", cluster_ip="10.96.0.12"))
    rack.at_a.put(web("203.0.113.11", name="other", cluster_ip="10.96.0.11"), behind("rs", name="other"))
    rack.hears(CLUSTER, EXTERNAL, SHARED, "10.96.0.11/32")
    rack.at_a.put(behind("rs", name="alone"))
    rack.hears(CLUSTER, EXTERNAL, SHARED, "10.96.0.11/32", "203.0.113.12/32", "10.96.0.12/32")
    rack.at_a.delete("alone-v4", kind="EndpointSlice", namespace="shop")
    rack.hears(CLUSTER, EXTERNAL, SHARED, "10.96.0.11/32")


def test_b02_an_address_that_two_services_have_stays_until_neither_needs_it(rack: Rack) -> None:
    ports = [{"port": 81, "protocol": "TCP"}]
    rack.at_a.put(web("203.0.113.10", name="other", cluster_ip="10.96.0.11", ports=ports), behind("rs", name="other"))
    rack.hears(CLUSTER, EXTERNAL, "10.96.0.11/32")
    rack.at_a.put(behind("", name="other"))
    rack.hears(CLUSTER, EXTERNAL)
    rack.at_a.put(behind("rs", name="other"), behind(""))
    rack.hears(EXTERNAL, "10.96.0.11/32")
    rack.at_a.delete("other", kind="Service", namespace="shop")
    rack.hears()


def test_sessions_and_routes_are_in_the_metrics(rack: Rack) -> None:
    counts = BgpCounts(rack.at_a.gobgp, lambda: rack.at_a.source.received)
    found = {one.name: one for one in counts.show()}
    peers = {tuple(value for _, value in s.labels): s.value for s in found["kube_router_bgp_peer_info"].samples}
    assert peers == {
        (B, "internal", "64512", "established"): 1.0,
        (TOR, "external", "65000", "established"): 1.0,
    }
    assert [name for name, _ in found["kube_router_bgp_peer_info"].samples[0].labels] == [
        "address",
        "type",
        "asn",
        "state",
    ]
    up = {tuple(value for _, value in s.labels): s.value for s in found["kube_router_bgp_peer_up"].samples}
    assert up == {(B, "internal"): 1.0, (TOR, "external"): 1.0}
    told = {tuple(value for _, value in s.labels): s.value for s in found["kube_router_bgp_prefixes"].samples}
    assert set(told) == {(peer, direction) for peer in (B, TOR) for direction in ("received", "accepted")}
    # The other node tells of its pods and of its Services.
    assert told[B, "received"] >= told[B, "accepted"] >= 1
    # At least the pods of both nodes and two addresses.
    assert found["kube_router_controller_bgp_advertisements_received"].samples[0].value >= 4
    nobody = BgpCounts(Gobgp(Connection(f"unix://{rack.a.home}/nobody.sock")), lambda: 0)
    assert not [one for one in nobody.show() if one.name.endswith("peer_info") and one.samples]


def test_a_drain_withdraws_services_and_keeps_pods_and_sessions(rack: Rack) -> None:
    """drain_withdraw"""
    before = rack.tor.api.sessions()
    rack.at_a.put(annotated("a", A, CIDR_A, peers=PEERS, drain="true"))
    rack.hears()
    assert reaches(rack.at_b, CIDR_A, A)
    assert rack.tor.api.sessions() == before == rack.tor.api.sessions()
    rack.at_a.put(annotated("a", A, CIDR_A, peers=PEERS))
    rack.hears(CLUSTER, EXTERNAL)


def test_an_address_that_is_served_here_is_not_learned(rack: Rack) -> None:
    """What the router tells of it is not even kept beside the own path."""
    rack.tor.tell(EXTERNAL, "203.0.113.99/32")
    learned = rack.at_a.planner.cluster.learned_routes
    wait(lambda: any(str(r.ref.name) == "203.0.113.99/32" for r in learned()), 5, "a route that comes after it")
    api: Any = Gobgp(Connection(f"unix://{rack.a.socket}")).api
    kept = Counter((api._codec.path_prefix(path), path.neighbor_ip in LOCAL_SOURCES) for path in api._table())
    told, learnt = prefix(EXTERNAL), prefix("203.0.113.99/32")
    assert [kept[told, True], kept[told, False], kept[learnt, False]] == [1, 0, 1]
    rack.tor.tell(EXTERNAL, "203.0.113.99/32", withdraw=True)
    wait(lambda: not any(str(r.ref.name) == "203.0.113.99/32" for r in learned()), 5, "its end")


def test_b06_the_set_has_its_entry_before_the_route_is_there(rack: Rack) -> None:
    reports = len(rack.at_a.reports)
    rack.at_a.put(behind(""))
    rack.hears()
    rack.at_a.put(behind("rs"))
    rack.hears(CLUSTER, EXTERNAL)
    written = [
        (row, len(batch.add), len(batch.remove)) for r in rack.at_a.reports[reports:] for row, batch in r.batches
    ]
    out, back = [(bgp.Path, 0, 2), (bgp.PrefixSetEntry, 0, 2)], [(bgp.PrefixSetEntry, 2, 0), (bgp.Path, 2, 0)]
    assert written == out + back


def test_b06_a_route_whose_entry_comes_late_is_told_all_the_same(rack: Rack) -> None:
    """Told again the route would be no news to gobgpd, and sets are not looked at again."""
    drivers = bgp_drivers(Gobgp(Connection(f"unix://{rack.a.socket}")))
    late = prefix(SHARED)
    entry = bgp.PrefixSetEntry(bgp.PrefixSetEntryKey("servicevipsdefinedset", late, 32, 32))
    path = bgp.Path(bgp.PathKey(late), ip_address(A).packed)
    paths, entries = drivers[bgp.Path], drivers[bgp.PrefixSetEntry]
    assert entry not in entries.read()
    assert path not in paths.read()
    assert not paths.write(Batch(add=(path,))).failed
    # What comes later is there by now.
    rack.at_a.put(web("203.0.113.20"))
    rack.hears(CLUSTER, "203.0.113.20/32")
    assert not entries.write(Batch(add=(entry,))).failed
    rack.hears(CLUSTER, "203.0.113.20/32", SHARED)
    assert not paths.write(Batch(remove=(path,))).failed
    assert not entries.write(Batch(remove=(entry,))).failed


def test_a_daemon_that_comes_back_withdraws_what_is_no_longer_served(rack: Rack) -> None:
    rack.at_a.stop()
    rack.hears(CLUSTER, EXTERNAL)
    rack.at_a = rack.wire.daemon(rack.a, RouterSettings(advertise=Advertise(external_ip=True), addresses=RULES))
    rack.begin()
    rack.hears(EXTERNAL, within=5)
    rack.at_a.stop()
    rack.at_a = rack.wire.daemon(rack.a, SETTINGS)


def test_addresses_of_both_families_are_told_over_one_session(tmp_path: Path, gobgpd: str) -> None:
    families = (Family.IPV4, Family.IPV6)
    with Wire(tmp_path, gobgpd) as wire:
        station = wire.station("a", A)
        netns.configure(station.namespace, f"addr add {A6}/64 dev eth0 nodad")
        daemon = wire.daemon(station, SETTINGS, families)
        peer = Peer(PeerKey(ip_address(A).packed), 64512, ip_address(TOR).packed, families=families)
        tor = Router(wire.station("tor", TOR, programs.V3), 65000, peer)
        raw = annotated("a", A, CIDR_A, peers=PEERS)
        addresses = tuple(ip_address(text).packed for text in (A, A6))
        daemon.put(type(raw)(raw.ref, addresses, (), raw.spec_pod_cidrs, raw.options))
        daemon.put(web("203.0.113.10", "2001:db8:1::1"), behind("rs"))
        daemon.put(read(endpoints(("fd44:1::5", "a", "rs"))))
        words = ["gobgp", "--target", f"unix://{tor.station.socket}", "global", "rib", "-a", "ipv6", "-j"]

        def six() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(subprocess.run(words, capture_output=True, text=True).stdout or "{}")
            return found

        wait(lambda: set(tor.knows()) == {CIDR_A, CLUSTER, EXTERNAL}, SESSION, "IPv4 addresses")
        wait(lambda: set(six()) == {"2001:db8:1::1/128"}, 5, "IPv6 address")
        hops = [a["nexthop"] for path in six()["2001:db8:1::1/128"] for a in path["attrs"] if "nexthop" in a]
        assert hops == [A6]
        daemon.delete("web-v6", kind="EndpointSlice", namespace="shop")
        wait(lambda: not six(), AT_ONCE, "withdrawal")
        assert set(tor.knows()) == {CIDR_A, CLUSTER, EXTERNAL}
