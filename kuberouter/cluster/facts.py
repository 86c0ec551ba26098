"""From the Node object, the local links and the flags to `NodeFacts`: the one place that knows which families count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouter.model.bgp import NodeBgp
from kuberouter.model.cluster import Interface, Node
from kuberouter.model.core import LINK_LOCAL, Family, Prefix, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import NodeSettings


def network_of(address: bytes, length: int) -> Prefix:
    """The prefix that contains an address: host bits cleared."""
    bits = len(address) * 8
    mask = ((1 << length) - 1) << (bits - length)
    return Prefix((int.from_bytes(address, "big") & mask).to_bytes(len(address), "big"), length)


BRIDGE = "kube-bridge"


def ours(link: str) -> bool:
    """Whether a link is one that this daemon makes (or a pod's end), so that its addresses are not the node's."""
    return link in ("kube-dummy-if", BRIDGE) or link.startswith("tun-")


FORMER = "kube-ipvs0"
"""Where kube-proxy in its IPVS mode leaves the addresses of Services, external ones too."""


def _spoken_from(bgp: NodeBgp) -> Iterator[bytes]:
    """The addresses that annotations name as those from which this node speaks BGP."""
    yield from bgp.local_addresses
    yield from (peer.local_address for peer in bgp.peers or () if peer.local_address)


def node_facts(
    settings: NodeSettings, node: Node | None, interfaces: Iterable[Interface], *, had: tuple[bytes, ...] = ()
) -> NodeFacts | None:
    """What compilers may know of this node, or None while it has no Node object or no usable address.

    `had` are addresses that its links had before, as far as anybody names them.
    """
    if node is None:
        return None
    allowed = settings.families
    addresses = tuple(a for a in (*node.internal_addresses, *node.external_addresses) if family_of(a) in allowed)
    if not addresses:
        return None
    families = {family_of(a) for a in addresses}
    cidrs = [p for p in node.pod_cidrs if p.family in allowed]
    named = {*addresses, *_spoken_from(node.options.bgp)}
    uplink, mtu, bridge_mtu = "", 0, 0
    subnets: list[Prefix] = []
    local: list[bytes] = []
    for link in sorted(interfaces, key=lambda i: i.index):
        if link.ref.name == BRIDGE:
            bridge_mtu = link.mtu
        if ours(link.ref.name) or link.ref.name == FORMER:
            continue
        for entry in link.addresses:
            # Every pod's link has a link-local address, and no pod may be news for all the others.
            foreign = any(block.covers(entry.address) for block in (LINK_LOCAL[Family.IPV6], *settings.cluster_ranges))
            if entry.address in addresses or not foreign:
                local.append(entry.address)
            if entry.address in addresses:
                subnets.append(network_of(entry.address, entry.length))
            if entry.address == addresses[0] and not uplink:
                uplink, mtu = link.ref.name, link.mtu
    return NodeFacts(
        name=node.ref.name,
        addresses=addresses,
        pod_cidrs=tuple(p for p in cidrs if p.family in families),
        uplink=uplink,
        mtu=mtu,
        subnets=tuple(dict.fromkeys(subnets)),
        local_addresses=tuple(dict.fromkeys(local)),
        bridge_mtu=bridge_mtu,
        zone=node.zone,
        enabled=allowed,
        other_cidrs=tuple(p for p in cidrs if p.family not in families),
        bindable=tuple(dict.fromkeys(a for a in (*had, *local) if a in named)),
    )
