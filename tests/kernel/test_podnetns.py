"""Receivers in pods on a real kernel: made, mended, found again after a restart, and gone without a trace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.drivers.podnetns import PodReceiverDriver
from kuberouter.model.core import Batch, Unavailable
from kuberouter.model.receivers import PodReceiver, PodReceiverKey
from kuberouter.wire.cri.client import Runtime
from tests.kernel.conftest import need
from tests.kernel.drive import converge, owned, sh
from tests.support.cri import RuntimeServer
from tests.support.lab import netns

POD4, POD6, VIP4, VIP6 = "10.244.1.2", "fd44:1::2", "198.51.100.7", "2001:db8:100::7"
TUNNELS = ("kube-tunnel-if", "kube-tunnel-v6")


class Host:
    """A node's container runtime with one pod of two containers, and a pod in the network of the node."""

    def __init__(self, directory: Path) -> None:
        self.server = RuntimeServer(directory / "cri.sock")
        self.pod = f"{netns.unique_prefix()}-pod"
        self.processes: list[subprocess.Popen[bytes]] = []
        netns.add(self.pod)
        netns.configure(
            self.pod,
            "link add eth0 type veth peer name far",
            "link set eth0 up",
            "link set far up",
            f"addr add {POD4}/24 dev eth0",
            f"addr add {POD6}/64 dev eth0 nodad",
        )
        inside = ["nsenter", f"--net={netns.path(self.pod)}", "sleep", "600"]
        self.server.put("main", pid=self.start(inside))
        # As CRI-O has it; and a process id of containerd's that we cannot see.
        self.server.put("side", pid=0x3FFFFF, path=str(netns.path(self.pod)))
        self.server.put("host", pid=self.start(["sleep", "600"]))
        self.runtime = Runtime(self.server.endpoint)

    def start(self, words: list[str]) -> int:
        process = subprocess.Popen(words)
        self.processes.append(process)
        return process.pid

    def driver(self, in_use: bool = True) -> PodReceiverDriver:
        return PodReceiverDriver(self.runtime, lambda: in_use)

    def ip(self, *words: str) -> str:
        return sh("ip", "-n", self.pod, *words)

    def filters(self) -> dict[str, str]:
        """The reverse path filter of each link of the pod."""
        with netns.inside(self.pod):
            return {p.parent.name: p.read_text().strip() for p in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter")}

    def close(self) -> None:
        self.runtime.close()
        self.server.stop()
        for process in self.processes:
            process.kill()
            process.wait(5)
        netns.remove(self.pod)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need("ipip")
    need("ip6tnl")
    name = f"{netns.unique_prefix()}-node"
    netns.add(name)
    try:
        with netns.inside(name):
            host = Host(tmp_path_factory.mktemp("cri"))
            try:
                yield host
            finally:
                host.close()
    finally:
        netns.remove(name)


@pytest.fixture
def host(node: Host) -> Iterator[Host]:
    """The node, on which nothing of direct return is left in the end."""
    yield node
    for container in node.server.containers.values():
        container.running = True
    assert converge(node.driver(), []) == {}


def receiver(pod: str, vip: str, container: str = "main") -> PodReceiver:
    return PodReceiver(PodReceiverKey(ip_address(pod).packed, ip_address(vip).packed), container)


def links(host: Host) -> list[str]:
    """Names of links, those apart that come with a module."""
    names = [line.split(":")[1].strip() for line in host.ip("-o", "link").splitlines()]
    return [name for name in names if not name.startswith(("tunl0", "ip6tnl0"))]


BOTH = [receiver(POD4, VIP4), receiver(POD6, VIP6)]


@pytest.mark.ipip
def test_receivers_come_and_go_and_leave_nothing(host: Host) -> None:
    driver = host.driver()
    before = links(host), host.filters()
    assert converge(driver, BOTH) == {}
    assert owned(driver) == {row.key: row for row in BOTH}
    assert f"{VIP4}/32 scope link" in host.ip("addr", "show", "dev", TUNNELS[0])
    assert f"ipip remote any local {POD4}" in host.ip("-d", "link", "show", TUNNELS[0])
    assert f"{VIP6}/128" in host.ip("addr", "show", "dev", TUNNELS[1])
    assert f"ip6tnl ip6ip6 remote any local {POD6}" in host.ip("-d", "link", "show", TUNNELS[1])
    assert host.filters()[TUNNELS[0]] == "2"
    more = [*BOTH, receiver(POD4, "198.51.100.8")]
    assert converge(driver, more) == {}
    assert owned(driver) == {row.key: row for row in more}
    assert converge(driver, more[1:]) == {}
    assert owned(driver) == {row.key: row for row in more[1:]}
    assert converge(driver, []) == {}
    assert links(host) == before[0]
    assert VIP4 not in host.ip("addr")
    assert VIP6 not in host.ip("addr")
    assert {k: v for k, v in host.filters().items() if k in before[1]} == before[1]


@pytest.mark.ipip
def test_b07_ipv6_needs_nothing_of_ipv4_and_touches_none_of_it(host: Host) -> None:
    before = host.filters()
    assert converge(host.driver(), BOTH[1:]) == {}
    assert owned(host.driver()) == {BOTH[1].key: BOTH[1]}
    after = host.filters()
    assert TUNNELS[0] not in after
    assert {k: v for k, v in after.items() if k in before} == before


@pytest.mark.ipip
def test_b08_what_a_former_run_left_in_a_pod_is_found_and_removed(host: Host) -> None:
    assert converge(host.driver(), BOTH) == {}
    # As the Go kube-router leaves it: a tunnel with an address that no Service has any more.
    host.ip("addr", "add", "198.51.100.99/32", "dev", TUNNELS[0], "scope", "link")
    again = host.driver()
    assert set(owned(again)) == {row.key for row in (*BOTH, receiver(POD4, "198.51.100.99"))}
    assert converge(again, BOTH) == {}
    assert "198.51.100.99" not in host.ip("addr")
    # A restarted process finds what it wants and writes nothing.
    assert owned(host.driver()) == {row.key: row for row in BOTH}
    host.ip("addr", "flush", "dev", TUNNELS[0], "scope", "link")
    assert converge(host.driver(), BOTH[1:]) == {}
    assert TUNNELS[0] not in host.ip("link"), "a tunnel without addresses is of no use"


@pytest.mark.ipip
def test_what_others_changed_in_a_pod_is_mended(host: Host) -> None:
    driver = host.driver()
    assert converge(driver, BOTH) == {}
    for harm in (
        ("link", "set", TUNNELS[0], "down"),
        ("link", "del", TUNNELS[1]),
        ("addr", "del", f"{VIP4}/32", "dev", TUNNELS[0]),
    ):
        host.ip(*harm)
        assert owned(driver) != {row.key: row for row in BOTH}, harm
        assert converge(driver, BOTH) == {}
        assert owned(driver) == {row.key: row for row in BOTH}, harm
    netns.sysctls(host.pod, {f"ipv4/conf/{TUNNELS[0]}/rp_filter": "1"})
    assert converge(driver, BOTH) == {}
    assert host.filters()[TUNNELS[0]] == "2"


@pytest.mark.ipip
def test_another_container_of_the_pod_is_as_good_a_way_in(host: Host) -> None:
    driver = host.driver()
    assert converge(driver, BOTH) == {}
    host.server.containers["main"].running = False
    assert converge(driver, BOTH) == dict.fromkeys((row.key for row in BOTH), "no container of the pod runs")
    other = [receiver(POD4, VIP4, "side"), receiver(POD6, VIP6, "side")]
    assert converge(driver, other) == {}
    assert owned(driver) == {row.key: row for row in other}
    host.server.containers["side"].running = False
    # Nothing runs: nothing is known of the pod, and a removal has nothing to do.
    assert owned(driver) == {}
    assert driver.write(Batch(remove=tuple(other))).failed == {}


@pytest.mark.ipip
def test_only_a_namespace_with_the_address_of_the_pod_is_touched(host: Host) -> None:
    driver = host.driver()
    strange = receiver("10.244.1.77", VIP4)
    assert "not in the namespace" in converge(driver, [strange])[strange.key]
    assert TUNNELS[0] not in host.ip("link")
    hosts = receiver(POD4, VIP4, "host")
    assert "network namespace of the node" in converge(driver, [hosts])[hosts.key]
    lost = receiver(POD4, VIP4, "lost")
    host.server.put("lost", pid=0x3FFFFF)
    assert "hostPID" in converge(driver, [lost])[lost.key]
    assert TUNNELS[0] not in sh("ip", "link")
    del host.server.containers["lost"]


def test_the_runtime_is_left_alone_where_direct_return_is_not_in_use(namespace: str, tmp_path: Path) -> None:
    server = RuntimeServer(tmp_path / "cri.sock")
    runtime = Runtime(server.endpoint)
    assert owned(PodReceiverDriver(runtime, lambda: False)) == {}
    assert server.calls == []
    assert owned(PodReceiverDriver(runtime, lambda: True)) == {}
    assert server.calls == ["list"]
    server.stop()
    runtime.close()
    with pytest.raises(Unavailable, match="container runtime does not answer"):
        owned(PodReceiverDriver(Runtime(server.endpoint), lambda: True))
