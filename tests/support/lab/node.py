"""One node of a lab: its namespaces, directories, gobgpd and daemon."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.cri import RuntimeServer
from tests.support.lab import netns
from tests.support.lab.fabric import Site
from tests.support.lab.pods import Attacher
from tests.support.lab.process import Child, enter
from tests.support.probes import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
CNI_TEMPLATE = """{
  "cniVersion": "0.3.1",
  "name": "kubernetes",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "kube-bridge",
      "isDefaultGateway": true,
      "ipam": {"type": "host-local"}
    }
  ]
}
"""
"""What the node's administrator ships; the daemon fills in ranges and MTU."""
KEPT = ("PATH", "LANG", "HOME", "PYTHONDONTWRITEBYTECODE")
"""Variables that a node's processes inherit."""


class Node:
    """A node. Commands run in its network namespace with its own /run, so two nodes share no lock and no socket."""

    def __init__(self, prefix: str, site: Site, home: Path, daemon_arguments: Sequence[str]) -> None:
        """`home` is this node's directory; `daemon_arguments` follow those that say where and who it is."""
        self.site = site
        self.namespace = f"{prefix}-{site.name}"
        self.home = home
        self.run = home / "run"
        self.cni_file = home / "cni" / "10-kuberouter.conflist"
        self.daemon_arguments = list(daemon_arguments)
        self.base_arguments: list[str] = []
        self.programs: list[str] = []
        """Directories whose programs the daemon finds before those of PATH."""
        self.daemon_container: list[str] = []
        self.gobgpd_container: list[str] = []
        """Words before a process's own command line that make of it what it is in a container; none by default."""
        self.variables: dict[str, str] = {}
        """More of the environment of the node's processes."""
        self.daemon: Child | None = None
        self.gobgpd: Child | None = None
        self.runtime: RuntimeServer | None = None
        self.attacher = Attacher(self.cni_file, home / "leases", self.command)

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return self.site.addresses[0]

    def build(self) -> None:
        """Make the namespace and the directories."""
        netns.add(self.namespace)
        netns.sysctls(self.namespace, {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        (self.run / "netns").mkdir(parents=True)
        (self.run / "kube-router").mkdir()
        self.cni_file.parent.mkdir()
        self.cni_file.write_text(CNI_TEMPLATE)

    def start_runtime(self) -> None:
        """Serve the container runtime's interface, for the pods that are attached from now on."""
        self.runtime = RuntimeServer(self.run / "cri.sock")
        self.daemon_arguments.append("--runtime-endpoint=unix:///run/cri.sock")

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` on this node."""
        return enter(netns.path(self.namespace), self.run, argv)

    def sh(self, script: str, bound: float = 30.0, check: bool = True) -> str:
        """Run a shell command on the node and return what it prints; raises with its words if it fails.

        The bound is in seconds of an ordinary machine.
        """
        done = subprocess.run(
            self.command(["sh", "-c", script]), capture_output=True, text=True, timeout=bound * PATIENCE, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {script}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def gobgp(self, words: str) -> str:
        """Run the gobgp command line against this node's gobgpd."""
        return self.sh(f"gobgp {words}")

    def environment(self) -> dict[str, str]:
        """The environment of the node's processes: nothing of ours but what Python needs, and where the CNI file is."""
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        path = os.pathsep.join((*self.programs, kept.get("PATH", "")))
        return {
            **kept,
            "PATH": path,
            "KUBE_ROUTER_CNI_CONF_FILE": str(self.cni_file),
            "PYTHONPATH": str(ROOT),
        } | self.variables

    def start_gobgpd(self) -> None:
        """Start the BGP sidecar; it listens on its unix socket only."""
        argv = [*self.gobgpd_container, sys.executable, str(ROOT / "cmd" / "gobgpd-sidecar")]
        self.gobgpd = Child(self.command(argv), self.home / "gobgpd.log", self.environment())

    def start_daemon(self) -> None:
        """Start the daemon with its real command line."""
        program = [*self.daemon_container, sys.executable, str(ROOT / "cmd" / "kube-router")]
        argv = [*program, *self.base_arguments, *self.daemon_arguments]
        self.daemon = Child(self.command(argv), self.home / "daemon.log", self.environment())

    def stop_daemon(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; its exit status. The dataplane stays."""
        assert self.daemon is not None
        status = self.daemon.stop(number, bound=15.0)
        self.daemon = None
        return status

    def kill_daemon(self) -> None:
        """End the daemon as a crash does."""
        self.stop_daemon(signal.SIGKILL)

    def restart_daemon(self) -> None:
        """Stop and start it."""
        self.stop_daemon()
        self.start_daemon()

    def cni_ready(self) -> bool:
        """Whether the daemon has filled the node's pod CIDR into the CNI configuration."""
        return self.site.pod_cidrs[0] in self.cni_file.read_text()

    def ready(self) -> bool:
        """Whether the daemon says that all its controllers are ready.

        Who waits asks often, and in a guest a process for each question would take the daemon's processor.
        """
        connection = http.client.HTTPConnection("127.0.0.1", 20244, timeout=2 * PATIENCE)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection) as asked:
            with netns.inside(self.namespace):
                asked.connect()
            asked.request("GET", "/readyz")
            return asked.getresponse().status == 200
        return False

    def readyz(self) -> str:
        """What `/readyz?verbose` says; empty when nothing listens."""
        return self.sh("curl -sS -m 2 'http://127.0.0.1:20244/readyz?verbose' 2>&1 || true")

    def podz(self, key: str) -> tuple[int, str]:
        """Status and body of what the daemon says of a pod of this node; status 0 when nothing listens."""
        with netns.inside(self.namespace):
            there = http.client.HTTPConnection("127.0.0.1", 20244, timeout=10.0 * PATIENCE)
            with contextlib.suppress(ConnectionError):
                there.connect()
        with contextlib.closing(there):
            if there.sock is None:
                return 0, ""
            there.request("GET", f"/podz?pod={key}")
            answer = there.getresponse()
            return answer.status, answer.read().decode()

    def in_force(self, key: str, *policies: str) -> bool:
        """Whether the daemon says that policy is in force for a pod of this node, and that these policies select it.

        Pods, policies and names are `namespace/name`.
        """
        status, body = self.podz(key)
        named = body.rstrip().rpartition("policies: ")[2].split(", ")
        return status == 200 and set(policies) <= set(named)

    def children(self) -> list[Child]:
        """Processes that were started here and not stopped."""
        return [child for child in (self.daemon, self.gobgpd) if child is not None]

    def close(self) -> None:
        """End the processes and remove the namespace."""
        for child in self.children():
            child.stop(signal.SIGKILL)
        self.daemon = self.gobgpd = None
        # A gobgpd that the daemon started outlives it.
        for pid in netns.processes(self.namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.runtime is not None:
            self.runtime.stop()
        netns.remove(self.namespace)
