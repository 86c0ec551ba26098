"""What becomes of flows that were open when a policy closed them: `--netpol-existing-flows`, with packets.

The flow in which only the server speaks is the hard one: were the connection merely forgotten by the kernel, its next
packet would be taken for one that the server began, and the closed flow would live on the other way round.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab
from tests.support.lab.flows import Flow, close_all, heard
from tests.support.probes import Job, until

pytestmark = pytest.mark.root
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
"""
PORT = 7000


@pytest.fixture(scope="module", params=["false", "true"], ids=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A server, and clients on its node and on another one."""
    arguments = ["--run-router=false", "--run-service-proxy=false", f"--use-nftables-for-netpol={request.param}"]
    with Lab(nodes=2, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.ready() for node in lab.nodes), 40, "ready daemons")
        lab.pod("server", "node1", labels={"app": "server"})
        lab.pod("friend", "node1", labels={"role": "friend"})
        lab.pod("near", "node1")
        lab.pod("far", "node2")
        yield lab


@pytest.fixture(params=["keep", "cut"])
def mode(lab: Lab, request: pytest.FixtureRequest) -> str:
    flag = f"--netpol-existing-flows={request.param}"
    for node in lab.nodes:
        if node.daemon_arguments[-1] != flag:
            node.stop_daemon()
            node.daemon_arguments.append(flag)
            node.start_daemon()
    lab.wait(lambda: all(node.ready() for node in lab.nodes), 40, "the daemons ready")
    return str(request.param)


@pytest.fixture
def closed(lab: Lab) -> Iterator[None]:
    """Has the policy go at the end."""
    yield
    lab.delete("NetworkPolicy", "default", "friends")
    lab.pods["default/near"].labels = {}
    lab.update(lab.pods["default/near"])
    near, server = lab.pods["default/near"], lab.pods["default/server"]
    for ip in server.ips:
        assert until(near.prober, Job("tcp", ip, 80), lambda result: result.allowed) is not None


@pytest.fixture(params=[False, True], ids=["IPv4", "IPv6"])
def flows(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Flow]]:
    """TCP and UDP from each client, in one family."""
    server = lab.pods["default/server"]
    made: dict[tuple[str, str], Flow] = {}
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for name in ("friend", "near", "far"):
                client = lab.pods[f"default/{name}"].network
                made[name, kind.name] = Flow(client, server, kind, port=PORT, six=request.param)
        yield made
    finally:
        close_all(made.values())


def close_for_all_but_friends(lab: Lab) -> None:
    lab.apply(POLICY)
    for name in ("near", "far"):
        pod = lab.pods[f"default/{name}"]
        for ip in lab.pods["default/server"].ips:
            assert until(pod.prober, Job("tcp", ip, 80), lambda result: not result.allowed) is not None


def ends(lab: Lab, who: socket.socket) -> int:
    """The error with which an end learns that its flow is over."""
    found = 0

    def over() -> int:
        nonlocal found
        found = heard(who)
        return found

    lab.wait(over, 10, "the end of the flow")
    return found


@pytest.mark.parametrize("mode", ["keep"], indirect=True)
@pytest.mark.usefixtures("mode", "closed")
def test_kept_flows_go_on_both_ways(lab: Lab, flows: dict[tuple[str, str], Flow]) -> None:
    close_for_all_but_friends(lab)
    for flow in flows.values():
        assert flow.speaks(flow.server)
        assert flow.speaks(flow.client)


@pytest.mark.parametrize("mode", ["cut"], indirect=True)
@pytest.mark.usefixtures("mode", "closed")
def test_cut_flows_end_and_allowed_ones_go_on(lab: Lab, flows: dict[tuple[str, str], Flow]) -> None:
    """W12: what began in a window need not live for ever."""
    close_for_all_but_friends(lab)
    for name in ("near", "far"):
        tcp, udp = flows[name, "SOCK_STREAM"], flows[name, "SOCK_DGRAM"]
        assert ends(lab, tcp.client) == errno.ECONNRESET
        assert ends(lab, tcp.server) in (errno.ECONNRESET, errno.EPIPE)
        assert ends(lab, udp.client) == errno.ECONNREFUSED
        assert ends(lab, udp.server) == errno.ECONNREFUSED, "answers of a refused flow are refused as well"
    for kind in ("SOCK_STREAM", "SOCK_DGRAM"):
        flow = flows["friend", kind]
        assert flow.speaks(flow.client)
        assert flow.speaks(flow.server)
    lab.delete("NetworkPolicy", "default", "friends")
    for name in ("near", "far"):
        flow = flows[name, "SOCK_DGRAM"]
        lab.wait(lambda flow=flow: flow.passes(flow.client), 10, "the flow open again")
        lab.wait(lambda flow=flow: flow.passes(flow.server), 10, "its answers, too")


@pytest.mark.parametrize("mode", ["cut"], indirect=True)
@pytest.mark.usefixtures("mode", "closed")
def test_a_flow_in_which_only_the_server_speaks_is_cut_too(lab: Lab, flows: dict[tuple[str, str], Flow]) -> None:
    close_for_all_but_friends(lab)
    for name in ("near", "far"):
        flow = flows[name, "SOCK_STREAM"]
        assert ends(lab, flow.server) in (errno.ECONNRESET, errno.EPIPE)
    friend = flows["friend", "SOCK_STREAM"]
    assert friend.speaks(friend.server)


@pytest.mark.parametrize("mode", ["cut"], indirect=True)
@pytest.mark.usefixtures("mode", "closed")
def test_a_client_that_loses_its_label_loses_its_flows(lab: Lab) -> None:
    near, server = lab.pods["default/near"], lab.pods["default/server"]
    near.labels = {"role": "friend"}
    lab.update(near)
    close = lab.pods["default/far"]
    lab.apply(POLICY)
    assert until(close.prober, server.job(), lambda result: not result.allowed) is not None
    for ip in server.ips:
        assert until(near.prober, Job("tcp", ip, 80), lambda result: result.allowed) is not None
    flow = Flow(near.network, server, socket.SOCK_STREAM, port=PORT)
    near.labels = {}
    lab.update(near)
    assert ends(lab, flow.client) == errno.ECONNRESET
    flow.close()
