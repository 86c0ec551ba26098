"""One node with two pods; on the same wire another node with one pod, and a client: where proxy tests take place.

The far pod's way back to the client does not lead through the node, so that it answers only if the node put its own
address on the connection.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kuberouter.compilers.names import (
    DUMMY_LINK,
    HAIRPIN_SET,
    LOCAL_ADDRESS_SET,
    POD_SUBNET_SET,
    SERVICE_ADDRESS_SET,
    SERVICES_CHAIN,
    SNAT_CHAIN,
    SOURCES_CHAIN,
)
from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.healthports import HealthPortDriver
from kuberouter.drivers.host import SysctlDriver
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.drivers.iptables import ChainDriver, HookDriver, Xtables, detect_variant
from kuberouter.drivers.ipvs import DestinationDriver, TimeoutDriver, VirtualServiceDriver
from kuberouter.drivers.network import BridgePortDriver, LinkDriver
from kuberouter.model.core import Family, ObjectRef, Row
from kuberouter.model.events import Deleted
from kuberouter.model.host import HealthPort, Sysctl
from kuberouter.model.ipvs import Destination, IpvsTimeout, VirtualService
from kuberouter.model.netfilter import Chain, Hook, IpSet, Member
from kuberouter.model.network import Address, BridgePort, Link, LocalRoute
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.lab import netns
from tests.support.probes import Job, Outcome, Prober, Result
from tests.support.world import NODE, ProxyWorld

FAMILIES = (Family.IPV4, Family.IPV6)
NODE_ADDRESS = ("192.0.2.1", "2001:db8::1")
CLIENT = ("192.0.2.100", "2001:db8::100")
SECOND_CLIENT = "192.0.2.101"
PODS = {
    "pod1": ("10.244.1.2", "fd44:1::2", NODE),
    "pod2": ("10.244.1.3", "fd44:1::3", NODE),
    "far": ("10.244.2.2", "fd44:2::2", "other"),
}
PROTOCOLS = ("tcp", "udp", "sctp")
ROLES = ("wire", "other", "node", "client", "far", "pod1", "pod2")
TARGET = 8080
HOST_PORT = 2222
"""Where the node itself listens, on every address."""
BOUND = 3.0
CLIENT_PORT = 20400
"""Ports of the client from here on are used again and again; they are none that the kernel gives out."""
STALL = 1.0
"""Seconds after which a client repeats an opening packet that was lost (RFC 6298)."""
PROMPT = 1.5
"""Seconds within which a refusal has to come; one kernel bug makes IPv6 wait for a second SYN."""


class Net:
    """The namespaces and their wires."""

    def __init__(self) -> None:
        self.prefix = netns.unique_prefix()
        self.names = [f"{self.prefix}-{name}" for name in ROLES]
        self.wire, self.other, self.node, self.client, self.far, *self.pods = self.names
        self.probers: dict[str, Prober] = {}

    def build(self) -> None:
        self.wire_up()
        for role, name in zip(ROLES[2:], self.names[2:], strict=True):
            self.probers[role] = Prober(netns.path(name), role)
        protocols = [p for p in PROTOCOLS if p != "sctp" or netns.have("sctp")]
        for role in PODS:
            self.probers[role].serve([(protocol, TARGET) for protocol in protocols])
        self.probers["node"].serve([("tcp", HOST_PORT), ("udp", HOST_PORT)])

    def wire_up(self) -> None:
        """Namespaces and wires, with nobody in them."""
        for name in self.names:
            netns.add(name)
        netns.configure(self.wire, "link add br0 type bridge", "link set br0 up")
        netns.sysctls(self.wire, {"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0"})
        for name in (self.node, self.other, self.client):
            link = name.removeprefix(self.prefix + "-")
            netns.configure(
                self.wire, f"link add {link} type veth peer name eth0 netns {name}", f"link set {link} master br0 up"
            )
        self._address(self.node, *NODE_ADDRESS)
        netns.configure(
            self.node,
            "link add kube-bridge type bridge",
            "addr add 10.244.1.1/24 dev kube-bridge",
            "addr add fd44:1::1/64 dev kube-bridge nodad",
            "link set kube-bridge up",
            "route add 10.244.2.0/24 via 192.0.2.2",
            "route add fd44:2::/64 via 2001:db8::2",
        )
        for number, name in enumerate(self.pods):
            four, six, _ = PODS[f"pod{number + 1}"]
            netns.configure(
                self.node,
                f"link add veth{number} type veth peer name eth0 netns {name}",
                f"link set veth{number} master kube-bridge up",
            )
            self._address(name, four, six)
            netns.configure(name, "route add default via 10.244.1.1", "route add default via fd44:1::1")
        self._address(self.other, "192.0.2.2", "2001:db8::2")
        netns.configure(
            self.other,
            f"link add far type veth peer name eth0 netns {self.far}",
            "addr add 10.244.2.1/24 dev far",
            "addr add fd44:2::1/64 dev far nodad",
            "link set far up",
            "route add 10.244.1.0/24 via 192.0.2.1",
            "route add fd44:1::/64 via 2001:db8::1",
        )
        netns.sysctls(self.other, {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        # One client is refused more often here than the kernel lets errors out to one address: one a second.
        netns.sysctls(self.node, {"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0"})
        self._address(self.far, *PODS["far"][:2])
        netns.configure(self.far, "route add default via 10.244.2.1", "route add default via fd44:2::1")
        self._address(self.client, *CLIENT)
        netns.configure(
            self.client,
            f"addr add {SECOND_CLIENT}/24 dev eth0",
            "route add 10.96.0.0/16 via 192.0.2.1",
            "route add fd96::/64 via 2001:db8::1",
        )

    @staticmethod
    def _address(name: str, four: str, six: str) -> None:
        netns.configure(name, f"addr add {four}/24 dev eth0", f"addr add {six}/64 dev eth0 nodad", "link set eth0 up")

    def remove(self) -> None:
        for prober in self.probers.values():
            prober.close()
        for name in reversed(self.names):
            netns.remove(name)


def real_drivers() -> dict[type[Row], Any]:
    """The drivers of every table that the proxy writes, in the namespace of the calling thread."""

    def ours(name: str) -> bool:
        prefixes = (SERVICE_ADDRESS_SET, LOCAL_ADDRESS_SET, HAIRPIN_SET, POD_SUBNET_SET)
        return name.removeprefix("inet6:").startswith(prefixes)

    xtables = Xtables(detect_variant())
    return {
        Sysctl: SysctlDriver(),
        IpSet: SetDriver(ours),
        Member: MemberDriver(ours),
        Chain: ChainDriver(xtables, FAMILIES, (SERVICES_CHAIN, SNAT_CHAIN, SOURCES_CHAIN)),
        Hook: HookDriver(xtables, FAMILIES),
        Link: LinkDriver((DUMMY_LINK,)),
        BridgePort: BridgePortDriver(),
        IpvsTimeout: TimeoutDriver(),
        VirtualService: VirtualServiceDriver(),
        Destination: DestinationDriver(),
        Address: AddressDriver((DUMMY_LINK,)),
        LocalRoute: LocalRouteDriver(),
        HealthPort: HealthPortDriver(),
    }


NODE_OBJECT = json.dumps(
    {
        "kind": "Node",
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd44:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in NODE_ADDRESS]},
    }
).encode()


SETTINGS = ProxySettings(addresses=AddressRules(strict=False))


def vips(number: int) -> tuple[str, str]:
    """Service addresses of the number-th Service."""
    return f"10.96.0.{number}", f"fd96::{number:x}"


class Proxy:
    """The service proxy on the node, and the objects that it was told of."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.objects: dict[ObjectRef, bytes] = {}
        self.world = self.make_world(SETTINGS, start=True)

    def make_world(self, settings: ProxySettings, *, start: bool) -> ProxyWorld:
        """A process that begins."""
        return ProxyWorld(settings, families=FAMILIES, node=NODE_OBJECT, drivers=real_drivers(), start=start)

    def apply(self, *objects: dict[str, Any]) -> int:
        """Tell it of objects; returns the number of rows written."""
        for value in objects:
            name, raw = value["metadata"]["name"], json.dumps(value).encode()
            self.objects[ObjectRef(value["kind"], "shop", name)] = raw
            self.world.feed(raw)
        return self.world.sync()

    def delete(self, *refs: ObjectRef) -> None:
        for ref in refs:
            del self.objects[ref]
            self.world.put(Deleted(ref))
        self.world.sync()

    def restart(self, settings: ProxySettings = SETTINGS) -> int:
        """A new process that finds what the old one left; the number of rows that it writes, settings apart.

        Settings have no owner that could be recognised: every process asserts them.
        """
        self.world = self.make_world(settings, start=False)
        for raw in self.objects.values():
            self.world.feed(raw)
        self.world.sync()
        return sum(len(batch) for row, batch in self.world.report.batches if row is not Sysctl)

    def audit(self) -> int:
        """Read everything again; returns the number of rows mended."""
        self.world.dataplane.resync(list(self.world.drivers))
        return self.world.sync()

    def service(
        self, name: str, number: int, *pods: str, node_port: int = 0, ingress: Sequence[str] = (), **spec: Any
    ) -> None:
        """A Service of every protocol on port 80 with these pods behind it, and a load balancer's addresses."""
        ports = [{"name": p, "protocol": p.upper(), "port": 80} for p in PROTOCOLS]
        if node_port:
            ports = [{**port, "nodePort": node_port} for port in ports]
            spec = {"type": "NodePort", **spec}
        given = {"clusterIP": vips(number)[0], "clusterIPs": list(vips(number)), "ports": ports, **spec}
        metadata = {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}
        metadata |= given.pop("metadata", {})
        status = {"loadBalancer": {"ingress": [{"ip": address} for address in ingress]}}
        self.apply(
            {"kind": "Service", "metadata": metadata, "spec": given, "status": status}, *self.slices(name, *pods)
        )

    @staticmethod
    def slices(name: str, *pods: str) -> list[dict[str, Any]]:
        """Both slices of a Service."""
        return [
            {
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-{family}",
                    "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "ports": [{"name": p, "protocol": p.upper(), "port": TARGET} for p in PROTOCOLS],
                "endpoints": [
                    {"addresses": [PODS[pod][index]], "nodeName": PODS[pod][2], "conditions": {"ready": True}}
                    for pod in pods
                ],
            }
            for index, family in enumerate(("IPv4", "IPv6"))
        ]

    def tries(self, source: str, protocol: str, address: str, port: int = 80, count: int = 4) -> list[Result]:
        """Several connections from somewhere."""
        # SCTP sends what was lost of the first data again after 3 s and no sooner (RFC 9260, RTO.Initial).
        bound = 3 * BOUND if protocol == "sctp" else BOUND
        return self.net.probers[source].probe([Job(protocol, address, port)] * count, bound)


