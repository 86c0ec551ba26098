"""A node with a router outside the cluster: what annotations say is done at once, and to nobody else."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec import structs

from kuberouter.decode.node import decode_node
from kuberouter.model import bgp
from kuberouter.model.bgp import Peer, PeerKey
from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import ObjectRef, Secret
from kuberouter.model.events import Upserted
from kuberouter.model.network import Route
from kuberouter.model.settings import Advertise, RouterSettings
from tests.bgp.test_nodes import SESSION, log_lines, reaches
from tests.support import gobgpd as programs
from tests.support.bgp import Router, Wire, annotated, prefix, wait
from tests.support.lab import netns
from tests.support.pages import objects

pytestmark = pytest.mark.root

A, B, TOR = "192.0.2.1", "192.0.2.2", "192.0.2.254"
CIDR_A, CIDR_B = "10.244.1.0/24", "10.244.2.0/24"
HUSH = base64.b64encode(b"hush").decode()
PEERS = f"- {{remoteip: {TOR}, remoteasn: 65000, password: {HUSH}}}"


def packed(text: str) -> bytes:
    return ip_address(text).packed


class Rack:
    """Two nodes, of which one has a session with the router of the rack."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.a, self.b = wire.station("a", A), wire.station("b", B)
        self.at_a, self.at_b = wire.daemon(self.a), wire.daemon(self.b)
        peer = Peer(PeerKey(packed(A)), 64512, packed(TOR), password=Secret("hush"))
        self.tor = Router(wire.station("tor", TOR, programs.V3), 65000, peer)
        self.say()

    def say(self, **annotations: str) -> None:
        """Annotate the one node."""
        for daemon in (self.at_a, self.at_b):
            daemon.put(annotated("a", A, CIDR_A, **({"peers": PEERS} | annotations)), annotated("b", B, CIDR_B))

    def meet(self) -> None:
        """Wait until everybody knows everybody."""
        wait(lambda: reaches(self.at_a, CIDR_B, B) and reaches(self.at_b, CIDR_A, A), SESSION, "routes")
        wait(lambda: CIDR_A in self.tor.knows(), SESSION, "route of the pods at the router")


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory, gobgpd: str) -> Iterator[Rack]:
    with Wire(tmp_path_factory.mktemp("bgp"), gobgpd) as wire:
        rack = Rack(wire)
        rack.meet()
        yield rack


def test_the_router_hears_of_the_nodes_own_pods_only(rack: Rack) -> None:
    assert set(rack.tor.knows()) == {CIDR_A}
    assert rack.tor.knows()[CIDR_A]["nexthop"] == A
    wait(rack.at_a.told, 5, "agreement")


def test_b05_what_is_told_changes_with_annotations_and_the_sessions_stay(rack: Rack) -> None:
    downs = log_lines(rack.a, "Peer Down")
    rack.say(node_bgp_communities="65000:100,no-export", path__prepend_as="64700", path__prepend_repeat__n="2")
    wait(lambda: "communities" in rack.tor.knows()[CIDR_A], 5, "communities")
    found = rack.tor.knows()[CIDR_A]
    assert found["communities"] == [65000 << 16 | 100, 0xFFFFFF01]
    assert [asn for segment in found["as_paths"] for asn in segment["asns"]] == [64700, 64700, 64512]
    # Only the content of the statements differs now.
    rack.say(node_bgp_communities="65000:200")
    wait(lambda: rack.tor.knows()[CIDR_A].get("communities") == [65000 << 16 | 200], 5, "other communities")
    wait(rack.at_a.told, 5, "agreement")
    rack.say()
    wait(lambda: "communities" not in rack.tor.knows()[CIDR_A], 5, "end of the communities")
    assert log_lines(rack.a, "Peer Down") == downs


def test_imports_are_rejected_as_an_annotation_says_and_come_back(rack: Rack) -> None:
    downs = log_lines(rack.a, "Peer Down")
    learned = ("10.9.1.0/24", "10.8.0.0/16")
    rack.tor.tell(*learned, "0.0.0.0/0")
    known = {text: lambda text=text: text in learned_by(rack) for text in learned}
    wait(lambda: all(known[text]() for text in learned), 5, "routes of the router")
    assert "0.0.0.0/0" not in learned_by(rack)
    rack.say(node_bgp_customimportreject="10.9.0.0/16")
    wait(lambda: not known["10.9.1.0/24"](), 5, "end of the rejected route")
    assert known["10.8.0.0/16"]()
    rack.say()
    wait(known["10.9.1.0/24"], 5, "return of the route")
    rack.tor.tell(*learned, "0.0.0.0/0", withdraw=True)
    wait(lambda: not any(known[text]() for text in learned), 5, "withdrawal")
    assert log_lines(rack.a, "Peer Down") == downs


