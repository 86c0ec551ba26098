"""The node's part of the proxy: kernel settings, timers, what follows the node and the flags."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from kuberouter.model.cluster import Interface, InterfaceAddress, PodLink
from kuberouter.model.core import Family, ObjectRef
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import Sysctl, SysctlKey
from kuberouter.model.ipvs import IpvsTimeout, Timer, VirtualService
from kuberouter.model.netfilter import Chain, Hook, Member
from kuberouter.model.network import Address, BridgePort, Link, LocalRoute
from kuberouter.model.settings import ProxySettings
from tests.support.world import NODE, ProxyWorld, node_bytes
from tests.unit.compilers.services.test_frontends import dual_node
from tests.unit.compilers.services.test_services import endpoints, service


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


def test_the_uplink_keeps_its_default_route_of_router_advertisements() -> None:
    world = ProxyWorld(families=BOTH, node=dual_node())
    asked = {str(key): row for key, row in world.table(Sysctl).items()}
    assert not any("accept_ra" in name for name in asked), "which link is the uplink is not known yet"
    world.put(link("eth0.7", (bytes((192, 0, 2, 1)), 24)))
    world.sync()
    row = world.table(Sysctl)[SysctlKey("net/ipv6/conf/eth0.7/accept_ra")]
    assert (row.value, row.instead_of, row.optional) == ("2", "1", True)


HAIRPIN = "-m set --match-set kube-router-hairpin src,dst,dst -j SNAT --to-source 192.0.2.1 --random-fully"
SNAT = "-j SNAT --to-source 192.0.2.1 --random-fully"
BOTH = (Family.IPV4, Family.IPV6)


def snat(world: ProxyWorld, family: Family = Family.IPV4) -> tuple[str, ...]:
    """The rules of the SNAT chain."""
    (chain,) = (c for k, c in world.table(Chain).items() if k.name == "KUBE-ROUTER-SNAT" and k.family is family)
    rules: tuple[str, ...] = chain.rules
    return rules


def node_with(*cidrs: str, addresses: tuple[str, ...] = ("192.0.2.1",)) -> bytes:
    """This node with these pod CIDRs."""
    node = json.loads(node_bytes())
    node["spec"] = {"podCIDRs": list(cidrs)}
    node["status"]["addresses"] = [{"type": "InternalIP", "address": address} for address in addresses]
    return json.dumps(node).encode()


def test_b31_a_flow_that_touches_any_pod_cidr_of_the_node_keeps_its_address() -> None:
    world = ProxyWorld(node=node_with("10.244.1.0/24", "10.245.1.0/24"))
    spared = [f"-{way} {cidr} -j RETURN" for cidr in ("10.244.1.0/24", "10.245.1.0/24") for way in "sd"]
    assert snat(world) == (HAIRPIN, *spared, SNAT)
    assert world.journal.standing == ()


def test_b30_an_endpoint_that_reaches_itself_is_looked_for_before_everything_is_masqueraded() -> None:
    assert snat(ProxyWorld(ProxySettings(masquerade_all=True))) == (HAIRPIN, SNAT)


def test_a_node_without_pod_cidr_says_so_and_lets_answers_come_back_all_the_same() -> None:
    node = node_with("10.244.1.0/24", addresses=("192.0.2.1", "2001:db8::1"))
    world = ProxyWorld(families=BOTH, node=node)
    assert len(snat(world)) == 4
    assert len(snat(world, Family.IPV6)) == 2
    (problem,) = world.journal.standing
    assert str(problem) == (
        "Node node-1: spec.podCIDRs: there is no IPv6 pod CIDR: "
        "every IPv6 connection to a Service comes from the node's address"
    )
    assert ProxyWorld(ProxySettings(masquerade_all=True), node=node_with()).journal.standing == ()


def hairpins(world: ProxyWorld) -> set[tuple[str, str, int, int]]:
    """Set, address, protocol and port of the endpoints that may reach themselves; both addresses are the same."""
    found = [key for key in world.table(Member) if "hairpin" in key.set]
    assert all(key.address == key.network and key.network_length == key.length == len(key.address) * 8 for key in found)
    return {(key.set, str(ip_address(key.address)), key.protocol, key.port) for key in found}


@pytest.mark.parametrize("way", ["flag", "annotation"])
def test_b19_every_local_endpoint_is_in_the_set_once_whatever_the_kinds_of_addresses(way: str) -> None:
    metadata = {"annotations": {"kube-router.io/service.hairpin": ""}} if way == "annotation" else {}
    world = ProxyWorld(ProxySettings(hairpin=way == "flag"), families=BOTH)
    world.feed(node_with("10.244.1.0/24", "fd44::/64", addresses=("192.0.2.1", "2001:db8::1")))
    ports = [
        {"name": "a", "port": 80, "nodePort": 30080},
        {"name": "b", "port": 81, "nodePort": 30081},
        {"name": "u", "port": 53, "nodePort": 30053, "protocol": "UDP"},
    ]
    spec = {"type": "NodePort", "clusterIPs": ["10.96.0.10", "fd96::10"], "ports": ports, "metadata": metadata}
    world.feed(service(**spec))
    # Two ports of the Service lead to one of the endpoint; a pod of the host's network is the node itself.
    targets = [{"name": "a", "port": 8080}, {"name": "b", "port": 8080}, {"name": "u", "port": 5353, "protocol": "UDP"}]
    four = [("10.244.1.5", NODE, "rs"), ("10.244.2.5", "other", "rs"), ("192.0.2.1", NODE, "rs")]
    world.feed(endpoints(*four, ports=targets))
    world.feed(endpoints(("fd44::5", NODE, "rs"), ports=targets))
    world.sync()
    assert hairpins(world) == {
        ("kube-router-hairpin", "10.244.1.5", 6, 8080),
        ("kube-router-hairpin", "10.244.1.5", 17, 5353),
        ("inet6:kube-router-hairpin", "fd44::5", 6, 8080),
        ("inet6:kube-router-hairpin", "fd44::5", 17, 5353),
    }
    world.feed(endpoints(("fd44::5", NODE, ""), ports=targets))
    before = snat(world), snat(world, Family.IPV6)
    world.sync()
    assert {name for name, *_ in hairpins(world)} == {"kube-router-hairpin"}
    assert (snat(world), snat(world, Family.IPV6)) == before, "the rules stay, whoever is in the sets"


def test_without_flag_and_annotation_nobody_is_in_the_set() -> None:
    world = ProxyWorld()
    world.feed(service(metadata={"annotations": {"kube-router.io/service.hairpin.externalips": ""}}))
    world.feed(endpoints(("10.244.1.5", NODE, "rs")))
    world.sync()
    assert hairpins(world) == set()


def test_an_endpoint_of_two_services_stays_in_the_set_until_the_last_lets_go() -> None:
    world = ProxyWorld(ProxySettings(hairpin=True))
    for name, address in (("web", "10.96.0.10"), ("api", "10.96.0.11")):
        world.feed(service(name, clusterIP=address))
        world.feed(endpoints(("10.244.1.5", NODE, "rs"), service=name))
    world.sync()
    for name, left in (("web", 1), ("api", 0)):
        world.put(Deleted(ObjectRef("Service", "shop", name)))
        world.sync()
        assert len(hairpins(world)) == left


def test_with_local_routes_there_is_no_link_and_no_address_on_it() -> None:
    world = ProxyWorld(ProxySettings(local_routes=True), families=BOTH)
    world.feed(node_with(addresses=("192.0.2.1", "2001:db8::1")))
    world.feed(service(type="NodePort", clusterIPs=["10.96.0.10", "fd96::10"], ports=[{"port": 80, "nodePort": 30080}]))
    world.sync()
    found = {str(ip_address(k.address)): str(ip_address(row.source)) for k, row in world.table(LocalRoute).items()}
    assert found == {"10.96.0.10": "192.0.2.1", "fd96::10": "2001:db8::1"}
    assert world.table(Address) == {}
    assert world.table(Link) == {}
    assert ProxyWorld().table(Link) != {}


def test_b27_addresses_of_the_node_are_followed_at_once() -> None:
    world = ProxyWorld(ProxySettings(node_ports_everywhere=True))
    world.feed(service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    world.put(link("eth0", (bytes((192, 0, 2, 1)), 24)))
    world.sync()

    def local() -> set[str]:
        return {str(ip_address(k.address)) for k in world.table(Member) if k.set == "kube-router-local-ips"}

    def node_ports() -> set[str]:
        return {str(ip_address(k.address)) for k in world.table(VirtualService) if k.port == 30080}

    assert local() == node_ports() == {"192.0.2.1"}
    world.put(link("eth1", (bytes((198, 51, 100, 1)), 24), index=3))
    world.sync()
    assert local() == node_ports() == {"192.0.2.1", "198.51.100.1"}
    world.put(Deleted(ObjectRef("Interface", "", "eth1")))
    world.sync()
    assert local() == node_ports() == {"192.0.2.1"}
    world.feed(node_with("10.245.7.0/24", addresses=("192.0.2.2",)))
    world.put(link("eth0", (bytes((192, 0, 2, 2)), 24)))
    world.sync()
    assert local() == node_ports() == {"192.0.2.2"}
    (row,) = world.table(Address).values()
    assert row.source == bytes((192, 0, 2, 2))
    assert snat(world)[1:] == (
        "-s 10.245.7.0/24 -j RETURN",
        "-d 10.245.7.0/24 -j RETURN",
        SNAT.replace("192.0.2.1", "192.0.2.2"),
    )


def test_b12_a_node_port_of_the_second_family_is_in_the_sets() -> None:
    world = ProxyWorld(families=BOTH)
    world.feed(node_with(addresses=("192.0.2.1", "2001:db8::1")))
    world.feed(service(type="NodePort", clusterIPs=["10.96.0.10", "fd96::10"], ports=[{"port": 80, "nodePort": 30080}]))
    world.sync()
    found = {(k.set, str(ip_address(k.address)), k.port) for k in world.table(Member) if k.port == 30080}
    assert found == {
        ("kube-router-svip-prt", "192.0.2.1", 30080),
        ("inet6:kube-router-svip-prt", "2001:db8::1", 30080),
    }


def test_b22_without_guard_the_jump_and_the_chain_of_an_earlier_process_go() -> None:
    kernel = ProxyWorld()
    assert any(k.chain == "INPUT" and k.text.endswith("-j KUBE-ROUTER-SERVICES") for k in kernel.table(Hook))
    later = ProxyWorld(ProxySettings(guard=False), drivers=kernel.drivers)
    assert not any(k.chain == "INPUT" for k in later.table(Hook))
    assert not any(k.name == "KUBE-ROUTER-SERVICES" for k in later.table(Chain))


def test_b22_what_was_flushed_stands_again_after_the_next_audit() -> None:
    world = ProxyWorld()
    before = dict(world.table(Chain)), dict(world.table(Hook))
    for table in (Chain, Hook):
        world.table(table).clear()
    world.dataplane.resync((Chain,))
    world.sync()
    assert (world.table(Chain), world.table(Hook)) == before


def test_b21_there_is_one_rule_in_postrouting_whatever_the_node_was_like_before() -> None:
    world = ProxyWorld(node=node_with("10.244.1.0/24", "10.245.1.0/24"))
    for settings in (ProxySettings(masquerade_all=True), ProxySettings(), ProxySettings(hairpin=True)):
        world = ProxyWorld(settings, node=node_with("10.246.1.0/24"), drivers=world.drivers)
        assert len([k for k in world.table(Hook) if k.chain == "POSTROUTING"]) == 1
        assert not any("10.244.1" in rule or "10.245.1" in rule for rule in snat(world))


def pod_link(name: str, *, bridged: bool = True) -> Upserted:
    return Upserted(PodLink(ObjectRef("PodLink", "", name), (bytes((10, 244, 1, 5)),), bridged))


def test_ports_of_pods_send_back_what_came_from_them_while_anybody_may_reach_itself() -> None:
    def ports(world: ProxyWorld) -> set[str]:
        return {key.link for key in world.table(BridgePort)}

    world = ProxyWorld()
    for event in (pod_link("veth1"), pod_link("veth2"), pod_link("routed", bridged=False)):
        world.put(event)
    world.sync()
    assert ports(world) == set()
    asking = {"annotations": {"kube-router.io/service.hairpin": ""}}
    world.feed(service("web", metadata=asking))
    world.feed(service("api", clusterIP="10.96.0.11", metadata=asking))
    world.sync()
    assert ports(world) == {"veth1", "veth2"}
    world.put(pod_link("veth3"))
    world.put(Deleted(ObjectRef("PodLink", "", "veth1")))
    world.put(Deleted(ObjectRef("Service", "shop", "web")))
    world.sync()
    assert ports(world) == {"veth2", "veth3"}
    world.feed(service("api", clusterIP="10.96.0.11"))
    world.sync()
    assert ports(world) == set()
    everybody = ProxyWorld(ProxySettings(hairpin=True))
    everybody.put(pod_link("veth1"))
    everybody.sync()
    assert ports(everybody) == {"veth1"}
