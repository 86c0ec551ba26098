"""Through which link a pod sends: what comes in from it under the address of somebody else is dropped.

Links of pods are looked up in sets, so that a packet passes the same few rules however many pods there are. Behind a
bridge the hooks of IP see the bridge as the link; so there a table of the bridge family, which sees the port, marks
what does not have its pod's own address, and the hooks of IP judge by the mark. It is not judged at the port already,
because packets of open flows pass, and only IP knows flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouter.compilers.policies.names import GUARD_CHAIN, GUARD_SET
from kuberouter.compilers.policies.nftables.names import ADDRESS, IP, LAYER, chain_key, set_key
from kuberouter.compilers.policies.nftables.policies import block
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, Prefix, Row
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
)

BORROWED_MARK = 0x80000
"""Comes from a bridge port of a pod, and not from the pod's own address."""
CONFINED_MARK = 0x100000
"""The same, from a pod that may use no other address at all."""
BRIDGE_PRIORITY = -300
"""dstnat: before the bridge hands the packet to the hooks of IP (0)."""
ETHER = {Family.IPV4: "ip", Family.IPV6: "ip6"}


def _own(layer: NftFamily, family: Family) -> NftSet:
    """Links with the address that their pod has."""
    name = f"KUBE-ROUTER-POD-OWN-{family.name}"
    return NftSet(NftSetKey(layer, name), (KeyType.IFNAME, ADDRESS[family]))


def _links(layer: NftFamily, family: Family, *, confined: bool) -> NftSet:
    """Links of pods that may use no other address, or none of the cluster."""
    kind = "CONFINED" if confined else "BOUND"
    return NftSet(NftSetKey(layer, f"KUBE-ROUTER-POD-{kind}-{family.name}"), (KeyType.IFNAME,))


def _blocks(family: Family) -> NftSet:
    return NftSet(set_key(family, GUARD_SET), (ADDRESS[family],), SetForm.RANGES)


def _addresses(family: Family) -> NftSet:
    """Addresses of nodes stand apart, for they may lie in a block, and ranges must not overlap."""
    return NftSet(set_key(family, f"{GUARD_SET}-NODES"), (ADDRESS[family],))


def guard_rows(family: Family) -> Iterator[Row]:
    """The sets and chains that the links of pods are looked up in."""
    source = f"{IP[family]} saddr"
    cluster = (_blocks(family), _addresses(family))
    yield from cluster
    yield NftTable(NftTableKey(NftFamily.BRIDGE))
    for layer in (LAYER[family], NftFamily.BRIDGE):
        yield _own(layer, family)
        for confined in (True, False):
            yield _links(layer, family, confined=confined)
    own = _own(NftFamily.BRIDGE, family).key.name
    # Both tables name them alike.
    confined_links, bound_links = (_links(NftFamily.BRIDGE, family, confined=c).key.name for c in (True, False))
    yield make_nft_chain(
        chain_key(family, GUARD_CHAIN),
        (
            f"meta mark and {CONFINED_MARK:#x} == {CONFINED_MARK:#x} counter drop",
            *(f"meta mark and {BORROWED_MARK:#x} == {BORROWED_MARK:#x} {source} @{s.key.name} drop" for s in cluster),
            f"iifname . {source} @{own} return",
            f"iifname @{confined_links} counter drop",
            *(f"iifname @{bound_links} {source} @{s.key.name} counter drop" for s in cluster),
        ),
    )
    yield make_nft_chain(
        NftChainKey(NftFamily.BRIDGE, f"{GUARD_CHAIN}-{family.name}"),
        (
            f"iifname . {source} @{own} accept",
            f"meta protocol {ETHER[family]} iifname @{confined_links} meta mark set meta mark or {CONFINED_MARK:#x}",
            f"meta protocol {ETHER[family]} iifname @{bound_links} meta mark set meta mark or {BORROWED_MARK:#x}",
        ),
        hook=BaseHook("prerouting", BRIDGE_PRIORITY),
    )


def cluster_addresses(family: Family, prefixes: Iterable[Prefix]) -> Iterator[Row]:
    """Addresses that no pod may borrow."""
    for prefix in prefixes:
        if prefix.length == len(prefix.address) * 8:
            yield NftElement(NftElementKey(_addresses(family).key, prefix.address))
        else:
            yield block(_blocks(family).key, prefix)


def guard(family: Family, link: PodLink, own: bytes | None, *, confined: bool) -> Iterator[Row]:
    """What comes in from a link without the pod's own address is dropped."""
    layer = NftFamily.BRIDGE if link.bridged else LAYER[family]
    name = packed_link(link.ref.name)
    if own is not None:
        yield NftElement(NftElementKey(_own(layer, family).key, name + own))
    yield NftElement(NftElementKey(_links(layer, family, confined=confined).key, name))
