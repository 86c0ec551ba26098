"""Addresses of load balancers: who gets which, keeps it, and gives it back."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from kuberouter.decode.annotations import LB_CONDITION
from kuberouter.decode.balancer import decode_balanced
from kuberouter.decode.scalars import prefix
from kuberouter.engine.balancing import Allocator
from kuberouter.model.balancer import AddressPool, BalancedService, BalancerSettings, ServiceStatus
from kuberouter.model.core import Family, ObjectRef, Problem, Reason

NOW = "2026-01-01T00:00:00Z"
IPV4 = BalancerSettings((prefix("192.0.2.0/29"),))
DUAL = BalancerSettings((prefix("192.0.2.0/29"), prefix("2001:db8::/64")))


def service(name: str = "web", status: Any = None, *, age: int = 0, meta: Any = None, **spec: Any) -> BalancedService:
    """A Service of type LoadBalancer, created `age` seconds before the others."""
    metadata = {"namespace": "shop", "name": name, "creationTimestamp": f"2026-01-01T00:00:{50 - age:02}Z"}
    raw = {"metadata": metadata | (meta or {}), "spec": {"type": "LoadBalancer"} | spec, "status": status or {}}
    found, problems = decode_balanced(json.dumps(raw).encode())
    assert found is not None
    assert not problems
    return found


def has(*addresses: str) -> dict[str, Any]:
    return {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}


class World:
    """An allocator and an apiserver that takes every status at once."""

    def __init__(self, settings: BalancerSettings) -> None:
        self.allocator = Allocator(settings)
        self.problems: dict[ObjectRef, tuple[Problem, ...]] = {}
        self.written: list[ServiceStatus] = []

    def start(self, *services: BalancedService) -> None:
        for each in services:
            self.allocator.put(each)
        self.settle(set(self.allocator.services))

    def put(self, *services: BalancedService) -> None:
        for each in services:
            self.settle(set(self.allocator.put(each)))

    def drop(self, one: BalancedService) -> None:
        self.settle(set(self.allocator.drop(one.ref)))

    def settle(self, due: set[ObjectRef]) -> None:
        for _ in range(1000):
            if not due:
                return
            ref = next(iter(self.allocator.in_order(due)), None)
            if ref is None:
                return
            decision, others = self.allocator.decide(ref, NOW)
            due |= set(others)
            due.discard(ref)
            self.problems[ref] = decision.problems
            if decision.row is not None:
                self.written.append(decision.row)
                self.allocator.put(self._after(decision.row, ref))
        raise AssertionError("there is no end to it")

    def _after(self, row: ServiceStatus, ref: ObjectRef) -> BalancedService:
        old = self.allocator.services[ref]
        status = {
            "loadBalancer": {"ingress": [json.loads(raw) for raw in row.ingress]},
            "conditions": [json.loads(raw) for raw in row.conditions],
        }
        raw = {"metadata": {"namespace": "shop", "name": ref.name}, "spec": {}, "status": status}
        read, _ = decode_balanced(json.dumps(raw).encode())
        assert read is not None
        values = {name: getattr(old, name) for name in BalancedService.__struct_fields__}
        return BalancedService(**values | {"ingress": read.ingress, "conditions": read.conditions})

    def addresses(self, name: str = "web") -> list[str]:
        items = self.allocator.services[ObjectRef("Service", "shop", name)].ingress
        return [str(ip_address(item.address)) if item.address else "" for item in items]

    def told(self, name: str = "web") -> list[Reason]:
        return [problem.reason for problem in self.problems[ObjectRef("Service", "shop", name)]]

    def condition(self, name: str = "web") -> tuple[str, str]:
        found = self.allocator.services[ObjectRef("Service", "shop", name)].conditions
        return next((c.status, c.reason) for c in found if c.type == LB_CONDITION)


def test_every_service_gets_another_address_until_none_is_left_and_then_what_is_given_back() -> None:
    world = World(IPV4)
    services = [service(f"s{number}") for number in range(8)]
    world.put(*services)
    given = {address for number in range(6) for address in world.addresses(f"s{number}")}
    assert given == {f"192.0.2.{last}" for last in range(1, 7)}
    assert world.addresses("s6") == world.addresses("s7") == []
    assert (world.told("s6"), world.condition("s6")) == ([Reason.MISSING], ("False", "Pending"))
    [free] = world.addresses("s3")
    world.drop(services[3])
    assert world.addresses("s6") == [free]
    assert (world.told("s6"), world.condition("s6")) == ([], ("True", "Allocated"))
    assert world.addresses("s7") == []


def test_edges_are_given_where_that_is_asked_for() -> None:
    world = World(BalancerSettings((prefix("192.0.2.0/30"),), edges=True))
    world.put(*(service(f"s{number}") for number in range(4)))
    assert {a for n in range(4) for a in world.addresses(f"s{n}")} == {f"192.0.2.{last}" for last in range(4)}


def test_who_comes_again_gets_the_same() -> None:
    world = World(IPV4)
    services = [service(f"s{number}") for number in range(4)]
    world.put(*services)
    before = [world.addresses(f"s{number}") for number in range(4)]
    for each in services:
        world.drop(each)
    world.put(*reversed(services))
    assert [world.addresses(f"s{number}") for number in range(4)] == before


def test_the_first_choice_is_the_same_for_every_leader() -> None:
    first, second = World(DUAL), World(DUAL)
    first.put(service())
    second.put(service())
    assert first.addresses() == second.addresses() != []


def test_what_is_in_use_is_kept_and_nothing_is_written_twice() -> None:
    world = World(IPV4)
    world.start(service(status=has("192.0.2.5")), service("other", type="ClusterIP", externalIPs=["192.0.2.3"]))
    assert world.addresses() == ["192.0.2.5"]
    assert len(world.written) == 1, "the condition"
    world.settle(set(world.allocator.services))
    assert len(world.written) == 1
    world.put(*(service(f"s{number}") for number in range(8)))
    given = [address for number in range(8) for address in world.addresses(f"s{number}")]
    assert sorted(given) == ["192.0.2.1", "192.0.2.2", "192.0.2.4", "192.0.2.6"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_with_one_address_the_older_keeps_it_and_the_other_is_told(order: tuple[int, int]) -> None:
    both = [service("young", has("192.0.2.5")), service("old", has("192.0.2.5"), age=9)]
    world = World(IPV4)
    world.start(*(both[index] for index in order))
    assert world.addresses("old") == ["192.0.2.5"]
    assert world.addresses("young") not in ([], ["192.0.2.5"])
    assert (world.told("young"), world.told("old")) == ([Reason.CONFLICT], [])
    world.settle(set(world.allocator.services))
    assert world.told("young") == [Reason.CONFLICT], "it is told until somebody has read it"


def test_what_another_balancer_gave_before_is_not_shared_with_it() -> None:
    other = service("other", has("192.0.2.3"), age=1, loadBalancerClass="example.com/lb")
    world = World(IPV4)
    world.start(other, service(status=has("192.0.2.3")))
    [address] = world.addresses()
    assert address != "192.0.2.3"
    assert world.told() == [Reason.CONFLICT]
    assert world.addresses("other") == ["192.0.2.3"]


def test_what_is_asked_for_beyond_one_of_each_family_is_told_to_go_unused() -> None:
    world = World(DUAL)
    asked = {"annotations": {"kube-router.io/lb.ips": "192.0.2.4,192.0.2.5,2001:db8::7"}}
    world.put(service(meta=asked, ipFamilies=["IPv4"]))
    assert (world.addresses(), world.told()) == (["192.0.2.4"], [Reason.IGNORED, Reason.IGNORED])
    world.put(service(meta=asked, ipFamilies=["IPv4", "IPv6"]))
    assert (world.addresses(), world.told()) == (["192.0.2.4", "2001:db8::7"], [Reason.IGNORED])


def test_what_is_asked_for_is_given_if_it_may_be_and_nothing_else() -> None:
    world = World(IPV4)
    world.put(service("a", loadBalancerIP="192.0.2.4"), service("b", loadBalancerIP="192.0.2.4"))
    world.put(service("c", loadBalancerIP="198.51.100.1"))
    annotated = {"annotations": {"kube-router.io/lb.ips": "192.0.2.6"}}
    world.put(service("d", meta=annotated, loadBalancerIP="192.0.2.5"))
    assert [world.addresses(name) for name in "abcd"] == [["192.0.2.4"], [], [], ["192.0.2.6"]]
    assert [world.told(name) for name in "abcd"] == [[], [Reason.CONFLICT], [Reason.FORBIDDEN], []]
    world.put(service("a", loadBalancerIP="192.0.2.3"))
    assert (world.addresses("a"), world.addresses("b")) == (["192.0.2.3"], ["192.0.2.4"])


@pytest.mark.parametrize(
    ("policy", "ranges", "count", "reason"),
    [
        ("RequireDualStack", DUAL, 2, "Allocated"),
        ("PreferDualStack", DUAL, 2, "Allocated"),
        ("RequireDualStack", IPV4, 0, "Pending"),
        ("PreferDualStack", IPV4, 1, "Partial"),
    ],
)
def test_families_as_the_policy_of_the_service_says(
    policy: str, ranges: BalancerSettings, count: int, reason: str
) -> None:
    world = World(ranges)
    world.put(service(ipFamilies=["IPv6", "IPv4"], ipFamilyPolicy=policy))
    addresses = world.addresses()
    assert [":" in address for address in addresses] == [True, False][:count] if count == 2 else len(addresses) == count
    assert world.condition()[1] == reason
    # What one family alone was given for is free again.
    world.put(*(service(f"s{number}") for number in range(6)))
    assert sum(len(world.addresses(f"s{number}")) for number in range(6)) == (5 if count else 6)


def test_what_others_wrote_stays() -> None:
    foreign = {"ingress": [{"hostname": "lb.example"}, {"ip": "198.51.100.7", "ipMode": "VIP"}]}
    other = {"type": "Else", "status": "True", "reason": "R", "message": "", "lastTransitionTime": NOW}
    world = World(IPV4)
    world.put(service(status={"loadBalancer": foreign, "conditions": [other]}))
    [row] = world.written
    assert [json.loads(raw) for raw in row.ingress][:2] == foreign["ingress"]
    assert len(row.ingress) == 3
    assert json.loads(row.conditions[0]) == other


@pytest.mark.parametrize("spec", [{"type": "NodePort"}, {"loadBalancerClass": "else.example"}])
def test_who_wants_no_address_any_more_gives_it_back(spec: dict[str, str]) -> None:
    world = World(IPV4)
    world.put(service())
    known = world.allocator.services[ObjectRef("Service", "shop", "web")]
    before = service(**spec)
    values = {name: getattr(before, name) for name in BalancedService.__struct_fields__}
    kept = BalancedService(**values | {"ingress": known.ingress, "conditions": known.conditions})
    world.put(kept)
    assert world.addresses() == []
    assert world.written[-1].conditions == ()
    world.put(*(service(f"s{number}") for number in range(6)))
    assert all(world.addresses(f"s{number}") for number in range(6))


def test_services_of_other_classes_are_left_alone() -> None:
    world = World(BalancerSettings(IPV4.ranges, default_class=False))
    world.put(service("a"), service("b", has("192.0.2.3"), loadBalancerClass="else.example"))
    world.put(service("c", loadBalancerClass="kube-router", loadBalancerIP="192.0.2.3"))
    assert [world.addresses(name) for name in "abc"] == [[], ["192.0.2.3"], []]
    assert world.told("c") == [Reason.CONFLICT]


def test_a_pool_is_for_its_services_only() -> None:
    pool = AddressPool("web", (prefix("192.0.2.0/30"),), ("shop",), (("tier", "web"),))
    world = World(BalancerSettings(IPV4.ranges, (pool,)))
    labelled = {"labels": {"tier": "web", "more": "x"}}
    world.put(*(service(f"w{number}", meta=labelled) for number in range(3)))
    world.put(*(service(f"s{number}") for number in range(4)))
    assert sorted(a for n in range(3) for a in world.addresses(f"w{n}")) == ["192.0.2.1", "192.0.2.2"]
    assert sorted(a for n in range(4) for a in world.addresses(f"s{n}")) == ["192.0.2.4", "192.0.2.5", "192.0.2.6"]


def test_a_large_range_is_not_searched_through() -> None:
    allocator = Allocator(BalancerSettings((prefix("2001:db8::/64"),)))
    other = ObjectRef("Service", "shop", "other")
    base = int(ip_address("2001:db8::"))
    # All first choices are taken: the next one is behind a run of 70000.
    for number in range(1, 70_000):
        allocator.taken.hold((base + number).to_bytes(16, "big"), other)
    allocator.put(service(ipFamilies=["IPv6"]))
    decision, _ = allocator.decide(ObjectRef("Service", "shop", "web"), NOW)
    assert decision.row is not None
    assert json.loads(decision.row.ingress[0]) == {"ip": str(ip_address(base + 70_000))}
    assert allocator.taken.pick(Family.IPV6, [], 5) is None
