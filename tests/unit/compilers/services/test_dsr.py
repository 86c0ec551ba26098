"""Direct server return, from bytes to rows: what is marked, tunnelled, received in pods, and what falls back."""

from __future__ import annotations

import json
from ipaddress import ip_address
from itertools import permutations
from typing import Any

import pytest

from kuberouter.decode.localpod import decode_local_pod
from kuberouter.model.cluster import Interface, InterfaceAddress, KnownMark, LocalPod, MarkedPlace
from kuberouter.model.core import Family, L4Protocol, ObjectRef
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.host import Sysctl
from kuberouter.model.ipvs import Destination, Forward, VirtualService, VirtualServiceKey, marked_service
from kuberouter.model.netfilter import Chain, Hook, Member, Table
from kuberouter.model.network import Address
from kuberouter.model.receivers import PodReceiver
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.world import NODE, ProxyWorld, node_bytes
from tests.unit.compilers.services.test_services import endpoints

RUNTIME = "unix:///run/containerd/containerd.sock"
SETTINGS = ProxySettings(addresses=AddressRules(strict=False), runtime_endpoint=RUNTIME)
VIP4, VIP6 = "10.255.0.1", "2001:db8:100::1"
MARK4 = 9054
"""Of 10.255.0.1, TCP port 80."""
POD4, POD6 = "10.244.1.5", "fd44:1::5"
CHAINS = ("KUBE-ROUTER-DSR", "KUBE-ROUTER-DSR-ANSWERS")
BOTH = (Family.IPV4, Family.IPV6)


def service(name: str = "web", *vips: str, dsr: str = "tunnel", age: int = 1, **spec: Any) -> bytes:
    """A Service with external addresses; `dsr` is the value of the annotation."""
    annotations = {"kube-router.io/service.dsr": dsr} if dsr else {}
    annotations |= spec.pop("annotations", {})
    number = sum(name.encode()) % 200 + 10
    given = {
        "clusterIP": f"10.96.0.{number}",
        "clusterIPs": [f"10.96.0.{number}", f"fd96::{number}"],
        "externalIPs": list(vips or (VIP4, VIP6)),
        "ports": [{"port": 80, "protocol": "TCP"}],
        **spec,
    }
    metadata = {
        "name": name,
        "namespace": "shop",
        "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
        "annotations": annotations,
    }
    return json.dumps({"kind": "Service", "metadata": metadata, "spec": given}).encode()


def pod(name: str = "web-1", *addresses: str, container: str = "c1", node: str = NODE, host: bool = False) -> Upserted:
    packed = tuple(ip_address(a).packed for a in addresses or (POD4, POD6))
    return Upserted(LocalPod(ObjectRef("LocalPod", "shop", name), node, packed, container, host))


def bridge(mtu: int = 1500) -> Upserted:
    """The pods' bridge."""
    address = InterfaceAddress(ip_address("10.244.1.1").packed, 24)
    return Upserted(Interface(ObjectRef("Interface", "", "kube-bridge"), 7, mtu, (address,)))


def uplink(mtu: int = 1500) -> Upserted:
    address = InterfaceAddress(ip_address("192.0.2.1").packed, 24)
    return Upserted(Interface(ObjectRef("Interface", "", "eth0"), 2, mtu, (address,)))


TWO_FAMILIES = json.dumps(
    {
        "kind": "Node",
        "metadata": {"name": NODE},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd44:1::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]},
    }
).encode()


def slices(world: ProxyWorld, name: str = "web", *, port: int = 80, host: bool = False) -> None:
    """An endpoint here and one elsewhere, in both families."""
    ports = [{"port": port, "protocol": "TCP"}]
    far = "192.0.2.2" if host else "10.244.2.5"
    world.feed(endpoints((POD4, NODE, "rs"), (far, "other", "rs"), service=name, ports=ports))
    world.feed(endpoints((POD6, NODE, "rs"), ("fd44:2::5", "other", "rs"), service=name, ports=ports))


def made(settings: ProxySettings = SETTINGS, **more: Any) -> ProxyWorld:
    """A world in which the Service, its endpoints, the pod and the links are known."""
    world = ProxyWorld(settings, BOTH, node=TWO_FAMILIES)
    world.put(uplink())
    world.put(bridge())
    world.feed(service(**more))
    slices(world)
    world.put(pod())
    world.sync()
    return world


