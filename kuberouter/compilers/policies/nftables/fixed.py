"""Tables, base chains and dispatch maps.

A base chain accepts what it does not refuse, and `accept` ends nothing but this chain: the rules of everybody else on
the same hook, which come later, still judge the packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouter.compilers.policies.firewall import GATES, Gate
from kuberouter.compilers.policies.names import (
    BORROWED_CHAIN,
    CUT_CHAIN,
    INVALID_CHAIN,
    TOP_CHAIN,
    UNKNOWN_CHAIN,
    USE,
)
from kuberouter.compilers.policies.nftables.guard import always, guard_rows
from kuberouter.compilers.policies.nftables.names import (
    IP,
    LAYER,
    chain_key,
    dispatch_map,
    node_port_set,
    pod_blocks,
    served_set,
)
from kuberouter.compilers.policies.nftables.policies import (
    END,
    IF_CUT,
    SPARES,
    block,
    cut_chains,
    ended,
    log,
    reopened,
    untold,
)
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.nftables import (
    BaseHook,
    NftElement,
    NftElementKey,
    NftTable,
    NftTableKey,
    make_nft_chain,
    packed_port,
)
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

PRIORITY = {Direction.EGRESS: -3, Direction.INGRESS: -2}
"""Before the filter tables of others (0), behind every translation of destinations (-100) and IPVS in OUTPUT (-98)."""
REOPEN_PRIORITY = -1
FROM_NODE = "fib saddr type local accept"
FORGED = 'iifname != "lo" fib saddr type local'
"""Comes in by a wire and says that it is from the node; the kernel itself refuses that for IPv4 only."""
DIRECTION = {Direction.EGRESS: "EGRESS", Direction.INGRESS: "INGRESS"}


def fixed(family: Family, settings: FirewallSettings) -> Iterator[Row]:
    """What stands without any policy."""
    yield NftTable(NftTableKey(LAYER[family]))
    yield node_port_set(family)
    yield served_set(family)
    yield from guard_rows(family)
    invalid = (log(INVALID_CHAIN), "counter drop")
    yield make_nft_chain(chain_key(family, INVALID_CHAIN), invalid, fallback=("drop",), spares=SPARES)
    for direction in Direction:
        yield dispatch_map(family, direction)
    if settings.cut_flows:
        yield from cut_chains(family)
    if settings.default_deny:
        yield pod_blocks(family)
        # Drops and does not refuse: who tries again gets through as soon as the pod is known.
        unknown = (log(UNKNOWN_CHAIN), "counter drop")
        yield make_nft_chain(chain_key(family, UNKNOWN_CHAIN), unknown, fallback=("drop",), spares=SPARES)
    for gate in GATES:
        for direction in gate.directions:
            key = chain_key(family, f"{TOP_CHAIN[gate.hook]}-{DIRECTION[direction]}")
            rules = tuple(_base(family, gate, direction, settings))
            yield make_nft_chain(key, rules, hook=BaseHook(gate.hook, PRIORITY[direction]))
        if settings.cut_flows:
            key = chain_key(family, f"{TOP_CHAIN[gate.hook]}-REOPEN")
            yield make_nft_chain(key, (reopened(),), hook=BaseHook(gate.hook, REOPEN_PRIORITY))


def _base(family: Family, gate: Gate, direction: Direction, settings: FirewallSettings) -> Iterator[str]:
    yield from _open_flows(cut=settings.cut_flows)
    yield from always(family)
    if gate.node:
        yield FROM_NODE
        if settings.cut_flows and direction is Direction.EGRESS:
            yield untold()
    if gate.services:
        if settings.cut_flows:
            yield ended()
        if settings.default_deny:
            # The node speaks to itself also from its addresses on the pods' bridge.
            yield 'iifname "lo" accept'
        for match in _exempt(family, settings):
            yield f"{FORGED} {match} goto {BORROWED_CHAIN}"
            yield f"{match} accept"
    end = END[USE[direction]]
    yield f"{IP[family]} {end} vmap @{dispatch_map(family, direction).key.name}"
    if settings.default_deny:
        yield f"{IP[family]} {end} @{pod_blocks(family).key.name} goto {UNKNOWN_CHAIN}"


def _open_flows(*, cut: bool) -> Iterator[str]:
    """Which packets of open flows pass without being judged: all, or with `cut` replies to what has not been refused.

    A flow that a helper announced (FTP data) is no policy's matter: its first packet passed as related.
    """
    if not cut:
        yield "ct state established,related accept"
        return
    yield "ct state related accept"
    yield "ct state established ct status expected accept"
    yield f"ct state established ct direction reply {IF_CUT} goto {CUT_CHAIN}"
    yield "ct state established ct direction reply accept"


def _exempt(family: Family, settings: FirewallSettings) -> Iterator[str]:
    for prefix in (*settings.cluster_ranges, *settings.external_ranges, *settings.load_balancer_ranges):
        if prefix.family is family:
            yield f"{IP[family]} daddr {prefix}"
    yield f"fib daddr type local meta l4proto . th dport @{node_port_set(family).key.name}"
    yield f"{IP[family]} daddr . meta l4proto . th dport @{served_set(family).key.name}"


def node_ports(family: Family, ports: Iterable[tuple[L4Protocol, int]]) -> Iterator[Row]:
    """Ports of the node that the proxy serves."""
    for protocol, port in ports:
        yield NftElement(NftElementKey(node_port_set(family).key, packed_port(protocol, port)))


def cluster_ips(family: Family, served: Iterable[tuple[bytes, L4Protocol, int]]) -> Iterator[Row]:
    """Cluster IPs with a port that the proxy serves there."""
    for address, protocol, port in served:
        yield NftElement(NftElementKey(served_set(family).key, address + packed_port(protocol, port)))


def known_only(family: Family, prefixes: Iterable[Prefix]) -> Iterator[Row]:
    """Addresses of these blocks that nobody has placed are cut off."""
    for prefix in prefixes:
        yield block(pod_blocks(family).key, prefix)
