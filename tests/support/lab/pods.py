"""Pods: a network namespace, attached to its node by the real CNI plugins, with a prober inside.

The plugins are driven as a container runtime does it (CNI specification 1.0, section 2, execution protocol): parameters
in the environment, the node's own configuration file on stdin, each plugin given the result of the one before.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from tests.support.lab import netns
from tests.support.probes import Job, Outcome, Prober, Result

PLUGINS = Path("/usr/lib/cni")
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Command: TypeAlias = Callable[[Sequence[str]], list[str]]


class CniError(RuntimeError):
    """A plugin failed; the text is its own."""


class Attacher:
    """Runs a node's plugin chain. `command` makes a command line run in the node; `data` keeps host-local's leases."""

    def __init__(self, configuration: Path, data: Path, command: Command) -> None:
        self._configuration, self._data, self._command = configuration, data, command

    def add(self, container: str, namespace: str) -> tuple[str, ...]:
        """Attach a namespace as `eth0`, with loopback; its addresses, IPv4 first."""
        self._plugin("ADD", {"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}, container, namespace, "lo")
        result: dict[str, Json] = {}
        for plugin in self._chain():
            extra = {"prevResult": result} if result else {}
            result = self._plugin("ADD", {**plugin, **extra}, container, namespace, "eth0")
        ips = result.get("ips")
        assert isinstance(ips, list)
        return tuple(sorted((str(ip["address"]).split("/")[0] for ip in ips), key=lambda address: ":" in address))

    def remove(self, container: str, namespace: str) -> None:
        """Detach it: plugins in reverse order."""
        for plugin in reversed(self._chain()):
            self._plugin("DEL", plugin, container, namespace, "eth0")

    def _chain(self) -> list[dict[str, Json]]:
        network = json.loads(self._configuration.read_text())
        common = {"cniVersion": network.get("cniVersion", "0.3.1"), "name": network["name"]}
        plugins = [{**plugin, **common} for plugin in network.get("plugins", [network])]
        for plugin in plugins:
            if "ipam" in plugin:
                plugin["ipam"] = {**plugin["ipam"], "dataDir": str(self._data)}
        return plugins

    def _plugin(
        self, verb: str, config: Mapping[str, Json], container: str, namespace: str, link: str
    ) -> dict[str, Json]:
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(netns.path(namespace)),
            "CNI_IFNAME": link,
            "CNI_PATH": str(PLUGINS),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        done = subprocess.run(
            self._command([str(PLUGINS / str(config["type"]))]),
            input=json.dumps(config),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise CniError(f"{config['type']} {verb} {container}: {done.stdout}{done.stderr}")
        answer = json.loads(done.stdout) if done.stdout.strip() else {}
        assert isinstance(answer, dict)
        return answer


class Pod:
    """A pod with its namespace, addresses and prober."""

    def __init__(self, name: str, space: str, node: str, network: str, labels: Mapping[str, str]) -> None:
        """`space` is its Kubernetes namespace, `network` its network namespace."""
        self.name, self.space, self.node, self.network = name, space, node, network
        self.labels = dict(labels)
        self.ips: tuple[str, ...] = ()
        self.ready = True
        self.terminating = False
        self.ports: tuple[tuple[str, int, str], ...] = ()
        """Declared container ports: protocol in lower case, number, name."""
        self._prober: Prober | None = None

    @property
    def key(self) -> str:
        return f"{self.space}/{self.name}"

    @property
    def container(self) -> str:
        """The id of its one container."""
        return self.network

    @property
    def ip(self) -> str:
        """Its IPv4 address."""
        return self.ips[0]

    @property
    def prober(self) -> Prober:
        assert self._prober is not None, "the pod is not attached"
        return self._prober

    def start(self) -> None:
        """Start the agent and its servers on the declared ports."""
        self._prober = Prober(netns.path(self.network), self.name)
        self._prober.serve([(protocol, port) for protocol, port, _ in self.ports])

    def close(self) -> None:
        """End the agent."""
        if self._prober is not None:
            self._prober.close()
            self._prober = None

    def probe(self, target: Pod | str, port: int = 80, protocol: str = "tcp") -> Result:
        """Try one path to a pod's first address or to an address."""
        address = target if isinstance(target, str) else target.ip
        return self.prober.try_one(protocol, address, port)

    def reaches(self, target: Pod | str, port: int = 80, protocol: str = "tcp") -> bool:
        """Whether that path is allowed."""
        return self.probe(target, port, protocol).outcome is Outcome.ALLOWED

    def job(self, port: int = 80, protocol: str = "tcp") -> Job:
        """The path to this pod."""
        return Job(protocol, self.ip, port)
