"""Frozen settings per controller, made from the flag table. Durations are seconds. Flag meanings: `daemon/flags.py`."""

from __future__ import annotations

from kuberouter.model.bgp import DEFAULT_HOLD_TIME, PeerSpec
from kuberouter.model.core import Family, Prefix, Value


class NodeSettings(Value, frozen=True, gc=False):
    """Which node this is and which families the user allows."""

    name: str
    """Node object name: `--hostname-override`, else NODE_NAME, else the host name."""
    families: tuple[Family, ...] = (Family.IPV4,)
    cluster_ranges: tuple[Prefix, ...] = ()
    """`--service-cluster-ip-range`: whatever link has such an address, it belongs to a Service and not to the node."""


class MetricsSettings(Value, frozen=True, gc=False):
    """Where metrics are served, and whether policies are counted one by one."""

    port: int
    address: str = ""
    """Empty is every address."""
    path: str = "/metrics"
    per_policy: bool = False
    certificate: str = ""
    """Files of the certificate and its key; without them it is plain HTTP."""
    key: str = ""
    token: str = ""
    """File of the bearer token that clients have to send; empty is none."""


class AddressRules(Value, frozen=True, gc=False):
    """Which external and load balancer addresses Services may have; whoever writes a Service can ask for any."""

    strict: bool = True
    """`--strict-external-ip-validation`: only those of the ranges; otherwise all."""
    cluster_ranges: tuple[Prefix, ...] = ()
    external_ranges: tuple[Prefix, ...] = ()
    load_balancer_ranges: tuple[Prefix, ...] = ()


class ProxySettings(Value, frozen=True, gc=False):
    """Service proxy."""

    sync_period: float = 300.0
    """Seconds between audits of IPVS and of the VIPs."""
    masquerade_all: bool = False
    """SNAT every proxied flow, not only those from outside the pod CIDR."""
    local_routes: bool = False
    """`--vip-mode=route`: service addresses are local routes, not addresses on a link."""
    excluded: tuple[Prefix, ...] = ()
    """`--excluded-cidrs`: what others have there is neither adopted nor removed."""
    hairpin: bool = False
    """`--hairpin-mode`: endpoints of every Service reach themselves through it."""
    guard: bool = True
    """`--ipvs-permit-all`: refuse ports of a VIP that no Service serves."""
    addresses: AddressRules = AddressRules()
    node_ports_everywhere: bool = False
    """`--nodeport-bindon-all-ip`: node ports on every local address, not only on the node's best one per family."""
    node_ports: tuple[int, int] = (30000, 32767)
    """`--service-node-port-range`: what an earlier kube-router has left of node ports is told by it."""
    tcp_timeout: int = 0
    tcp_fin_timeout: int = 0
    udp_timeout: int = 0
    """Seconds after which IPVS forgets an idle connection; 0 leaves the kernel's value."""
    reuse_mode: int = 1
    """What IPVS does with a client's port that is used again (`conn_reuse_mode`): 1 balances anew, 0 does not."""
    runtime_endpoint: str = ""
    """`unix://` with the socket of the container runtime; without it no pod can answer clients directly."""
    graceful: bool = False
    """An endpoint that goes keeps its connections for a while."""
    graceful_period: float = 30.0
    """Seconds for which it does at most if no pod says how long it may take to end."""


class ExternalPeers(Value, frozen=True, gc=False):
    """Peers outside the cluster that flags name, and what holds for those of annotations, too."""

    specs: tuple[PeerSpec, ...] = ()
    """`--peer-router-*`: peers of every node. Where there are any, the annotations of Nodes name none."""
    hold_time: int = DEFAULT_HOLD_TIME
    multihop_ttl: int = 0
    next_hop_self: bool = False
    """`--override-nexthop`: what is told to them carries the session's own address as next hop."""


class GracefulRestart(Value, frozen=True, gc=False):
    """`--bgp-graceful-restart`: peers keep our routes while gobgpd is away. Seconds."""

    restart_time: int = 90
    deferral_time: int = 360


class Advertise(Value, frozen=True, gc=False):
    """What peers outside the cluster are told of; annotations of a Service have the last word on its addresses."""

    pod_cidr: bool = True
    cluster_ip: bool = False
    external_ip: bool = False
    load_balancer_ip: bool = False
    withdraw_unschedulable: bool = False
    """A node that takes no new pods (`spec.unschedulable`) withdraws its service addresses, as a drained one does."""


class RouterSettings(Value, frozen=True, gc=False):
    """Route controller."""

    sync_period: float = 300.0
    route_sync_period: float = 60.0
    """Seconds between audits of kernel routes."""
    gobgp_socket: str = "/run/kube-router/gobgp.sock"
    gobgp_spawn: bool = False
    """`--gobgpd=spawn`: start and watch gobgpd ourselves."""
    gobgp_listeners: tuple[str, ...] = ()
    """Where the gobgpd that we start serves its API besides, as `address:port`."""
    asn: int = 64512
    router_id: str = ""
    bgp_port: int = 179
    ibgp: bool = True
    full_mesh: bool = True
    """`--nodes-full-mesh`: every node peers with every other; otherwise with those of its own AS number."""
    peers: ExternalPeers = ExternalPeers()
    graceful: GracefulRestart | None = None
    advertise: Advertise = Advertise()
    addresses: AddressRules = AddressRules()
    """Of addresses that nobody may have nobody is told."""
    import_allow: tuple[Prefix, ...] = ()
    """`--bgp-import-allow-cidrs`: nothing else is learned; none at all is no limit."""
    overlay: bool = True
    overlay_full: bool = False
    """Tunnel to every node, not only to those of other subnets."""
    overlay_encap: str = "ipip"
    """How tunnels carry packets: `ipip`, or `fou`, inside UDP."""
    overlay_port: int = 0
    """UDP port at which such packets are accepted, and to which `fou` sends them; 0 accepts none."""
    cni: bool = True
    cni_file: str = "/etc/cni/net.d/10-kuberouter.conf"
    pod_egress: bool = True
    plain_destinations: tuple[Prefix, ...] = ()
    """`--non-masquerade-cidrs`: networks outside the cluster to which pods speak from their own addresses."""
    auto_mtu: bool = True
    disable_source_check: bool = True
    """Have the cloud let packets of pods pass that no tunnel hides."""


class FirewallSettings(Value, frozen=True, gc=False):
    """NetworkPolicy firewall."""

    sync_period: float = 300.0
    cluster_ranges: tuple[Prefix, ...] = ()
    external_ranges: tuple[Prefix, ...] = ()
    load_balancer_ranges: tuple[Prefix, ...] = ()
    node_ports: tuple[int, int] = (30000, 32767)
    default_deny: bool = False
    """Addresses of this node's pod CIDRs that are no pod's yet, as far as the API tells, are cut off."""
    cut_flows: bool = False
    """Flows that were open when a policy closed them end; otherwise they are kept."""
    nftables: bool = False
    """Written as nftables, not as iptables and ipsets."""
    namespace_annotation: bool = False
    """The annotation by which a namespace isolates itself has an effect."""
    log_drops: bool = False
    """What is dropped is told in the log."""
    proxy: ProxySettings | None = None
    """The service proxy of this daemon: pods that answer clients directly speak from service addresses."""
