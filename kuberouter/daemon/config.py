"""Parsed flags and the environment to settings. Every mistake is found and reported before anything is touched."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from kuberouter.daemon.flags import Parsed
from kuberouter.decode.scalars import address, prefix
from kuberouter.model.core import Family, Prefix
from kuberouter.model.settings import FirewallSettings, NodeSettings, ProxySettings, RouterSettings

T = TypeVar("T")

PERIODS = ("injected-routes-sync-period", "iptables-sync-period", "ipvs-sync-period", "routes-sync-period")
RANGES = ("service-cluster-ip-range", "service-external-ip-range", "loadbalancer-ip-range")
DEFAULT_CNI_FILE = "/etc/cni/net.d/10-kuberouter.conf"


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


class _Reader:
    """Reads flags and gathers every mistake."""

    def __init__(self, parsed: Parsed) -> None:
        self._values = parsed.values
        self.errors: list[str] = []

    def flag(self, name: str, kind: type[T]) -> T:
        value = self._values[name]
        assert isinstance(value, kind)
        return value

    def checked(self, name: str, parse: Callable[[str], T], text: str) -> T | None:
        try:
            return parse(text)
        except ValueError as error:
            self.errors.append(f"--{name}: {error}")
            return None

    def prefixes(self, name: str, families: tuple[Family, ...]) -> tuple[Prefix, ...]:
        found: list[Prefix] = []
        for text in self.flag(name, tuple):
            block = self.checked(name, prefix, text)
            if block is None:
                continue
            if block.family not in families:
                family = "IPv4" if block.family is Family.IPV4 else "IPv6"
                self.errors.append(f"--{name}: {text} is an {family} CIDR block while {family} is disabled")
            found.append(block)
        return tuple(found)


def load(parsed: Parsed, environment: Mapping[str, str] = os.environ) -> tuple[Config | None, list[str]]:
    """The configuration, or None and all mistakes, each naming its flag."""
    reader = _Reader(parsed)
    families = tuple(
        family
        for family, name in ((Family.IPV4, "enable-ipv4"), (Family.IPV6, "enable-ipv6"))
        if reader.flag(name, bool)
    )
    if not families:
        reader.errors.append("--enable-ipv4, --enable-ipv6: both are false; no address family is left")
    for name in PERIODS:
        if reader.flag(name, float) <= 0:
            reader.errors.append(f"--{name}: must be longer than zero")
    ranges = {name: reader.prefixes(name, families) for name in RANGES}
    given = reader.flag("service-cluster-ip-range", tuple)
    if not 1 <= len(given) <= 2:
        reader.errors.append(f"--service-cluster-ip-range: one CIDR block per family is wanted, {len(given)} given")
    config = Config(
        NodeSettings(_node_name(reader, environment), families),
        _proxy(reader, ranges) if reader.flag("run-service-proxy", bool) else None,
        _router(reader, environment) if reader.flag("run-router", bool) else None,
        _firewall(reader, ranges) if reader.flag("run-firewall", bool) else None,
        reader.flag("kubeconfig", str),
        reader.flag("master", str),
        reader.flag("manifests", str),
        reader.flag("health-addr", str).strip("[]"),
        reader.flag("health-port", int),
    )
    if config.manifests and (config.kubeconfig or config.master):
        reader.errors.append("--manifests: stands alone; it replaces --kubeconfig and --master")
    if config.health_address:
        reader.checked("health-addr", address, config.health_address)
    return (None, reader.errors) if reader.errors else (config, [])


def _node_name(reader: _Reader, environment: Mapping[str, str]) -> str:
    return reader.flag("hostname-override", str) or environment.get("NODE_NAME", "") or socket.gethostname()


def _proxy(reader: _Reader, ranges: Mapping[str, tuple[Prefix, ...]]) -> ProxySettings:
    return ProxySettings(
        sync_period=reader.flag("ipvs-sync-period", float),
        masquerade_all=reader.flag("masquerade-all", bool),
        guard=reader.flag("ipvs-permit-all", bool),
        cluster_ranges=ranges["service-cluster-ip-range"],
        router_runs=reader.flag("run-router", bool),
    )


def _router(reader: _Reader, environment: Mapping[str, str]) -> RouterSettings:
    asn = reader.flag("cluster-asn", int) or 64512
    if not (64512 <= asn <= 65535 or 4200000000 <= asn <= 4294967294):
        reader.errors.append(
            f"--cluster-asn: {asn} is not a private AS number (64512 to 65535, 4200000000 to 4294967294)"
        )
    overlay_type = reader.flag("overlay-type", str)
    if overlay_type not in ("subnet", "full"):
        reader.errors.append(f"--overlay-type: {overlay_type!r} is not one of subnet, full")
    router_id = reader.flag("router-id", str)
    if router_id not in ("", "generate") and not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", router_id):
        reader.errors.append(f"--router-id: {router_id!r} is not an IPv4 address")
    elif router_id not in ("", "generate"):
        reader.checked("router-id", address, router_id)
    port = reader.flag("bgp-port", int)
    if not 1 <= port <= 65535:
        reader.errors.append(f"--bgp-port: {port} is not a port number")
    socket_path = reader.flag("gobgp-socket", str)
    if not socket_path.startswith("/"):
        reader.errors.append(f"--gobgp-socket: {socket_path!r} is not an absolute path")
    return RouterSettings(
        sync_period=reader.flag("routes-sync-period", float),
        route_sync_period=reader.flag("injected-routes-sync-period", float),
        gobgp_socket=socket_path,
        asn=asn,
        router_id=router_id,
        bgp_port=port,
        ibgp=reader.flag("enable-ibgp", bool),
        overlay=reader.flag("enable-overlay", bool),
        overlay_full=overlay_type == "full",
        cni=reader.flag("enable-cni", bool),
        cni_file=environment.get("KUBE_ROUTER_CNI_CONF_FILE") or DEFAULT_CNI_FILE,
        pod_egress=reader.flag("enable-pod-egress", bool),
        auto_mtu=reader.flag("auto-mtu", bool),
    )


def _firewall(reader: _Reader, ranges: Mapping[str, tuple[Prefix, ...]]) -> FirewallSettings:
    ports = reader.checked("service-node-port-range", _port_range, reader.flag("service-node-port-range", str))
    return FirewallSettings(
        sync_period=reader.flag("iptables-sync-period", float),
        cluster_ranges=ranges["service-cluster-ip-range"],
        external_ranges=ranges["service-external-ip-range"],
        load_balancer_ranges=ranges["loadbalancer-ip-range"],
        node_ports=ports or (30000, 32767),
    )


def _port_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[-:](\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a range such as 30000-32767")
    first, last = int(match[1]), int(match[2])
    if not 1 <= first < last <= 65535:
        raise ValueError(f"{text!r} is not an ascending range of port numbers")
    return first, last
