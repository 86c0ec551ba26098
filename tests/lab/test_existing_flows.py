"""What becomes of flows that were open when a policy closed them: `--netpol-existing-flows`, with packets.

The flow in which only the server speaks is the hard one: were the connection merely forgotten by the kernel, its next
packet would be taken for one that the server began, and the closed flow would live on the other way round.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.lab import Lab, netns
from tests.support.lab.pods import Pod
from tests.support.probes import PATIENCE, until

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
    with Lab(nodes=2, subnets=1, daemon_arguments=arguments) as lab:
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
    assert until(near.prober, server.job(), lambda result: result.allowed) is not None


class Flow:
    """One open flow between two pods, its ends in this process."""

    def __init__(self, client: Pod, server: Pod, kind: socket.SocketKind, address: str = "") -> None:
        """`address` is what the client connects to, if not the server's own."""
        self.kind = kind
        with contextlib.ExitStack() as stack, netns.inside(server.network):
            listener = stack.enter_context(socket.socket(socket.AF_INET, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((server.ip, PORT))
            if kind is socket.SOCK_STREAM:
                listener.listen()
            with netns.inside(client.network):
                self.client = socket.socket(socket.AF_INET, kind)
                self.client.connect((address or server.ip, PORT))
            if kind is socket.SOCK_STREAM:
                self.server, _ = listener.accept()
            else:
                self.server = listener.dup()
                self.server.connect(self.client.getsockname())
        self.client.setblocking(False)
        self.server.setblocking(False)
        assert self.speaks(self.client)
        assert self.speaks(self.server)

    def speaks(self, who: socket.socket) -> bool:
        """Whether a word of one end arrives at the other within a second."""
        other = self.server if who is self.client else self.client
        with contextlib.suppress(BlockingIOError):
            who.send(b"word")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                return bool(other.recv(65536))
            time.sleep(0.005)
        return False

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def flows(lab: Lab) -> Iterator[dict[tuple[str, str], Flow]]:
    """TCP and UDP from each client."""
    server = lab.pods["default/server"]
    made: dict[tuple[str, str], Flow] = {}
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for name in ("friend", "near", "far"):
                made[name, kind.name] = Flow(lab.pods[f"default/{name}"], server, kind)
        yield made
    finally:
        for flow in made.values():
            flow.close()


def close_for_all_but_friends(lab: Lab) -> None:
    lab.apply(POLICY)
    for name in ("near", "far"):
        pod = lab.pods[f"default/{name}"]
        assert until(pod.prober, lab.pods["default/server"].job(), lambda result: not result.allowed) is not None


def ends(lab: Lab, who: socket.socket) -> int:
    """The error with which an end learns that its flow is over."""
    found = 0

    def over() -> bool:
        nonlocal found
        try:
            who.send(b"word")
            who.recv(65536)
        except BlockingIOError:
            return False
        except OSError as error:
            found = error.errno or 0
            return True
        return False

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
        lab.wait(lambda flow=flow: passes(flow, flow.client), 10, "the flow open again")
        lab.wait(lambda flow=flow: passes(flow, flow.server), 10, "its answers, too")


def passes(flow: Flow, who: socket.socket) -> bool:
    """Whether a word arrives; a refusal of an earlier one may still have to be told."""
    try:
        return flow.speaks(who)
    except ConnectionRefusedError:
        return False


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
    assert until(near.prober, server.job(), lambda result: result.allowed) is not None
    flow = Flow(near, server, socket.SOCK_STREAM)
    near.labels = {}
    lab.update(near)
    assert ends(lab, flow.client) == errno.ECONNRESET
    flow.close()
