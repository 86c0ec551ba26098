"""Parsed flags and the environment to settings. Every mistake is found and reported before anything is touched."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from kuberouter.daemon.commandline import Parsed, show_duration
from kuberouter.daemon.configbalancer import read_balancer
from kuberouter.daemon.configreader import Reader
from kuberouter.daemon.configrouter import LONGEST_SOCKET, read_router
from kuberouter.daemon.logs import FORMATS
from kuberouter.decode.scalars import address, prefix
from kuberouter.model.balancer import BalancerSettings
from kuberouter.model.core import Family, Prefix
from kuberouter.model.settings import (
    AddressRules,
    FirewallSettings,
    MetricsSettings,
    NodeSettings,
    ProxySettings,
    RouterSettings,
)

T = TypeVar("T")

PERIODS = (
    "cache-sync-timeout",
    "injected-routes-sync-period",
    "iptables-sync-period",
    "ipvs-sync-period",
    "loadbalancer-sync-period",
    "routes-sync-period",
)
RANGES = ("service-cluster-ip-range", "service-external-ip-range", "loadbalancer-ip-range")
TIMEOUTS = ("service-tcp-timeout", "service-tcpfin-timeout", "service-udp-timeout")
LONGEST_TIMEOUT = 0x7FFFFFFF // 1000
"""Seconds; the kernel counts in ticks, of which a second has at most a thousand."""
IPTABLES_MODES = ("auto", "nft", "legacy")
VIP_MODES = ("address", "route")
EXISTING_FLOWS = ("keep", "cut")
METRICS_FILES = ("metrics-tls-cert-file", "metrics-tls-key-file", "metrics-token-file")


class Config(msgspec.Struct, frozen=True):
    """What the process was asked to do. A controller without settings does not run."""

    node: NodeSettings
    proxy: ProxySettings | None
    router: RouterSettings | None
    firewall: FirewallSettings | None
    kubeconfig: str
    master: str
    manifests: str
    health_address: str
    health_port: int
    metrics: MetricsSettings | None = None
    """None: nobody asked for metrics."""
    iptables_mode: str = "auto"
    patience: float = 60.0
    """Seconds for which a start waits until the apiserver has told of everything."""
    admin_socket: str = ""
    """Where root is told of the process itself; empty is nowhere."""
    verbosity: int = 0
    log_format: str = "text"
    balancer: BalancerSettings | None = None


def load(parsed: Parsed, environment: Mapping[str, str] = os.environ) -> tuple[Config | None, list[str]]:
    """The configuration, or None and all mistakes, each naming its flag."""
    reader = Reader(parsed)
    families = tuple(
        family
        for family, name in ((Family.IPV4, "enable-ipv4"), (Family.IPV6, "enable-ipv6"))
        if reader.flag(name, bool)
    )
    if not families:
        reader.errors.append("--enable-ipv4, --enable-ipv6: both are false; no address family is left")
    for name in PERIODS:
        period = reader.flag(name, float)
        if period <= 0:
            reader.errors.append(f"--{name}: {show_duration(period)} is not longer than zero")
    ranges = {name: reader.prefixes(name, families) for name in RANGES}
    given = reader.flag("service-cluster-ip-range", tuple)
    if not 1 <= len(given) <= 2:
        reader.errors.append(f"--service-cluster-ip-range: one CIDR block per family is wanted, {len(given)} given")
    # Settings of a controller that is off are made as well: a mistake in them would show on the day it is turned on.
    text = reader.flag("service-node-port-range", str)
    node_ports = reader.checked("service-node-port-range", port_range, text) or (30000, 32767)
    rules = AddressRules(
        reader.flag("strict-external-ip-validation", bool),
        ranges["service-cluster-ip-range"],
        ranges["service-external-ip-range"],
        ranges["loadbalancer-ip-range"],
    )
    proxy = _proxy(reader, rules, node_ports=node_ports)
    router = read_router(reader, environment, families, rules=rules)
    firewall = _firewall(reader, ranges, node_ports=node_ports)
    served = proxy if reader.flag("run-service-proxy", bool) else None
    config = Config(
        NodeSettings(_node_name(reader, environment), families, ranges["service-cluster-ip-range"]),
        served,
        router if reader.flag("run-router", bool) else None,
        msgspec.structs.replace(firewall, proxy=served) if reader.flag("run-firewall", bool) else None,
        reader.flag("kubeconfig", str),
        reader.flag("master", str),
        reader.flag("manifests", str),
        reader.flag("health-addr", str).strip("[]"),
        reader.flag("health-port", int),
        _metrics(reader),
        reader.choice("iptables-mode", IPTABLES_MODES),
        reader.flag("cache-sync-timeout", float),
        _admin_socket(reader),
        int(reader.checked("v", verbosity, reader.flag("v", str)) or 0),
        reader.choice("log-format", FORMATS),
        read_balancer(reader, environment, ranges["loadbalancer-ip-range"]),
    )
    _check_cluster(reader, config, environment)
    if config.router and config.router.cni:
        _check_cni(reader, Path(config.router.cni_file))
    if config.health_address:
        reader.checked("health-addr", address, config.health_address)
    return (None, reader.errors) if reader.errors else (config, [])


def verbosity(text: str) -> int:
    """What `-v` takes."""
    if not re.fullmatch(r"[-+]?[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _admin_socket(reader: Reader) -> str:
    """Who asks for nothing gets no listener."""
    path = reader.flag("admin-socket", str)
    if not path.startswith("/") or len(os.fsencode(path)) > LONGEST_SOCKET:
        reader.wrong("admin-socket", f"{path!r} is not an absolute path of at most {LONGEST_SOCKET} bytes")
    return path if reader.flag("enable-pprof", bool) or "admin-socket" in reader.given else ""


def _check_cni(reader: Reader, file: Path) -> None:
    """The file itself is made when pods can start; a folder that is not there is a mistake, or a volume is missing."""
    if not file.parent.is_dir() or (file.exists() and not file.is_file()):
        why = "is no file" if file.exists() else f"cannot be made, for {file.parent} is no directory"
        reader.errors.append(f"KUBE_ROUTER_CNI_CONF_FILE: {file} {why}; --enable-cni=false does without it")


def _metrics(reader: Reader) -> MetricsSettings | None:
    settings = MetricsSettings(
        reader.flag("metrics-port", int),
        reader.flag("metrics-addr", str).strip("[]"),
        reader.flag("metrics-path", str),
        reader.flag("netpol-metrics-per-policy", bool),
        *(reader.flag(name, str) for name in METRICS_FILES),
    )
    for name, path in zip(METRICS_FILES, (settings.certificate, settings.key, settings.token), strict=True):
        if path and not Path(path).is_file():
            reader.errors.append(f"--{name}: {path} is no file")
    if bool(settings.certificate) != bool(settings.key):
        reader.errors.append("--metrics-tls-cert-file, --metrics-tls-key-file: one is of no use without the other")
    if settings.address:
        reader.checked("metrics-addr", address, settings.address)
    if not re.fullmatch(r"/[^\s?#]*", settings.path):
        reader.errors.append(f"--metrics-path: {settings.path!r} is not a path such as /metrics")
    return settings if settings.port else None


def _check_cluster(reader: Reader, config: Config, environment: Mapping[str, str]) -> None:
    """There is one place from which the cluster is known, as far as one can tell without asking it."""
    if config.manifests:
        if not Path(config.manifests).is_dir():
            reader.errors.append(f"--manifests: {config.manifests} is not a directory")
        for name in ("kubeconfig", "master"):
            if reader.flag(name, str):
                reader.errors.append(f"--{name}: {reader.flag(name, str)} and --manifests exclude each other")
    elif not config.kubeconfig and not config.master and not environment.get("KUBERNETES_SERVICE_HOST"):
        reader.errors.append(
            "--kubeconfig: not given, nor --master or --manifests, and this is not a pod: "
            "KUBERNETES_SERVICE_HOST is not set"
        )
    if config.kubeconfig and not Path(config.kubeconfig).is_file():
        reader.errors.append(f"--kubeconfig: {config.kubeconfig} does not exist")
    elif config.kubeconfig:
        _check_kubeconfig(reader, config)
    if config.master and not _is_url(config.master):
        reader.errors.append(f"--master: {config.master!r} is not a URL such as https://10.0.0.1:6443")


def _check_kubeconfig(reader: Reader, config: Config) -> None:
    # A reader of YAML: only who has such a file pays for it.
    from kuberouter.wire.kubeconfig import read

    try:
        found = read(Path(config.kubeconfig))
    except ValueError as error:
        reader.errors.append(f"--kubeconfig: {config.kubeconfig}: {error}")
        return
    if not found.server and not config.master:
        reader.errors.append(f"--kubeconfig: {config.kubeconfig}: the cluster has no server, and --master is not given")
    if found.token_file is not None and not found.token_file.is_file():
        reader.errors.append(f"--kubeconfig: {config.kubeconfig}: tokenFile {found.token_file} does not exist")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _node_name(reader: Reader, environment: Mapping[str, str]) -> str:
    # Names of Node objects are in lower case; the name of a host need not be.
    name = reader.flag("hostname-override", str) or environment.get("NODE_NAME") or socket.gethostname().lower()
    if not name:
        reader.errors.append("--hostname-override: not given, nor NODE_NAME, and this host has no name")
    return name


def _proxy(reader: Reader, rules: AddressRules, *, node_ports: tuple[int, int]) -> ProxySettings:
    tcp, tcp_fin, udp = (reader.seconds(name, 0, LONGEST_TIMEOUT) for name in TIMEOUTS)
    period = reader.flag("ipvs-graceful-period", float)
    if period < 0:
        reader.errors.append(f"--ipvs-graceful-period: {show_duration(period)} is shorter than zero")
    return ProxySettings(
        sync_period=reader.flag("ipvs-sync-period", float),
        masquerade_all=reader.flag("masquerade-all", bool),
        local_routes=reader.choice("vip-mode", VIP_MODES) == "route",
        excluded=_excluded(reader),
        hairpin=reader.flag("hairpin-mode", bool),
        guard=reader.flag("ipvs-permit-all", bool),
        addresses=rules,
        node_ports_everywhere=reader.flag("nodeport-bindon-all-ip", bool),
        node_ports=node_ports,
        tcp_timeout=tcp,
        tcp_fin_timeout=tcp_fin,
        udp_timeout=udp,
        reuse_mode=_reuse_mode(os.uname().release),
        runtime_endpoint=_runtime(reader),
        graceful=reader.flag("ipvs-graceful-termination", bool),
        graceful_period=period,
    )


def _excluded(reader: Reader) -> tuple[Prefix, ...]:
    blocks = (reader.checked("excluded-cidrs", prefix, text) for text in reader.flag("excluded-cidrs", tuple))
    return tuple(block for block in blocks if block is not None)


def _runtime(reader: Reader) -> str:
    endpoint = reader.flag("runtime-endpoint", str)
    path = endpoint.removeprefix("unix://")
    if endpoint and (path == endpoint or not path.startswith("/") or len(os.fsencode(path)) > LONGEST_SOCKET):
        reader.errors.append(
            f"--runtime-endpoint: {endpoint!r} is not unix:// with an absolute path of at most {LONGEST_SOCKET} bytes"
        )
    return endpoint


def _reuse_mode(release: str) -> int:
    """Whether a client's port that is used again is balanced anew: since Linux 5.9 that no longer stalls a second."""
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    return 1 if found is None or (int(found[1]), int(found[2])) >= (5, 9) else 0


def _firewall(
    reader: Reader, ranges: Mapping[str, tuple[Prefix, ...]], *, node_ports: tuple[int, int]
) -> FirewallSettings:
    flows = reader.choice("netpol-existing-flows", EXISTING_FLOWS)
    return FirewallSettings(
        sync_period=reader.flag("iptables-sync-period", float),
        cluster_ranges=ranges["service-cluster-ip-range"],
        external_ranges=ranges["service-external-ip-range"],
        load_balancer_ranges=ranges["loadbalancer-ip-range"],
        node_ports=node_ports,
        default_deny=reader.flag("netpol-default-deny", bool),
        cut_flows=flows == "cut",
        nftables=reader.flag("use-nftables-for-netpol", bool),
        namespace_annotation=reader.flag("netpol-namespace-annotation", bool),
        log_drops=reader.flag("netpol-log-drops", bool),
    )


def port_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})[-:]([0-9]{1,5})", text)
    if match is None:
        raise ValueError(f"{text!r} is not a range such as 30000-32767")
    first, last = int(match[1]), int(match[2])
    if not 1 <= first < last <= 65535:
        raise ValueError(f"{text!r} is not an ascending range of port numbers")
    return first, last
