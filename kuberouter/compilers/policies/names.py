"""Names that both backends share. The prefixes are kept from the Go kube-router: runbooks grep for them.

What follows a prefix is a hash over the content, so equal content has one name and a name never changes its meaning.
"""

from __future__ import annotations

import hashlib

import msgspec

from kuberouter.model.policy import Direction, Use

INPUT_CHAIN = "KUBE-ROUTER-INPUT"
FORWARD_CHAIN = "KUBE-ROUTER-FORWARD"
OUTPUT_CHAIN = "KUBE-ROUTER-OUTPUT"
TOP_CHAIN = {"input": INPUT_CHAIN, "forward": FORWARD_CHAIN, "output": OUTPUT_CHAIN}
DISPATCH_CHAIN = {Direction.EGRESS: "KUBE-ROUTER-POD-EGRESS", Direction.INGRESS: "KUBE-ROUTER-POD-INGRESS"}
ALLOW_CHAIN = "KUBE-NWPLCY-ALLOW"
GUARD_CHAIN = "KUBE-ROUTER-POD-GUARD"
BORROWED_CHAIN = "KUBE-ROUTER-POD-BORROWED"
"""Logs and drops what comes in under an address of somebody else."""
STRANGE_CHAIN = "KUBE-ROUTER-POD-STRANGE"
"""Judges what a pod sends under an address that is not its own, though it may use no other."""
NODE_PORT_SET = "KUBE-DST-NODEPORTS"
SERVED_SET = "KUBE-DST-SERVICES"
"""Service addresses that no range of the flags holds, with the ports that are served there."""
GUARD_SET = "KUBE-SRC-CLUSTER"
"""Pod CIDRs and addresses of all nodes: what no pod may borrow."""
REFUSED_CHAIN = "KUBE-NWPLCY-REFUSED"
"""Refuses packets of an open flow that a policy has come to forbid, and remembers that of the flow,"""
CUT_CHAIN = "KUBE-NWPLCY-CUT"
"""refuses the answers of such a flow, and what its client sends on to a Service."""
SERVICE_CUT_CHAIN = "KUBE-NWPLCY-CUT-SERVICE"
UNKNOWN_CHAIN = "KUBE-NWPLCY-UNKNOWN"
INVALID_CHAIN = "KUBE-NWPLCY-INVALID"
"""Logs and drops what belongs to no flow and can begin none."""
POLICY_PREFIX = "KUBE-NWPLCY-"
PROFILE_PREFIX = "KUBE-POD-FW-"
SET_PREFIX = {Use.SOURCE: "KUBE-SRC-", Use.DESTINATION: "KUBE-DST-"}

ALLOWED_MARK = 0x10000
"""Some policy has allowed this packet in the direction that is being judged."""
PASSED_MARK = 0x20000
"""Policies have judged this packet and let it pass."""

CUT_MARK = 0x40000
"""In a connection's mark: policy has come to refuse the connection's packets."""
UNTOLD_MARK = 0x80000
"""In a connection's mark: it is a TCP connection to a Service, and no reset has told the client that it is over."""

CONFINED_MARK = 0x2000000
"""Comes from a bridge port whose pod may use no address but its own, and is not from that address."""

NFLOG_GROUP = 100

USE = {Direction.EGRESS: Use.SOURCE, Direction.INGRESS: Use.DESTINATION}
"""The end of a packet that is the protected pod."""
PEER_USE = {Direction.EGRESS: Use.DESTINATION, Direction.INGRESS: Use.SOURCE}
"""The end of a packet that is the peer."""


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def content_name(prefix: str, content: object) -> str:
    """Prefix and 16 characters of base32 (80 bits) of a hash over the MessagePack form, in which parts have lengths."""
    digest = hashlib.sha256(msgspec.msgpack.encode(content)).digest()
    # Two characters at a time: base64.b32encode takes ten times as long as everything else here.
    bits = int.from_bytes(digest[:10])
    return prefix + "".join([_PAIRS[bits >> shift & 0x3FF] for shift in range(70, -1, -10)])
