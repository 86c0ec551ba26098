"""Nodes that peer over a wire with real daemons: what they tell each other, and what a dead gobgpd costs."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.model import bgp
from kuberouter.model.bgp import Path as BgpPath
from kuberouter.model.bgp import PathKey
from kuberouter.model.core import Family, Unavailable
from kuberouter.model.network import Link, Route
from kuberouter.model.settings import RouterSettings
from tests.support.bgp import Daemon, Station, Wire, node, prefix, wait
from tests.support.lab import netns

pytestmark = pytest.mark.root

A, B = "192.0.2.1", "192.0.2.2"
CIDR_A, CIDR_B, CIDR_NEW = "10.244.1.0/24", "10.244.2.0/24", "10.244.7.0/24"
NODES = (node("a", [A], [CIDR_A]), node("b", [B], [CIDR_B]))
SESSION = 25.0
"""Seconds within which a session and its routes must be there; GoBGP waits at least 5 between attempts."""


class Pair:
    """Two nodes that know each other."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.a, self.b = wire.station("a", A), wire.station("b", B)
        self.at_a, self.at_b = wire.daemon(self.a), wire.daemon(self.b)
        for daemon in (self.at_a, self.at_b):
            daemon.put(*NODES)

    def meet(self) -> None:
        """Wait until each has the other's route."""
        wait(lambda: reaches(self.at_a, CIDR_B, B) and reaches(self.at_b, CIDR_A, A), SESSION, "routes")


def reaches(daemon: Daemon, destination: str, gateway: str) -> bool:
    """Whether the route to a prefix leads through a gateway."""
    route = daemon.route(destination)
    # No interface is known in these tests, hence no subnet either: every next hop is a node behind a tunnel.
    if route is None:
        return False
    return ip_address(gateway).packed in route.gateways or any(name.startswith("tun-") for name in route.devices)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, gobgpd: str) -> Iterator[Pair]:
    with Wire(tmp_path_factory.mktemp("bgp"), gobgpd) as wire:
        pair = Pair(wire)
        pair.meet()
        # Until a table is known to be whole no route goes, and a session that ends too early delays that.
        both = (pair.at_a, pair.at_b)
        wait(lambda: all("learned" in daemon.planner.synced for daemon in both), SESSION, "end of the first picture")
        yield pair


def test_each_learns_the_others_pods_and_tells_gobgpd_no_more_than_it_should(pair: Pair) -> None:
    assert pair.at_a.told()
    assert pair.at_b.told()
    assert pair.at_a.route(CIDR_A) is None


def test_policy_stands_before_the_first_peer(pair: Pair) -> None:
    written = [row for report in pair.at_a.reports for row, batch in report.batches if batch.add]
    order = [written.index(row) for row in bgp.TABLES]
    assert order == sorted(order)


def test_nothing_but_pod_cidrs_leaves_a_node(pair: Pair) -> None:
    own = [BgpPath(PathKey(prefix(text)), ip_address(A).packed) for text in ("198.51.100.0/24", "0.0.0.0/0")]
    pair.at_a.gobgp.api.originate(own, ())
    seen = {row.key.prefix for row in pair.at_b.drivers[Route].read()}
    # A later change has reached b, so what was told before it has too.
    pair.at_a.put(node("a", [A], [CIDR_A, CIDR_NEW]))
    wait(lambda: reaches(pair.at_b, CIDR_NEW, A), 5, "route to the new pod CIDR")
    after = {row.key.prefix for row in pair.at_b.drivers[Route].read()}
    pair.at_a.gobgp.api.originate((), own)
    assert after - seen == {prefix(CIDR_NEW)}


def test_a_pod_cidr_that_goes_is_withdrawn(pair: Pair) -> None:
    pair.at_a.put(node("a", [A], [CIDR_A, CIDR_NEW]))
    wait(lambda: reaches(pair.at_b, CIDR_NEW, A), 5, "route to the new pod CIDR")
    pair.at_a.put(NODES[0])
    wait(lambda: pair.at_b.route(CIDR_NEW) is None, 5, "withdrawal")
    assert reaches(pair.at_b, CIDR_A, A)
    wait(pair.at_a.told, 5, "agreement")


