"""Every metric, as data, and the text form in which Prometheus reads them.

Nothing else names, types or explains a metric. The names that the Go kube-router had are kept to the letter, so its
counters go without the `_total` that Prometheus asks for and that ours have. Text format 0.0.4:
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K", bound=tuple[str, ...])

PREFIX = "kube_router_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; the buckets of the Go client, on which queries and heat maps rely."""
FIREWALL, ROUTER, PROXY = "firewall", "router", "service-proxy"
"""Controllers whose metrics are only there when they run."""
PER_POLICY = "--netpol-metrics-per-policy"
GRACEFUL = "--ipvs-graceful-termination"
LOG_DROPS = "--netpol-log-drops"
BALANCER = "--run-loadbalancer"
SERVICE = ("svc_namespace", "service_name", "service_vip", "protocol", "port")


class Metric(NamedTuple):
    """One metric: its name without prefix, its type, what it says, its labels, and what it takes to be there."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    condition: str = ""


METRICS: tuple[Metric, ...] = (
    Metric("build_info", "gauge", "Always 1; says what runs.", ("goversion", "runtime", "version")),
    # The controllers' work.
    Metric(
        "controller_iptables_sync_time",
        "histogram",
        "Seconds of a pass that concerned the firewall: what has to change, and the writing of it.",
        condition=FIREWALL,
    ),
    Metric("controller_iptables_v4_save_time", "histogram", "Seconds of an iptables-save.", condition=FIREWALL),
    Metric("controller_iptables_v6_save_time", "histogram", "Seconds of an ip6tables-save.", condition=FIREWALL),
    Metric("controller_iptables_v4_restore_time", "histogram", "Seconds of an iptables-restore.", condition=FIREWALL),
    Metric("controller_iptables_v6_restore_time", "histogram", "Seconds of an ip6tables-restore.", condition=FIREWALL),
    Metric(
        "controller_policy_chains_sync_time",
        "histogram",
        "Seconds for the chains in a pass that concerned the firewall.",
        condition=FIREWALL,
    ),
    Metric(
        "controller_policy_ipset_v4_restore_time",
        "histogram",
        "Seconds for a batch of set entries with IPv4 among them.",
        condition=FIREWALL,
    ),
    Metric(
        "controller_policy_ipset_v6_restore_time",
        "histogram",
        "Seconds for a batch of set entries with IPv6 among them.",
        condition=FIREWALL,
    ),
    Metric("controller_policy_chains", "gauge", "Chains with what policies allow.", condition=FIREWALL),
    Metric("controller_policy_ipsets", "gauge", "Sets of the firewall.", condition=FIREWALL),
    Metric(
        "controller_routes_sync_time",
        "histogram",
        "Seconds of a pass that concerned the router: what has to change, and the writing of it.",
        condition=ROUTER,
    ),
    Metric(
        "controller_bgp_internal_peers_sync_time",
        "histogram",
        "Seconds for the BGP peers in a pass that concerned the router.",
        condition=ROUTER,
    ),
    Metric(
        "bgp_peer_info",
        "gauge",
        "Always 1; says which peers gobgpd has, whether they are of its own AS number (internal) or not (external), "
        "the AS number that is configured, and the state of the session.",
        ("address", "type", "asn", "state"),
        ROUTER,
    ),
    Metric("bgp_peer_up", "gauge", "1 while the session with a peer stands.", ("address", "type"), ROUTER),
    Metric(
        "bgp_prefixes",
        "gauge",
        "Routes that a peer tells of now (received), and those of them that import policy takes (accepted).",
        ("peer", "direction"),
        ROUTER,
    ),
    Metric(
        "controller_bgp_advertisements_received",
        "counter",
        "Best routes that gobgpd told of, own ones and withdrawals included.",
        condition=ROUTER,
    ),
    Metric(
        "controller_bgp_advertisements_sent",
        "counter",
        "Routes given to gobgpd (pod-route, advertise-vip) or taken back (withdraw-vip), each when it changes.",
        ("type",),
        ROUTER,
    ),
    Metric(
        "host_routes_sync_time",
        "histogram",
        "Seconds for the kernel's routes in a pass that concerned the router.",
        condition=ROUTER,
    ),
    Metric("host_routes_synced", "gauge", "Routes that the router keeps in the kernel.", condition=ROUTER),
    Metric("host_routes_added", "counter", "Routes put into the kernel, or replaced there.", condition=ROUTER),
    Metric("host_routes_removed", "counter", "Routes taken out of the kernel.", condition=ROUTER),
    Metric(
        "controller_ipvs_services_sync_time",
        "histogram",
        "Seconds of a pass that concerned the service proxy: what has to change, and the writing of it.",
        condition=PROXY,
    ),
    Metric(
        "controller_ipvs_metrics_export_time",
        "histogram",
        "Seconds of asking IPVS for what it counts, and of putting it together, for one scrape; without the service "
        "proxy it is there and counts nothing.",
    ),
    Metric("controller_ipvs_services", "gauge", "IPVS services in the kernel, whoever made them.", condition=PROXY),
    Metric("service_total_connections", "counter", "Connections to a Service at an address.", SERVICE, PROXY),
    Metric("service_packets_in", "counter", "Packets from clients.", SERVICE, PROXY),
    Metric("service_packets_out", "counter", "Packets to clients; not those sent past this node.", SERVICE, PROXY),
    Metric("service_bytes_in", "counter", "Bytes from clients.", SERVICE, PROXY),
    Metric("service_bytes_out", "counter", "Bytes to clients; not those sent past this node.", SERVICE, PROXY),
    Metric("service_cps", "gauge", "Connections per second, as the kernel averages.", SERVICE, PROXY),
    Metric("service_pps_in", "gauge", "Packets per second from clients.", SERVICE, PROXY),
    Metric("service_pps_out", "gauge", "Packets per second to clients.", SERVICE, PROXY),
    Metric("service_bps_in", "gauge", "Bytes per second from clients.", SERVICE, PROXY),
    Metric("service_bps_out", "gauge", "Bytes per second to clients.", SERVICE, PROXY),
    Metric(
        "udp_stale_flows_removed_total",
        "counter",
        "Flows to UDP services that were remembered with who does not serve them, and forgotten.",
        condition=PROXY,
    ),
    Metric(
        "draining_destinations",
        "gauge",
        "Endpoints in IPVS that went and keep their connections.",
        condition=GRACEFUL,
    ),
    Metric(
        "drains_total",
        "counter",
        "Such endpoints that do so no more: their connections ended (idle), their time was over (deadline), they came "
        "back (returned), or what they served is served no more (withdrawn).",
        ("end",),
        GRACEFUL,
    ),
    # How the daemon is.
    Metric(
        "controller_ready", "gauge", "1 if all that a controller wants is in force, as in /readyz.", ("controller",)
    ),
    Metric(
        "sync_total",
        "counter",
        "Passes that concerned a controller: success if nothing of its kinds of objects was refused, else error.",
        ("controller", "result"),
    ),
    Metric(
        "controller_last_success_timestamp_seconds",
        "gauge",
        "Unix time at which all that a controller wants was last known to be in force.",
        ("controller",),
    ),
    Metric(
        "heartbeat_age_seconds",
        "gauge",
        "Seconds since the loop of the engine, or of the allocator, last got on; of several the longest.",
    ),
    Metric(
        "queue_depth",
        "gauge",
        "What waits: events to be taken in, owners to be compiled, rows to be written.",
        ("queue",),
    ),
    Metric("source_synced", "gauge", "1 once a source has told all that it knew at the start.", ("source",)),
    Metric(
        "informer_lag_seconds",
        "gauge",
        "Seconds since the apiserver last told anything of a kind of objects. Where nothing changes it says so about "
        "once a minute; more means that what is known of them may be as old as that.",
        ("source",),
    ),
    Metric("owned_objects", "gauge", "Objects outside the daemon that it wants to exist, by kind.", ("kind",)),
    Metric("failed_objects", "gauge", "Those whose last write failed; they are tried again.", ("kind",)),
    Metric("table_available", "gauge", "0 while objects of a kind can be neither read nor written.", ("kind",)),
    Metric(
        "operation_errors_total",
        "counter",
        "Refused: single objects on add and remove, or a kind as a whole, also on read.",
        ("kind", "operation"),
    ),
    Metric("drift_found_total", "counter", "Objects that an audit found other than they were left.", ("kind",)),
    Metric("drift_repaired_total", "counter", "Objects that were found so and put right.", ("kind",)),
    Metric("problems", "gauge", "Problems that stand now, by the kind of object that has them.", ("kind", "reason")),
    Metric(
        "policy_problems",
        "gauge",
        "Problems of one NetworkPolicy, as its Events tell; meanwhile it allows nothing, so the pods that it selects "
        "are closed but for what other policies allow.",
        ("namespace", "policy", "reason"),
        FIREWALL,
    ),
    # Policies, one by one.
    Metric(
        "netpol_packets_total",
        "counter",
        "Packets that a policy has let pass (accepted), or that no policy has let pass to or from pods which it "
        "selects (refused, shown for each of their policies). Packets of open flows are not judged, so of a flow the "
        "first one counts; with --netpol-existing-flows=cut all from its beginner.",
        ("namespace", "policy", "direction", "verdict"),
        PER_POLICY,
    ),
    Metric(
        "netpol_bytes_total",
        "counter",
        "Bytes of the packets in netpol_packets_total.",
        ("namespace", "policy", "direction", "verdict"),
        PER_POLICY,
    ),
    Metric(
        "netpol_profile_packets_total",
        "counter",
        "The same packets, each in one series only: by the chain that judges pods under the same policies; `invalid` "
        "are those that connection tracking makes nothing of.",
        ("profile", "direction", "verdict"),
        PER_POLICY,
    ),
    Metric(
        "netpol_profile_bytes_total",
        "counter",
        "Bytes of the packets in netpol_profile_packets_total.",
        ("profile", "direction", "verdict"),
        PER_POLICY,
    ),
    Metric(
        "netpol_profile_info",
        "gauge",
        "Always 1; says which policies judge by a profile, the name in the log of refused packets.",
        ("profile", "direction", "namespace", "policy"),
        PER_POLICY,
    ),
    Metric("netpol_counters_up", "gauge", "0 while what the policies' chains count cannot be read.", (), PER_POLICY),
    # Load balancer addresses.
    Metric("lb_leader", "gauge", "1 on the node that gives load balancer addresses now.", condition=BALANCER),
    Metric(
        "lb_pool_addresses",
        "gauge",
        "Addresses of a range that Services have (allocated) and that may be given (free), as the leader sees them; "
        "where there are more than 2^53 it is that number.",
        ("range", "state"),
        BALANCER,
    ),
    # Packets that were dropped, as the kernel logs them.
    Metric("netpol_drop_log_up", "gauge", "0 while another program reads the log of dropped packets.", (), LOG_DROPS),
    Metric(
        "netpol_logged_drops_total",
        "counter",
        "Dropped packets that the kernel told of: at most ten a minute per profile and chain, so this says that and "
        "why packets are dropped, not how many. Reasons: policy; source, an address that is not the sender's own; "
        "invalid, no flow's packet; unknown, an address that is nobody's yet.",
        ("direction", "reason"),
        LOG_DROPS,
    ),
    Metric(
        "netpol_logged_drops_lost_total",
        "counter",
        "Such packets that the kernel told of faster than they are read.",
        (),
        LOG_DROPS,
    ),
    Metric(
        "netpol_pod_logged_drops_total",
        "counter",
        "The packets of netpol_logged_drops_total with a direction, by the pod of this node that was protected or that "
        "sent from an address not its own; of at most 500 pods. Needs --netpol-log-drops, too.",
        ("namespace", "pod", "direction"),
        PER_POLICY,
    ),
)

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


class Sample(NamedTuple):
    """One line: what is appended to the metric's name, its labels by name, its value."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Series(NamedTuple):
    """A metric with all its samples, under its full name."""

    name: str
    type: str
    help: str
    samples: tuple[Sample, ...]


