"""The wires between nodes: one namespace that is every subnet's bridge and the router between them.

It knows no pod CIDR, so a pod's packet to another subnet gets through only inside a tunnel. Addresses: subnet S is
172.30.S.0/24 and fd30:S::/64 with the router at .254; node N is host N of its subnet; the outside client is
172.30.100.2 behind the same router; the apiserver is on the router's own 172.30.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.lab import netns

API_ADDRESS = "172.30.0.1"
API_PORT = 8080
OUTSIDE = ("172.30.100.2", "fd30:100::2")
_FORWARDING = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
}


@dataclass(frozen=True)
class Site:
    """Where a node is and what it is given."""

    number: int
    subnet: int
    name: str

    @property
    def addresses(self) -> tuple[str, str]:
        """Node addresses, IPv4 and IPv6."""
        return f"172.30.{self.subnet}.{self.number}", f"fd30:{self.subnet}::{self.number:x}"

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        """Pod CIDRs, IPv4 and IPv6."""
        return f"10.244.{self.number}.0/24", f"fd44:{self.number:x}::/64"


def sites(nodes: int, subnets: int) -> list[Site]:
    """Nodes in order over the subnets; of three nodes in two subnets the first two are neighbours."""
    return [Site(n, 1 + (n - 1) * subnets // nodes, f"node{n}") for n in range(1, nodes + 1)]


class Fabric:
    """The router namespace, the outside client's namespace and the nodes' uplinks."""

    def __init__(self, prefix: str, subnets: int) -> None:
        self.name = f"{prefix}-fabric"
        self.outside = f"{prefix}-outside"
        self._subnets = subnets

    def build(self) -> None:
        """Make bridges, the router's addresses and the outside client."""
        netns.add(self.name)
        netns.sysctls(self.name, _FORWARDING)
        netns.configure(
            self.name,
            f"addr add {API_ADDRESS}/32 dev lo",
            *(
                line
                for s in range(1, self._subnets + 1)
                for line in (
                    f"link add sub{s} type bridge",
                    f"addr add 172.30.{s}.254/24 dev sub{s}",
                    f"addr add fd30:{s}::254/64 dev sub{s} nodad",
                    f"link set sub{s} up",
                )
            ),
        )
        netns.add(self.outside)
        self._uplink(self.outside, "out")
        netns.configure(
            self.name,
            "addr add 172.30.100.254/24 dev out",
            "addr add fd30:100::254/64 dev out nodad",
            "link set out up",
        )
        self._address(self.outside, OUTSIDE, 100)

    def attach(self, namespace: str, site: Site) -> None:
        """Give a node its uplink `eth0`, its addresses and default routes."""
        link = f"n{site.number}"
        self._uplink(namespace, link)
        netns.configure(self.name, f"link set {link} master sub{site.subnet} up")
        self._address(namespace, site.addresses, site.subnet)

    def _uplink(self, namespace: str, link: str) -> None:
        netns.configure(self.name, f"link add {link} type veth peer name eth0 netns {namespace}")

    @staticmethod
    def _address(namespace: str, addresses: tuple[str, str], subnet: int) -> None:
        netns.configure(
            namespace,
            f"addr add {addresses[0]}/24 dev eth0",
            f"addr add {addresses[1]}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 172.30.{subnet}.254",
            f"route add default via fd30:{subnet}::254",
        )

    def remove(self) -> None:
        """Take the namespaces away."""
        netns.remove(self.outside)
        netns.remove(self.name)
