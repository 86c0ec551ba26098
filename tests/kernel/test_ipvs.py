"""IPVS against the real kernel, read back by us and by ipvsadm(8), beside a foreign service."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from kuberouter.drivers.ipvs import DestinationDriver, TimeoutDriver, VirtualServiceDriver
from kuberouter.drivers.ownership import GoServices, Ownership
from kuberouter.model.core import Batch, Family, L4Protocol, Prefix, Unavailable, family_of
from kuberouter.model.ipvs import (
    PERSISTENT,
    Destination,
    DestinationKey,
    Forward,
    IpvsTimeout,
    IpvsTimeoutKey,
    Timer,
    VirtualService,
    VirtualServiceKey,
    marked_service,
)
from tests.kernel.conftest import need
from tests.kernel.drive import converge, owned, sh
from tests.support.lab import netns

pytestmark = pytest.mark.ipvs


def key(address: str, port: int = 80, protocol: L4Protocol = L4Protocol.TCP) -> VirtualServiceKey:
    packed = ip_address(address).packed
    return VirtualServiceKey(family_of(packed), protocol, packed, port)


def destination(service: VirtualServiceKey, address: str, port: int = 8080, weight: int = 1) -> Destination:
    return Destination(DestinationKey(service, ip_address(address).packed, port), weight)


POOL = [
    *(key(f"10.96.0.{n}", 80 + n % 3) for n in range(1, 7)),
    *(key(f"10.96.0.{n}", 53, L4Protocol.UDP) for n in range(1, 4)),
    key("10.96.0.9", 9, L4Protocol.SCTP),
    *(key(f"fd96::{n}") for n in range(1, 5)),
    *(marked_service(family, mark) for family in Family for mark in (1, 0x3FFF)),
]


def test_any_services_and_destinations_become_any_others(namespace: str) -> None:
    need("ip_vs")
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    sh("ipvsadm", "-A", "-t", "198.51.100.1:443", "-s", "wlc")
    sh("ipvsadm", "-a", "-t", "198.51.100.1:443", "-r", "192.0.2.77:443", "-m", "-w", "7")
    dice = random.Random(7)
    for _ in range(12):
        chosen = dice.sample(POOL, dice.randrange(1, len(POOL)))
        rows = [VirtualService(k, dice.choice(("rr", "sh")), *dice.choice(((0, 0), (PERSISTENT, 99)))) for k in chosen]
        wanted = [
            destination(
                k, f"10.244.{n}.1" if k.family is Family.IPV4 else f"fd44::{n + 1}", 8080, dice.choice((0, 1, 5))
            )
            for k in chosen
            for n in dice.sample(range(6), dice.randrange(5))
        ]
        before = owned(services)
        stay = [row for k, row in before.items() if k not in chosen]
        assert converge(services, [*rows, *stay]) == {}
        assert converge(destinations, wanted) == {}
        assert converge(services, rows) == {}
        assert owned(services) == {r.key: r for r in rows}
        assert owned(destinations) == {r.key: r for r in wanted}
    saved = sh("ipvsadm", "-Sn")
    assert "-A -t 198.51.100.1:443 -s wlc" in saved
    assert "-a -t 198.51.100.1:443 -r 192.0.2.77:443 -m -w 7" in saved


def test_ipvsadm_reads_what_we_wrote(namespace: str) -> None:
    need("ip_vs")
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    four, six = key("10.96.0.1"), key("fd96::1")
    assert converge(services, [VirtualService(four, "rr", PERSISTENT, 10800), VirtualService(six)]) == {}
    assert converge(destinations, [destination(four, "10.244.1.5"), destination(six, "fd44::5", weight=0)]) == {}
    saved = sh("ipvsadm", "-Sn").splitlines()
    # No "-M mask": the mask of session affinity is a whole address.
    assert [line.rstrip() for line in saved] == [
        "-A -t 10.96.0.1:80 -s rr -p 10800",
        "-a -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1",
        "-A -t [fd96::1]:80 -s rr",
        "-a -t [fd96::1]:80 -r [fd44::5]:8080 -m -w 0",
    ]


def test_b11_fwmark_services_have_scheduler_and_timeout_from_the_first_write_on(namespace: str) -> None:
    need("ip_vs")
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    four, six = marked_service(Family.IPV4, 9054), marked_service(Family.IPV6, 9054)
    # B11: the scheduler and the timeout hold from the first write on, and changes of them arrive.
    assert converge(services, [VirtualService(four, "sh"), VirtualService(six, "rr", PERSISTENT, 60)]) == {}
    rows = [
        Destination(DestinationKey(service, ip_address(address).packed, 80), forward=Forward.TUNNEL)
        for service, address in ((four, "10.244.1.5"), (six, "fd44::5"))
    ]
    assert converge(destinations, rows) == {}
    # No "-M mask": the mask of session affinity is a whole address in either family.
    assert [line.rstrip() for line in sh("ipvsadm", "-Sn").splitlines()] == [
        "-A -f 9054 -s sh",
        "-a -f 9054 -r 10.244.1.5:80 -i -w 1 --tun-type ipip",
        "-A -f 9054 -6 -s rr -p 60",
        "-a -f 9054 -6 -r [fd44::5]:80 -i -w 1 --tun-type ipip",
    ]
    changed = [VirtualService(four, "mh", PERSISTENT, 30), VirtualService(six, "rr", PERSISTENT, 90)]
    assert converge(services, changed) == {}
    assert owned(VirtualServiceDriver()) == {row.key: row for row in changed}
    assert owned(DestinationDriver()) == {row.key: row for row in rows}
    assert converge(services, []) == {}
    assert sh("ipvsadm", "-Sn").strip() == ""


def test_a_scheduler_that_the_kernel_lacks_is_replaced_and_told(namespace: str) -> None:
    need("ip_vs")
    services = VirtualServiceDriver()
    names = ("rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq")
    rows = [VirtualService(key(f"10.96.1.{n}"), name) for n, name in enumerate(names)]
    lost, kept = VirtualService(key("10.96.2.1"), "gone", PERSISTENT, 60), VirtualService(key("10.96.2.2"), "lc")
    outcome = services.write(Batch((*rows, lost, kept)))
    text = "this kernel has no scheduler gone (module ip_vs_gone); rr is used"
    assert (outcome.failed, outcome.instead) == ({}, {lost.key: text})
    changed = VirtualService(kept.key, "gone")
    outcome = services.write(Batch(change=((kept, changed),)))
    assert (outcome.failed, outcome.instead) == ({}, {kept.key: text})
    found = owned(services)
    assert [found[row.key].scheduler for row in rows] == list(names)
    assert found[lost.key] == VirtualService(lost.key, "rr", PERSISTENT, 60)
    assert found[kept.key] == VirtualService(kept.key, "rr")


def test_a_restarted_driver_recognises_its_services_and_leaves_others_alone(namespace: str) -> None:
    need("ip_vs")
    assert converge(VirtualServiceDriver(), [VirtualService(key("10.96.0.1"))]) == {}
    sh("ipvsadm", "-A", "-u", "198.51.100.1:53", "-s", "rr")
    again = VirtualServiceDriver()
    assert set(owned(again)) == {key("10.96.0.1")}
    assert converge(again, []) == {}
    assert sh("ipvsadm", "-Sn").strip() == "-A -u 198.51.100.1:53 -s rr"


def listed() -> list[str]:
    """What ipvsadm would restore."""
    return sorted(line.rstrip() for line in sh("ipvsadm", "-Sn").splitlines())


def test_b02_a_service_that_groups_clients_is_mended_in_place(namespace: str) -> None:
    need("ip_vs")
    four, six = key("10.96.0.1"), key("fd96::1")
    # As the Go kube-router writes it: the number 32 in the place of an address.
    sh("ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "rr", "-p", "100", "-M", "32.0.0.0")
    sh("ipvsadm", "-a", "-t", "10.96.0.1:80", "-r", "10.244.1.5:8080", "-m")
    sh("ipvsadm", "-A", "-t", "[fd96::1]:80", "-s", "rr", "-p", "100", "-M", "64")
    rows = [VirtualService(k, "rr", PERSISTENT, 100) for k in (four, six)]
    driver = VirtualServiceDriver(Ownership({four, six}.__contains__))
    assert owned(driver) == {k: VirtualService(k, "rr", PERSISTENT, 100, False) for k in (four, six)}
    assert converge(driver, rows) == {}
    assert owned(VirtualServiceDriver()) == {row.key: row for row in rows}
    assert listed() == [
        "-A -t 10.96.0.1:80 -s rr -p 100",
        "-A -t [fd96::1]:80 -s rr -p 100",
        "-a -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1",
    ]


def test_what_others_edit_is_mended_and_marked_anew_as_long_as_it_is_wanted(namespace: str) -> None:
    need("ip_vs")
    rows = [VirtualService(key("10.96.0.1")), VirtualService(key("10.96.0.2"))]
    assert converge(VirtualServiceDriver(), rows) == {}
    for row in rows:
        sh("ipvsadm", "-E", "-t", f"{ip_address(row.key.address)}:80", "-s", "wlc")
    wanted = rows[0]
    driver = VirtualServiceDriver(Ownership({wanted.key}.__contains__))
    assert owned(driver) == {wanted.key: VirtualService(wanted.key, "wlc", intact=False)}
    assert converge(driver, [wanted]) == {}
    assert owned(VirtualServiceDriver()) == {wanted.key: wanted}
    assert listed() == ["-A -t 10.96.0.1:80 -s rr", "-A -t 10.96.0.2:80 -s wlc"]


def test_what_the_go_kube_router_left_is_taken_over_with_its_destinations(namespace: str) -> None:
    need("ip_vs")
    stays, left, bound = key("10.96.0.1"), key("10.96.0.2"), key("127.0.0.1", 30080)
    ports = ("192.0.2.1:31000", "127.0.0.1:30080", "[::1]:30080")
    foreign = ("198.51.100.1:80", "192.0.2.1:31001", "192.0.2.1:8443")
    pods = ("10.244.1.5:8080", "10.244.1.6:8080")
    for place in ("10.96.0.1:80", "10.96.0.2:80", *ports, *foreign):
        sh("ipvsadm", "-A", "-t", place, "-s", "rr")
        for target in pods if "[" not in place else ("[fd44::5]:8080",):
            sh("ipvsadm", "-a", "-t", place, "-r", target, "-m", "-w", "7" if place in foreign else "1")
    local = [ip_address(address).packed for address in ("192.0.2.1", "127.0.0.1", "::1")]
    go = GoServices(lambda: {stays.address, left.address}, lambda: local, (30000, 32767), DestinationDriver().plain)
    ownership = Ownership({stays}.__contains__, former=go.among)
    services, destinations = VirtualServiceDriver(ownership), DestinationDriver(ownership)
    had, answered = owned(services), owned(destinations)
    assert set(had) == {stays, left, bound, key("192.0.2.1", 31000), key("::1", 30080)}
    assert len(answered) == 9
    row, pod = VirtualService(stays), destination(stays, "10.244.1.5")
    assert not services.write(Batch(change=((had[stays], row),))).failed
    assert converge(destinations, [pod]) == {}
    assert converge(services, [row]) == {}
    assert listed() == sorted(
        [
            *(f"-A -t {place} -s rr" for place in ("10.96.0.1:80", *foreign)),
            "-a -t 10.96.0.1:80 -r 10.244.1.5:8080 -m -w 1",
            *(f"-a -t {place} -r {target} -m -w 7" for place in foreign for target in pods),
        ]
    )


def test_b29_destinations_in_excluded_networks_stay_unless_they_are_wanted(namespace: str) -> None:
    need("ip_vs")
    service = VirtualService(key("10.96.0.1"))
    assert converge(VirtualServiceDriver(), [service]) == {}
    ours, theirs = destination(service.key, "10.244.1.5"), destination(service.key, "203.0.113.7")
    assert converge(DestinationDriver(), [ours, theirs]) == {}
    ownership = Ownership(excluded=(Prefix(bytes((203, 0, 113, 0)), 24),))
    assert converge(DestinationDriver(ownership), []) == {}
    assert set(owned(DestinationDriver())) == {theirs.key}
    assert set(owned(DestinationDriver(ownership, lambda k: k == theirs.key))) == {theirs.key}
    hands_off = Ownership(excluded=(Prefix(bytes((10, 96, 0, 0)), 16),))
    assert converge(DestinationDriver(hands_off), []) == {}
    assert converge(VirtualServiceDriver(hands_off), []) == {}
    assert set(owned(DestinationDriver())) == {theirs.key}


def test_a_service_that_somebody_else_made_is_adopted_when_it_is_wanted(namespace: str) -> None:
    need("ip_vs")
    sh("ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "wlc")
    services = VirtualServiceDriver()
    row = VirtualService(key("10.96.0.1"))
    assert converge(services, [row]) == {}
    assert owned(services) == {row.key: row}


def test_a_row_that_cannot_be_is_reported_alone(namespace: str) -> None:
    need("ip_vs")
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    good, bad = VirtualService(key("10.96.0.1")), VirtualService(key("10.96.0.2"), "longer-than-any-name")
    failed = converge(services, [good, bad])
    assert list(failed) == [bad.key]
    lost = destination(key("10.96.0.99"), "10.244.1.1")
    found = destination(good.key, "10.244.1.1")
    assert list(destinations.write(Batch((found, lost))).failed) == [lost.key]
    assert owned(destinations) == {found.key: found}


def test_a_thousand_services_in_batches(namespace: str) -> None:
    need("ip_vs")
    services, destinations = VirtualServiceDriver(), DestinationDriver()
    keys = [VirtualServiceKey(Family.IPV4, L4Protocol.TCP, bytes((10, 97, n >> 8, n & 255)), 80) for n in range(1000)]
    rows = [destination(k, f"10.244.1.{e}") for k in keys for e in (1, 2)]
    assert converge(services, map(VirtualService, keys)) == {}
    assert converge(destinations, rows) == {}
    assert len(owned(destinations)) == 2000


def test_services_of_another_namespace_hide_no_destination(namespace: str) -> None:
    need("ip_vs")
    keys = [key(f"10.97.{n >> 8}.{n & 255}") for n in range(400)]
    rows = [destination(k, f"10.244.1.{e}") for k in keys for e in (1, 2, 3)]
    other = f"{namespace}-other"
    netns.add(other)
    try:
        with netns.inside(other):
            assert VirtualServiceDriver().write(Batch(tuple(map(VirtualService, keys)))).failed == {}
        services, destinations = VirtualServiceDriver(), DestinationDriver()
        assert converge(services, map(VirtualService, keys)) == {}
        assert converge(destinations, rows) == {}
        assert owned(DestinationDriver()) == {row.key: row for row in rows}
    finally:
        netns.remove(other)


def test_timers_are_set_one_by_one_and_audited(namespace: str) -> None:
    need("ip_vs")
    before = sh("ipvsadm", "-L", "--timeout").split()[-3:]
    driver = TimeoutDriver()
    rows = [IpvsTimeout(IpvsTimeoutKey(Timer.TCP), 7200), IpvsTimeout(IpvsTimeoutKey(Timer.UDP), 77)]
    assert converge(driver, rows) == {}
    assert owned(driver) == {row.key: row for row in rows}
    assert sh("ipvsadm", "-L", "--timeout").split()[-3:] == ["7200", before[1], "77"]
    sh("ipvsadm", "--set", "100", "100", "100")
    assert converge(driver, rows) == {}
    assert sh("ipvsadm", "-L", "--timeout").split()[-3:] == ["7200", "100", "77"]
    assert converge(driver, []) == {}
    assert sh("ipvsadm", "-L", "--timeout").split()[-3:] == ["7200", "100", "77"]


def test_a_kernel_without_ipvs_names_the_module(namespace: str) -> None:
    if netns.have("ip_vs"):
        pytest.skip("this kernel has ip_vs; the host lane runs this where it has not")
    with pytest.raises(Unavailable, match="kernel module ip_vs is missing"):
        list(VirtualServiceDriver().read())
    assert list(TimeoutDriver().read()) == [], "nobody asked for a timer, so the kernel need not have any"
