"""The metrics that users of the Go kube-router have dashboards for, as facts: name, type, labels, and with what.

Written down from what kube-router 2.11 serves, not from our table, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

PREFIX = "kube_router_"
SERVICE = "svc_namespace service_name service_vip protocol port"


class Fact(NamedTuple):
    """A metric: its name without prefix, its type, its labels, and the controller that it takes."""

    name: str
    type: str
    labels: frozenset[str]
    controller: str


def _facts(text: str) -> Iterable[Fact]:
    controller = ""
    for line in text.strip().splitlines():
        if line.startswith("  "):
            name, kind, *labels = line.split()
            yield Fact(name, kind, frozenset(labels), controller)
        else:
            controller = line.strip(": ")


FACTS = tuple(
    _facts(
        f"""
any:
  build_info gauge goversion version
  controller_ipvs_metrics_export_time histogram
router:
  bgp_peer_info gauge address type asn state
  controller_bgp_advertisements_received counter
  controller_bgp_advertisements_sent counter type
  controller_bgp_internal_peers_sync_time histogram
  controller_routes_sync_time histogram
  host_routes_sync_time histogram
  host_routes_synced gauge
  host_routes_added counter
  host_routes_removed counter
firewall:
  controller_iptables_sync_time histogram
  controller_iptables_v4_save_time histogram
  controller_iptables_v6_save_time histogram
  controller_iptables_v4_restore_time histogram
  controller_iptables_v6_restore_time histogram
  controller_policy_chains_sync_time histogram
  controller_policy_ipset_v4_restore_time histogram
  controller_policy_ipset_v6_restore_time histogram
  controller_policy_chains gauge
  controller_policy_ipsets gauge
service-proxy:
  controller_ipvs_services_sync_time histogram
  controller_ipvs_services gauge
  service_total_connections counter {SERVICE}
  service_packets_in counter {SERVICE}
  service_packets_out counter {SERVICE}
  service_bytes_in counter {SERVICE}
  service_bytes_out counter {SERVICE}
  service_pps_in gauge {SERVICE}
  service_pps_out gauge {SERVICE}
  service_cps gauge {SERVICE}
  service_bps_in gauge {SERVICE}
  service_bps_out gauge {SERVICE}
"""
    )
)
MORE_LABELS: Mapping[str, frozenset[str]] = {"build_info": frozenset(("runtime",))}
"""Labels that ours have besides."""
COUNTERS = tuple(fact.name for fact in FACTS if fact.type == "counter")
LINTED: Mapping[str, tuple[str, ...]] = {
    'counter metrics should have "_total" suffix': COUNTERS,
}
"""All that `promtool check metrics` has to say of names kept for compatibility: what it says, and of which metrics."""


def excused(line: str) -> bool:
    """Whether a line of `promtool check metrics` is about a name that is kept for compatibility."""
    name, _, complaint = line.partition(" ")
    return name.removeprefix(PREFIX) in LINTED.get(complaint, ())
