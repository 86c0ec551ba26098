"""How many load balancer addresses are given and left, and whether this process gives them."""

from __future__ import annotations

from kuberouter.compilers.loadbalancer import usable
from kuberouter.daemon.balancer import Balancer
from kuberouter.daemon.metrics import Series, series

MOST = (1 << 53) - 1
"""The largest number that is shown: up to it Prometheus counts exactly."""


class BalancerCounts:
    """The metrics of the allocator."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def show(self) -> list[Series]:
        """Who leads; ranges only there, once all Services are known, for nobody else knows what is taken."""
        leads = self._balancer.elector.leads()
        shown = [series("lb_leader", int(leads))]
        if not leads or not self._balancer.loaded:
            return shown
        settings, taken = self._balancer.settings, self._balancer.allocator.taken
        values: dict[tuple[str, str], float] = {}
        for block in settings.ranges:
            span = usable(block, settings)
            allocated = taken.count(block.family, span)
            values[str(block), "allocated"] = min(MOST, allocated)
            values[str(block), "free"] = min(MOST, span.last - span.first + 1 - allocated)
        return [*shown, series("lb_pool_addresses", values)]