def rules(world: ProxyWorld, family: Family = Family.IPV4) -> dict[str, tuple[str, ...]]:
    """The chains of direct return in a family."""
    return {
        k.name: row.rules
        for k, row in world.table(Chain).items()
        if k.family is family and k.table is Table.MANGLE and k.name in CHAINS
    }


def hooks(world: ProxyWorld) -> set[tuple[Family, str, str]]:
    return {(k.family, k.chain, k.text) for k in world.table(Hook) if k.table is Table.MANGLE}


def receivers(world: ProxyWorld) -> set[tuple[str, str, str]]:
    return {
        (str(ip_address(k.pod)), str(ip_address(k.vip)), row.container) for k, row in world.table(PodReceiver).items()
    }


def sysctls(world: ProxyWorld) -> dict[str, str]:
    return {k.path.rpartition("/")[2]: row.value for k, row in world.table(Sysctl).items()}


def forwards(world: ProxyWorld, key: VirtualServiceKey) -> dict[str, Forward]:
    return {str(ip_address(k.address)): row.forward for k, row in world.table(Destination).items() if k.service == key}


def problems(world: ProxyWorld) -> list[str]:
    return sorted({problem.message for problem in world.journal.standing})


def test_external_addresses_are_marked_and_tunnelled_and_cluster_ips_are_not() -> None:
    world = made()
    four = marked_service(Family.IPV4, MARK4)
    (six,) = (k for k in world.table(VirtualService) if k.mark and k.family is Family.IPV6)
    assert forwards(world, four) == dict.fromkeys((POD4, "10.244.2.5"), Forward.TUNNEL)
    assert forwards(world, six) == dict.fromkeys((POD6, "fd44:2::5"), Forward.TUNNEL)
    plain = [row.forward for k, row in world.table(Destination).items() if not k.service.mark]
    assert plain == [Forward.MASQUERADE] * 4
    assert rules(world) == {
        "KUBE-ROUTER-DSR": (f"-d {VIP4}/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x235e/0xffffffff",),
        "KUBE-ROUTER-DSR-ANSWERS": (
            "-p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set kube-router-svip-prt src,src "
            "-j TCPMSS --set-mss 1440",
            "-m set --match-set kube-router-svip-dsr src -j RETURN",
            "-m addrtype --src-type LOCAL -j DROP",
        ),
    }
    assert rules(world, Family.IPV6)["KUBE-ROUTER-DSR-ANSWERS"] == (
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set inet6:kube-router-svip-prt src,src "
        "-j TCPMSS --set-mss 1400",
    )
    prefix = {Family.IPV4: "", Family.IPV6: "inet6:"}
    expected = {
        (f, chain, f"-m set --match-set {prefix[f]}kube-router-svip-prt dst,dst -j KUBE-ROUTER-DSR")
        for f in BOTH
        for chain in ("PREROUTING", "OUTPUT")
    }
    assert hooks(world) == expected | {(f, "PREROUTING", "! -i lo -j KUBE-ROUTER-DSR-ANSWERS") for f in BOTH}
    assert {str(ip_address(k.address)) for k in world.table(Address)} >= {VIP4, VIP6}, "the director has the address"
    assert sysctls(world)["accept_local"] == "1"
    assert "sloppy_tcp" not in sysctls(world) or sysctls(world)["sloppy_tcp"] == "0"
    assert receivers(world) == {(POD4, VIP4, "c1"), (POD6, VIP6, "c1")}
    assert problems(world) == []


@pytest.mark.parametrize(
    ("uplink_mtu", "bridge_mtu", "four", "six"),
    [(1500, 1500, 1440, 1400), (1500, 1452, 1392, 1352), (9000, 1500, 1440, 1400), (9000, 8952, 8892, 8852)],
)
def test_the_segment_size_fits_the_smaller_of_uplink_and_bridge(
    uplink_mtu: int, bridge_mtu: int, four: int, six: int
) -> None:
    world = made()
    world.put(uplink(uplink_mtu))
    world.put(bridge(bridge_mtu))
    world.sync()
    assert rules(world)["KUBE-ROUTER-DSR-ANSWERS"][0].endswith(f"--set-mss {four}")
    assert rules(world, Family.IPV6)["KUBE-ROUTER-DSR-ANSWERS"][0].endswith(f"--set-mss {six}")


