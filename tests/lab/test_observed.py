"""A whole node as its observers see it, on a processor as slow as there is: a kubelet's probes, and a scrape.

All controllers work in both families and have something to do, so every metric that users know has something to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gometrics import FACTS, MORE_LABELS, PREFIX, excused
from tests.support.kubelet import LIVENESS, PROBES, STARTUP, Kubelet
from tests.support.lab import Lab
from tests.support.lab.process import Child
from tests.support.probes import Job
from tests.support.promtool import promtool

pytestmark = [pytest.mark.ipvs, pytest.mark.dummy]
PORT = 9464
ARGUMENTS = [f"--metrics-port={PORT}", "--metrics-token-file=/run/token", "--ipvs-graceful-termination"]
VIP = "10.96.0.10"
CLUSTER = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  clusterIP: {VIP}
  clusterIPs: [{VIP}]
  selector: {{app: web}}
  ports: [{{port: 80, protocol: TCP}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: friends, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  ingress: [{{from: [{{podSelector: {{matchLabels: {{role: friend}}}}}}]}}]
"""
SPEAKER = """
[global.config]
as = 64512
router-id = "{own}"
[[neighbors]]
[neighbors.config]
neighbor-address = "{peer}"
peer-as = 64512
"""


class Watched:
    """The lab, and the kubelet of its first node."""

    def __init__(self, lab: Lab, kubelet: Kubelet) -> None:
        self.lab = lab
        self.kubelet = kubelet
        self.node = lab.node("node1")

    def page(self) -> str:
        """The text of a scrape."""
        return self.node.sh(f"curl -sS --fail -m 20 -H 'Authorization: Bearer open' http://127.0.0.1:{PORT}/metrics")


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """Of the second node there is only a gobgpd, which costs less than a daemon."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(nodes=2, subnets=1, families=(4, 6), daemon_arguments=ARGUMENTS))
        node, other = lab.nodes
        (node.run / "token").write_text("open\n")
        lab.apply(CLUSTER)
        config = other.home / "gobgpd.toml"
        config.write_text(SPEAKER.format(own=other.ip, peer=node.ip))
        other.gobgpd = Child(
            other.command(["gobgpd", "-f", str(config)]), other.home / "gobgpd.log", other.environment()
        )
        kubelet = stack.enter_context(Kubelet(node.namespace).watching())
        lab.start_node(node)
        lab.wait(lambda: lab.check_alive() and node.ready(), 60, "a ready daemon")
        lab.pod("web", "node1", labels={"app": "web"})
        client = lab.pod("friend", "node1", labels={"role": "friend"}).prober
        lab.wait(lambda: client.probe([Job("tcp", VIP, 80)], 2.0)[0].allowed, 30, "an answer of the Service")
        yield Watched(lab, kubelet)


def test_a_slow_start_is_not_killed_by_the_probes_that_we_ship(watched: Watched, tell: Callable[[str], None]) -> None:
    """Pain 35: kubelet killed a daemon that was still at it."""
    kubelet = watched.kubelet
    watched.lab.wait(lambda: kubelet.ready and kubelet.verdicts[LIVENESS].passed >= 2, 60, "two answers of /livez")
    assert kubelet.killed == ""
    assert kubelet.started_after is not None
    startup, life = kubelet.verdicts[STARTUP], kubelet.verdicts[LIVENESS]
    allowed = PROBES[STARTUP].failures
    tell(
        f"probes: started after {kubelet.started_after:.0f} s, {startup.failed} of {allowed} tries; "
        f"alive {life.passed} times, not alive {life.failed} times"
    )
    # So slow a machine should not come near the bound.
    assert startup.failed < allowed / 2


def test_every_metric_of_the_go_kube_router_has_something_to_say(watched: Watched, tell: Callable[[str], None]) -> None:
    watched.lab.wait(lambda: 'state="established"' in watched.page(), 60, "a session")
    missing: list[str] = []

    def all_there() -> bool:
        missing[:] = _missing(watched.page())
        return not missing

    try:
        watched.lab.wait(all_there, 20, "every metric")
    finally:
        tell(f"metric coverage: {len(FACTS) - len(missing)} of {len(FACTS)} {' '.join(missing)}".rstrip())
    _, said = promtool(["check", "metrics"], watched.page())
    assert [line for line in said.splitlines() if not excused(line)] == []


def _missing(page: str) -> list[str]:
    """The metrics that are not there as they should be, with a value that work has left."""
    assert "_created" not in page
    families = {family.name: family for family in text_string_to_metric_families(page)}
    return [fact.name for fact in FACTS if not _told(page, families.get(PREFIX + fact.name), fact.labels)]


def _told(page: str, family: Metric | None, labels: frozenset[str]) -> bool:
    if family is None or not family.samples:
        return False
    (fact,) = (fact for fact in FACTS if PREFIX + fact.name == family.name)
    assert family.type == fact.type, family
    own = {label for sample in family.samples for label in sample.labels if label != "le"}
    assert own == labels | MORE_LABELS.get(fact.name, frozenset()), family
    if fact.type == "histogram":
        return any(sample.name.endswith("_count") and sample.value > 0 for sample in family.samples)
    # The parser puts a suffix to counters, so the text itself is asked.
    lines = page.splitlines()
    assert any(line.startswith((f"{family.name} ", f"{family.name}{{")) for line in lines), family
    assert not any(line.startswith(f"{family.name}_total") for line in lines), family
    return True


def test_who_has_no_token_reads_nothing(watched: Watched) -> None:
    code = watched.node.sh(f"curl -sS -m 20 -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{PORT}/metrics")
    assert code == "401"