def series(name: str, values: Mapping[K, float] | float) -> Series:
    """A metric of the table with its values, by the values of its labels in the order in which the table names them."""
    metric = BY_NAME[name]
    items = values.items() if isinstance(values, Mapping) else [((), values)]
    samples = (Sample("", tuple(zip(metric.labels, key, strict=True)), value) for key, value in items)
    return Series(PREFIX + name, metric.type, metric.help, tuple(samples))


def expose(found: Iterable[Series]) -> str:
    """The text that a scrape gets. Metrics without samples are left out."""
    return "".join(line + "\n" for one in found if one.samples for line in _lines(one))


def _lines(one: Series) -> Iterator[str]:
    yield f"# HELP {one.name} {one.help.translate(_IN_HELP)}"
    yield f"# TYPE {one.name} {one.type}"
    for suffix, labels, value in one.samples:
        shown = ",".join(f'{name}="{text.translate(_IN_LABEL)}"' for name, text in labels)
        yield f"{one.name}{suffix}{{{shown}}} {_number(value)}" if shown else f"{one.name}{suffix} {_number(value)}"


def _number(value: float) -> str:
    whole = math.isfinite(value) and value == int(value) and abs(value) < 1 << 53
    return str(int(value)) if whole else repr(value)


_IN_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})
_IN_LABEL = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def reference() -> str:
    """The table of all metrics for the documentation, in Markdown."""
    rows = ["| Metric | Type | Labels | There with | Says |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        condition = f"`{metric.condition}`" if metric.condition.startswith("--") else metric.condition
        rows.append(f"| `{PREFIX}{metric.name}` | {metric.type} | {labels} | {condition} | {metric.help} |")
    return "\n".join((*rows, ""))
