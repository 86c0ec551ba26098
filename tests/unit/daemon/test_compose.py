"""What a composition has tables wait for."""

from __future__ import annotations

from kuberouter.daemon.compose import awaited
from kuberouter.daemon.parts.drain import drain
from kuberouter.daemon.parts.part import Part
from kuberouter.engine.planner import NODE_KNOWN
from kuberouter.model.ipvs import Destination, VirtualService
from kuberouter.model.settings import ProxySettings


def test_removals_await_what_is_found_at_the_first_read_and_that_read_does_not() -> None:
    part = Part("service-proxy")
    part.needs = frozenset(("services",))
    part.read_late = (VirtualService, Destination)
    drain(part, ProxySettings(graceful=True))
    needs = {NODE_KNOWN, "services"}
    assert awaited(Destination, [part]) == (needs, needs | {"drains"})
    assert awaited(VirtualService, [part]) == (needs, needs)


def test_a_table_of_several_controllers_awaits_the_sources_of_all_and_is_read_at_once_unless_one_wants_it_late() -> (
    None
):
    first, second = Part("first"), Part("second")
    first.needs, second.needs = frozenset(("nodes",)), frozenset(("pods",))
    assert awaited(Destination, [first, second]) == (frozenset(), {NODE_KNOWN, "nodes", "pods"})
    second.read_late = (Destination,)
    assert awaited(Destination, [first, second]) == ({NODE_KNOWN, "nodes", "pods"},) * 2