def learned_by(rack: Rack) -> set[str]:
    return {ref.name for ref in (route.ref for route in rack.at_a.planner.cluster.learned_routes())}


@pytest.mark.parametrize("peers", ["- {remoteip: 192.0.2.254}", "[", f"- {{remoteip: {TOR}, remoteasn: 0}}"])
def test_a_mistake_in_an_annotation_changes_nothing(rack: Rack, peers: str) -> None:
    before = rack.tor.api.sessions()
    downs = log_lines(rack.a, "Peer Down")
    rack.say(peers=peers, node_bgp_communities="65000:300")
    wait(lambda: "communities" in rack.tor.knows()[CIDR_A], 5, "what else the annotations say")
    assert rack.tor.api.sessions() == before
    rack.say()
    wait(lambda: "communities" not in rack.tor.knows()[CIDR_A], 5, "end of it")
    assert log_lines(rack.a, "Peer Down") == downs


def test_b15_a_session_ends_and_begins_with_its_annotation_and_others_stay(rack: Rack) -> None:
    """Pain 17: annotations are looked at all the time, and peers that they do not concern stay."""
    other = log_lines(rack.b, "Peer Down")
    rack.say(peers="")
    wait(lambda: not rack.tor.knows(), 5, "end of the session")
    # With the wrong password nothing comes about.
    rack.say(peers=PEERS.replace(HUSH, base64.b64encode(b"hash").decode()))
    wait(lambda: len(list(rack.at_a.gobgp.api.peers())) == 2, 5, "configuration of the peer")
    rack.say()
    rack.meet()
    assert log_lines(rack.b, "Peer Down") == other
    wait(rack.at_a.told, 5, "agreement")


def test_a_restart_beside_a_mistake_changes_nothing_either(rack: Rack) -> None:
    rack.say(node_bgp_communities="65000:400")
    wait(lambda: rack.tor.knows()[CIDR_A].get("communities") == [65000 << 16 | 400], 5, "communities")
    downs = log_lines(rack.a, "Peer Down")
    rack.at_a.stop()
    rack.at_a = rack.wire.daemon(rack.a)
    rack.say(peers="[", node_bgp_communities="65000")
    wait(lambda: "learned" in rack.at_a.planner.synced and reaches(rack.at_a, CIDR_B, B), 10, "first picture")
    assert not [row for report in rack.at_a.reports for row, _ in report.batches if row in bgp.TABLES]
    assert rack.tor.knows()[CIDR_A]["communities"] == [65000 << 16 | 400]
    rack.say(node_bgp_communities="65000:500")
    wait(lambda: rack.tor.knows()[CIDR_A].get("communities") == [65000 << 16 | 500], 5, "other communities")
    rack.say()
    wait(lambda: "communities" not in rack.tor.knows()[CIDR_A], 5, "end of the communities")
    wait(rack.at_a.told, 5, "agreement")
    assert log_lines(rack.a, "Peer Down") == downs


