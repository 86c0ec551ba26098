"""Two nodes, their pods and an outside host as network namespaces: real packets, nothing of the package.

Each node has a bridge with its pods and routes the other's pod CIDR over a shared fabric. Every pod, node and the
outside host runs an agent that answers and sends probes.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab.netns import inside, unique_prefix

PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP", "SCTP")
PREFIX = {4: "10.253", 6: "fd53"}

Job = tuple[str, str, int]


@dataclass(frozen=True)
class Host:
    """A namespace with an agent: `name` as the oracle knows it, `kind` pod, node or outside, `node` where it lives."""

    name: str
    kind: str
    node: str
    ips: tuple[str, ...]


class Topology:
    """Builds the namespaces on entry and removes them on exit, whatever happened."""

    def __init__(self, pods: Mapping[str, str]) -> None:
        """`pods` maps "namespace/name" to the name of a node."""
        self._prefix = f"{unique_prefix()}-"
        self._fabric = self._prefix + "fab"
        nodes = list(dict.fromkeys(pods.values()))
        self.hosts: dict[str, Host] = {}
        self._links: dict[str, str] = {}
        for number, node in enumerate(nodes, 1):
            self._add(node, "node", node, (f"{PREFIX[4]}.0.{number}", f"{PREFIX[6]}::{number}"))
        self._add("outside", "outside", "", (f"{PREFIX[4]}.0.99", f"{PREFIX[6]}::99"))
        self._numbers = {node: number for number, node in enumerate(nodes, 1)}
        for index, (pod, node) in enumerate(pods.items()):
            number = self._numbers[node]
            self._add(pod, "pod", node, (f"{PREFIX[4]}.{number}.{index + 10}", f"{PREFIX[6]}:{number}::{index + 10:x}"))
        self._agents: dict[str, subprocess.Popen[str]] = {}

    def _add(self, name: str, kind: str, node: str, ips: tuple[str, ...]) -> None:
        self.hosts[name] = Host(name, kind, node, ips)
        self._links[name] = f"e{len(self._links)}"

    def namespace(self, name: str) -> str:
        """The network namespace of a host."""
        return self._prefix + self._links[name]

    @property
    def nodes(self) -> list[str]:
        return [host.name for host in self.hosts.values() if host.kind == "node"]

    def cidrs(self, node: str) -> tuple[str, str]:
        """Pod CIDRs of a node."""
        number = self._numbers[node]
        return f"{PREFIX[4]}.{number}.0/24", f"{PREFIX[6]}:{number}::/64"

    def __enter__(self) -> Topology:
        try:
            self._build()
            for name in self.hosts:
                self._start(name)
            self._await_agents()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the agents and remove the namespaces."""
        for agent in self._agents.values():
            agent.kill()
            agent.communicate()
        self._agents.clear()
        for name in (self._fabric, *(self.namespace(host) for host in self.hosts)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _build(self) -> None:
        fabric = self._fabric
        _ip("", f"netns add {fabric}")
        _ip(fabric, "link set lo up", "link add fab type bridge", "link set fab up")
        for host in self.hosts.values():
            _ip("", f"netns add {self.namespace(host.name)}")
        for host in self.hosts.values():
            if host.kind != "pod":
                self._attach(host, fabric, "fab", 24)
        for node in self.nodes:
            number = self._numbers[node]
            gateways = [f"{PREFIX[4]}.{number}.1/24", f"{PREFIX[6]}:{number}::1/64"]
            _ip(
                self.namespace(node),
                "link add kube-bridge type bridge",
                *(f"addr add {gateway} dev kube-bridge {_nodad(gateway)}" for gateway in gateways),
                "link set kube-bridge up",
            )
            with inside(self.namespace(node)):
                for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                    Path("/proc/sys/net", path).write_text("1")
                for path in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
                    Path("/proc/sys/net/bridge", path).write_text("1")
        for host in self.hosts.values():
            if host.kind == "pod":
                self._attach(host, self.namespace(host.node), "kube-bridge", 24)
                number = self._numbers[host.node]
                gateways = [f"{PREFIX[4]}.{number}.1", f"{PREFIX[6]}:{number}::1"]
                _ip(self.namespace(host.name), *(f"route add default via {gateway}" for gateway in gateways))
            else:
                others = [node for node in self.nodes if node != host.name]
                routes = [
                    f"route add {cidr} via {via}"
                    for node in others
                    for cidr, via in zip(self.cidrs(node), self.hosts[node].ips, strict=True)
                ]
                _ip(self.namespace(host.name), *routes)

    def _attach(self, host: Host, home: str, bridge: str, _: int) -> None:
        link = self._links[host.name]
        addresses = [f"{ip}/{64 if ':' in ip else 24}" for ip in host.ips]
        _ip(home, f"link add {link} type veth peer name eth0 netns {self.namespace(host.name)}")
        _ip(home, f"link set {link} master {bridge} up")
        _ip(
            self.namespace(host.name),
            "link set lo up",
            *(f"addr add {address} dev eth0 {_nodad(address)}" for address in addresses),
            "link set eth0 up",
        )

    def _start(self, name: str) -> None:
        script = Path(__file__).with_name("agent.py")
        # The agent needs nothing but the standard library, and starts in half the time without looking for more.
        python = [sys.executable, "-S", "-E", str(script)]
        words = ["ip", "netns", "exec", self.namespace(name), *python, *map(str, PORTS)]
        self._agents[name] = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _await_agents(self) -> None:
        """Until every agent answers on its own addresses."""
        jobs: dict[str, list[Job]] = {
            host.name: [(ip, protocol, port) for ip in host.ips for protocol in PROTOCOLS for port in PORTS]
            for host in self.hosts.values()
        }
        for _ in range(100):
            if all(outcome == "open" for outcomes in self.probe(jobs).values() for outcome in outcomes):
                return
        raise RuntimeError("agents do not answer on their own addresses")

    def flush_connections(self) -> None:
        """Forget every flow on the nodes, so that the next packet is a first one."""
        running: list[subprocess.Popen[bytes]] = []
        for node in self.nodes:
            with inside(self.namespace(node)):
                words = ["conntrack", "-F"]
                running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        failed = [process.args for process in running if process.wait()]
        if failed:
            raise RuntimeError(f"flows cannot be flushed: {failed}")

    def forget_neighbours(self) -> None:
        """Have every host look for its neighbours again."""
        for host in self.hosts:
            _ip(self.namespace(host), "neigh flush all")

    def probe(self, jobs: Mapping[str, Sequence[Job]]) -> dict[str, list[str]]:
        """Send every host's jobs at the same time; the outcomes in order."""
        for name, wanted in jobs.items():
            pipe = self._agents[name].stdin
            assert pipe is not None
            pipe.write(json.dumps(list(wanted)) + "\n")
            pipe.flush()
        results: dict[str, list[str]] = {}
        for name in jobs:
            pipe = self._agents[name].stdout
            assert pipe is not None
            line = pipe.readline()
            if not line:
                raise RuntimeError(f"the agent of {name} died")
            results[name] = json.loads(line)
        return results


def _nodad(address: str) -> str:
    return "nodad" if ":" in address else ""


def _ip(namespace: str, *commands: str) -> None:
    words = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
    if namespace or len(commands) > 1:
        subprocess.run(words, input="\n".join(commands) + "\n", text=True, check=True, capture_output=True)
    else:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def pairs(hosts: Iterable[Host]) -> Iterator[tuple[Host, Host]]:
    """Every ordered pair of different hosts."""
    yield from itertools.permutations(hosts, 2)
