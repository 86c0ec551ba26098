"""What gobgpd can say of its sessions, and how much it told of routes, for each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kuberouter.daemon.metrics import Series, series
from kuberouter.decode.scalars import show_address
from kuberouter.model.core import Unavailable
from kuberouter.wire.gobgp.client import Refused
from kuberouter.wire.gobgp.gobgpd import Gobgp


class BgpCounts:
    """The metrics of BGP. Called from the threads of the web server."""

    def __init__(self, gobgp: Gobgp, received: Callable[[], int]) -> None:
        """`received` says how many best routes gobgpd has told of."""
        self._gobgp = gobgp
        self._received = received

    def show(self) -> Iterator[Series]:
        """One look; without sessions where gobgpd does not answer or has no identity."""
        yield series("controller_bgp_advertisements_received", self._received())
        yield series("bgp_peer_info", self._peers())

    def _peers(self) -> dict[tuple[str, str, str, str], float]:
        try:
            speaker = self._gobgp.api.speaker()
            found = list(self._gobgp.api.session_states()) if speaker is not None else []
        except (Unavailable, Refused):
            return {}
        own = speaker.asn if speaker is not None else 0
        return {
            (
                show_address(session.address),
                "internal" if session.asn in (0, own) else "external",
                str(session.asn),
                session.state,
            ): 1.0
            for session in found
            if session.address
        }
