"""Every flag, as data; `daemon/commandline.py` reads them.

A flag stands here once it works, or is hidden. Nothing else in the project defines, documents or defaults a flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kuberouter.decode.scalars import boolean, duration, in_range, unsigned

Value = bool | int | float | str | tuple[str, ...] | tuple[int, ...]

_DECIMAL = re.compile(r"[0-9]+")
_LONGEST_DURATION = (1 << 63) / 1e9
_ITEM = re.compile(r'"((?:[^"]|"")*)"(?=,|$)|([^",\r\n]*)(?=,|$)')


class Kind(NamedTuple):
    """How a flag's text becomes a value. `many` flags collect; the first use replaces the default."""

    label: str
    parse: Callable[[str], Value]
    many: bool = False


def _unsigned(bits: int) -> Callable[[str], int]:
    return lambda text: unsigned(text, bits)


def _numbers(text: str) -> tuple[int, ...]:
    """Comma separated decimal numbers of 64 bits; as with pflag there is no way to write that there are none."""
    items = text.split(",")
    for item in items:
        if not _DECIMAL.fullmatch(item):
            raise ValueError(f"{item!r} is not a decimal number without sign")
    return tuple(in_range(item, 10, 64) for item in items)


def _items(text: str) -> tuple[str, ...]:
    """Comma separated items, quoted as in RFC 4180."""
    found: list[str] = []
    at = 0
    while text and at <= len(text):
        item = _ITEM.match(text, at)
        if item is None:
            raise ValueError("an item can only be quoted as a whole, and its quote must be closed")
        found.append(item[2] if item[1] is None else item[1].replace('""', '"'))
        at = item.end() + 1
    return tuple(found)


def _duration(text: str) -> float:
    # Digits are ASCII; the one letter that need not be is the µ of microseconds, of which there are two.
    if not text.replace("µ", "u").replace("μ", "u").isascii():
        raise ValueError(f"{text!r} is not a duration such as 300ms, 5m or 1h30m")
    seconds = duration(text)
    if abs(seconds) >= _LONGEST_DURATION:
        raise ValueError("out of range, a duration is shorter than 292 years")
    return seconds


BOOL = Kind("", boolean)
STRING = Kind("string", str)
STRINGS = Kind("strings", _items, many=True)
STRING_ARRAY = Kind("stringArray", lambda text: (text,) if text else (), many=True)
"""As STRINGS, but commas part nothing."""
IPS = Kind("ipSlice", lambda text: tuple(item.strip() for item in _items(text)), many=True)
"""Which of them are addresses is seen with everything else that may be wrong, all at once."""
UINTS = Kind("uints", _numbers, many=True)
DURATION = Kind("duration", _duration)
UINT = Kind("uint", _unsigned(64))
UINT8 = Kind("uint8", _unsigned(8))
UINT16 = Kind("uint16", _unsigned(16))
UINT32 = Kind("uint32", _unsigned(32))


class Flag(NamedTuple):
    """One flag: name, kind, default, what it does in a sentence or two, and its one-letter form.

    What is given to a `secret` one is shown in no message. One with `past` is taken, for users of an early Go
    kube-router give it, and stands in no help: it does nothing, and `past` says what has taken its place.
    """

    name: str
    kind: Kind
    default: Value
    help: str
    short: str = ""
    secret: bool = False
    past: str = ""


