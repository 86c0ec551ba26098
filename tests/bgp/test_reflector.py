"""Nodes that do not all peer with each other: by AS number, and through a route reflector, which has policies too."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kuberouter.model import bgp
from kuberouter.model.cluster import Node
from kuberouter.model.settings import RouterSettings
from tests.bgp.test_nodes import SESSION, log_lines, reaches
from tests.support import gobgpd as programs
from tests.support.bgp import Daemon, Router, Station, Wire, annotated, prefix, wait

pytestmark = pytest.mark.root

TOR = "192.0.2.254"
NAMES = ("s", "c", "d", "e")
ADDRESSES = {name: f"192.0.2.{number}" for number, name in enumerate(NAMES, 1)}
CIDRS = {name: f"10.244.{number}.0/24" for number, name in enumerate(NAMES, 1)}


def packed(text: str) -> bytes:
    return ip_address(text).packed


class Site:
    """A reflector, two clients, and a node of another AS number; the reflector has a peer outside the cluster."""

    def __init__(self, wire: Wire) -> None:
        settings = RouterSettings(full_mesh=False)
        self.stations: dict[str, Station] = {name: wire.station(name, ADDRESSES[name]) for name in NAMES}
        self.daemons: dict[str, Daemon] = {name: wire.daemon(self.stations[name], settings) for name in NAMES}
        self.tor = Router(
            wire.station("tor", TOR, programs.V3),
            65000,
            bgp.Peer(bgp.PeerKey(packed(ADDRESSES["s"])), 64601, packed(TOR)),
        )
        self.tor.tell("10.8.0.0/16", "0.0.0.0/0")
        self.put(*self.nodes().values())

    def nodes(self) -> dict[str, Node]:
        said = {
            "s": {"rr_server": "42", "peers": f"- {{remoteip: {TOR}, remoteasn: 65000}}"},
            "c": {"rr_client": "42"},
            "d": {"rr_client": "0.0.0.42"},
            "e": {},
        }
        asn = {"s": "64601", "c": "64601", "d": "0xFC59", "e": "64602"}
        return {name: annotated(name, ADDRESSES[name], CIDRS[name], node_asn=asn[name], **said[name]) for name in NAMES}

    def put(self, *nodes: Node) -> None:
        for daemon in self.daemons.values():
            daemon.put(*nodes)

    def sees(self, who: str, whom: str) -> bool:
        return reaches(self.daemons[who], CIDRS[whom], ADDRESSES[whom])

    def learned(self, who: str) -> set[str]:
        return {route.ref.name for route in self.daemons[who].planner.cluster.learned_routes()}

    def peers(self, who: str) -> set[bytes]:
        return {peer.key.address for peer in self.daemons[who].gobgp.api.peers()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, gobgpd: str) -> Iterator[Site]:
    with Wire(tmp_path_factory.mktemp("bgp"), gobgpd) as wire:
        site = Site(wire)
        wait(lambda: all(site.sees(*pair) for pair in ("sc", "sd", "cs", "cd", "ds", "dc")), SESSION, "routes")
        wait(lambda: "10.8.0.0/16" in site.learned("s"), SESSION, "route of the router")
        yield site


def test_clients_peer_with_the_reflector_only(site: Site) -> None:
    own = {name: packed(address) for name, address in ADDRESSES.items()}
    assert site.peers("s") == {own["c"], own["d"], packed(TOR)}
    assert site.peers("c") == site.peers("d") == {own["s"]}
    assert site.peers("e") == set()
    assert all(daemon.told() for daemon in site.daemons.values())


def test_b08_a_reflector_takes_no_default_route_and_passes_on_what_nodes_tell_only(site: Site) -> None:
    assert site.learned("s") == {CIDRS["c"], CIDRS["d"], "10.8.0.0/16"}
    assert site.learned("c") == {CIDRS["s"], CIDRS["d"]}
    # A service address is for those outside, whoever serves it.
    vip = "198.51.100.7/32"
    key = bgp.PrefixSetEntryKey("servicevipsdefinedset", prefix(vip), 32, 32)
    gobgp = site.daemons["s"].gobgp.api
    gobgp.add_set(bgp.DefinedSetKey(bgp.SetKind.PREFIX, key.set), [key])
    gobgp.originate([bgp.Path(bgp.PathKey(prefix(vip)), packed(ADDRESSES["s"]))], [])
    wait(lambda: vip in site.tor.knows(), 5, "service address at the router")
    # The router hears of no node but the reflector itself, and tells nothing back to the only peer that it has.
    site.tor.tell("10.7.0.0/16")
    wait(lambda: "10.7.0.0/16" in site.learned("s"), 5, "later route")
    assert site.learned("c") == {CIDRS["s"], CIDRS["d"]}
    assert set(site.tor.knows()) == {CIDRS["s"], vip, "10.8.0.0/16", "10.7.0.0/16", "0.0.0.0/0"}
    gobgp.originate([], [bgp.Path(bgp.PathKey(prefix(vip)), packed(ADDRESSES["s"]))])
    gobgp.remove_entries(bgp.DefinedSetKey(bgp.SetKind.PREFIX, key.set), [key])


def test_b15_a_node_joins_by_its_as_number(site: Site) -> None:
    downs = log_lines(site.stations["s"], "Peer Down")
    nodes = site.nodes()
    site.put(annotated("e", ADDRESSES["e"], CIDRS["e"], node_asn="64601", rr_client="42"))
    wait(lambda: all(site.sees(*pair) for pair in ("es", "ec", "ed", "ce", "de")), SESSION, "routes of the new one")
    site.put(nodes["e"])
    wait(lambda: not site.sees("c", "e") and not site.learned("e"), SESSION, "end of its routes")
    wait(lambda: all(daemon.told() for daemon in site.daemons.values()), 5, "agreement")
    # Of the reflector's sessions that of the one who left has ended.
    assert log_lines(site.stations["s"], "Peer Down") <= downs + 1
