"""Makes `dashboard/kube-router.json` for Grafana: `python dashboard/generate.py` writes it anew, a test compares.

The panels are the table below; what Grafana wants around them is made here, ids and places included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 41
"""Of Grafana 12; Grafana brings older ones up to date itself, and from 11 on reads this one."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
NODES = 'instance=~"$instance"'
SERVICES = f'{NODES},svc_namespace=~"$namespace",service_name=~"$service"'
RATE = "[$__rate_interval]"
COLUMNS = 24


class Panel(NamedTuple):
    """A panel: what it shows by (query, legend), as what, in which unit, how wide and how high."""

    title: str
    text: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False


class Row(NamedTuple):
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


def metric(name: str, labels: str = NODES) -> str:
    """A selector of ours."""
    return f"kube_router_{name}{{{labels}}}"


def rate(name: str, by: str, labels: str = NODES) -> str:
    """The sum of a counter's rates."""
    return f"sum by ({by}) (rate({metric(name, labels)}{RATE}))"


def total(name: str, by: str, labels: str = NODES) -> str:
    """The sum of a gauge."""
    return f"sum by ({by}) ({metric(name, labels)})"


def at_most(name: str, share: str = "0.95") -> str:
    """The time that this share of observations stays below, over all nodes chosen."""
    return f"histogram_quantile({share}, sum by (le) (rate({metric(name + '_bucket')}{RATE})))"


def count_of(condition: str) -> str:
    """How many series a condition holds for; 0 instead of nothing."""
    return f"count({condition}) or vector(0)"


def heatmap(title: str, name: str, text: str) -> Panel:
    """How a time was distributed."""
    query = f"sum by (le) (increase({metric(name + '_bucket')}{RATE}))"
    return Panel(title, text, [(query, "{{le}}")], "heatmap", "s")


def number(title: str, query: str, text: str, unit: str = "short") -> Panel:
    """One number."""
    return Panel(title, text, [(query, "")], "stat", unit, 4, 4)


