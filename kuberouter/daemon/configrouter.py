"""The route controller's flags and environment to its settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from kuberouter.daemon.configreader import Reader
from kuberouter.decode import bgp
from kuberouter.decode.scalars import address
from kuberouter.model.bgp import Bfd, PeerSpec
from kuberouter.model.core import Family, Secret
from kuberouter.model.settings import AddressRules, Advertise, ExternalPeers, GracefulRestart, RouterSettings
from kuberouter.wire.gobgp.process import listeners

T = TypeVar("T")

CNI_VARIABLE = "KUBE_ROUTER_CNI_CONF_FILE"
DEFAULT_CNI_FILE = "/etc/cni/net.d/10-kuberouter.conf"
LONGEST_SOCKET = 107
"""Bytes of a unix socket's path: `sun_path` of unix(7) without the closing zero."""

LONGEST_RESTART = 4095
"""Seconds; 12 bits of the capability (RFC 4724, section 3)."""
LONGEST_DEFERRAL = 18 * 3600
"""Seconds; they have to fit into 16 bits."""
PASSWORDS, PASSWORDS_FILE = "peer-router-passwords", "peer-router-passwords-file"


def read_router(
    reader: Reader, environment: Mapping[str, str], families: tuple[Family, ...], *, rules: AddressRules
) -> RouterSettings:
    """The settings of the route controller; mistakes are the reader's."""
    asn = reader.flag("cluster-asn", int) or 64512
    if not (64512 <= asn <= 65535 or 4200000000 <= asn <= 4294967294):
        reader.wrong("cluster-asn", f"{asn} is not a private AS number (64512 to 65535, 4200000000 to 4294967294)")
    overlay_type = reader.choice("overlay-type", ("subnet", "full"))
    encap = reader.choice("overlay-encap", ("ipip", "fou"))
    router_id = reader.flag("router-id", str)
    if router_id not in ("", "generate"):
        reader.checked("router-id", _router_id, router_id)
    port = reader.flag("bgp-port", int)
    if not 1 <= port <= 65535:
        reader.wrong("bgp-port", f"{port} is not a port number")
    return RouterSettings(
        sync_period=reader.flag("routes-sync-period", float),
        route_sync_period=reader.flag("injected-routes-sync-period", float),
        gobgp_socket=_socket(reader),
        gobgp_spawn=reader.choice("gobgpd", ("connect", "spawn")) == "spawn",
        gobgp_listeners=_listeners(reader),
        asn=asn,
        router_id=router_id,
        bgp_port=port,
        ibgp=reader.flag("enable-ibgp", bool),
        full_mesh=reader.flag("nodes-full-mesh", bool),
        peers=_peers(reader),
        graceful=_graceful(reader),
        advertise=Advertise(
            reader.flag("advertise-pod-cidr", bool),
            reader.flag("advertise-cluster-ip", bool),
            reader.flag("advertise-external-ip", bool),
            reader.flag("advertise-loadbalancer-ip", bool),
            reader.flag("withdraw-on-unschedulable", bool),
        ),
        addresses=rules,
        import_allow=reader.prefixes("bgp-import-allow-cidrs", families),
        overlay=reader.flag("enable-overlay", bool),
        overlay_full=overlay_type == "full",
        overlay_encap=encap,
        overlay_port=_encap_port(reader, encap),
        cni=reader.flag("enable-cni", bool),
        cni_file=environment.get(CNI_VARIABLE) or DEFAULT_CNI_FILE,
        pod_egress=reader.flag("enable-pod-egress", bool),
        plain_destinations=reader.prefixes("non-masquerade-cidrs", families),
        auto_mtu=reader.flag("auto-mtu", bool),
        disable_source_check=reader.flag("disable-source-dest-check", bool),
    )


def _encap_port(reader: Reader, encap: str) -> int:
    """The port that is asked for; the default one is open only where packets are sent to it."""
    port = reader.flag("overlay-encap-port", int)
    if not 1024 <= port <= 65535:
        reader.wrong("overlay-encap-port", f"{port} is not a port number from 1024 to 65535")
    return port if encap == "fou" or "overlay-encap-port" in reader.given else 0


def _socket(reader: Reader) -> str:
    path = reader.flag("gobgp-socket", str)
    if not path.startswith("/") or len(os.fsencode(path)) > LONGEST_SOCKET:
        reader.wrong("gobgp-socket", f"{path!r} is not an absolute path of at most {LONGEST_SOCKET} bytes")
    return path


def _listeners(reader: Reader) -> tuple[str, ...]:
    where, port = reader.flag("gobgp-admin-address", str), reader.flag("gobgp-admin-port", int)
    if port and reader.flag("gobgpd", str) != "spawn":
        reader.wrong("gobgp-admin-port", "it takes --gobgpd=spawn; otherwise whoever starts gobgpd has to be told")
    return tuple(reader.checked("gobgp-admin-address", lambda text: listeners(text, port), where) or ()) if port else ()


def _router_id(text: str) -> bytes:
    packed = address(text)
    if len(packed) != 4 or ":" in text or not any(packed):
        raise ValueError(f"{text!r} is neither an IPv4 address other than 0.0.0.0 nor generate")
    return packed


def _graceful(reader: Reader) -> GracefulRestart | None:
    restart = reader.seconds("bgp-graceful-restart-time", 1, LONGEST_RESTART)
    deferral = reader.seconds("bgp-graceful-restart-deferral-time", 1, LONGEST_DEFERRAL)
    return GracefulRestart(restart, deferral) if reader.flag("bgp-graceful-restart", bool) else None


def _peers(reader: Reader) -> ExternalPeers:
    specs: Sequence[PeerSpec] = ()
    ips = _each(reader, "peer-router-ips", bgp.host)
    asns, ports = _each(reader, "peer-router-asns", bgp.peer_asn), _each(reader, "peer-router-ports", bgp.peer_port)
    passwords, bfd = _passwords(reader), _bfd(reader)
    if not reader.errors:
        try:
            specs = bgp.parallel(ips, asns, ports or None, passwords=passwords or None, bfd=bfd)
        except ValueError as error:
            reader.wrong("peer-router-ips", str(error))
    return ExternalPeers(
        tuple(specs),
        reader.seconds("bgp-holdtime", 3, 65535),
        reader.flag("peer-router-multihop-ttl", int),
        reader.flag("override-nexthop", bool),
    )


def _each(reader: Reader, name: str, parse: Callable[[str], T]) -> list[T]:
    found = (reader.checked(name, parse, str(item)) for item in reader.flag(name, tuple))
    return [item for item in found if item is not None]


def _passwords(reader: Reader) -> list[Secret | None]:
    """Those of the flag, else those of the file. No mistake shows one."""
    texts: Sequence[str] = reader.flag(PASSWORDS, tuple)
    path, name = reader.flag(PASSWORDS_FILE, str), PASSWORDS
    if not texts and path:
        name = PASSWORDS_FILE
        try:
            lines = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reader.wrong(name, f"{path}: {error.strerror if isinstance(error, OSError) else 'it is not text'}")
            return []
        texts = bgp.items(lines[0]) if lines else ()
    return [reader.checked(name, bgp.password, text.strip()) for text in texts]


def _bfd(reader: Reader) -> Bfd | None:
    found = Bfd(
        reader.within("bfd-port", 1, 65535),
        reader.within("bfd-detection-multiplier", 1, 255),
        reader.within("bfd-desired-min-tx-interval", 1, bgp.LONGEST_INTERVAL),
        reader.within("bfd-required-min-rx-interval", 1, bgp.LONGEST_INTERVAL),
    )
    return found if reader.flag("enable-bfd", bool) else None