def test_b06_a_service_without_endpoints_keeps_its_mark_and_so_refuses() -> None:
    world = ProxyWorld(SETTINGS)
    world.feed(service("web", VIP4))
    world.sync()
    assert marked_service(Family.IPV4, MARK4) in world.table(VirtualService)
    assert len(rules(world)["KUBE-ROUTER-DSR"]) == 1
    assert world.sync() == 0


def test_b08_all_goes_with_the_annotation_the_service_the_endpoint_or_the_pod() -> None:
    def gone(world: ProxyWorld) -> bool:
        marked = any(k.mark for k in world.table(VirtualService))
        members = any(k.set == "kube-router-svip-dsr" for k in world.table(Member))
        return not (marked or members or rules(world) or hooks(world) or receivers(world))

    world = made()
    world.feed(service(dsr=""))
    world.sync()
    assert gone(world)
    assert (sysctls(world)["accept_local"], sysctls(world)["sloppy_tcp"]) == ("0", "0")
    assert VirtualServiceKey(Family.IPV4, L4Protocol.TCP, ip_address(VIP4).packed, 80) in world.table(VirtualService)
    world.feed(service())
    world.sync()
    assert len(receivers(world)) == 2
    assert sysctls(world)["accept_local"] == "1"
    world.put(Deleted(ObjectRef("Service", "shop", "web")))
    world.sync()
    assert gone(world)

    world = made()
    world.put(Deleted(ObjectRef("EndpointSlice", "shop", "web-v4")))
    world.sync()
    assert receivers(world) == {(POD6, VIP6, "c1")}
    world.put(Deleted(ObjectRef("LocalPod", "shop", "web-1")))
    world.sync()
    assert receivers(world) == set()


def test_b08_marks_of_a_former_run_stay_and_what_is_no_longer_wanted_is_put_back() -> None:
    place = MarkedPlace(ip_address(VIP4).packed, L4Protocol.TCP, 80)
    known = Upserted(KnownMark(ObjectRef("KnownMark", "", "x"), 77, place))
    world = ProxyWorld(SETTINGS)
    world.feed(service("web", VIP4))
    world.put(known)
    world.sync()
    assert marked_service(Family.IPV4, 77) in world.table(VirtualService)
    # The Service went while nobody looked.
    world = ProxyWorld(SETTINGS)
    world.put(bridge())
    world.put(uplink())
    world.put(known)
    world.sync()
    assert (sysctls(world)["accept_local"], sysctls(world)["sloppy_tcp"]) == ("0", "0")


def test_b09_services_with_and_without_direct_return_share_an_address_in_any_order() -> None:
    steps = [
        service("direct", VIP4, ports=[{"port": 80, "protocol": "TCP"}]),
        service("plain", VIP4, dsr="", ports=[{"port": 443, "protocol": "TCP"}]),
        service("other", VIP4, ports=[{"port": 81, "protocol": "TCP"}]),
    ]
    states = []
    for order in permutations(range(3)):
        world = ProxyWorld(SETTINGS)
        for index in order:
            world.feed(steps[index])
            world.sync()
        states.append({row: dict(world.table(row)) for row in (VirtualService, Address, Member, Chain, Hook)})
        assert ip_address(VIP4).packed in {k.address for k in world.table(Address)}
        # The one that stays keeps what it needs, whoever goes.
        world.put(Deleted(ObjectRef("Service", "shop", ("direct", "plain", "other")[order[0]])))
        world.sync()
        assert ip_address(VIP4).packed in {k.address for k in world.table(Address)}
        assert len(rules(world)["KUBE-ROUTER-DSR"]) == sum(index != 1 for index in order[1:])
    assert all(state == states[0] for state in states)


def test_b13_pods_are_known_by_their_node_whatever_address_comes_first() -> None:
    status: dict[str, Any] = {
        "hostIP": "2001:db8::1",
        "podIPs": [{"ip": POD6}, {"ip": POD4}],
        "containerStatuses": [
            {"containerID": "containerd://dead", "state": {"terminated": {}}},
            {"containerID": "containerd://beef", "state": {"running": {}}},
            {"containerID": "", "state": {"waiting": {}}},
        ],
    }
    raw = {"kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop"}, "spec": {"nodeName": NODE}}
    obj, found = decode_local_pod(json.dumps({**raw, "status": status}).encode())
    assert obj is not None
    assert found == ()
    assert obj.container == "beef"
    world = made()
    world.put(Upserted(obj))
    world.sync()
    assert receivers(world) == {(POD4, VIP4, "beef"), (POD6, VIP6, "beef")}
    # No container that runs, or none at all yet, is no trouble: nobody can be entered.
    for statuses in ([], None, status["containerStatuses"][:1]):
        obj, _ = decode_local_pod(json.dumps({**raw, "status": {**status, "containerStatuses": statuses}}).encode())
        assert obj is not None
        world.put(Upserted(obj))
        world.sync()
        assert receivers(world) == set()
    assert problems(world) == []


