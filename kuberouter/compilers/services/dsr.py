"""Direct server return: endpoints answer clients themselves, from the address that the client asked for.

The director marks a client's packets (mangle, before routing, and where the node sends them itself), IPVS has a service
for the mark, and sends each packet inside another one to the endpoint. The endpoint's pod takes it out of the tunnel,
has the service address itself, and answers past the director. So it works only where the packet may stay as it is: the
port is not mapped, and only at external and load balancer addresses, which mean nothing else to anybody.

There are two ways to bring the marked packets to IPVS. The Go kube-router takes the address off the node and has a
policy rule per mark look into a table in which everything is local. Here the address stays on the node like that of any
other Service, because then
- the node may speak as the address: it tells clients of the smaller MTU of the tunnel, answers pings, and refuses at
  once what has no endpoints; without it the first is impossible and big IPv4 packets just vanish;
- a Service with direct return can share its address with one without;
- nothing but the mark is needed: no policy rule and no table, whose traces nobody ever removed.
What it costs: an IPv4 answer comes in, from a pod here or for a client here, with a source address that is the node's
own, which Linux takes for a lie unless it is told otherwise (`accept_local`). So it is told, and a chain drops what has
any address of the node as its source but these, which is what Linux did before. The chain goes last when all is over;
at the beginning the setting may be ahead of it by the milliseconds of one pass. IPv6 knows no such check.

The clamp of the segment size is no longer needed where path MTU discovery works; it is there for where it does not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from kuberouter.cluster.frontends import FrontendKind, addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.mtu import direct_segment
from kuberouter.compilers.names import (
    DIRECT_ANSWERS_CHAIN,
    DIRECT_CHAIN,
    DIRECT_SET,
    SERVICE_PORT_SET,
    set_name,
)
from kuberouter.decode.annotations import SERVICE_DSR
from kuberouter.model.cluster import MarkedPlace, Service
from kuberouter.model.core import Family, Fragment, L4Protocol, Owner, Prefix, Problem, Rank, Reason, Row
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.ipvs import Destination, Forward, VirtualServiceKey
from kuberouter.model.netfilter import (
    ChainKey,
    Hook,
    HookKey,
    HookRank,
    IpSet,
    IpSetKey,
    Member,
    MemberKey,
    Rule,
    RuleKey,
    SetType,
    Table,
    make_chain,
)
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import ProxySettings

FIELD = f"metadata.annotations[{SERVICE_DSR.key}]"
OUTSIDE = (FrontendKind.EXTERNAL, FrontendKind.LOAD_BALANCER)
ACCEPT_LOCAL = SysctlKey("net/ipv4/conf/all/accept_local")
SLOPPY_TCP = SysctlKey("net/ipv4/vs/sloppy_tcp")
PROTOCOL = {L4Protocol.TCP: "tcp", L4Protocol.UDP: "udp", L4Protocol.SCTP: "sctp"}
MARK_RANK = 10
FALLBACK = Rank(level=1)
"""Behind what any Service claims."""


def direct_mark(
    service: Service,
    kind: FrontendKind,
    place: VirtualServiceKey,
    view: ClusterView,
    *,
    node: NodeFacts,
    settings: ProxySettings,
) -> int:
    """The mark of a place at which endpoints answer directly; 0 where traffic is forwarded in the usual way."""
    if not service.options.dsr or kind not in OUTSIDE or _obstacle(place.address, view, node, settings):
        return 0
    return view.marks.mark(MarkedPlace(place.address, place.protocol, place.port))


def _obstacle(address: bytes, view: ClusterView, node: NodeFacts, settings: ProxySettings) -> str:
    """Why nobody can answer directly from an address; empty if somebody can."""
    if not settings.runtime_endpoint:
        return "--runtime-endpoint is not given, so pods cannot be prepared for it"
    if address in node.local_addresses or view.routes.has_node(address):
        # A pod with the address of a node would take what the node sends for its own.
        return f"{ipaddress.ip_address(address)} is the address of a node, which no pod may have as well"
    return ""


def direct_problems(
    service: Service, view: ClusterView, *, node: NodeFacts, settings: ProxySettings
) -> Iterator[Problem]:
    """Why a Service that asks for direct return is forwarded in the usual way."""
    if not service.options.dsr:
        return
    outside = [address for kind, address in addresses(service) if kind in OUTSIDE]
    found = dict.fromkeys(_obstacle(address, view, node, settings) for address in outside)
    for text in filter(None, found):
        yield Problem(service.ref, FIELD, Reason.UNSUPPORTED, f"{text}; it is forwarded in the usual way")
    places = [MarkedPlace(a, p.protocol, p.port) for a in outside for p in service.ports]
    if "" in found and not all(map(view.marks.mark, places)):
        text = "every firewall mark is taken; some ports are forwarded in the usual way"
        yield Problem(service.ref, FIELD, Reason.CONFLICT, text)


def forwarding(mark: int, address: bytes, view: ClusterView) -> Forward:
    """How packets get to an endpoint. One in the network of a node has no namespace of its own to take them in."""
    return Forward.TUNNEL if mark and not view.routes.has_node(address) else Forward.MASQUERADE


def endpoint_problems(
    service: Service, ports: Mapping[VirtualServiceKey, int], rows: Iterable[Destination]
) -> Iterator[Problem]:
    """What endpoints of a Service with direct return cannot do; `ports` are those of its marked virtual services."""
    texts: dict[str, None] = {}
    for row in rows:
        wanted = ports.get(row.key.service, 0)
        if wanted and row.forward is not Forward.TUNNEL:
            texts["endpoints in the network of a node cannot answer directly; they are reached in the usual way"] = None
        elif wanted and row.key.port != wanted:
            number = row.key.port
            text = f"ports are not mapped with direct return: endpoints have to answer at {wanted}, not at {number}"
            texts[text] = None
    return (Problem(service.ref, FIELD, Reason.UNSUPPORTED, text) for text in texts)


def direct_rows(service: Service, place: VirtualServiceKey, mark: int, node: NodeFacts) -> Iterator[Row]:
    """What marks the packets to a place, and lets the answers in."""
    family = place.family
    chain = ChainKey(family, Table.MANGLE, DIRECT_CHAIN)
    address = str(Prefix(place.address, len(place.address) * 8))
    protocol = PROTOCOL[place.protocol]
    match = f"-d {address} -p {protocol} -m {protocol} --dport {place.port}"
    yield Rule(RuleKey(chain, MARK_RANK, f"{match} -j MARK --set-xmark {mark:#x}/0xffffffff"))
    text = f"-m set --match-set {set_name(SERVICE_PORT_SET, family)} dst,dst -j {DIRECT_CHAIN}"
    for hook in ("PREROUTING", "OUTPUT"):
        yield Hook(HookKey(family, Table.MANGLE, hook, text), HookRank.MARK)
    yield from _answers(place, node)
    if service.options.scheduler == "mh":
        # Any node may get any packet of a flow when routes change; this one then has not seen its beginning.
        yield Sysctl(SLOPPY_TCP, "1", optional=True)


def _answers(place: VirtualServiceKey, node: NodeFacts) -> Iterator[Row]:
    """The chain for what comes in as an answer. It is the same for every Service, so that they hold it together."""
    family = place.family
    rules: list[str] = []
    if segment := direct_segment(node, family):
        handshake = "-p tcp -m tcp --tcp-flags SYN,RST SYN"
        served = f"-m set --match-set {set_name(SERVICE_PORT_SET, family)} src,src"
        rules.append(f"{handshake} {served} -j TCPMSS --set-mss {segment}")
    if family is Family.IPV4:
        direct = IpSetKey(set_name(DIRECT_SET, family))
        yield IpSet(direct, SetType.HASH_IP, family)
        yield Member(MemberKey(direct.name, place.address, len(place.address) * 8))
        rules += (f"-m set --match-set {direct.name} src -j RETURN", "-m addrtype --src-type LOCAL -j DROP")
        yield Sysctl(ACCEPT_LOCAL, "1")
    if rules:
        yield make_chain(ChainKey(family, Table.MANGLE, DIRECT_ANSWERS_CHAIN), tuple(rules))
        text = f"! -i lo -j {DIRECT_ANSWERS_CHAIN}"
        yield Hook(HookKey(family, Table.MANGLE, "PREROUTING", text), HookRank.MARK)


def compile_direct(key: Owner, view: ClusterView, *, node: NodeFacts, settings: ProxySettings) -> Fragment:
    """What kernel settings go back to when the last Service with direct return is gone.

    Nothing where there never was one, as far as the kernel tells: then the settings are none of our business.
    """
    del key, settings
    if not view.marks.used:
        return Fragment()
    rows: list[Row] = [Sysctl(SLOPPY_TCP, "0", optional=True)]
    if Family.IPV4 in node.families:
        rows.append(Sysctl(ACCEPT_LOCAL, "0"))
    return Fragment(tuple(rows), rank=FALLBACK)
