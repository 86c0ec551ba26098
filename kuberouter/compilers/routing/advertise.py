"""What this node originates: its pod CIDRs, and for peers outside the cluster addresses of Services that it serves."""

from __future__ import annotations

from kuberouter.cluster.frontends import Claim, FrontendKind, Group, addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.addresses import FIELDS, holder, local_only, refusal
from kuberouter.compilers.names import POD_CIDR_PREFIXES, SERVICE_PREFIXES
from kuberouter.model.bgp import Path, PathKey, PrefixSetEntry, PrefixSetEntryKey
from kuberouter.model.cluster import Service, ServiceType
from kuberouter.model.core import Fragment, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import AddressRules, Advertise, RouterSettings


def compile_advertise(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """A path and a prefix set entry per pod CIDR, the next hop being the node's best address of its family."""
    del key, view, settings
    rows: list[Row] = []
    for prefix in node.pod_cidrs:
        next_hop = node.address(prefix.family)
        if next_hop is not None:
            entry = PrefixSetEntryKey(POD_CIDR_PREFIXES[prefix.family], prefix, prefix.length, prefix.length)
            rows += (PrefixSetEntry(entry), Path(PathKey(prefix), next_hop))
    return Fragment(tuple(rows))


def compile_advertise_service(key: Owner, view: ClusterView, *, node: NodeFacts, settings: RouterSettings) -> Fragment:
    """A path and a prefix set entry per address at which clients outside should find a Service on this node.

    The entry has the address go out to peers outside the cluster and never come in from any. Several Services may have
    the address: it stays while one of them is served there. Nobody is told of addresses of nodes, which are reached
    without, and of none at all by a node that is about to go.
    """
    service = view.service(key.subject)
    if service is None or not service.cluster_ips or _leaving(view, settings.advertise):
        return Fragment()
    rows: dict[Row, None] = {}
    problems: dict[Problem, None] = {}
    for kind, address in addresses(service):
        next_hop = node.address(family_of(address))
        if next_hop is None or not _wanted(service, kind, settings.advertise):
            continue
        if text := refusal(kind, address, settings.addresses):
            problems[Problem(service.ref, FIELDS[kind], Reason.FORBIDDEN, text)] = None
        elif not view.routes.has_node(address) and _answers(service, kind, address, view, rules=settings.addresses):
            bits = len(address) * 8
            prefix = Prefix(address, bits)
            rows[PrefixSetEntry(PrefixSetEntryKey(SERVICE_PREFIXES[prefix.family], prefix, bits, bits))] = None
            rows[Path(PathKey(prefix), next_hop)] = None
    return Fragment(tuple(rows), tuple(problems))


def _leaving(view: ClusterView, advertise: Advertise) -> bool:
    return view.draining or (view.unschedulable and advertise.withdraw_unschedulable)


def _wanted(service: Service, kind: FrontendKind, advertise: Advertise) -> bool:
    """The annotation of a kind of addresses where there is one, else its flag."""
    options = service.options
    if kind is FrontendKind.CLUSTER:
        asked, flag = options.advertise_cluster_ip, advertise.cluster_ip
    elif kind is FrontendKind.EXTERNAL:
        asked, flag = options.advertise_external_ip, advertise.external_ip
    elif service.type is ServiceType.LOAD_BALANCER:
        asked, flag = options.advertise_load_balancer_ip, advertise.load_balancer_ip
    else:
        # The status may still tell what a Service had while it was of that type.
        return False
    return flag if asked is None else asked


def _answers(service: Service, kind: FrontendKind, address: bytes, view: ClusterView, *, rules: AddressRules) -> bool:
    """Whether at some port of an address somebody is ready, on this node where a policy says Local.

    An endpoint that terminates does not count, though the proxy falls back on those where nobody is ready: clients are
    to go elsewhere, at once. This is what a health check node port tells load balancers, too (KEP-1669). What
    another Service gets at the address does not count for this one. A Service that labels hand to another proxy claims
    nothing from ours, and its word is taken.
    """
    local = local_only(service, kind)
    if local and not service.publish_not_ready and not view.local_endpoints.ready(service.ref):
        return False
    for port in service.ports:
        claim = Claim(address, port.protocol, port.port)
        if service.served and holder(view, claim, rules) != service.ref:
            continue
        standing = view.frontends.standing(Group(service.ref, family_of(address), port.name, port.protocol))
        if standing.ready_here if local else standing.ready:
            return True
    return False
