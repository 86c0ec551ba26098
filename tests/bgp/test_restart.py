"""gobgpd dies and comes back, with graceful restart: who keeps what, and that nobody falls silent for long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.model import bgp
from kuberouter.model.core import Prefix, Unavailable
from kuberouter.model.settings import ExternalPeers, GracefulRestart, RouterSettings
from kuberouter.wire.gobgp.client import BestPath
from tests.bgp.test_nodes import SESSION, log_lines, reaches
from tests.support import gobgpd as programs
from tests.support.bgp import Daemon, Router, Wire, node, prefix, wait

pytestmark = pytest.mark.root

A, B, DEAD, TOR = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.254"
CIDR_A, CIDR_B, CIDR_NEW = "10.244.1.0/24", "10.244.2.0/24", "10.244.7.0/24"
SETTINGS = RouterSettings(
    graceful=GracefulRestart(60, 360),
    peers=ExternalPeers((bgp.PeerSpec(ip_address(TOR).packed, 65000),)),
)


class Trio:
    """Two nodes and a third that is down; and a router that knows nothing of graceful restart."""

    def __init__(self, wire: Wire) -> None:
        self.a, self.b = wire.station("a", A), wire.station("b", B)
        self.at_a, self.at_b = wire.daemon(self.a, SETTINGS), wire.daemon(self.b, SETTINGS)
        peers = [bgp.Peer(bgp.PeerKey(ip_address(each).packed), 64512, ip_address(TOR).packed) for each in (A, B)]
        self.tor = Router(wire.station("tor", TOR, programs.V3), 65000, *peers)
        for daemon in (self.at_a, self.at_b):
            daemon.put(node("a", [A], [CIDR_A]), node("b", [B], [CIDR_B]), node("c", [DEAD], ["10.244.3.0/24"]))

    def meet(self) -> None:
        """Wait until everybody who is up knows everybody."""
        wait(lambda: reaches(self.at_a, CIDR_B, B) and reaches(self.at_b, CIDR_A, A), SESSION, "routes")
        wait(lambda: {CIDR_A, CIDR_B} <= set(self.tor.knows()), SESSION, "routes at the router")


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory, gobgpd: str) -> Iterator[Trio]:
    with Wire(tmp_path_factory.mktemp("bgp"), gobgpd) as wire:
        trio = Trio(wire)
        trio.meet()
        # For the node that is down is waited as long as it takes to be sure; until then nothing is taken away.
        both = (trio.at_a, trio.at_b)
        wait(lambda: all("learned" in daemon.planner.synced for daemon in both), SESSION, "end of the first picture")
        yield trio


def test_b16_nobody_is_silent_at_a_first_start_though_a_node_is_dead(trio: Trio) -> None:
    trio.at_a.put(node("a", [A], [CIDR_A, CIDR_NEW]))
    wait(lambda: reaches(trio.at_b, CIDR_NEW, A) and CIDR_NEW in trio.tor.knows(), 8, "what is new")
    trio.at_a.put(node("a", [A], [CIDR_A]))
    wait(lambda: CIDR_NEW not in {route.ref.name for route in trio.at_b.planner.cluster.learned_routes()}, 8, "its end")


class Witness:
    """Hears what a gobgpd makes of its routes, one change after the other."""

    def __init__(self, daemon: Daemon) -> None:
        self.heard: list[BestPath] = []
        self._watch = daemon.gobgp.api.watch()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(Unavailable):
            for found in self._watch:
                self.heard += found

    def lost(self) -> set[Prefix]:
        """Prefixes that were without a path for a moment or for good."""
        return {path.prefix for path in self.heard if not path.next_hop}

    def close(self) -> None:
        """Listen no more."""
        self._watch.cancel()


def test_b16_routes_stay_while_gobgpd_is_away_and_what_is_new_comes_soon(trio: Trio) -> None:
    """Pain 12: a restart costs no route, and no silence of minutes."""
    witness = Witness(trio.at_b)
    wait(lambda: bool(witness.heard), 5, "first picture")
    downs = log_lines(trio.b, "Peer Down")
    trio.a.kill()
    wait(lambda: trio.at_a.source.trouble != "", 5, "notice of the absence")
    wait(lambda: log_lines(trio.b, "Peer Down") > downs, 5, "end of the session")
    assert reaches(trio.at_b, CIDR_A, A)
    trio.at_a.put(node("a", [A], [CIDR_A, CIDR_NEW]))
    trio.a.start()
    took = wait(lambda: reaches(trio.at_b, CIDR_NEW, A), SESSION, "new route")
    assert took < 15
    trio.meet()
    wait(trio.at_a.told, 5, "agreement")
    # The routes were there all the while, to gobgpd as well.
    assert witness.lost() == set()
    trio.at_a.put(node("a", [A], [CIDR_A]))
    wait(lambda: prefix(CIDR_NEW) in witness.lost(), 5, "withdrawal")
    witness.close()


def test_who_knows_nothing_of_graceful_restart_hears_at_once(trio: Trio) -> None:
    """Pain 13: its session is no other than before, and is told everything as soon as it stands."""
    wait(lambda: {CIDR_A, CIDR_B} <= set(trio.tor.knows()), 10, "routes at the router")
    trio.a.kill()
    wait(lambda: CIDR_A not in trio.tor.knows(), 10, "end of the session with the router")
    trio.a.start()
    wait(lambda: CIDR_A in trio.tor.knows(), SESSION, "routes at the router")


def test_a_router_without_graceful_restart_hears_though_it_is_the_only_peer(tmp_path: Path, gobgpd: str) -> None:
    """Pain 13, as gobgpd has it where there is nobody to wait for."""
    with Wire(tmp_path, gobgpd) as wire:
        station = wire.station("a", A)
        daemon = wire.daemon(station, SETTINGS)
        peer = bgp.Peer(bgp.PeerKey(ip_address(A).packed), 64512, ip_address(TOR).packed)
        tor = Router(wire.station("tor", TOR, programs.V3), 65000, peer)
        daemon.put(node("a", [A], [CIDR_A]))
        wait(lambda: CIDR_A in tor.knows(), SESSION, "route at the router")
