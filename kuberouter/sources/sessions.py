"""Sessions with peers outside the cluster that do not come about, as problems of this node.

gobgpd itself says no more than that it goes on trying. Of other nodes nothing is told: who is down is known anyway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kuberouter.decode.scalars import show_address
from kuberouter.model.bgp import Peer
from kuberouter.model.core import ObjectRef, Problem, Reason, Unavailable
from kuberouter.model.events import Accepted, Rejected
from kuberouter.model.ports import Inbox, Stop
from kuberouter.wire.gobgp.client import Refused, Session
from kuberouter.wire.gobgp.gobgpd import Gobgp

log = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds between looks."""
PATIENCE = 20.0
"""Seconds without a session after which it is told: GoBGP waits for up to 10 between attempts."""
UP = "established"
NETSTAT = Path("/proc/thread-self/net/netstat")
UNSIGNED, UNEXPECTED, WRONG = "TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"
"""Segments without a signature where one is due, with one where none is, and with a wrong one (RFC 2385)."""


def signatures() -> Mapping[str, int]:
    """How many segments the kernel has dropped for their TCP MD5 signature, by its names (net/ipv4/proc.c)."""
    try:
        lines = [line.split() for line in NETSTAT.read_text().splitlines() if line.startswith("TcpExt:")]
        found = dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=False))
    except (OSError, IndexError, ValueError):
        return {}
    return {name: found.get(name, 0) for name in (UNSIGNED, UNEXPECTED, WRONG)}


class SessionSource:
    """Looks at the sessions now and then."""

    def __init__(
        self,
        gobgp: Gobgp,
        node: ObjectRef,
        *,
        clock: Callable[[], float] = time.monotonic,
        dropped: Callable[[], Mapping[str, int]] = signatures,
    ) -> None:
        """`node` is this node, whose problem it is; `dropped` are counts of segments as `signatures` has them."""
        self.name = "sessions"
        self._gobgp = gobgp
        self._node = node
        self._clock = clock
        self._dropped = dropped
        self._missed: dict[bytes, tuple[float, Mapping[str, int]]] = {}
        """Since when there is no session with an address, and the counts at that time."""
        self._told: set[bytes] = set()

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Look until `stop`."""
        while not stop.wait(LOOK):
            try:
                self.look(inbox)
            except (Unavailable, Refused):
                # The absence of gobgpd is told elsewhere. What becomes of its sessions is seen when it is back.
                self._missed.clear()

    def look(self, inbox: Inbox) -> None:
        """Look once. Raises Unavailable and Refused."""
        api, now = self._gobgp.api, self._clock()
        speaker = api.speaker()
        if speaker is None:
            self._missed.clear()
            return
        down, up = dict[bytes, Session](), set[bytes]()
        for session in api.session_states():
            if session.state == UP:
                up.add(session.address)
            else:
                down[session.address] = session
        peers = {peer.key.address: peer for peer in api.peers()} if down else {}
        outside = {a: s for a, s in down.items() if s.asn not in (0, speaker.asn) or _secret(peers.get(a))}
        counts = self._dropped() if outside else {}
        for address in self._missed.keys() - outside.keys():
            del self._missed[address]
        for address in self._told - outside.keys():
            self._told.remove(address)
            inbox.put(Accepted(_ref(address)))
            if address in up:
                log.info("the BGP session with %s stands", show_address(address))
        for address, session in outside.items():
            since, before = self._missed.setdefault(address, (now, counts))
            if now - since < PATIENCE:
                continue
            # What was found of the cause stays said, whether later looks find it or not.
            if address not in self._told:
                since_then = {name: count - before.get(name, 0) for name, count in counts.items()}
                text = _text(session, peers.get(address), since_then)
                self._told.add(address)
                inbox.put(Rejected(_ref(address), (Problem(self._node, "", Reason.FAILED, text),)))


def _text(session: Session, peer: Peer | None, dropped: Mapping[str, int]) -> str:
    head = f"no BGP session with {show_address(session.address)} (AS {session.asn}) for {PATIENCE:.0f} s"
    return "; ".join((head, *_causes(_secret(peer), dropped)))


def _causes(secret: bool, dropped: Mapping[str, int]) -> Iterator[str]:
    """What segments that the kernel dropped say. They are not counted by peer, so it is a guess, and a good one."""
    if secret and dropped.get(WRONG, 0) > 0:
        yield "segments with a wrong TCP MD5 signature came meanwhile: the passwords seem to differ"
    elif secret and dropped.get(UNSIGNED, 0) > 0:
        yield "segments without a TCP MD5 signature came meanwhile: the peer seems to have no password"
    elif not secret and dropped.get(UNEXPECTED, 0) > 0:
        yield "segments with a TCP MD5 signature came meanwhile: the peer seems to have a password"
    elif secret:
        yield "it has a password, and with another one there the peer would be as silent as this"


def _secret(peer: Peer | None) -> bool:
    return peer is not None and bool(peer.password)


def _ref(address: bytes) -> ObjectRef:
    return ObjectRef("Session", "", show_address(address))
