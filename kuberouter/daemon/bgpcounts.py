"""What gobgpd can say of its sessions, and how much it told of routes, for each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kuberouter.daemon.metrics import Series, series
from kuberouter.decode.scalars import show_address
from kuberouter.model.core import Unavailable
from kuberouter.sources.sessions import UP
from kuberouter.wire.gobgp.client import Refused, Session
from kuberouter.wire.gobgp.gobgpd import Gobgp

Labels = tuple[str, ...]


class BgpCounts:
    """The metrics of BGP. Called from the threads of the web server."""

    def __init__(self, gobgp: Gobgp, received: Callable[[], int]) -> None:
        """`received` says how many best routes gobgpd has told of."""
        self._gobgp = gobgp
        self._received = received

    def show(self) -> Iterator[Series]:
        """One look; without sessions where gobgpd does not answer or has no identity."""
        yield series("controller_bgp_advertisements_received", self._received())
        own, found = self._sessions()
        peers, up, prefixes = dict[Labels, float](), dict[Labels, float](), dict[Labels, float]()
        for session in found:
            address = show_address(session.address)
            kind = "internal" if session.asn in (0, own) else "external"
            peers[address, kind, str(session.asn), session.state] = 1
            up[address, kind] = int(session.state == UP)
            prefixes[address, "received"] = session.received
            prefixes[address, "accepted"] = session.accepted
        yield series("bgp_peer_info", peers)
        yield series("bgp_peer_up", up)
        yield series("bgp_prefixes", prefixes)

    def _sessions(self) -> tuple[int, list[Session]]:
        """Our own AS number, and all sessions."""
        try:
            speaker = self._gobgp.api.speaker()
            if speaker is None:
                return 0, []
            return speaker.asn, [each for each in self._gobgp.api.session_states() if each.address]
        except (Unavailable, Refused):
            return 0, []
