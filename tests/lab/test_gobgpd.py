"""gobgpd run by the daemon itself: whichever of the two is killed, the kernel's routes and the pods' traffic stay."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from kuberouter.model.core import Unavailable
from kuberouter.wire.gobgp import process
from kuberouter.wire.gobgp.client import Connection, Refused
from kuberouter.wire.gobgp.gobgpd import Gobgp
from tests.lab.test_daemon import routes
from tests.support import gobgpd as programs
from tests.support.lab import Lab, Node

pytestmark = pytest.mark.root
ARGUMENTS = ("--gobgpd=spawn", "--bgp-graceful-restart", "--run-firewall=false", "--run-service-proxy=false")
SESSION = 30.0
"""Seconds within which a session stands again; GoBGP waits at least 5 between attempts."""


@pytest.fixture(scope="module", params=["gobgp3", "gobgp4"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    program = ""
    if request.param == "gobgp4":
        try:
            program = programs.v4(os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))
        except programs.Missing as error:
            pytest.skip(str(error))
    with Lab(nodes=2, subnets=1, daemon_arguments=ARGUMENTS) as lab:
        for node in lab.nodes if program else ():
            place = node.home / "bin"
            place.mkdir()
            (place / "gobgpd").symlink_to(program)
            node.programs.append(str(place))
        lab.start()
        lab.wait(lambda: lab.check_alive() and all(node.cni_ready() for node in lab.nodes), 40, "CNI configurations")
        lab.wait(lambda: all(routes(lab, node) for node in lab.nodes), 60, "routes")
        lab.pod("a", "node1")
        lab.pod("b", "node2")
        yield lab


class Steady:
    """Traffic between the pods, and an ear for the nodes' routes, while something happens."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._source, self._target = lab.pods["default/a"], lab.pods["default/b"]

    def __enter__(self) -> Steady:
        self._ears = {
            node.name: subprocess.Popen(
                node.command(["ip", "-o", "monitor", "route"]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for node in self._lab.nodes
        }
        self._source.prober.stream("steady", self._target.job(), rate=100)
        self._lab.wait(lambda: self._source.prober.report("steady").sent >= 20, 10, "traffic")
        # Who hears this hears what comes after it.
        for node in self._lab.nodes:
            node.sh("ip route add blackhole 198.51.100.1/32; ip route del blackhole 198.51.100.1/32")
        return self

    def __exit__(self, *_: object) -> None:
        self.report = self._source.prober.stop_stream("steady")
        self.heard = {}
        for name, ear in self._ears.items():
            ear.terminate()
            self.heard[name] = ear.communicate(timeout=10)[0].decode()

    def check(self) -> None:
        """Nothing was lost, and no route to pods was away for a moment."""
        assert self.report.lost == 0
        for said in self.heard.values():
            assert "Deleted blackhole 198.51.100.1" in said
            assert not [line for line in said.splitlines() if line.startswith("Deleted 10.244.")]


def gobgpd(node: Node) -> int | None:
    """The process that serves a node's socket."""
    return process.listener(str(node.run / "kube-router" / "gobgp.sock"))


def session(node: Node) -> bool:
    """Whether a node's only session stands."""
    try:
        sessions = Gobgp(Connection(f"unix://{node.run}/kube-router/gobgp.sock")).api.sessions()
    except (Unavailable, Refused):
        return False
    return (sessions.configured, sessions.established) == (1, 1)


def test_a_killed_gobgpd_is_started_again_and_no_route_is_missed(lab: Lab) -> None:
    node = lab.node("node1")
    before = gobgpd(node)
    assert before
    with Steady(lab) as steady:
        os.kill(before, signal.SIGKILL)
        took = lab.wait(lambda: gobgpd(node) not in (None, before), 10, "another gobgpd")
        lab.wait(lambda: all(session(each) for each in lab.nodes), SESSION, "session")
        # What is stale would be swept by now.
        lab.wait(lambda: "gobgpd answers" in log(node), SESSION, "word of its return")
        lab.wait(node.ready, SESSION, "a ready daemon")
    steady.check()
    assert took < 2
    assert routes(lab, node)
    assert "gobgpd ended (signal SIGKILL); another is started" in log(node)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_daemon_that_ends_leaves_gobgpd_at_work_for_the_next(lab: Lab, number: int) -> None:
    node = lab.node("node1")
    before = gobgpd(node)
    assert before
    with Steady(lab) as steady:
        node.stop_daemon(number)
        assert gobgpd(node) == before
        assert session(node)
        node.start_daemon()
        lab.wait(node.ready, SESSION, "a ready daemon")
        assert session(node)
    steady.check()
    assert gobgpd(node) == before
    assert f"gobgpd {before} is at work already, and goes on" in log(node)


def log(node: Node) -> str:
    return (node.home / "daemon.log").read_text()
