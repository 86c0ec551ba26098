"""Who may reach a load balancer address: `spec.loadBalancerSourceRanges` as set entries, judged before everything else.

The rules stand in the raw table. There they see the address that the client asked for, before IPVS takes the packet
from the input of others and from the output of the node itself; the filter table would not see the latter. They exist
only while some Service needs them.
"""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.compilers.names import RESTRICTED_SET, SOURCE_SET, SOURCES_CHAIN, set_name
from kuberouter.model.cluster import Service
from kuberouter.model.core import Family, Row
from kuberouter.model.ipvs import VirtualServiceKey
from kuberouter.model.netfilter import (
    ChainKey,
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    SetType,
    SourcedKey,
    Table,
    make_chain,
)


def source_filter(service: Service, place: VirtualServiceKey) -> Iterator[Row]:
    """What keeps clients that are not listed from a place; nothing where everybody may come.

    Everybody is judged by the address that the packet carries: clients outside, pods and the node itself. Packets are
    dropped, as in kube-proxy. A list without a range of the place's family lets nobody of that family in.
    """
    ranges = service.source_ranges
    if ranges is None or place.address not in service.load_balancer_ips:
        return
    allowed = [block for block in ranges if block.family is place.family]
    if not all(block.length for block in allowed):
        return
    sources, restricted = (set_name(name, place.family) for name in (SOURCE_SET, RESTRICTED_SET))
    yield from _rules(place.family, sources, restricted)
    where = (place.address, len(place.address) * 8, int(place.protocol), place.port)
    # Whom to let in is known before the others are kept out.
    for block in allowed:
        yield Member(SourcedKey(sources, *where, block.address, block.length))
    yield Member(MemberKey(restricted, *where))


def _rules(family: Family, sources: str, restricted: str) -> Iterator[Row]:
    yield IpSet(IpSetKey(sources), SetType.HASH_IP_PORT_NET, family)
    yield IpSet(IpSetKey(restricted), SetType.HASH_IP_PORT, family)
    chain = ChainKey(family, Table.RAW, SOURCES_CHAIN)
    yield make_chain(chain, (f"-m set ! --match-set {sources} dst,dst,src -j DROP",))
    text = f"-m set --match-set {restricted} dst,dst -j {SOURCES_CHAIN}"
    for hook in ("PREROUTING", "OUTPUT"):
        yield Hook(HookKey(family, Table.RAW, hook, text), HookRank.SERVICES)
