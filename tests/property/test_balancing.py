"""No two Services have one address given by the allocator, in whatever order and however late news comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kuberouter.engine.balancing import Allocator
from kuberouter.model.balancer import BalancedService, BalancerSettings, Ingress
from kuberouter.model.core import Family, ObjectRef, Prefix
from tests.support.examples import examples

RANGES = (Prefix(bytes((192, 0, 2, 0)), 29), Prefix(bytes.fromhex("20010db8" + "00" * 12), 125))
SETTINGS = BalancerSettings(RANGES)
ADDRESSES = st.integers(1, 6).map(lambda last: bytes((192, 0, 2, last)))
FAMILIES = st.sampled_from(((Family.IPV4,), (Family.IPV6,), (Family.IPV4, Family.IPV6)))


def ref(number: int) -> ObjectRef:
    return ObjectRef("Service", "shop", f"s{number}")


SERVICES = st.builds(
    lambda number, balanced, families, both, asked, external, seen: BalancedService(
        ref(number),
        float(number % 3),
        "",
        balanced,
        families=families,
        all_families=both,
        requested=tuple(asked),
        external_ips=tuple(external),
        ingress=tuple(Ingress(address, b'{"ip":"%s"}' % address.hex().encode()) for address in seen),
    ),
    st.integers(0, 8),
    st.sampled_from((True, True, True, False)),
    FAMILIES,
    st.booleans(),
    st.lists(ADDRESSES, max_size=1),
    st.lists(ADDRESSES, max_size=1),
    st.lists(ADDRESSES, max_size=2),
)
STEPS = st.lists(st.one_of(SERVICES, st.integers(0, 8)), max_size=30)


def settle(allocator: Allocator, due: set[ObjectRef]) -> None:
    """Decide on what is due; nothing of it is ever seen in a status."""
    for _ in range(500):
        order = allocator.in_order(due)
        if not order:
            return
        due = set()
        for each in order:
            _, others = allocator.decide(each, "now")
            due |= set(others) - {each}
    raise AssertionError("there is no end to it")


@given(STEPS, st.booleans())
@examples(200)
def test_no_two_services_are_given_one_address(steps: list[BalancedService | int], late: bool) -> None:
    allocator = Allocator(SETTINGS)
    due: set[ObjectRef] = set()
    for step in steps:
        due |= set(allocator.drop(ref(step)) if isinstance(step, int) else allocator.put(step))
        if not late:
            settle(allocator, due)
            due = set()
    settle(allocator, due)
    # Decided once more, all of them, as the periodic walk does.
    settle(allocator, set(allocator.services))
    owners: dict[bytes, ObjectRef] = {}
    for each, addresses in allocator.given.items():
        for family, address in addresses.items():
            assert family in allocator.services[each].families
            assert any(block.covers(address) for block in RANGES)
            if address in allocator.services[each].external_ips:
                continue
            assert owners.setdefault(address, each) == each
    for service in allocator.services.values():
        if service.balanced and service.all_families:
            assert len(allocator.given[service.ref]) in (0, len(service.families))
    assert not allocator.given.keys() - allocator.services.keys()
