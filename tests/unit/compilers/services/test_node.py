"""The node's part of the proxy: kernel settings, timers, what follows the node and the flags."""

from __future__ import annotations

from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.ipvs import IpvsTimeout, Timer
from kuberouter.model.settings import ProxySettings
from tests.support.world import ProxyWorld


def link(name: str, *addresses: tuple[bytes, int], index: int = 2) -> Upserted:
    """A link of the node with addresses."""
    entries = tuple(InterfaceAddress(address, length) for address, length in addresses)
    return Upserted(Interface(ObjectRef("Interface", "", name), index, 1500, entries))


def test_kernel_settings_follow_the_node_and_the_flags() -> None:
    world = ProxyWorld(ProxySettings(tcp_timeout=7200, udp_timeout=90, reuse_mode=0))
    settings = {str(key): row for key, row in world.table(Sysctl).items()}
    assert {name: row.value for name, row in settings.items() if not row.instead_of} == {
        "net.ipv4.vs.conntrack": "1",
        "net.ipv4.vs.expire_nodest_conn": "1",
        "net.ipv4.vs.expire_quiescent_template": "1",
        "net.ipv4.vs.conn_reuse_mode": "0",
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.all.arp_ignore": "1",
        "net.ipv4.conf.all.arp_announce": "2",
        "net.bridge.bridge-nf-call-iptables": "1",
    }
    assert {key.timer: row.seconds for key, row in world.table(IpvsTimeout).items()} == {Timer.TCP: 7200, Timer.UDP: 90}
    world.put(link("eth0.7", (bytes((192, 0, 2, 1)), 24)))
    world.sync()
    loosened = {str(key): (row.instead_of, row.value) for key, row in world.table(Sysctl).items() if row.instead_of}
    assert loosened == {
        f"net.ipv4.conf.{name}.rp_filter": ("1", "2") for name in ("all", "kube-bridge", "kube-dummy-if", "eth0/7")
    }
    assert world.table(Sysctl)[SysctlKey("net/ipv4/vs/conntrack")].optional is False
