"""A cluster one of whose nodes runs from the image: its daemon, its gobgpd and what its operator sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.container import Container
from tests.lab.test_daemon import started
from tests.lab.test_firewall import DENY
from tests.support.lab import Lab, Node, netns
from tests.support.lab.process import Child
from tests.support.probes import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]


class ImageNode(Node):
    """A node whose processes are containers."""

    image: Path
    containers: list[Container]

    def container(self, *words: str) -> Container:
        """One as the manifests have it: the node's network, its /run and its CNI configurations."""
        return Container(
            self.image,
            self.home,
            words,
            network=netns.path(self.namespace),
            binds={"/run": self.run, "/run/netns": netns.HOME, "/etc/cni/net.d": self.cni_file.parent},
            variables={"KUBE_ROUTER_CNI_CONF_FILE": f"/etc/cni/net.d/{self.cni_file.name}", "NODE_NAME": self.name},
        )

    def _started(self, log: str, *words: str) -> Child:
        container = self.container(*words)
        self.containers.append(container)
        return Child(container.argv, self.home / log, self.environment())

    def start_gobgpd(self) -> None:
        """Start the sidecar."""
        self.gobgpd = self._started("gobgpd.log", "/usr/local/bin/gobgpd-sidecar")

    def start_daemon(self) -> None:
        """Start the daemon by the image's entry point."""
        words = ("/usr/local/bin/kube-router", *self.base_arguments, *self.daemon_arguments)
        self.daemon = self._started("daemon.log", *words)

    def inside(self, *words: str) -> str:
        """What a command prints that an operator runs in the image."""
        done = self.container(*words).run()
        return done.stdout + done.stderr

    def close(self) -> None:
        """End the containers, then what every node has."""
        for container in self.containers:
            container.remove()
        super().close()


@pytest.fixture(scope="module")
def lab(image: Path) -> Iterator[Lab]:
    # Without the kernel's modules the service proxy would wait for them, and the daemon never be ready.
    arguments = [] if netns.have("ip_vs") and netns.have("dummy") else ["--run-service-proxy=false"]
    lab = Lab(nodes=2, subnets=1, daemon_arguments=arguments)
    node = ImageNode(lab.prefix, lab.nodes[0].site, lab.nodes[0].home, arguments)
    node.image, node.containers = image, []
    lab.nodes[0] = node
    with lab:
        started(lab)
        lab.pod("client", "node1", labels={"app": "client"})
        lab.pod("web", "node1", labels={"app": "web"})
        lab.pod("far", "node2", labels={"app": "far"})
        yield lab


def test_pods_reach_each_other_and_policies_hold(lab: Lab) -> None:
    client, web, far = (lab.pods[f"default/{name}"] for name in ("client", "web", "far"))
    for target in (web, far):
        assert until(client.prober, target.job(), lambda result: result.allowed) is not None
    lab.apply(DENY.replace("closed", "web"))
    assert until(client.prober, web.job(), lambda result: not result.allowed) is not None
    assert until(far.prober, web.job(), lambda result: not result.allowed) is not None
    lab.delete("NetworkPolicy", "default", "deny")
    assert until(far.prober, web.job(), lambda result: result.allowed) is not None


def test_an_operator_sees_the_state_of_the_node(lab: Lab) -> None:
    node = lab.nodes[0]
    assert isinstance(node, ImageNode)
    lab.wait(node.ready, 60, "a daemon that is ready")
    greeting = node.inside("bash", "-ic", "true")
    variant = node.inside("/usr/local/lib/kube-router/iptables", "--which").strip()
    assert f"iptables-{variant} is used" in (node.home / "daemon.log").read_text()
    assert f"iptables is iptables-{variant} here" in greeting
    assert lab.nodes[1].ip in greeting, "its BGP neighbour"
    assert "KUBE-ROUTER" in node.inside("iptables-save")


def test_a_stopped_container_is_followed_by_another(lab: Lab) -> None:
    node = lab.nodes[0]
    assert node.stop_daemon() == 0
    node.start_daemon()
    lab.wait(node.ready, 60, "a daemon that is ready again")
