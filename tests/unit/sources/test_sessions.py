"""Sessions that do not come about, as problems of the node."""

from __future__ import annotations

from ipaddress import ip_address
from typing import cast

from kuberouter.model.bgp import Peer, PeerKey, Speaker, SpeakerKey
from kuberouter.model.core import ObjectRef, Secret
from kuberouter.model.events import Accepted, Event, Rejected
from kuberouter.sources.sessions import PATIENCE, SessionSource, signatures
from kuberouter.wire.gobgp.client import Session
from kuberouter.wire.gobgp.gobgpd import Gobgp

OWN, NODE, TOR, INSIDE = (ip_address(f"192.0.2.{host}").packed for host in (1, 2, 254, 253))
SECRET = Secret("hush")


class World:
    """A gobgpd, a clock, a kernel's counts and an inbox."""

    def __init__(self) -> None:
        self.api, self.starts = self, 0
        self.now = 0.0
        self.counts = {"TCPMD5Failure": 7, "TCPMD5NotFound": 0, "TCPMD5Unexpected": 0}
        self.states = {NODE: "active", TOR: "established"}
        self.asns = {NODE: 64512, TOR: 65000, INSIDE: 64512}
        self.passwords: dict[bytes, Secret] = {TOR: SECRET}
        self.fresh = False
        self.events: list[Event] = []
        node = ObjectRef("Node", "", "a")
        self.source = SessionSource(cast(Gobgp, self), node, clock=lambda: self.now, dropped=lambda: dict(self.counts))

    def speaker(self) -> Speaker | None:
        return None if self.fresh else Speaker(SpeakerKey(), 64512, OWN)

    def session_states(self) -> list[Session]:
        return [Session(address, self.asns[address], state) for address, state in self.states.items()]

    def peers(self) -> list[Peer]:
        found = ((address, self.passwords.get(address)) for address in self.states)
        return [Peer(PeerKey(address), self.asns[address], OWN, password=password) for address, password in found]

    def put(self, event: Event) -> None:
        self.events.append(event)

    def after(self, seconds: float) -> list[str]:
        """What a look some seconds later says; `ok` for what is mended."""
        self.now += seconds
        self.source.look(self)
        said, self.events = self.events, []
        return [
            "ok" if isinstance(event, Accepted) else event.problems[0].message
            for event in said
            if isinstance(event, Accepted | Rejected)
        ]


def test_a_session_that_stays_away_is_told_once_and_its_return_too() -> None:
    world = World()
    del world.passwords[TOR]
    world.states[TOR] = "active"
    assert world.after(0) == []
    assert world.after(PATIENCE - 1) == []
    assert world.after(1) == ["no BGP session with 192.0.2.254 (AS 65000) for 20 s"]
    world.states[TOR] = "opensent"
    assert world.after(100) == []
    world.states[TOR] = "established"
    assert world.after(5) == ["ok"]
    assert world.after(100) == []


def test_a_short_absence_and_the_absence_of_a_node_are_nothing() -> None:
    world = World()
    world.states[TOR] = "idle"
    world.after(PATIENCE - 1)
    world.states[TOR] = "established"
    assert world.after(5) == []
    world.states[TOR] = "idle"
    assert world.after(5) == []
    assert world.after(PATIENCE - 1) == []


def test_a_peer_of_our_own_as_number_with_a_password_is_no_node() -> None:
    world = World()
    world.states[INSIDE], world.passwords[INSIDE] = "active", SECRET
    world.after(0)
    (said,) = world.after(PATIENCE)
    assert said.startswith("no BGP session with 192.0.2.253 (AS 64512)")


def test_the_cause_is_what_the_kernel_dropped_meanwhile() -> None:
    causes = (
        (SECRET, {}, "silent"),
        (SECRET, {"TCPMD5Failure": 8}, "the passwords seem to differ"),
        (SECRET, {"TCPMD5NotFound": 1}, "the peer seems to have no password"),
        (None, {"TCPMD5Unexpected": 1}, "the peer seems to have a password"),
    )
    for password, dropped, words in causes:
        world = World()
        world.states[TOR] = "active"
        if password is None:
            del world.passwords[TOR]
        world.after(0)
        world.counts |= dropped
        (said,) = world.after(PATIENCE)
        assert words in said, (dropped, said)
        assert "hush" not in said


def test_a_peer_that_is_asked_for_no_more_is_mended_and_a_fresh_gobgpd_says_nothing() -> None:
    world = World()
    world.states[TOR] = "active"
    world.after(0)
    assert len(world.after(PATIENCE)) == 1
    world.fresh = True
    assert world.after(100) == []
    world.fresh = False
    del world.states[TOR]
    assert world.after(1) == ["ok"]


def test_the_kernel_has_these_counts() -> None:
    assert all(count >= 0 for count in signatures().values())
    assert set(signatures()) == {"TCPMD5Failure", "TCPMD5NotFound", "TCPMD5Unexpected"}