def test_a_new_gobgpd_is_told_what_can_be_read(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        daemon = wire.daemon(wire.station("a", A))
        daemon.put(annotated("a", A, CIDR_A, peers="[", node_bgp_communities="65000:1"))
        wait(lambda: daemon.gobgp.starts > 0 and daemon.told(), 5, "agreement")
        assert {row.communities for row in daemon.gobgp.api.statements()} == {(), (65000 << 16 | 1,)}


def test_b06_what_flags_no_longer_tell_is_withdrawn_from_whom_it_was_told(rack: Rack) -> None:
    """Judging again is not enough for that with version 3, which withdraws nothing then."""
    downs, reports = log_lines(rack.a, "Peer Down"), len(rack.at_b.reports)
    for pod_cidr in (False, True):
        rack.at_a.stop()
        rack.at_a = rack.wire.daemon(rack.a, RouterSettings(advertise=Advertise(pod_cidr=pod_cidr)))
        rack.say()
        wait(lambda told=pod_cidr: (CIDR_A in rack.tor.knows()) is told, 10, "what the flag says")
        wait(rack.at_a.told, 5, "agreement")
    assert reaches(rack.at_b, CIDR_A, A)
    batches = [each for report in rack.at_b.reports[reports:] for each in report.batches]
    if rack.at_a.gobgp.api.withdraws:
        assert not [table for table, batch in batches if batch.remove]
    # Where all paths are told anew a node that is slow may see that they went: those, and no others.
    gone = {row.key.prefix for table, batch in batches if table is Route for row in batch.remove}
    assert gone <= {prefix(CIDR_A)}
    assert log_lines(rack.a, "Peer Down") == downs


def test_flags_narrow_what_is_learned_and_what_is_left_out_goes(rack: Rack) -> None:
    rack.tor.tell("10.8.0.0/16", "10.9.1.0/24", "0.0.0.0/0")
    wait(lambda: {"10.8.0.0/16", "10.9.1.0/24", CIDR_B} <= learned_by(rack), 5, "routes of the router")
    for allowed, expected in (
        (("10.244.0.0/16", "10.9.0.0/16"), {CIDR_B, "10.9.1.0/24"}),
        ((), {CIDR_B, "10.9.1.0/24", "10.8.0.0/16"}),
    ):
        rack.at_a.stop()
        settings = RouterSettings(import_allow=tuple(map(prefix, allowed)))
        rack.at_a = rack.wire.daemon(rack.a, settings)
        rack.say()
        wait(lambda expected=expected: learned_by(rack) == expected, 10, "what is allowed")
        wait(rack.at_a.told, 5, "agreement")
    rack.tor.tell("10.8.0.0/16", "10.9.1.0/24", "0.0.0.0/0", withdraw=True)


def test_where_to_listen_is_live_and_addresses_of_nobody_change_nothing(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        station = wire.station("a", A)
        netns.configure(station.namespace, "addr add 192.0.2.8/24 dev eth0")
        daemon = wire.daemon(station)
        addresses = tuple(InterfaceAddress(packed(text), 24) for text in (A, "192.0.2.8"))
        daemon.inbox.put(Upserted(Interface(ObjectRef("Interface", "", "eth0"), 2, 1500, addresses)))

        def listens() -> tuple[bytes, ...]:
            speaker = daemon.gobgp.api.speaker()
            return speaker.addresses if speaker is not None else ()

        daemon.put(annotated("a", A, CIDR_A, bgp__local__addresses="192.0.2.7"))
        wait(lambda: daemon.told() and listens() == (packed(A),), 5, "start")
        starts = daemon.gobgp.starts
        assert [problem.field for problem in daemon.planner.journal.standing] == [
            "metadata.annotations[kube-router.io/bgp-local-addresses]"
        ]
        # A link that flaps, and an address that is wrong, restart nothing.
        daemon.inbox.put(Upserted(Interface(ObjectRef("Interface", "", "eth0"), 2, 1500)))
        daemon.put(annotated("a", A, CIDR_A, bgp__local__addresses="192.0.2.256"))
        daemon.put(annotated("a", A, CIDR_A, bgp__local__addresses="192.0.2.7", node_bgp_communities="1:1"))
        wait(lambda: daemon.planner.cluster.bgp.communities != (), 5, "news")
        wait(daemon.told, 5, "agreement")
        assert daemon.gobgp.starts == starts
        daemon.inbox.put(Upserted(Interface(ObjectRef("Interface", "", "eth0"), 2, 1500, addresses)))
        daemon.put(annotated("a", A, CIDR_A, bgp__local__addresses="192.0.2.8"))
        wait(lambda: daemon.told() and listens() == (packed("192.0.2.8"),), 5, "other listener")


def test_b18_a_start_that_fails_at_first_leaves_nothing_twice(tmp_path: Path, gobgpd: str) -> None:
    late = "192.0.2.9"
    with Wire(tmp_path, gobgpd) as wire:
        station = wire.station("a", A)
        daemon = wire.daemon(station)
        daemon.put(annotated("a", late, CIDR_A, peers=PEERS, node_bgp_communities="65000:1"))
        wait(lambda: daemon.failed(bgp.Speaker), 5, "refusal to listen")
        netns.configure(station.namespace, f"addr add {late}/24 dev eth0")
        wait(daemon.told, 10, "agreement")
        (peer,) = daemon.gobgp.api.peers()
        assert peer.key.address == packed(TOR)
        assert {row.communities for row in daemon.gobgp.api.statements()} == {(), (65000 << 16 | 1,)}
        entries = [entry for _, held in daemon.gobgp.api.sets() for entry in held]
        assert len(entries) == len(set(entries))


def test_gobgpd_takes_what_the_page_shows(tmp_path: Path, gobgpd: str) -> None:
    """Every example of the page, one after the other on one node, as an edit of its annotations is."""
    with Wire(tmp_path, gobgpd) as wire:
        daemon = wire.daemon(wire.station("a", A))
        for raw in objects("bgp.md", "Node"):
            shown = annotated("a", A, CIDR_A)
            found, _ = decode_node(raw)
            assert found is not None
            daemon.put(structs.replace(shown, options=found.options), annotated("b", B, CIDR_B, rr_client="42"))
            wait(lambda bgp=found.options.bgp: daemon.planner.cluster.bgp == bgp, 5, "news of the annotations")
            wait(daemon.told, 5, "agreement")
        assert not any(report.failed for report in daemon.reports)
