"""A node that is known only after its daemon has started, bit by bit, as a cloud's controllers make it known."""

from __future__ import annotations

import pytest

from tests.lab.test_firewall import DENY
from tests.support.lab import Lab, Node, objects
from tests.support.lab.objects import Object
from tests.support.probes import until

pytestmark = pytest.mark.root
LOOK = "ip route; ip -o link; iptables-save | grep ^-A; ipset list -n"
"""Where a daemon leaves its first traces."""


def states(node: Node, page: str) -> dict[str, str]:
    """What a page says of each controller, of several reasons the first; empty when nobody answers."""
    said = node.sh(f"curl -sS -m 5 'http://127.0.0.1:20244/{page}?verbose' 2>/dev/null || true")
    lines = [line.partition("; ")[0].partition(": ") for line in said.splitlines()]
    return {name: rest for name, _, rest in lines if rest}


def without(node: Object, *fields: tuple[str, str]) -> Object:
    """A Node that lacks some fields yet."""
    parts = {part: dict(value) for part, value in node.items() if isinstance(value, dict)}
    for part, name in fields:
        del parts[part][name]
    return {**node, **parts}


def test_a_node_that_becomes_known_bit_by_bit_is_waited_for_and_then_served() -> None:
    with Lab(nodes=1, subnets=1, daemon_arguments=["--run-service-proxy=false"]) as lab:
        (node,) = lab.nodes
        whole = objects.node(node.site, lab.families, {})
        lab.delete("Node", "", node.name)
        before = node.sh(LOOK)
        lab.start()

        def waits(**reasons: str) -> None:
            """It is up, alive, and says what it waits for; what it cannot know enough of it leaves alone."""
            ready = {name: f"not ready: {reason}" if reason else "ready" for name, reason in reasons.items()}
            up = {name: f"started: {reason}" if reason else "started" for name, reason in reasons.items()}
            wanted = {"readyz": ready, "startupz": up}
            lab.wait(lambda: {page: states(node, page) for page in wanted} == wanted, 40, f"{wanted}")
            assert node.sh("curl -sS -m 5 --fail http://127.0.0.1:20244/livez") == "OK\n"
            assert not node.cni_ready()
            assert lab.check_alive()

        nobody = "there is no Node of the name node1"
        waits(router=nobody, firewall=nobody)
        lab.apply(without(whole, ("status", "addresses"), ("spec", "podCIDR"), ("spec", "podCIDRs")))
        nowhere = "Node node1 has no address of a family in use yet"
        waits(router=nowhere, firewall=nowhere)
        assert node.sh(LOOK) == before
        lab.apply(without(whole, ("spec", "podCIDR"), ("spec", "podCIDRs")))
        waits(router="Node node1 has no pod CIDR of a family in use yet", firewall="")
        lab.apply(whole)
        lab.wait(lambda: lab.check_alive() and node.ready() and node.cni_ready(), 20, "the node ready")
        assert node.site.pod_cidrs[0] in node.gobgp("global rib")
        client, target = lab.pod("client", node.name), lab.pod("target", node.name, labels={"app": "closed"})
        assert until(client.prober, target.job(), lambda result: result.allowed) is not None
        lab.apply(DENY)
        assert until(client.prober, target.job(), lambda result: not result.allowed) is not None