FLAGS: tuple[Flag, ...] = (
    Flag(
        "admin-socket",
        STRING,
        "/run/kube-router/admin.sock",
        "Unix socket, of root only, that answers kube-router debug; it is there with this flag or --enable-pprof.",
    ),
    Flag("advertise-cluster-ip", BOOL, False, "Tell peers outside the cluster of Services' cluster IPs."),
    Flag("advertise-external-ip", BOOL, False, "Tell peers outside the cluster of Services' external IPs."),
    Flag("advertise-loadbalancer-ip", BOOL, False, "Tell peers outside the cluster of Services' load balancer IPs."),
    Flag("advertise-pod-cidr", BOOL, True, "Tell peers outside the cluster of this node's pod CIDRs."),
    Flag("auto-mtu", BOOL, True, "Give pods and kube-bridge the MTU of the node's uplink, less what tunnels need."),
    Flag("bfd-detection-multiplier", UINT32, 3, "Packets of BFD in a row whose loss ends a session."),
    Flag("bfd-desired-min-tx-interval", UINT32, 1000, "Milliseconds between packets of BFD that are sent."),
    Flag("bfd-port", UINT32, 3784, "UDP port of BFD."),
    Flag(
        "bfd-required-min-rx-interval",
        UINT32,
        1000,
        "Milliseconds between packets of BFD that are asked for.",
    ),
    Flag(
        "bgp-graceful-restart",
        BOOL,
        False,
        "Have peers keep this node's routes while gobgpd is away, if they can (RFC 4724).",
    ),
    Flag(
        "bgp-graceful-restart-deferral-time",
        DURATION,
        360.0,
        "The most that a gobgpd that is back waits for what its peers have to tell before it tells them anything.",
    ),
    Flag("bgp-graceful-restart-time", DURATION, 90.0, "How long peers keep the routes of a gobgpd that is away."),
    Flag("bgp-holdtime", DURATION, 90.0, "Silence after which a session with a peer outside the cluster is given up."),
    Flag(
        "bgp-import-allow-cidrs",
        STRINGS,
        (),
        "CIDR in which routes are learned from peers, none outside of these; may be repeated. Without it all are.",
    ),
    Flag("bgp-port", UINT32, 179, "TCP port on which BGP listens, and on which the other nodes are dialled."),
    Flag(
        "cache-sync-timeout",
        DURATION,
        60.0,
        "How long a start waits for the apiserver to have told of everything; then the process ends with 1.",
    ),
    Flag(
        "cleanup-config",
        BOOL,
        False,
        "Take off this node what a kube-router, this one or the Go one, has put there, and end. Needs no apiserver.",
    ),
    Flag(
        "cleanup-level",
        STRING,
        "all",
        "How much --cleanup-config takes off: rules (sets and virtual services too), links (with addresses and routes) "
        "or all (kube-bridge and files as well).",
    ),
    Flag(
        "cluster-cidr",
        STRING,
        "",
        "The range of all pods.",
        past="the ranges of pods are those of the Node objects (spec.podCIDRs)",
    ),
    Flag("cluster-asn", UINT, 64512, "Private AS number of the nodes."),
    Flag(
        "config",
        STRING,
        "",
        "File with flags by name, in YAML; the command line counts before it. SIGHUP, or a change, has it read again.",
    ),
    Flag(
        "config-sync-period",
        DURATION,
        60.0,
        "How often the cluster's objects are asked for.",
        past="changes are told by the apiserver as they happen",
    ),
    Flag(
        "disable-source-dest-check",
        BOOL,
        True,
        "On AWS have this node's instance pass packets of pods, which its source/destination check drops; needs boto3.",
    ),
    Flag("dry-run", BOOL, False, "Have --cleanup-config only list what it would take off."),
    Flag(
        "enable-bfd", BOOL, False, "Watch the peers of --peer-router-ips by BFD (RFC 5880); needs gobgpd 4.5 or newer."
    ),
    Flag("enable-cni", BOOL, True, "Keep the CNI configuration file up to date with this node's pod CIDRs."),
    Flag("enable-ibgp", BOOL, True, "Peer with the other nodes of the cluster."),
    Flag("enable-ipv4", BOOL, True, "Serve IPv4 where the node has an IPv4 address; policy holds for it anyway."),
    Flag("enable-ipv6", BOOL, False, "Serve IPv6 where the node has an IPv6 address; policy holds for it anyway."),
    Flag("enable-overlay", BOOL, True, "Reach nodes of other subnets through tunnels."),
    Flag("enable-pod-egress", BOOL, True, "SNAT what pods send to addresses outside the cluster."),
    Flag(
        "enable-pprof",
        BOOL,
        False,
        "Answer kube-router debug on --admin-socket, memory since the start included; on no TCP port.",
    ),
    Flag(
        "excluded-cidrs",
        STRINGS,
        (),
        "CIDR in which IPVS services, destinations and service addresses of others are left alone; may be repeated.",
    ),
    Flag(
        "gobgp-admin-address",
        STRING,
        "127.0.0.1",
        "Address of --gobgp-admin-port; one of the node's comes with 127.0.0.1 as well.",
    ),
    Flag(
        "gobgp-admin-port",
        UINT16,
        0,
        "TCP port on which the gobgpd of --gobgpd=spawn serves its API too, without any authentication; only if this "
        "is given (the Go kube-router's default is 50051).",
    ),
    Flag(
        "gobgp-socket",
        STRING,
        "/run/kube-router/gobgp.sock",
        "Unix socket on which gobgpd serves its API.",
    ),
    Flag(
        "gobgpd",
        STRING,
        "connect",
        "Who runs gobgpd: connect leaves it to others, such as a sidecar; spawn starts the one in PATH and watches it.",
    ),
    Flag("hairpin-mode", BOOL, False, "Let the endpoints of every Service reach themselves through it."),
    Flag("health-addr", STRING, "", "Address on which the health endpoints listen; empty is every address."),
    Flag(
        "health-port",
        UINT16,
        20244,
        "Port of the health endpoints /healthz, /livez, /readyz, /startupz and /podz; 0 is none.",
    ),
    Flag("help", BOOL, False, "Show this list.", "h"),
    Flag(
        "hostname-override",
        STRING,
        "",
        "Name of this node's Node object; without it the environment's NODE_NAME counts, then the host name.",
    ),
    Flag("injected-routes-sync-period", DURATION, 60.0, "How often the kernel's routes are compared with the learned."),
    Flag(
        "iptables-mode",
        STRING,
        "auto",
        "Which iptables to use: nft, legacy, or auto for the one in which the kubelet left its chains.",
    ),
    Flag("iptables-sync-period", DURATION, 300.0, "How often chains and sets are compared with what policies ask for."),
    Flag(
        "ipvs-graceful-period",
        DURATION,
        30.0,
        "How long an endpoint that goes keeps its connections, unless its pod has a terminationGracePeriodSeconds.",
    ),
    Flag(
        "ipvs-graceful-termination",
        BOOL,
        False,
        "Let an endpoint that goes keep its connections until they or its grace period end; new ones go elsewhere.",
    ),
    Flag(
        "ipvs-permit-all",
        BOOL,
        True,
        "Guard service addresses: let in what a Service serves and refuse every other port of them.",
    ),
    Flag("ipvs-sync-period", DURATION, 300.0, "How often IPVS and the service addresses are compared with Services."),
    Flag("kubeconfig", STRING, "", "File that says where the apiserver is and how to log in."),
    Flag(
        "loadbalancer-default-class",
        BOOL,
        True,
        "Give addresses also to Services without spec.loadBalancerClass, not only to those of class kube-router.",
    ),
    Flag(
        "loadbalancer-edge-addresses",
        BOOL,
        False,
        "Give away network and broadcast addresses of the ranges as well.",
    ),
    Flag(
        "loadbalancer-ip-range",
        STRINGS,
        (),
        "CIDR of load balancer addresses that are served; may be repeated. Policy leaves traffic to them to the proxy.",
    ),
    Flag(
        "loadbalancer-pool",
        STRING_ARRAY,
        (),
        "Part of the ranges for some Services only, as name=CIDR,...[;namespaces=NAME,...][;selector=LABEL=VALUE,...].",
    ),
    Flag(
        "loadbalancer-sync-period",
        DURATION,
        60.0,
        "How often the addresses that were given are compared with the status of Services.",
    ),
    Flag("log-format", STRING, "text", "How the log looks: text, or json, which is an object per line."),
    Flag(
        "manifests",
        STRING,
        "",
        "Directory of Kubernetes YAML to work from instead of an apiserver; it is watched for changes.",
    ),
    Flag("masquerade-all", BOOL, False, "SNAT every proxied connection, not only those from outside the pod CIDR."),
    Flag("master", STRING, "", "URL of the apiserver; replaces the one of the kubeconfig."),
    Flag("metrics-addr", STRING, "", "Address on which the metrics are served; empty is every address."),
    Flag("metrics-path", STRING, "/metrics", "Path under which the metrics are served."),
    Flag("metrics-port", UINT16, 0, "Port on which metrics are served to Prometheus; 0 is none."),
    Flag(
        "metrics-tls-cert-file",
        STRING,
        "",
        "File of the certificate with which metrics are served over HTTPS; read again when it changes.",
    ),
    Flag("metrics-tls-key-file", STRING, "", "File of that certificate's key, not encrypted; read again as well."),
    Flag(
        "metrics-token-file",
        STRING,
        "",
        "File of a token that who reads metrics has to send (Authorization: Bearer); read again when it changes.",
    ),
    Flag(
        "netpol-default-deny",
        BOOL,
        False,
        "Drop what addresses of this node's pod CIDRs send and get until the API shows whose they are.",
    ),
    Flag(
        "netpol-existing-flows",
        STRING,
        "keep",
        "What becomes of open flows that a policy no longer allows: keep lets them go on, cut ends them.",
    ),
    Flag(
        "netpol-log-drops",
        BOOL,
        True,
        "Tell in the log whose packets are dropped and by which policies; reads NFLOG group 100 unless others do.",
    ),
    Flag(
        "netpol-metrics-per-policy",
        BOOL,
        False,
        "Count packets and bytes per policy in the metrics; each scrape then reads the counters of the rules.",
    ),
    Flag(
        "netpol-namespace-annotation",
        BOOL,
        False,
        "Isolate namespaces by the annotation net.beta.kubernetes.io/network-policy, as before NetworkPolicy.",
    ),
    Flag(
        "nodeport-bindon-all-ip",
        BOOL,
        False,
        "Serve node ports on every local address, loopback apart, not only on the node's best one of each family.",
    ),
    Flag(
        "nodes-full-mesh",
        BOOL,
        True,
        "Peer with every other node; false peers with those of the same AS number, kube-router.io/node.asn.",
    ),
    Flag(
        "non-masquerade-cidrs",
        STRINGS,
        (),
        "CIDR outside the cluster that sees pods' own addresses, and needs routes to them; may be repeated.",
    ),
    Flag("override-nexthop", BOOL, False, "Tell peers outside the cluster the session's own address as the next hop."),
    Flag("overlay-encap", STRING, "ipip", "How tunnels carry packets: ipip, in IP itself; fou, in UDP (GUE)."),
    Flag(
        "overlay-encap-port",
        UINT32,
        5555,
        "UDP port of --overlay-encap=fou; where it is given packets are accepted there with ipip, too.",
    ),
    Flag("overlay-type", STRING, "subnet", "When to tunnel: subnet, only to nodes of other subnets; full, to all."),
    Flag("peer-router-asns", UINTS, (), "AS numbers of the peers of --peer-router-ips, in the same order."),
    Flag("peer-router-ips", IPS, (), "Addresses of peers outside the cluster that every node has."),
    Flag(
        "peer-router-multihop-ttl",
        UINT8,
        0,
        "How many hops peers outside the cluster may be away; 0 and 1 are neighbours of the node.",
    ),
    Flag(
        "peer-router-passwords",
        STRINGS,
        (),
        "Passwords of the peers of --peer-router-ips in base64, in the same order; an empty one is none.",
        secret=True,
    ),
    Flag(
        "peer-router-passwords-file",
        STRING,
        "",
        "File whose first line has what --peer-router-passwords takes, for everybody can read a command line.",
    ),
    Flag("peer-router-ports", UINTS, (), "TCP ports of the peers of --peer-router-ips, in the same order."),
    Flag(
        "router-id",
        STRING,
        "",
        "BGP router id; empty is the primary IPv4 address, generate derives one from the primary address.",
    ),
    Flag("routes-sync-period", DURATION, 300.0, "How often BGP and the node's plumbing are compared with the cluster."),
    Flag("run-firewall", BOOL, True, "Enforce NetworkPolicies."),
    Flag(
        "run-loadbalancer",
        BOOL,
        False,
        "Give addresses of --loadbalancer-ip-range to LoadBalancer Services; of all nodes one does so at a time.",
    ),
    Flag("run-router", BOOL, True, "Exchange pod routes over BGP and set up pod networking."),
    Flag("run-service-proxy", BOOL, True, "Serve Services with IPVS."),
    Flag(
        "runtime-endpoint",
        STRING,
        "",
        "Socket of the container runtime, as unix:///path; Services with direct server return need it on every node.",
    ),
    Flag(
        "service-cluster-ip-range",
        STRINGS,
        ("10.96.0.0/12",),
        "CIDR of the cluster IPs; once, or once per family.",
    ),
    Flag(
        "service-external-ip-range",
        STRINGS,
        (),
        "CIDR of external IPs that are served; may be repeated. Policy leaves traffic to them to the proxy.",
    ),
    Flag("service-node-port-range", STRING, "30000-32767", "Ports of NodePort Services, as first-last."),
    Flag(
        "strict-external-ip-validation",
        BOOL,
        True,
        "Serve external and load balancer addresses only from the ranges given for them, never those of cluster IPs.",
    ),
    Flag(
        "service-tcp-timeout", DURATION, 0.0, "Idle time after which IPVS forgets a TCP connection; 0 is the kernel's."
    ),
    Flag("service-tcpfin-timeout", DURATION, 0.0, "The same for a TCP connection of which one side has said its end."),
    Flag("service-udp-timeout", DURATION, 0.0, "The same for a UDP flow."),
    Flag("strict-flags", BOOL, False, "Refuse to start with a flag that is taken but has no effect any more."),
    Flag("use-nftables-for-netpol", BOOL, False, "Enforce NetworkPolicies with nftables, not with iptables and ipset."),
    Flag(
        "v",
        STRING,
        "0",
        "How much to log: 0 what an operator has to know, 1 times, 2 changes, 3 tools, 4 idle passes, 9 tools' input.",
        "v",
    ),
    Flag(
        "vip-mode",
        STRING,
        "address",
        "How service addresses are the node's: address, on kube-dummy-if; route, as local routes only, which is fast.",
    ),
    Flag("version", BOOL, False, "Show the version.", "V"),
    Flag(
        "withdraw-on-unschedulable",
        BOOL,
        False,
        "A node that is cordoned (spec.unschedulable) tells peers of no Service any more, as a drained one does.",
    ),
)