def test_a_peer_goes_and_comes_with_its_node(pair: Pair) -> None:
    pair.at_b.delete("a")
    wait(lambda: pair.at_b.route(CIDR_A) is None, 10, "end of the route")
    assert not list(pair.at_b.gobgp.api.peers())
    pair.at_b.put(NODES[0])
    pair.meet()


def test_a_restarted_controller_finds_nothing_to_do(pair: Pair) -> None:
    pair.at_a.stop()
    resets = log_lines(pair.a, "Peer Down")
    pair.at_a = pair.wire.daemon(pair.a)
    pair.at_a.put(*NODES)
    wait(lambda: "learned" in pair.at_a.planner.synced and reaches(pair.at_a, CIDR_B, B), 10, "routes")
    assert not [row for report in pair.at_a.reports for row, _ in report.batches if row in bgp.TABLES]
    assert log_lines(pair.a, "Peer Down") == resets


def log_lines(station: Station, word: str) -> int:
    """Lines of gobgpd's log with a word in them."""
    return sum(word in line for line in (station.home / "gobgpd.log").read_text().splitlines())


def test_a_killed_gobgpd_keeps_its_routes_and_is_told_everything_again(pair: Pair) -> None:
    before = pair.at_a.route(CIDR_B)
    pair.a.kill()
    wait(lambda: pair.at_a.source.trouble != "", 2, "notice of the absence")
    with pytest.raises(Unavailable, match="gobgpd does not answer on unix:"):
        pair.at_a.gobgp.api.speaker()
    wait(lambda: pair.at_b.route(CIDR_A) is None, 5, "end of the session")
    # While a's daemon is away b gets another pod CIDR: what a kept of the old one has to go afterwards.
    pair.at_b.put(node("b", [B], [CIDR_NEW]))
    assert pair.at_a.route(CIDR_B) == before
    pair.a.start()
    assert wait(pair.at_a.told, 5, "new daemon that was told everything") < 3
    assert pair.at_a.route(CIDR_B) == before
    wait(lambda: reaches(pair.at_a, CIDR_NEW, B) and reaches(pair.at_b, CIDR_A, A), SESSION, "routes")
    wait(lambda: pair.at_a.route(CIDR_B) is None, 10, "end of the stale route")
    pair.at_b.put(NODES[1])
    pair.meet()


def test_another_identity_restarts_gobgpd_and_tells_it_everything(pair: Pair) -> None:
    pair.at_a.stop()
    changed = pair.wire.daemon(pair.a, RouterSettings(router_id="203.0.113.9"))
    changed.put(*NODES)
    wait(changed.told, 10, "agreement")
    speaker = changed.gobgp.api.speaker()
    assert speaker is not None
    assert speaker.router_id == ip_address("203.0.113.9").packed
    wait(lambda: reaches(changed, CIDR_B, B) and reaches(pair.at_b, CIDR_A, A), SESSION, "routes")


def test_ipv6_routes_ride_an_ipv4_session(tmp_path: Path, gobgpd: str) -> None:
    both = (Family.IPV4, Family.IPV6)
    nodes = (node("a", [A, "2001:db8::1"], [CIDR_A, "fd44:1::/64"]), node("b", [B, "2001:db8::2"], ["fd44:2::/64"]))
    with Wire(tmp_path, gobgpd) as wire:
        for number, name, address in ((1, "a", A), (2, "b", B)):
            station = wire.station(name, address)
            netns.configure(station.namespace, f"addr add 2001:db8::{number}/64 dev eth0 nodad")
            wire.daemon(station, families=both).put(*nodes)
        at_a, at_b = wire.daemons
        wait(lambda: all((reaches(at_a, "fd44:2::/64", B), reaches(at_b, "fd44:1::/64", A))), SESSION, "IPv6 routes")
        (link,) = (row for row in at_a.drivers[Link].read() if row.remote)
        assert link.remote == ip_address("2001:db8::2").packed
        assert at_a.told()


@pytest.fixture
def lonely(tmp_path: Path, gobgpd: str) -> Iterator[tuple[Station, Daemon]]:
    with Wire(tmp_path, gobgpd) as wire:
        station = wire.station("a", A)
        yield station, wire.daemon(station)


def test_a_node_alone_is_in_sync_before_long(lonely: tuple[Station, Daemon]) -> None:
    _, daemon = lonely
    daemon.put(NODES[0])
    wait(lambda: "learned" in daemon.planner.synced, 10, "end of the first picture")
    assert daemon.told()
