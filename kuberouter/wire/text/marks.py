"""Rules of the mangle table that mark packets to a place, or clamp the segment size of answers from there.

Both we and the Go kube-router write them; the Go one puts them into builtin chains, without a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from kuberouter.model.core import L4Protocol, Value

_RULE = re.compile(r"-A (\S+) (.*)")
_MARK = re.compile(r"-j MARK --set-xmark 0x([0-9a-f]+)/0xffffffff$")
_CLAMP = re.compile(r"-j TCPMSS --set-mss \d+$")
_SIDE = {
    "to": (re.compile(r"(?:^| )-d ([0-9a-f.:]+)(?:/(?:32|128))?(?= |$)"), re.compile(r" --dport (\d+)(?= |$)")),
    "from": (re.compile(r"(?:^| )-s ([0-9a-f.:]+)(?:/(?:32|128))?(?= |$)"), re.compile(r" --sport (\d+)(?= |$)")),
}
_PROTOCOL = re.compile(r"(?:^| )-p (tcp|udp|sctp)(?= |$)")


class MarkRule(Value, frozen=True, gc=False):
    """A rule that gives packets to an address, protocol and port a mark."""

    chain: str
    words: str
    """The rule without `-A CHAIN`."""
    address: bytes
    protocol: L4Protocol
    port: int
    mark: int


class ClampRule(Value, frozen=True, gc=False):
    """A rule that lowers the segment size in the handshake with an address; `port` is 0 where it names none."""

    chain: str
    words: str
    address: bytes
    port: int


def parse_marks(output: str) -> Iterator[MarkRule | ClampRule]:
    """The rules of these kinds in what `iptables-save -t mangle` printed, in order."""
    for line in output.splitlines():
        rule = _RULE.match(line)
        if rule is None:
            continue
        chain, words = rule.groups()
        protocol = _PROTOCOL.search(words)
        if protocol is None:
            continue
        if (mark := _MARK.search(words)) is not None:
            side = _side(words, "to")
            if side is not None and side[1]:
                yield MarkRule(chain, words, side[0], L4Protocol[protocol[1].upper()], side[1], int(mark[1], 16))
        elif _CLAMP.search(words) is not None:
            side = _side(words, "from") or _side(words, "to")
            if side is not None:
                yield ClampRule(chain, words, *side)


def _side(words: str, name: str) -> tuple[bytes, int] | None:
    """The address, and the port or 0, that a rule names on one side of a packet."""
    host, number = _SIDE[name]
    address, port = host.search(words), number.search(words)
    return (ip_address(address[1]).packed, int(port[1]) if port is not None else 0) if address is not None else None
