"""What asking for a flag brings into the firewall's part."""

from __future__ import annotations

import pytest

from kuberouter.daemon.parts.firewall import firewall_part
from kuberouter.model.settings import FirewallSettings


@pytest.mark.parametrize("nftables", [False, True])
@pytest.mark.parametrize("log_drops", [False, True])
def test_the_log_of_drops_is_read_only_if_asked_for_and_nothing_waits_for_it(log_drops: bool, nftables: bool) -> None:
    part = firewall_part(FirewallSettings(log_drops=log_drops, nftables=nftables))
    assert ("drops" in {source.name for source in part.sources}) is log_drops
    assert "drops" not in part.needs
    shown = {one.name: [sample.value for sample in one.samples] for show in part.shows for one in show()}
    # Nobody has taken the group yet.
    assert shown.get("kube_router_netpol_drop_log_up") == ([0] if log_drops else None)
