"""IPVS rows (linux/ip_vs.h): virtual services and their destinations."""

from __future__ import annotations

import enum
from typing import NamedTuple

from kuberouter.model.core import Family, KeyValue, L4Protocol, Value

PERSISTENT = 0x1
"""IP_VS_SVC_F_PERSISTENT: session affinity by client address."""
FALLBACK = 0x8
"""IP_VS_SVC_F_SCHED_SH_FALLBACK, and the same of mh: a client whose real server takes nobody is sent to another."""


class Forward(enum.IntEnum):
    """Forwarding method of a destination (IP_VS_CONN_F_FWD_MASK)."""

    MASQUERADE = 0
    TUNNEL = 2


class VirtualServiceKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """Address, protocol and port of a virtual service; packed address, host-order port.

    With a `mark` it is every packet of the family that carries this firewall mark; made by `marked_service`.
    """

    family: Family
    protocol: L4Protocol
    address: bytes
    port: int
    mark: int = 0


def marked_service(family: Family, mark: int) -> VirtualServiceKey:
    """The virtual service of a firewall mark. The kernel keeps no protocol for it, so one stands for all."""
    return VirtualServiceKey(family, L4Protocol.TCP, b"", 0, mark)


class VirtualService(Value, frozen=True, gc=False):
    """A virtual service. `timeout` is the affinity timeout in seconds, 0 without affinity.

    `intact` is False only in what a driver reads: it lacks our mark or groups clients otherwise than we do.
    """

    key: VirtualServiceKey
    scheduler: str = "rr"
    flags: int = 0
    timeout: int = 0
    intact: bool = True


class DestinationKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One real server of one virtual service."""

    service: VirtualServiceKey
    address: bytes
    port: int


class Destination(Value, frozen=True, gc=False):
    """A real server. Weight 0 takes no new connections."""

    key: DestinationKey
    weight: int = 1
    forward: Forward = Forward.MASQUERADE


class Statistics(NamedTuple):
    """What IPVS has counted of a virtual service since it is there, and what it does now, per second.

    Rates are the kernel's own averages, over some seconds. What goes out past this node it does not see.
    """

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connection_rate: int = 0
    packet_rate_in: int = 0
    packet_rate_out: int = 0
    byte_rate_in: int = 0
    byte_rate_out: int = 0


class ServiceCount(NamedTuple):
    """A virtual service in the kernel, whoever made it, with what it has counted; no key is one that we never make."""

    key: VirtualServiceKey | None
    counted: Statistics


def can_drain(service: VirtualService) -> bool:
    """Whether a real server of weight 0 keeps its connections while all new ones go to others.

    Schedulers that hash a client refuse it instead when its real server has weight 0: dh always, sh and mh without
    fallback. A flow of UDP has no end to wait for, and stays with its real server as long as it sends.
    """
    if service.key.protocol is L4Protocol.UDP or service.scheduler == "dh":
        return False
    return service.scheduler not in ("sh", "mh") or bool(service.flags & FALLBACK)


class Timer(enum.Enum):
    """A kind of proxied connection whose idle time IPVS bounds, for the whole network namespace."""

    TCP = "tcp"
    TCP_FIN = "tcp after FIN"
    UDP = "udp"


class IpvsTimeoutKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """One timer."""

    timer: Timer


class IpvsTimeout(Value, frozen=True, gc=False):
    """Seconds after which an idle connection is forgotten. There is no un-setting: removal leaves the value."""

    key: IpvsTimeoutKey
    seconds: int