ROWS: Sequence[Row] = (
    Row(
        "At a glance",
        [
            number("Nodes", f"count({metric('build_info')})", "Nodes that answer Prometheus."),
            number(
                "Controllers not ready",
                count_of(f"{metric('controller_ready')} == 0"),
                "What they want is not in force.",
            ),
            number("BGP sessions down", count_of(f"{metric('bgp_peer_up')} == 0"), "Peers without a session."),
            number(
                "Oldest heartbeat",
                f"max({metric('heartbeat_age_seconds')})",
                "Health age: seconds since the loop of the slowest node came round.",
                "s",
            ),
            number("Objects refused", f"sum({metric('failed_objects')})", "Objects whose last write failed."),
            number(
                "Policies that allow nothing",
                count_of(f"{metric('policy_problems')} > 0"),
                "Not understood, or not taken by the kernel.",
            ),
        ],
    ),
    Row(
        "Health",
        [
            Panel(
                "Controllers ready",
                "As in /readyz.",
                [(metric("controller_ready"), "{{instance}} {{controller}}")],
                "state-timeline",
                width=12,
            ),
            Panel(
                "Sources in sync",
                "1 once a source has told all that it knew.",
                [(metric("source_synced"), "{{instance}} {{source}}")],
                "state-timeline",
                width=12,
            ),
            Panel(
                "Health age",
                "Seconds since the loop came round; from 120 on /livez says Unhealthy.",
                [(metric("heartbeat_age_seconds"), "{{instance}}")],
                unit="s",
            ),
            Panel(
                "Since the last success",
                "Seconds since all that a controller wants was in force.",
                [
                    (
                        f"time() - {metric('controller_last_success_timestamp_seconds')}",
                        "{{instance}} {{controller}}",
                    )
                ],
                unit="s",
            ),
            Panel(
                "Informer lag",
                "Seconds since the apiserver told anything of a kind: up to a minute is common, more is not.",
                [(metric("informer_lag_seconds"), "{{instance}} {{source}}")],
                unit="s",
            ),
            Panel(
                "Passes",
                "By what became of them.",
                [(rate("sync_total", "controller, result"), "{{controller}} {{result}}")],
                unit="ops",
            ),
            Panel(
                "What waits",
                "Events to be taken in, owners to be compiled, rows to be written.",
                [(total("queue_depth", "instance, queue"), "{{instance}} {{queue}}")],
            ),
            Panel(
                "Refusals",
                "By the kernel, gobgpd or whoever else keeps a kind of objects.",
                [(rate("operation_errors_total", "kind, operation"), "{{operation}} {{kind}}")],
                unit="ops",
            ),
            Panel("Objects owned", "By kind, of all nodes.", [(total("owned_objects", "kind"), "{{kind}}")]),
            Panel(
                "Objects refused, kinds away",
                "Objects whose last write failed, and kinds that can be neither read nor written.",
                [
                    (f"{total('failed_objects', 'kind')} > 0", "refused: {{kind}}"),
                    (f"count by (kind) ({metric('table_available')} == 0)", "away: {{kind}}"),
                ],
            ),
            Panel(
                "Drift",
                "Objects that somebody else has changed, and those put right.",
                [
                    (f"sum by (kind) (increase({metric('drift_found_total')}{RATE}))", "found: {{kind}}"),
                    (f"sum by (kind) (increase({metric('drift_repaired_total')}{RATE}))", "repaired: {{kind}}"),
                ],
            ),
            Panel(
                "Problems",
                "That stand now, by the kind of object that has them.",
                [(total("problems", "kind, reason"), "{{kind}} {{reason}}")],
                width=12,
                stacked=True,
            ),
            Panel("What runs", "By node.", [(metric("build_info"), "")], "table", width=12),
        ],
    ),
    Row(
        "BGP and routes",
        [
            Panel(
                "Peers by state",
                "Sessions of all nodes.",
                [(f"count by (state) ({metric('bgp_peer_info')})", "{{state}}")],
                stacked=True,
            ),
            Panel(
                "Sessions up",
                "1 while the session with a peer stands.",
                [(metric("bgp_peer_up"), "{{instance}} {{address}} {{type}}")],
                "state-timeline",
            ),
            Panel("Peers", "Each with its AS number and state.", [(metric("bgp_peer_info"), "")], "table"),
            Panel(
                "Routes from peers",
                "Received, and those of them that import policy takes.",
                [(metric("bgp_prefixes"), "{{instance}} {{peer}} {{direction}}")],
            ),
            Panel(
                "Best routes that gobgpd told of",
                "Own ones and withdrawals included.",
                [(rate("controller_bgp_advertisements_received", "instance"), "{{instance}}")],
                unit="ops",
            ),
            Panel(
                "Routes told to gobgpd",
                "Of pods and Services, and those taken back.",
                [(rate("controller_bgp_advertisements_sent", "type"), "{{type}}")],
                unit="ops",
            ),
            heatmap("Route sync", "controller_routes_sync_time", "Passes that concerned the router."),
            heatmap("Kernel route sync", "host_routes_sync_time", "The kernel's routes in such a pass."),
            heatmap("Peer sync", "controller_bgp_internal_peers_sync_time", "The BGP peers in such a pass."),
            Panel(
                "Routes kept",
                "In the kernel, by the router.",
                [(metric("host_routes_synced"), "{{instance}}")],
                width=12,
            ),
            Panel(
                "Routes changed",
                "Added or replaced, and removed.",
                [
                    (rate("host_routes_added", "instance"), "added: {{instance}}"),
                    (rate("host_routes_removed", "instance"), "removed: {{instance}}"),
                ],
                unit="ops",
                width=12,
            ),
        ],
    ),
    Row(
        "Service proxy",
        [
            heatmap("Service sync", "controller_ipvs_services_sync_time", "Passes that concerned the service proxy."),
            Panel(
                "IPVS services",
                "In the kernel, whoever made them.",
                [(metric("controller_ipvs_services"), "{{instance}}")],
            ),
            heatmap(
                "Reading of IPVS", "controller_ipvs_metrics_export_time", "What a scrape takes to ask for its counters."
            ),
            Panel(
                "Connections",
                "New ones per second, by Service.",
                [
                    (
                        rate("service_total_connections", "svc_namespace, service_name", SERVICES),
                        "{{svc_namespace}}/{{service_name}}",
                    )
                ],
                unit="cps",
            ),
            Panel(
                "Bytes",
                "From and to clients, by Service.",
                [
                    (rate("service_bytes_in", "svc_namespace, service_name", SERVICES), "in: {{service_name}}"),
                    (rate("service_bytes_out", "svc_namespace, service_name", SERVICES), "out: {{service_name}}"),
                ],
                unit="Bps",
            ),
            Panel(
                "Packets",
                "From and to clients, by Service.",
                [
                    (rate("service_packets_in", "svc_namespace, service_name", SERVICES), "in: {{service_name}}"),
                    (rate("service_packets_out", "svc_namespace, service_name", SERVICES), "out: {{service_name}}"),
                ],
                unit="pps",
            ),
            Panel(
                "Connections, as the kernel averages",
                "By Service.",
                [(total("service_cps", "svc_namespace, service_name", SERVICES), "{{svc_namespace}}/{{service_name}}")],
                unit="cps",
            ),
            Panel(
                "Bytes, as the kernel averages",
                "By Service.",
                [
                    (total("service_bps_in", "svc_namespace, service_name", SERVICES), "in: {{service_name}}"),
                    (total("service_bps_out", "svc_namespace, service_name", SERVICES), "out: {{service_name}}"),
                ],
                unit="Bps",
            ),
            Panel(
                "Packets, as the kernel averages",
                "By Service.",
                [
                    (total("service_pps_in", "svc_namespace, service_name", SERVICES), "in: {{service_name}}"),
                    (total("service_pps_out", "svc_namespace, service_name", SERVICES), "out: {{service_name}}"),
                ],
                unit="pps",
            ),
            Panel(
                "Endpoints that drain",
                "With --ipvs-graceful-termination: they went, and keep their connections.",
                [(metric("draining_destinations"), "{{instance}}")],
            ),
            Panel("Drains that ended", "And how.", [(rate("drains_total", "end"), "{{end}}")], unit="ops"),
            Panel(
                "UDP flows forgotten",
                "Which were remembered with who does not serve them.",
                [(rate("udp_stale_flows_removed_total", "instance"), "{{instance}}")],
                unit="ops",
            ),
        ],
    ),
    Row(
        "Network policy",
        [
            heatmap("Policy sync", "controller_iptables_sync_time", "Passes that concerned the firewall."),
            heatmap("Chain sync", "controller_policy_chains_sync_time", "The chains in such a pass."),
            Panel(
                "Chains and sets",
                "Chains with what policies allow, and sets of the firewall.",
                [
                    (metric("controller_policy_chains"), "chains: {{instance}}"),
                    (metric("controller_policy_ipsets"), "sets: {{instance}}"),
                ],
            ),
            Panel(
                "iptables-save",
                "95 of 100 take no longer.",
                [
                    (at_most("controller_iptables_v4_save_time"), "IPv4"),
                    (at_most("controller_iptables_v6_save_time"), "IPv6"),
                ],
                unit="s",
            ),
            Panel(
                "iptables-restore",
                "95 of 100 take no longer.",
                [
                    (at_most("controller_iptables_v4_restore_time"), "IPv4"),
                    (at_most("controller_iptables_v6_restore_time"), "IPv6"),
                ],
                unit="s",
            ),
            Panel(
                "Batches of set entries",
                "95 of 100 take no longer.",
                [
                    (at_most("controller_policy_ipset_v4_restore_time"), "IPv4"),
                    (at_most("controller_policy_ipset_v6_restore_time"), "IPv6"),
                ],
                unit="s",
            ),
            Panel(
                "Policies that allow nothing",
                "And why.",
                [(f"{total('policy_problems', 'namespace, policy, reason')} > 0", "")],
                "table",
            ),
            Panel(
                "Packets by policy",
                "With --netpol-metrics-per-policy: first packets of flows.",
                [
                    (
                        rate("netpol_packets_total", "namespace, policy, direction, verdict"),
                        "{{namespace}}/{{policy}} {{direction}} {{verdict}}",
                    )
                ],
                unit="pps",
            ),
            Panel(
                "Bytes by policy",
                "Of these packets.",
                [
                    (
                        rate("netpol_bytes_total", "namespace, policy, direction, verdict"),
                        "{{namespace}}/{{policy}} {{direction}} {{verdict}}",
                    )
                ],
                unit="Bps",
            ),
            Panel(
                "Packets by profile",
                "The same packets, each once.",
                [
                    (
                        rate("netpol_profile_packets_total", "profile, direction, verdict"),
                        "{{profile}} {{direction}} {{verdict}}",
                    )
                ],
                unit="pps",
            ),
            Panel(
                "Bytes by profile",
                "Of these packets.",
                [
                    (
                        rate("netpol_profile_bytes_total", "profile, direction, verdict"),
                        "{{profile}} {{direction}} {{verdict}}",
                    )
                ],
                unit="Bps",
            ),
            Panel(
                "Policies behind profiles",
                "Which policies judge by a profile, the name in the log of refused packets.",
                [(total("netpol_profile_info", "profile, direction, namespace, policy"), "")],
                "table",
            ),
            Panel(
                "Drops that were told of",
                "At most ten a minute per profile and chain: that and why, not how many. Lost ones came too fast.",
                [
                    (rate("netpol_logged_drops_total", "direction, reason"), "{{direction}} {{reason}}"),
                    (rate("netpol_logged_drops_lost_total", "instance"), "lost: {{instance}}"),
                ],
                unit="ops",
            ),
            Panel(
                "Drops by pod",
                "The same, by the pod that was protected or that sent from an address not its own.",
                [
                    (
                        f"topk(20, {rate('netpol_pod_logged_drops_total', 'namespace, pod, direction')})",
                        "{{namespace}}/{{pod}} {{direction}}",
                    )
                ],
                unit="ops",
            ),
            Panel(
                "Counters and log",
                "0 while what chains count, or the log of drops, cannot be read.",
                [
                    (metric("netpol_counters_up"), "counters: {{instance}}"),
                    (metric("netpol_drop_log_up"), "log: {{instance}}"),
                ],
                "state-timeline",
            ),
        ],
    ),
    Row(
        "LoadBalancer addresses",
        [
            Panel(
                "Addresses by range and state",
                "Of each range of --loadbalancer-ip-range, as the leader sees them.",
                [("max by (range, state) (kube_router_lb_pool_addresses)", "{{range}} {{state}}")],
                width=12,
                stacked=True,
            ),
            Panel(
                "Pool usage",
                "Share of each range that is not free.",
                [
                    (
                        '1 - max by (range) (kube_router_lb_pool_addresses{state="free"}) '
                        "/ sum by (range) (max by (range, state) (kube_router_lb_pool_addresses))",
                        "{{range}}",
                    )
                ],
                unit="percentunit",
                width=12,
            ),
            Panel(
                "Leader",
                "The node that gives addresses now.",
                [(metric("lb_leader"), "{{instance}}")],
                "state-timeline",
            ),
        ],
    ),
    Row(
        "The process",
        [
            Panel("Memory", "Resident.", [(f"process_resident_memory_bytes{{{NODES}}}", "{{instance}}")], unit="bytes"),
            Panel(
                "Processor",
                "Seconds per second.",
                [(f"rate(process_cpu_seconds_total{{{NODES}}}{RATE})", "{{instance}}")],
                unit="s",
            ),
            Panel("Open files", "Descriptors.", [(f"process_open_fds{{{NODES}}}", "{{instance}}")]),
        ],
    ),
)


