"""How many lines dropped packets get, and what is counted."""

from __future__ import annotations

import logging

import pytest

from kuberouter.cluster.view import ClusterView
from kuberouter.compilers.policies.names import GUARD_CHAIN, INVALID_CHAIN
from kuberouter.daemon.drops import AGAIN, BURST, MOST_FLOWS, MOST_PODS, REFILL, SUMMARY, DropLog, Limiter
from kuberouter.daemon.metrics import PREFIX
from kuberouter.model.drops import LoggedPacket
from tests.unit.compilers.policies.test_drops import FAR, OWN, PEER, PROFILE, Known, packet

INGRESS = f"{PROFILE} ingress"


def to(port: int) -> LoggedPacket:
    return packet(INGRESS, PEER, OWN, port=port)


class Log:
    """A log of drops of a known node, with a clock that is set by hand."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *, per_pod: bool = True) -> None:
        caplog.set_level(logging.INFO)
        self.known = Known()
        self.known.policy("deny", "Ingress")
        self.now = 1000.0
        self.drops = DropLog(lambda: self.known.world.planner.cluster, per_pod=per_pod, clock=lambda: self.now)
        self._caplog = caplog

    def tell(self, *packets: LoggedPacket, lost: int = 0) -> list[str]:
        """The lines that packets get."""
        self._caplog.clear()
        self.drops.tell(packets, lost)
        return self._caplog.messages.copy()

    def shown(self) -> dict[tuple[str, ...], float]:
        return {
            (one.name.removeprefix(PREFIX), *(value for _, value in sample.labels)): sample.value
            for one in self.drops.show(reading=True)
            for sample in one.samples
        }


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_a_flow_is_told_of_once_in_a_while_with_what_was_held_back(log: Log) -> None:
    (line,) = log.tell(to(80), to(80))
    assert line.startswith("Pod shop/web: ingress from shop/peer")
    log.now += AGAIN - 1
    assert log.tell(to(80)) == []
    assert len(log.tell(to(81))) == 1
    log.now += 1
    assert log.tell(to(80)) == [f"{line}; and 2 times since this was last said"]
    log.now += AGAIN
    assert log.tell(to(80)) == [line]


def test_lines_are_bounded_and_what_they_leave_out_is_said(log: Log) -> None:
    lines = log.tell(*(to(port) for port in range(1, BURST + 6)))
    assert len(lines) == BURST + 1
    assert lines[-1] == "Packets that were dropped: 5 of further flows are not told of, for there are too many lines"
    log.now += REFILL
    assert len(log.tell(to(1001), to(1002), to(1003))) == 1
    log.now += SUMMARY - REFILL
    lines = log.tell()
    assert lines == ["Packets that were dropped: 2 of further flows are not told of, for there are too many lines"]
    log.now += SUMMARY
    assert log.tell() == []


def test_what_was_lost_is_said_and_counted(log: Log) -> None:
    assert log.tell(lost=7) == ["Packets that were dropped: 7 came faster than they are read"]
    assert log.tell(lost=2) == []
    log.now += SUMMARY
    assert log.tell() == ["Packets that were dropped: 2 came faster than they are read"]
    assert log.shown()["netpol_logged_drops_lost_total",] == 9


def test_the_rules_of_others_are_not_told_of(log: Log) -> None:
    assert log.tell(packet("audit: ", PEER, OWN)) == []
    assert not [key for key in log.shown() if key[0] == "netpol_logged_drops_total"]


def test_every_packet_counts(log: Log) -> None:
    guard = packet(f"{GUARD_CHAIN} egress", FAR, PEER, link="veth1")
    log.tell(to(80), to(80), to(81), guard, packet(INVALID_CHAIN, PEER, OWN), packet(INGRESS, PEER, FAR))
    assert log.shown() == {
        ("netpol_drop_log_up",): 1,
        ("netpol_logged_drops_total", "ingress", "policy"): 4,
        ("netpol_logged_drops_total", "egress", "source"): 1,
        ("netpol_logged_drops_total", "", "invalid"): 1,
        ("netpol_logged_drops_lost_total",): 0,
        ("netpol_pod_logged_drops_total", "shop", "web", "ingress"): 3,
        ("netpol_pod_logged_drops_total", "shop", "web", "egress"): 1,
    }


def test_pods_are_told_apart_only_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    log = Log(caplog, per_pod=False)
    log.tell(to(80))
    assert not [key for key in log.shown() if "pod" in key[0]]


def test_pods_that_are_gone_or_too_many_are_shown_no_more(log: Log) -> None:
    log.tell(to(80))
    for number in range(MOST_PODS):
        address = f"10.245.{number // 250}.{number % 250 + 1}"
        log.known.pod(f"p{number}", address)
        log.known.world.sync()
        log.tell(packet(INGRESS, PEER, address))
    shown = {key[2] for key in log.shown() if key[0] == "netpol_pod_logged_drops_total"}
    assert shown == {f"p{number}" for number in range(MOST_PODS)}
    gone = DropLog(ClusterView, per_pod=True)
    gone.tell([to(80)], 0)
    assert not [s for one in gone.show(reading=False) if "pod" in one.name for s in one.samples]


def test_flows_are_not_remembered_without_end() -> None:
    limiter = Limiter()
    now = 0.0
    for port in range(1, MOST_FLOWS + 2):
        assert limiter.hear(to(port), now) == 0
        now += REFILL
    assert limiter.hear(to(1), now) == 0
    assert limiter.hear(to(MOST_FLOWS), now) is None
    assert limiter.untold == 0
