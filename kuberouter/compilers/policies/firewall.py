"""What the firewall needs before any policy: where it looks at packets, and what it never judges.

What policy lets pass goes on to everybody else's rules: a policy that allows something does not overrule the firewall
of the host.
"""

from __future__ import annotations

from typing import NamedTuple

from kuberouter.cluster.facts import network_of
from kuberouter.cluster.frontends import FrontendKind, addresses
from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.host import family_settings
from kuberouter.compilers.policies.spelling import Spelling
from kuberouter.model.cluster import Service
from kuberouter.model.core import Family, Fragment, ObjectRef, Owner, Prefix, Problem, Reason, Row, family_of
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.node import NodeFacts
from kuberouter.model.policy import Direction
from kuberouter.model.settings import FirewallSettings

ICMP_ALWAYS = (3, 8, 11)
"""Destination unreachable, echo request, time exceeded (RFC 792)."""
ICMPV6_ALWAYS = (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 143)
"""Errors and echo (RFC 4443), multicast listeners (RFC 2710, 3810), neighbour discovery (RFC 4861)."""


class Gate(NamedTuple):
    """A hook of the kernel at which packets are judged.

    `services`: traffic to Services passes, for IPVS meets it only behind this hook: policy judges it in OUTPUT, by the
    chosen endpoint. `node`: what the node itself sends passes, as the kubelet's probes have to.
    """

    hook: str
    directions: tuple[Direction, ...]
    services: bool = False
    node: bool = False


GATES = (
    Gate("input", (Direction.EGRESS,), services=True),
    Gate("forward", (Direction.EGRESS, Direction.INGRESS)),
    # Only here is a local source proof that the node has sent it.
    Gate("output", (Direction.EGRESS, Direction.INGRESS), node=True),
)

BRIDGE_FILTERING = {
    Family.IPV4: "net/bridge/bridge-nf-call-iptables",
    Family.IPV6: "net/bridge/bridge-nf-call-ip6tables",
}


def compile_firewall(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """The fixed part of the firewall on this node, for each enabled family."""
    del view
    cidrs = (*node.pod_cidrs, *node.other_cidrs)
    rows: list[Row] = [*family_settings(node)]
    for family in node.enabled:
        rows.append(Sysctl(SysctlKey(BRIDGE_FILTERING[family]), "1"))
        rows += spell.fixed(family, settings)
        if settings.default_deny and cidrs:
            rows += spell.known_only(family, [prefix for prefix in cidrs if prefix.family is family])
    problems = [_without_address(key.subject, family) for family in node.enabled if node.address(family) is None]
    if settings.default_deny and not cidrs:
        text = "is not known, so --netpol-default-deny has nothing to close"
        problems.append(Problem(key.subject, "spec.podCIDRs", Reason.MISSING, text))
    return Fragment(tuple(rows), tuple(problems))


def _without_address(node: ObjectRef, family: Family) -> Problem:
    name, flag = ("IPv4", "--enable-ipv4") if family is Family.IPV4 else ("IPv6", "--enable-ipv6")
    text = f"has no {name} address while {flag} is set; policies hold for {name} all the same"
    return Problem(node, "status.addresses", Reason.MISSING, text)


def compile_served(
    key: Owner, view: ClusterView, *, node: NodeFacts, settings: FirewallSettings, spell: Spelling
) -> Fragment:
    """Where one Service is served: its node ports, and those addresses that no range of the settings holds.

    Every other port of the node, in the range of node ports or not, is as any other address.
    """
    service = view.service(key.subject)
    if service is None:
        return Fragment()
    low, high = settings.node_ports
    ports = [(port.protocol, port.node_port) for port in service.ports if low <= port.node_port <= high]
    outside = [a for a in service.cluster_ips if not any(_holds(prefix, a) for prefix in settings.cluster_ranges)]
    rows: list[Row] = []
    for family in node.enabled:
        found = [a for a in (*outside, *_anywhere(service, settings)) if family_of(a) is family]
        served = [(address, port.protocol, port.port) for address in found for port in service.ports]
        rows += spell.node_ports(family, ports) if ports else ()
        rows += spell.cluster_ips(family, served) if served else ()
    # The same words for every such Service, so that they are one problem.
    wrong = service.ports and any(family_of(address) in node.enabled for address in outside)
    return Fragment(tuple(rows), (_wrong_range(node, settings),) if wrong else ())


def _anywhere(service: Service, settings: FirewallSettings) -> list[bytes]:
    """External and load balancer addresses that the proxy serves although no range holds them."""
    if not service.served or settings.proxy is None or settings.proxy.addresses.strict:
        return []
    ranges = (*settings.cluster_ranges, *settings.external_ranges, *settings.load_balancer_ranges)
    outer = dict.fromkeys(address for kind, address in addresses(service) if kind > FrontendKind.NODE_PORT)
    return [address for address in outer if not any(_holds(prefix, address) for prefix in ranges)]


def _holds(prefix: Prefix, address: bytes) -> bool:
    return prefix.family is family_of(address) and network_of(address, prefix.length) == prefix


def _wrong_range(node: NodeFacts, settings: FirewallSettings) -> Problem:
    given = ",".join(map(str, settings.cluster_ranges))
    text = (
        f"{given} does not hold the cluster IPs of all Services; of those outside policy leaves only the ports that "
        "a Service has to the proxy. It should be the apiserver's --service-cluster-ip-range"
    )
    return Problem(ObjectRef("Node", "", node.name), "--service-cluster-ip-range", Reason.CONFLICT, text)
