"""Metrics as Prometheus gets them from a running daemon: over HTTP, while policies judge real packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import nflog
from tests.support.gometrics import excused
from tests.support.lab import Lab
from tests.support.probes import until
from tests.support.promtool import promtool

pytestmark = pytest.mark.root
PORT = 9464
URL = f"http://127.0.0.1:{PORT}/metrics"
ARGUMENTS = [
    "--run-router=false",
    "--run-service-proxy=false",
    f"--metrics-port={PORT}",
    "--netpol-metrics-per-policy",
    # The tests read it themselves.
    "--netpol-log-drops=false",
]
FRIENDS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: closed}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 80}]}]
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {matchLabels: {app: closed}}, policyTypes: [Ingress]}
"""
BROKEN = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: broken, namespace: default}
spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress, Sideways]}
"""
CONFINED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: confined, namespace: default}
spec: {podSelector: {matchLabels: {role: confined}}, policyTypes: [Egress]}
"""
Found = dict[tuple[str, ...], float]
TRIES = 5


@pytest.fixture(scope="module", params=["false", "true"], ids=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    arguments = [*ARGUMENTS, f"--use-nftables-for-netpol={request.param}"]
    with Lab(nodes=1, subnets=1, daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("other", "node1")
        lab.pod("target", "node1", labels={"app": "closed"})
        yield lab


def page(lab: Lab) -> str:
    """The text of a scrape."""
    return lab.nodes[0].sh(f"curl -sS --fail -m 10 {URL}")


def scrape(lab: Lab) -> Found:
    """Samples by name without prefix and the values of their labels."""
    found: Found = {}
    for family in text_string_to_metric_families(page(lab)):
        assert family.documentation, family.name
        for sample in family.samples:
            found[sample.name.removeprefix("kube_router_"), *sample.labels.values()] = sample.value
    return found


def test_a_scrape_shows_the_work_that_is_done(lab: Lab) -> None:
    heads = lab.nodes[0].sh(f"curl -sSI -m 10 {URL}")
    assert "200 OK" in heads
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in heads
    lab.apply(FRIENDS)
    lab.wait(lambda: scrape(lab)["controller_policy_chains",] == 1, 20, "the policy's chain")
    found = scrape(lab)
    assert found["controller_ready", "firewall"] == 1
    assert found["heartbeat_age_seconds",] < 60
    assert found["source_synced", "networkpolicies"] == 1
    nftables = ("owned_objects", "NftChain") in found
    chain, ways = ("NftChain", ()) if nftables else ("Chain", ("v4_save", "v4_restore"))
    assert found["owned_objects", chain] >= 5
    assert found["failed_objects", chain] == 0
    assert found["controller_policy_ipsets",] >= 3
    for name in ("iptables_sync", "policy_chains_sync", *(f"iptables_{way}" for way in ways)):
        assert found[f"controller_{name}_time_count",] > 0, name
        assert found[f"controller_{name}_time_sum",] > 0, name
    assert found["process_resident_memory_bytes",] > 1e6
    assert not any(name.startswith(("controller_ipvs_services", "host_routes")) for name, *_ in found)


def test_packets_count_for_the_policies_that_judge_them(lab: Lab) -> None:
    """W30, pain 34."""
    friend, other, target = (lab.pods[f"default/{name}"] for name in ("friend", "other", "target"))
    lab.apply(FRIENDS)
    lab.apply(DENY)
    assert until(other.prober, target.job(), lambda result: not result.allowed) is not None
    assert until(friend.prober, target.job(), lambda result: result.allowed) is not None
    accepted = ("netpol_packets_total", "default", "friends", "ingress", "accepted")
    refused = ("netpol_packets_total", "default", "deny", "ingress", "refused")
    lab.wait(lambda: scrape(lab).get(refused, 0) > 0, 20, "a packet that is counted as refused")
    before = scrape(lab)
    for _ in range(TRIES):
        assert friend.reaches(target)
        assert not other.reaches(target)
    lab.wait(lambda: scrape(lab)[refused] >= before[refused] + TRIES, 20, "refused packets")
    lab.wait(lambda: scrape(lab)[accepted] >= before[accepted] + TRIES, 20, "accepted packets")
    found = scrape(lab)
    assert found["netpol_counters_up",] == 1
    # Only what opens a connection is judged, so there are no more than tries, however many packets there were.
    assert found[accepted] == before[accepted] + TRIES
    assert found["netpol_bytes_total", *accepted[1:]] >= 40 * found[accepted]
    assert found["netpol_packets_total", "default", "deny", "ingress", "accepted"] == 0
    assert found["netpol_packets_total", "default", "friends", "ingress", "refused"] == found[refused]
    (profile,) = {key[1] for key in found if key[0] == "netpol_profile_info" and key[3:] == ("default", "deny")}
    assert ("netpol_profile_info", profile, "ingress", "default", "friends") in found
    assert found["netpol_profile_packets_total", profile, "ingress", "refused"] == found[refused]


def test_the_log_of_a_refused_packet_leads_to_its_pod_and_its_policy(lab: Lab) -> None:
    """W30, pain 34."""
    other, target = lab.pods["default/other"], lab.pods["default/target"]
    lab.apply(CONFINED)
    other.labels = {"role": "confined"}
    lab.update(other)
    found: list[nflog.Record] = []
    with nflog.listening(lab.nodes[0].namespace) as log:

        def logged() -> bool:
            # Until the policy is in force another one refuses, for the other end.
            assert not other.reaches(target)
            record = log.find(lambda each: each.source == other.ip and each.prefix.endswith(" egress"), 0.1)
            found.extend([record] if record is not None else [])
            return bool(found)

        lab.wait(logged, 20, "a record of a refused packet")
    profile, direction = found[0].prefix.split(" ")
    info = ("netpol_profile_info", profile, direction, "default", "confined")
    lab.wait(lambda: info in scrape(lab), 20, "the profile among the metrics")
    other.labels = {}
    lab.update(other)
    lab.delete("NetworkPolicy", "default", "confined")


def test_counts_go_on_over_a_restart(lab: Lab) -> None:
    friend, target = lab.pods["default/friend"], lab.pods["default/target"]
    lab.apply(FRIENDS)
    accepted = ("netpol_packets_total", "default", "friends", "ingress", "accepted")
    # What passes before the policy is in force is counted nowhere.
    counted = lambda: friend.reaches(target) and scrape(lab).get(accepted, 0) > 0  # noqa: E731
    lab.wait(counted, 20, "a packet that is counted as accepted")
    before = scrape(lab)[accepted]
    node = lab.nodes[0]
    node.stop_daemon()
    node.start_daemon()
    lab.wait(lambda: lab.check_alive() and node.ready(), 40, "a ready daemon")
    assert scrape(lab)[accepted] >= before


def test_a_policy_that_is_not_understood_is_a_metric(lab: Lab) -> None:
    """W30, pain 29."""
    lab.apply(BROKEN)
    problems = lambda: {key[1:]: n for key, n in scrape(lab).items() if key[0] == "policy_problems"}  # noqa: E731
    lab.wait(lambda: any(key[:2] == ("default", "broken") for key in problems()), 20, "a metric of the problem")
    assert {key[:2] for key in problems()} == {("default", "broken")}
    lab.delete("NetworkPolicy", "default", "broken")
    lab.wait(lambda: not problems(), 20, "no problem")


def test_another_path_has_nothing(lab: Lab) -> None:
    code = "curl -sS -m 10 -o /dev/null -w '%{http_code}' "
    assert lab.nodes[0].sh(f"{code} http://127.0.0.1:{PORT}/") == "404"


def test_promtool_objects_to_nothing_but_names_kept_from_before(lab: Lab) -> None:
    status, said = promtool(["check", "metrics"], page(lab))
    # 3 is for what it would name otherwise, 1 for what it cannot read.
    assert status in (0, 3)
    assert [line for line in said.splitlines() if not excused(line)] == []
