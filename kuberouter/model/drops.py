"""Packets that the firewall dropped and the kernel tells of, before anybody knows whose they were."""

from __future__ import annotations

from kuberouter.model.core import KeyValue


class LoggedPacket(KeyValue, frozen=True, gc=False, cache_hash=True):
    """What a record of the log says of a packet. Those that differ in the source port only are equal: one flow.

    `prefix` names the rule, `link` where the packet came in (the port of a bridge rather than the bridge; empty for
    what the node itself sends). `port` is the destination's, 0 if the packet has none or it cannot be seen.
    """

    prefix: str
    link: str
    source: bytes
    destination: bytes
    protocol: int
    port: int = 0
