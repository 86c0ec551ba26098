"""Through which link a pod sends: what comes in from it under the address of somebody else is dropped.

Links of pods are looked up in sets, so that a packet passes the same few rules however many pods there are. Behind a
bridge the hooks of IP see the bridge as the link; so there a table of the bridge family looks, which sees the port.
It drops what borrows an address of the cluster at once. What a confined pod sends under any other address may still
answer what somebody else has begun, which only IP knows: it gets a mark. IP judges that as soon as it knows the flow,
before the rules of others could set the mark or take it away, and wipes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kuberouter.compilers.policies.firewall import ICMP_ALWAYS, ICMPV6_ALWAYS
from kuberouter.compilers.policies.names import BORROWED_CHAIN, CONFINED_MARK, GUARD_CHAIN, GUARD_SET, STRANGE_CHAIN
from kuberouter.compilers.policies.nftables.names import ADDRESS, IP, LAYER
from kuberouter.compilers.policies.nftables.policies import SPARES, block, log
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.nftables import (
    BaseHook,
    KeyType,
    NftChainKey,
    NftElement,
    NftElementKey,
    NftFamily,
    NftSet,
    NftSetKey,
    NftTable,
    NftTableKey,
    SetForm,
    make_nft_chain,
    packed_link,
    packed_port,
)
from kuberouter.model.policy import Direction

BRIDGE_PRIORITY = -300
"""dstnat: before the bridge hands the packet to the hooks of IP (0)."""
PRIORITY = -199
"""Behind conntrack (-200), before the mangle tables of others (-150)."""
SOURCES_CHAIN = "KUBE-ROUTER-PREROUTING-SOURCES"
DROPPED = (log(GUARD_CHAIN, Direction.EGRESS), "counter drop")


def _own(layer: NftFamily, family: Family) -> NftSet:
    """Links with the address that their pod has."""
    name = f"KUBE-ROUTER-POD-OWN-{family.name}"
    return NftSet(NftSetKey(layer, name), (KeyType.IFNAME, ADDRESS[family]))


def _answers(layer: NftFamily, family: Family) -> NftSet:
    """Links with the services that their pod answers for directly."""
    name = f"KUBE-ROUTER-POD-ANSWERS-{family.name}"
    types = (KeyType.IFNAME, ADDRESS[family], KeyType.INET_PROTO, KeyType.INET_SERVICE)
    return NftSet(NftSetKey(layer, name), types)


def _links(layer: NftFamily, family: Family) -> NftSet:
    """Links of pods."""
    return NftSet(NftSetKey(layer, f"KUBE-ROUTER-POD-LINKS-{family.name}"), (KeyType.IFNAME,))


def _confined(layer: NftFamily, family: Family) -> NftSet:
    """Links of pods that may use no address but their own."""
    return NftSet(NftSetKey(layer, f"KUBE-ROUTER-POD-CONFINED-{family.name}"), (KeyType.IFNAME,))


def _blocks(layer: NftFamily, family: Family) -> NftSet:
    """Pod CIDRs of all nodes."""
    return NftSet(NftSetKey(layer, f"{GUARD_SET}-{family.name}"), (ADDRESS[family],), SetForm.RANGES)


def _nodes(layer: NftFamily, family: Family) -> NftSet:
    """Addresses of nodes stand apart, for they may lie in a block, and ranges must not overlap."""
    return NftSet(NftSetKey(layer, f"{GUARD_SET}-NODES-{family.name}"), (ADDRESS[family],))


def guard_rows(family: Family) -> Iterator[Row]:
    """The sets and chains that the links of pods are looked up in."""
    yield NftTable(NftTableKey(NftFamily.BRIDGE))
    for layer in (NftFamily.BRIDGE, LAYER[family]):
        own, answering, links, confined, blocks, nodes = (
            made(layer, family) for made in (_own, _answers, _links, _confined, _blocks, _nodes)
        )
        yield from (own, answering, links, confined, blocks, nodes)
        source = f"{IP[family]} saddr"
        known = f"iifname . {source} @{own.key.name}"
        # What opens a TCP flow is no answer.
        answers = tuple(
            f"iifname . {source} . meta l4proto . th sport @{answering.key.name} {flow}"
            for flow in ("tcp flags & (fin | syn | rst | ack) != syn", "meta l4proto != tcp")
        )
        passing = (f"{known} accept", *(f"{answer} accept" for answer in answers))
        borrowed = tuple(
            f"iifname @{links.key.name} {source} @{each.key.name} goto {BORROWED_CHAIN}" for each in (blocks, nodes)
        )
        strange = f"iifname @{confined.key.name}"
        if layer is NftFamily.BRIDGE:
            mark = f"meta protocol {IP[family]} {strange} meta mark set meta mark or {CONFINED_MARK:#x}"
            key, rules = NftChainKey(layer, f"{GUARD_CHAIN}-{family.name}"), (*passing, *borrowed, mark)
            yield make_nft_chain(key, rules, hook=BaseHook("prerouting", BRIDGE_PRIORITY))
        else:
            yield from _strange(family)
            marked = f"meta mark and {CONFINED_MARK:#x} == {CONFINED_MARK:#x}"
            wiped = f"meta mark set meta mark and {0xFFFFFFFF ^ CONFINED_MARK:#x}"
            judged = (f"{marked} {wiped} goto {STRANGE_CHAIN}", f"{strange} goto {STRANGE_CHAIN}")
            key, rules = NftChainKey(layer, SOURCES_CHAIN), (*passing, *borrowed, *judged)
            yield make_nft_chain(key, rules, hook=BaseHook("prerouting", PRIORITY))
        yield make_nft_chain(NftChainKey(layer, BORROWED_CHAIN), DROPPED, fallback=("drop",), spares=SPARES)


def _strange(family: Family) -> Iterator[Row]:
    """The chain for what confined pods send under other addresses."""
    # Policy for what a pod sends on its own does not end what others have begun.
    answers = "ct state established ct direction reply accept"
    rules = (answers, *always(family), *DROPPED)
    yield make_nft_chain(NftChainKey(LAYER[family], STRANGE_CHAIN), rules, fallback=("drop",), spares=SPARES)


def always(family: Family) -> Iterator[str]:
    """The rules that let pass what no policy may stop."""
    if family is Family.IPV4:
        yield from (f"icmp type {kind} accept" for kind in ICMP_ALWAYS)
    else:
        yield from (f"icmpv6 type {kind} accept" for kind in ICMPV6_ALWAYS)


def cluster_addresses(family: Family, prefixes: Sequence[Prefix]) -> Iterator[Row]:
    """Addresses that no pod may borrow."""
    for layer in (NftFamily.BRIDGE, LAYER[family]):
        for prefix in prefixes:
            if prefix.length == len(prefix.address) * 8:
                yield NftElement(NftElementKey(_nodes(layer, family).key, prefix.address))
            else:
                yield block(_blocks(layer, family).key, prefix)


def guard(family: Family, link: PodLink, own: bytes | None, *, confined: bool) -> Iterator[Row]:
    """What comes in from a link without the pod's own address is dropped."""
    layer = NftFamily.BRIDGE if link.bridged else LAYER[family]
    name = packed_link(link.ref.name)
    if own is not None:
        yield NftElement(NftElementKey(_own(layer, family).key, name + own))
    yield NftElement(NftElementKey(_links(layer, family).key, name))
    if confined:
        yield NftElement(NftElementKey(_confined(layer, family).key, name))


def answers(family: Family, link: PodLink, address: bytes, protocol: L4Protocol, port: int) -> Iterator[Row]:
    """What comes in from a link as an answer of a service is let through."""
    layer = NftFamily.BRIDGE if link.bridged else LAYER[family]
    key = packed_link(link.ref.name) + address + packed_port(protocol, port)
    yield NftElement(NftElementKey(_answers(layer, family).key, key))
