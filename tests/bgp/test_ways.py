"""Routes with several ways: routers outside that are equally good, and what becomes of them one by one."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.model.bgp import Peer, PeerKey
from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Upserted
from tests.bgp.test_nodes import SESSION
from tests.support import gobgpd as programs
from tests.support.bgp import Daemon, Router, Wire, annotated, wait

pytestmark = pytest.mark.root

A, TORS = "192.0.2.1", ("192.0.2.251", "192.0.2.252", "192.0.2.253")
PREFIX, OTHER = "10.9.0.0/16", "10.8.0.0/16"


def packed(text: str) -> bytes:
    return ip_address(text).packed


def ways(daemon: Daemon, prefix: str = PREFIX) -> set[str]:
    """Where a route leads."""
    route = daemon.route(prefix)
    return {str(ip_address(gateway)) for gateway in route.gateways} if route is not None else set()


def test_equal_ways_share_the_load_and_go_one_by_one(tmp_path: Path, gobgpd: str) -> None:
    with Wire(tmp_path, gobgpd) as wire:
        station = wire.station("a", A)
        daemon = wire.daemon(station)
        link = Interface(ObjectRef("Interface", "", "eth0"), 2, 1500, (InterfaceAddress(packed(A), 24),))
        daemon.inbox.put(Upserted(link))
        peers = "".join(f"- {{remoteip: {tor}, remoteasn: 65000}}\n" for tor in TORS)
        daemon.put(annotated("a", A, "10.244.1.0/24", peers=peers))
        peer = Peer(PeerKey(packed(A)), 64512, b"")
        tors = [Router(wire.station(f"tor{n}", tor, programs.V3), 65000, peer) for n, tor in enumerate(TORS)]
        for tor in tors:
            tor.tell(PREFIX)
        tors[0].tell(OTHER)
        wait(lambda: ways(daemon) == set(TORS), SESSION, "three ways")
        assert ways(daemon, OTHER) == {TORS[0]}
        assert daemon.told()
        tors[2].tell(PREFIX, withdraw=True)
        wait(lambda: ways(daemon) == set(TORS[:2]), 5, "two ways")
        # A daemon that starts anew hears of all ways at once.
        daemon.stop()
        again = wire.daemon(station)
        again.inbox.put(Upserted(link))
        again.put(annotated("a", A, "10.244.1.0/24", peers=peers))
        wait(lambda: ways(again) == set(TORS[:2]), 10, "two ways after a restart")
        # Nothing is removed before all is known.
        wait(lambda: "learned" in again.planner.synced, 10, "whole picture")
        # The best of them goes with its router.
        tors[0].station.kill()
        wait(lambda: ways(again) == {TORS[1]}, 10, "one way")
        wait(lambda: ways(again, OTHER) == set(), 5, "end of the other route")
        tors[1].tell(PREFIX, withdraw=True)
        wait(lambda: ways(again) == set(), 5, "end of the route")
