"""The node's part of the service proxy: dummy link, sets, the guard before service addresses, SNAT, kernel settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import (
    DUMMY_LINK,
    LOCAL_ADDRESS_SET,
    SERVICE_ADDRESS_SET,
    SERVICE_PORT_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
    set_name,
)
from kuberouter.compilers.services.kernel import kernel_rows
from kuberouter.decode.scalars import show_prefix
from kuberouter.model.core import Family, Fragment, Owner, Row, family_of
from kuberouter.model.netfilter import (
    ChainKey,
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    Position,
    SetType,
    Table,
    make_chain,
)
from kuberouter.model.network import Link, LinkKey, LinkKind
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

ICMP = {
    Family.IPV4: [f"-p icmp -m icmp --icmp-type {kind} -j ACCEPT" for kind in (3, 8, 11)],
    Family.IPV6: [
        f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT" for kind in (1, 2, 3, 4, 128, 129, 133, 134, 135, 136)
    ],
}
DUMMY_MTU = 1500
"""The kernel's own choice, named so that a restarted daemon finds the link as it wants it; nothing passes through."""
REFUSAL = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}


def compile_proxy(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """What the proxy needs on the node whatever Services there are, for each family in use."""
    del key, view
    rows: list[Row] = [Link(LinkKey(DUMMY_LINK), LinkKind.DUMMY, DUMMY_MTU)]
    rows += kernel_rows(node, settings)
    for family in node.families:
        rows += _sets(family, node)
        if settings.guard:
            rows += _guard(family)
        rows += _snat(family, node, settings)
    return Fragment(tuple(rows))


def _sets(family: Family, node: NodeFacts) -> Iterator[Row]:
    for name, kind in (
        (SERVICE_ADDRESS_SET, SetType.HASH_IP),
        (SERVICE_PORT_SET, SetType.HASH_IP_PORT),
        (LOCAL_ADDRESS_SET, SetType.HASH_IP),
    ):
        yield IpSet(IpSetKey(set_name(name, family)), kind, family)
    for address in dict.fromkeys((*node.addresses, *node.local_addresses)):
        if family_of(address) is family:
            yield Member(MemberKey(set_name(LOCAL_ADDRESS_SET, family), address, len(address) * 8))


def _guard(family: Family) -> Iterator[Row]:
    """Packets to a service address get in if a Service serves the port; else they would reach the host's own sockets.

    The node's own addresses are in the set of service addresses too as soon as there is a node port; they are never
    refused.
    """
    addresses, ports, local = (
        set_name(name, family) for name in (SERVICE_ADDRESS_SET, SERVICE_PORT_SET, LOCAL_ADDRESS_SET)
    )
    rules = (
        *ICMP[family],
        f"-m set --match-set {ports} dst,dst -j ACCEPT",
        f"-m set --match-set {local} dst -j RETURN",
        "-p tcp -j REJECT --reject-with tcp-reset",
        f"-j REJECT --reject-with {REFUSAL[family]}",
    )
    yield make_chain(ChainKey(family, Table.FILTER, SERVICES_CHAIN), rules)
    text = f"-m set --match-set {addresses} dst -j {SERVICES_CHAIN}"
    yield Hook(HookKey(family, Table.FILTER, "INPUT", text), HookRank.SERVICES)


def _snat(family: Family, node: NodeFacts, settings: ProxySettings) -> Iterator[Row]:
    """Proxied flows between this node's pods keep their addresses; all others answer through this node.

    One chain for all pod CIDRs of the family: a flow is exempt if it touches any of them, not if it misses one.
    """
    source = node.address(family)
    if source is None:
        return
    rules: list[str] = []
    if not settings.masquerade_all:
        for prefix in node.pod_cidrs:
            if prefix.family is family:
                rules += (f"-{flag} {show_prefix(prefix)} -j RETURN" for flag in "sd")
    rules.append(f"-j SNAT --to-source {ipaddress.ip_address(source)} --random-fully")
    yield make_chain(ChainKey(family, Table.NAT, SNAT_CHAIN), tuple(rules))
    # As the tools print it: "--ipvs" is implied, and left out by them.
    text = f"-m ipvs --vdir ORIGINAL --vmethod MASQ -j {SNAT_CHAIN}"
    yield Hook(HookKey(family, Table.NAT, "POSTROUTING", text), HookRank.MASQUERADE, Position.LAST)