def dashboard() -> dict[str, Any]:
    """The whole dashboard, as Grafana imports it."""
    return {
        "uid": "kube-router",
        "title": "kube-router",
        "description": "All metrics of kube-router, by node. Made by dashboard/generate.py.",
        "tags": ["kubernetes", "network", "kube-router"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    asked = (
        ("instance", "Node", "label_values(kube_router_build_info, instance)"),
        ("namespace", "Namespace", f"label_values({metric('service_total_connections')}, svc_namespace)"),
        (
            "service",
            "Service",
            "label_values("
            + metric("service_total_connections", f'{NODES},svc_namespace=~"$namespace"')
            + ", service_name)",
        ),
    )
    for name, label, query in asked:
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in ROWS:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, height = 0, top + height, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults |= {"min": 0, "custom": {"fillOpacity": 20 if panel.stacked else 5, "stacking": stacking}}
    elif panel.kind == "state-timeline":
        colours = {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}
        defaults |= {"mappings": [{"type": "value", "options": colours}]}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": query,
                "legendFormat": legend or "__auto",
                "instant": panel.kind in ("stat", "table"),
                "range": panel.kind not in ("stat", "table"),
                "format": panel.kind if panel.kind in ("table", "heatmap") else "time_series",
            }
            for at, (query, legend) in enumerate(panel.queries)
        ],
    }


_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "state-timeline": {"legend": _LEGEND, "mergeValues": True, "showValue": "never", "tooltip": {"mode": "single"}},
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"},
    "table": {"showHeader": True, "cellHeight": "sm"},
    "heatmap": {
        "calculate": False,
        "yAxis": {"unit": "s"},
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "cellGap": 1,
        "tooltip": {"mode": "single"},
    },
}
"""What kinds of panels want besides."""


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "kube-router.json").write_text(text())
