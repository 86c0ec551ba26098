"""The node's part of the service proxy: dummy link, sets, the guard before service addresses, SNAT, kernel settings."""

from __future__ import annotations

from collections.abc import Iterator

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.names import (
    DUMMY_LINK,
    HAIRPIN_SET,
    LOCAL_ADDRESS_SET,
    SERVICE_ADDRESS_SET,
    SERVICE_PORT_SET,
    SERVICES_CHAIN,
    set_name,
)
from kuberouter.compilers.services.kernel import kernel_rows
from kuberouter.compilers.services.nat import snat_problems, snat_rows
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
    del view
    rows: list[Row] = [] if settings.local_routes else [Link(LinkKey(DUMMY_LINK), LinkKind.DUMMY, DUMMY_MTU)]
    rows += kernel_rows(node, settings)
    for family in node.families:
        rows += _sets(family, node)
        if settings.guard:
            rows += _guard(family)
        rows += snat_rows(family, node, settings)
    return Fragment(tuple(rows), tuple(snat_problems(node, settings, key.subject)))


def _sets(family: Family, node: NodeFacts) -> Iterator[Row]:
    for name, kind in (
        (SERVICE_ADDRESS_SET, SetType.HASH_IP),
        (SERVICE_PORT_SET, SetType.HASH_IP_PORT),
        (LOCAL_ADDRESS_SET, SetType.HASH_IP),
        (HAIRPIN_SET, SetType.HASH_IP_PORT_NET),
    ):
        yield IpSet(IpSetKey(set_name(name, family)), kind, family)
    for address in dict.fromkeys((*node.addresses, *node.local_addresses)):
        if family_of(address) is family:
            yield Member(MemberKey(set_name(LOCAL_ADDRESS_SET, family), address, len(address) * 8))


def _guard(family: Family) -> Iterator[Row]:
    """Packets to a service address get in if a Service serves the port; else they would reach the host's own sockets.

    The node's own addresses are not in the set of service addresses, so whatever becomes of the sets nothing of the
    node itself is refused. Their node ports get in by a rule of their own, past rules of the host that may come after.
    """
    addresses, ports, local = (
        set_name(name, family) for name in (SERVICE_ADDRESS_SET, SERVICE_PORT_SET, LOCAL_ADDRESS_SET)
    )
    served = f"-m set --match-set {ports} dst,dst -j ACCEPT"
    rules = (
        *ICMP[family],
        served,
        f"-m set --match-set {local} dst -j RETURN",
        "-p tcp -j REJECT --reject-with tcp-reset",
        f"-j REJECT --reject-with {REFUSAL[family]}",
    )
    yield make_chain(ChainKey(family, Table.FILTER, SERVICES_CHAIN), rules)
    text = f"-m set --match-set {addresses} dst -j {SERVICES_CHAIN}"
    yield Hook(HookKey(family, Table.FILTER, "INPUT", text), HookRank.SERVICES)
    yield Hook(HookKey(family, Table.FILTER, "INPUT", served), HookRank.SERVICES)