def failures(proxy: Proxy) -> dict[Any, str]:
    """Rows and tables that the kernel did not take."""
    found: dict[Any, str] = {}
    for row, table in proxy.world.dataplane.tables.items():
        found |= table.mirror.failures
        if table.error:
            found[row] = table.error
    return found


def seen(results: list[Result]) -> dict[str, str]:
    """Peer address by the server that saw it; every try must have been answered."""
    assert {result.outcome for result in results} == {Outcome.ALLOWED}, results
    return {result.server: result.peer for result in results}


@contextlib.contextmanager
def in_client(proxy: Proxy, kind: socket.SocketKind, address: str = "") -> Iterator[socket.socket]:
    """An IPv4 socket of the client, bound to one of its addresses."""
    with netns.inside(proxy.net.client):
        made = socket.socket(socket.AF_INET, kind)
    with made:
        made.settimeout(BOUND)
        if address:
            made.bind((address, 0))
        yield made


def ask(flow: socket.socket) -> str:
    """One datagram there and its answer: the name of the server; empty for none."""
    flow.send(b"probe")
    if not select.select([flow], [], [], 1.0)[0]:
        return ""
    return flow.recv(256).decode().split(" ")[0]


def on_client_port(client: str, port: int, *, six: bool) -> socket.socket:
    """A socket of the client on a port, as soon as the last one has seen its end acknowledged."""
    with netns.inside(client):
        made = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    made.settimeout(BOUND)
    end = time.monotonic() + BOUND
    while True:
        try:
            made.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return made
