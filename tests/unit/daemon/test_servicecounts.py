"""What IPVS counts becomes counts of Services: by address, by mark, of others, and over what goes or begins anew."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.daemon.metrics import METRICS, PREFIX
from kuberouter.daemon.servicecounts import EXPORT, NAMES, ServiceCounts
from kuberouter.model.cluster import Interface, InterfaceAddress
from kuberouter.model.core import Family, L4Protocol, ObjectRef, Unavailable, family_of
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.ipvs import ServiceCount, Statistics, VirtualService, VirtualServiceKey, marked_service
from kuberouter.model.settings import AddressRules, ProxySettings
from tests.support.world import NODE, ProxyWorld

BOTH = (Family.IPV4, Family.IPV6)
VIPS = ("10.255.0.1", "2001:db8:100::1")


def place(address: str, port: int, protocol: L4Protocol = L4Protocol.TCP) -> VirtualServiceKey:
    packed = ip_address(address).packed
    return VirtualServiceKey(family_of(packed), protocol, packed, port)


class Kernel:
    """IPVS as somebody sets it; whoever asks is noted, and how long it took."""

    def __init__(self) -> None:
        self.found: dict[VirtualServiceKey | None, Statistics] = {}
        self.away = False
        self.reads = 0
        self.observed: list[tuple[str, float]] = []

    def read(self) -> Iterable[ServiceCount]:
        self.reads += 1
        if self.away:
            raise Unavailable("kernel module ip_vs is missing")
        return [ServiceCount(key, counted) for key, counted in self.found.items()]

    def observe(self, what: str, seconds: float) -> None:
        self.observed.append((what, seconds))


class Proxy(ProxyWorld):
    """A node of both families with the metrics of its Services."""

    def __init__(self, *, everywhere: bool = False) -> None:
        node = {
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd44:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("192.0.2.1", "2001:db8::1")]},
        }
        settings = ProxySettings(
            addresses=AddressRules(strict=False),
            runtime_endpoint="unix:///run/cri.sock",
            node_ports_everywhere=everywhere,
        )
        super().__init__(settings, BOTH, node=json.dumps(node).encode())
        self.kernel = Kernel()
        self.time = 0.0
        self.counts = ServiceCounts(self.planner, self.kernel.read, meter=self.kernel, clock=self.clock)

    def clock(self) -> float:
        self.time += 0.5
        return self.time

    def service(self, name: str = "web", *, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        number = sum(name.encode()) % 200 + 10
        given = {
            "type": "NodePort",
            "clusterIP": f"10.96.0.{number}",
            "clusterIPs": [f"10.96.0.{number}", f"fd96::{number}"],
            "ports": [{"port": 80, "nodePort": 30000 + number}],
            **spec,
        }
        metadata = {"name": name, "namespace": "shop", "annotations": annotations or {}}
        self.feed(json.dumps({"kind": "Service", "metadata": metadata, "spec": given}).encode())
        self.sync()

    def count(self, *, base: int = 1) -> None:
        """The kernel has all that is wanted, and has counted something of each."""
        keys = self.planner.ledgers[VirtualService].desired
        self.kernel.found = {key: counted(base) for key in keys if isinstance(key, VirtualServiceKey)}

    def shown(self, name: str) -> dict[tuple[str, ...], float]:
        """Values of a metric by those of its labels."""
        found = {one.name.removeprefix(PREFIX): one for one in self.counts.show()}
        samples = found[name].samples if name in found else ()
        return {tuple(value for _, value in sample.labels): sample.value for sample in samples}


def counted(connections: int) -> Statistics:
    """Numbers that all differ."""
    return Statistics(*(connections * 10 + field if connections else 0 for field in range(10)))


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


def test_every_address_of_a_service_has_all_metrics_with_the_labels_that_dashboards_know(proxy: Proxy) -> None:
    """B12: node ports of the second family had no metrics."""
    proxy.service("web", externalIPs=list(VIPS))
    proxy.count()
    number = sum(b"web") % 200 + 10
    expected = {
        ("shop", "web", address, "tcp", port)
        for address, port in (
            (f"10.96.0.{number}", "80"),
            (f"fd96::{number}", "80"),
            ("10.255.0.1", "80"),
            ("2001:db8:100::1", "80"),
            ("192.0.2.1", str(30000 + number)),
            ("2001:db8::1", str(30000 + number)),
        )
    }
    for field, name in enumerate(NAMES):
        assert proxy.shown(name) == dict.fromkeys(expected, 10 + field), name
    types = {m.name: (m.type, m.labels) for m in METRICS}
    labels = ("svc_namespace", "service_name", "service_vip", "protocol", "port")
    assert [types[name] for name in NAMES] == [("counter", labels)] * 5 + [("gauge", labels)] * 5


def test_node_ports_on_all_addresses_have_their_metrics_at_each() -> None:
    proxy = Proxy(everywhere=True)
    extra = tuple(InterfaceAddress(ip_address(text).packed, 24) for text in ("192.0.2.1", "198.51.100.1"))
    proxy.put(Upserted(Interface(ObjectRef("Interface", "", "eth0"), 2, 1500, extra)))
    proxy.service("web")
    proxy.count()
    found = proxy.shown("service_bytes_out")
    port = str(30000 + sum(b"web") % 200 + 10)
    assert {address for _, _, address, _, at in found if at == port} == {
        "192.0.2.1",
        "198.51.100.1",
        "2001:db8::1",
    }


def test_one_scrape_is_one_dump_that_is_timed(proxy: Proxy) -> None:
    proxy.service()
    proxy.count()
    assert proxy.kernel.reads == 0
    proxy.counts.show()
    assert (proxy.kernel.reads, proxy.kernel.observed) == (1, [(EXPORT, 0.5)])


def test_what_others_have_counts_as_a_service_and_for_none(proxy: Proxy) -> None:
    proxy.service()
    proxy.count()
    ours = len(proxy.kernel.found)
    before = proxy.shown("service_packets_in")
    foreign: tuple[VirtualServiceKey | None, ...] = (
        place("198.51.100.9", 80),
        marked_service(Family.IPV4, 0x7777),
        None,
    )
    proxy.kernel.found.update(dict.fromkeys(foreign, counted(9)))
    assert proxy.shown("controller_ipvs_services") == {(): ours + 3}
    assert proxy.shown("service_packets_in") == before


def test_direct_return_counts_for_the_address_that_its_mark_stands_for(proxy: Proxy) -> None:
    proxy.service("web", annotations={"kube-router.io/service.dsr": "tunnel"}, externalIPs=list(VIPS))
    proxy.count()
    found = proxy.shown("service_total_connections")
    assert {("shop", "web", vip, "tcp", "80") for vip in VIPS} <= found.keys()
    marked = [key for key in proxy.kernel.found if key is not None and key.mark]
    assert len(marked) == 2
    assert len(found) == len(proxy.kernel.found)


def test_clients_inside_and_outside_add_up_and_node_ports_of_the_inside_have_no_address(proxy: Proxy) -> None:
    proxy.service("web", externalTrafficPolicy="Local", externalIPs=list(VIPS))
    proxy.count()
    number = sum(b"web") % 200 + 10
    found = proxy.shown("service_total_connections")
    assert {vip: found["shop", "web", vip, "tcp", "80"] for vip in VIPS} == dict.fromkeys(VIPS, 20)
    port = str(30000 + number)
    assert {address: value for (_, _, address, _, at), value in found.items() if at == port} == dict.fromkeys(
        ("192.0.2.1", "2001:db8::1", "0.0.0.0", "::"), 10
    )


def test_a_counter_never_goes_back_while_the_address_is_served(proxy: Proxy) -> None:
    proxy.service("web", externalTrafficPolicy="Local", externalIPs=[VIPS[0]])
    proxy.count(base=5)
    labels = ("shop", "web", VIPS[0], "tcp", "80")
    assert proxy.shown("service_total_connections")[labels] == 100
    # The policy ends, and with it the virtual service by which clients of the cluster are served apart.
    proxy.service("web", externalIPs=[VIPS[0]])
    proxy.count(base=6)
    assert proxy.shown("service_total_connections")[labels] == 50 + 60
    assert proxy.shown("service_cps")[labels] == 65
    # Somebody sets the counters to zero, or the virtual service is made anew.
    proxy.count(base=0)
    assert proxy.shown("service_total_connections")[labels] == 50 + 60
    assert proxy.shown("service_cps")[labels] == 0
    proxy.count(base=1)
    assert proxy.shown("service_total_connections")[labels] == 50 + 60 + 10


def test_a_service_that_goes_takes_its_series_along_and_comes_back_as_new(proxy: Proxy) -> None:
    proxy.service("web")
    proxy.count(base=5)
    assert proxy.shown("service_packets_in")
    still = dict(proxy.kernel.found)
    proxy.put(Deleted(ObjectRef("Service", "shop", "web")))
    proxy.sync()
    assert proxy.shown("service_packets_in") == {}, "the kernel may have them for a moment longer"
    assert proxy.shown("controller_ipvs_services") == {(): len(still)}
    proxy.service("web")
    proxy.count(base=1)
    assert set(proxy.shown("service_packets_in").values()) == {11}


def test_without_ipvs_there_is_nothing_and_then_there_is(proxy: Proxy) -> None:
    proxy.service()
    proxy.count()
    proxy.kernel.away = True
    assert proxy.counts.show() == []
    assert proxy.kernel.observed == []
    proxy.kernel.away = False
    assert proxy.shown("service_packets_in")