def test_b20_nothing_of_it_exists_without_a_service_that_asks() -> None:
    world = made(dsr="")
    assert rules(world) == {}
    assert hooks(world) == set()
    assert receivers(world) == set()
    assert not {"accept_local", "sloppy_tcp"} & set(sysctls(world)), "a setting that nobody needed is nobody's business"


def test_b23_only_endpoints_count_not_other_pods_of_the_namespace() -> None:
    world = made(selector=None)
    world.put(pod("agent", "192.0.2.1", container="c9", host=True))
    world.sync()
    assert forwards(world, marked_service(Family.IPV4, MARK4)) == dict.fromkeys((POD4, "10.244.2.5"), Forward.TUNNEL)
    assert problems(world) == []


def test_an_endpoint_in_the_network_of_a_node_is_forwarded_to_in_the_usual_way_and_told_of() -> None:
    world = made()
    slices(world, host=True)
    world.feed(node_bytes("other", "192.0.2.2"))
    world.sync()
    assert forwards(world, marked_service(Family.IPV4, MARK4)) == {
        POD4: Forward.TUNNEL,
        "192.0.2.2": Forward.MASQUERADE,
    }
    (text,) = problems(world)
    assert text.startswith("endpoints in the network of a node cannot answer directly")
    world.put(Deleted(ObjectRef("Node", "", "other")))
    world.sync()
    assert problems(world) == []


def test_no_pod_receives_for_the_address_of_a_node() -> None:
    world = made()
    world.feed(service("web", "192.0.2.1", VIP4))
    world.sync()
    assert receivers(world) == {(POD4, VIP4, "c1")}
    assert problems(world) == [
        "192.0.2.1 is the address of a node, which no pod may have as well; it is forwarded in the usual way"
    ]


def test_without_the_runtime_everything_is_forwarded_in_the_usual_way() -> None:
    world = made(ProxySettings(addresses=AddressRules(strict=False)))
    assert not any(k.mark for k in world.table(VirtualService))
    assert rules(world) == {}
    assert receivers(world) == set()
    (text,) = problems(world)
    assert text.startswith("--runtime-endpoint is not given")


def test_ports_are_not_mapped() -> None:
    world = made()
    slices(world, port=8080)
    world.sync()
    assert problems(world) == ["ports are not mapped with direct return: endpoints have to answer at 80, not at 8080"]


def test_the_scheduler_mh_takes_up_flows_that_began_elsewhere() -> None:
    world = made(annotations={"kube-router.io/service.scheduler": "mh"})
    assert world.table(VirtualService)[marked_service(Family.IPV4, MARK4)].scheduler == "mh"
    assert sysctls(world)["sloppy_tcp"] == "1"
    world.feed(service())
    world.sync()
    assert sysctls(world)["sloppy_tcp"] == "0"


def test_an_unknown_value_of_the_annotation_is_told_and_changes_nothing() -> None:
    world = made(dsr="true")
    assert not any(k.mark for k in world.table(VirtualService))
    (text,) = problems(world)
    assert "'true'" in text


def test_addresses_that_nobody_may_have_are_received_by_no_pod() -> None:
    strict = ProxySettings(runtime_endpoint=RUNTIME)
    assert receivers(made(strict)) == set()
    world = made()
    world.feed(service("older", VIP4, dsr="", age=0))
    world.sync()
    assert receivers(world) == {(POD6, VIP6, "c1")}, "another Service has the address and port"


def test_finished_and_foreign_pods_receive_nothing() -> None:
    world = made()
    for other in (pod(container=""), pod(node="other"), pod(host=True)):
        world.put(other)
        world.sync()
        assert receivers(world) == set()
    world.put(pod(container="c2"))
    world.sync()
    assert receivers(world) == {(POD4, VIP4, "c2"), (POD6, VIP6, "c2")}
