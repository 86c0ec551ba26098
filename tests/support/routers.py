"""Routers outside the cluster that are none of ours: BIRD and FRR, in a namespace on the wire of a lab's nodes.

Each runs from a configuration of its own, with its sockets in a private /run; the system's are left alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.lab import netns
from tests.support.lab.fabric import Fabric
from tests.support.lab.process import Child, enter
from tests.support.pages import block

SHOWN_ASN, SHOWN_V4, SHOWN_V6 = "65001", "192.0.2.", "2001:db8::"
"""What the page's configurations have where a lab has something of its own."""
SHOWN_HOST = "254"
NODES = 1
"""The subnet of the nodes."""
FRR = Path("/usr/lib/frr")
_STANDARD = {65535 << 16: "graceful-shutdown", 0xFFFFFF01: "no-export", 0xFFFFFF02: "no-advertise"}


@dataclass(frozen=True, slots=True)
class Heard:
    """A path that a router has heard."""

    next_hop: str
    as_path: tuple[int, ...] = ()
    communities: frozenset[str] = field(default_factory=frozenset)
    """As `65000:100`; well-known ones by their names with hyphens."""


class Router:
    """A router: what all of them have in common. `host` is its place in the subnet."""

    software = ""
    program = Path()

    def __init__(self, prefix: str, home: Path, host: int, asn: int, *, far: bool = False) -> None:
        """It is on the wire of the first subnet, or `far`: a hop away on a wire of its own."""
        self.name = f"{self.software}{host}"
        self.asn = asn
        self.namespace = f"{prefix}-{self.name}"
        self._subnet = host if far else NODES
        self.addresses = (f"172.30.{self._subnet}.{host}", f"fd30:{self._subnet}::{host:x}")
        self.home = home / self.name
        self.run = self.home / "run"
        self.children: list[Child] = []
        self._host, self._far = host, far

    @classmethod
    def installed(cls) -> bool:
        """Whether the program is here."""
        return os.access(cls.program, os.X_OK)

    def build(self, fabric: Fabric) -> None:
        """Make the namespace and plug it in."""
        netns.add(self.namespace)
        netns.sysctls(
            self.namespace,
            {
                "ipv4/ip_forward": "1",
                "ipv6/conf/all/forwarding": "1",
                # By the whole flow, so that several flows from one client meet several nodes.
                "ipv4/fib_multipath_hash_policy": "1",
            },
        )
        self.run.mkdir(parents=True)
        link = f"r{self._host}"
        netns.configure(fabric.name, f"link add {link} type veth peer name eth0 netns {self.namespace}")
        v4, v6 = self.addresses
        netns.configure(
            self.namespace, f"addr add {v4}/24 dev eth0", f"addr add {v6}/64 dev eth0 nodad", "link set eth0 up"
        )
        if not self._far:
            netns.configure(fabric.name, f"link set {link} master sub{NODES} up")
            return
        gateways = f"172.30.{self._subnet}.254", f"fd30:{self._subnet}::254"
        netns.configure(
            fabric.name,
            f"addr add {gateways[0]}/24 dev {link}",
            f"addr add {gateways[1]}/64 dev {link} nodad",
            f"link set {link} up",
        )
        netns.configure(
            self.namespace,
            f"route add 172.30.{NODES}.0/24 via {gateways[0]}",
            f"route add fd30:{NODES}::/64 via {gateways[1]}",
        )

    def configuration(self, *options: str) -> str:
        """The page's configuration with this router's addresses, and with the lines switched on that have `options`."""
        text = block("bgp.md", self.software)
        v4, v6 = self.addresses
        for shown, own in (
            (f"{SHOWN_V4}{SHOWN_HOST}", v4),
            (f"{SHOWN_V6}{SHOWN_HOST}", v6),
            (SHOWN_V4, f"172.30.{NODES}."),
            (SHOWN_V6, f"fd30:{NODES}::"),
            (SHOWN_ASN, str(self.asn)),
        ):
            text = text.replace(shown, own)
        for option in options:
            text, count = re.subn(
                rf"^(\s*)[#!] ?((?:neighbor \S+ )?{re.escape(option)}\b.*)$", r"\1\2", text, flags=re.M
            )
            assert count, f"the page's configuration of {self.software} has no line for {option}"
        return text

    def start(self, configuration: str) -> None:
        """Start it with a configuration."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it; routes in the kernel stay as it leaves them."""
        for child in reversed(self.children):
            child.stop(signal.SIGTERM)
        self.children.clear()

    def close(self) -> None:
        """End it and remove the namespace."""
        for child in self.children:
            child.stop(signal.SIGKILL)
        self.children.clear()
        netns.remove(self.namespace)

    def plug(self, fabric: Fabric, *, into: bool) -> None:
        """Pull the plug out of its wire, which it cannot see, or put it in again."""
        netns.configure(fabric.name, f"link set r{self._host} {'master sub1' if into else 'nomaster'}")

    def established(self, address: str) -> bool:
        """Whether the session with a neighbour stands."""
        raise NotImplementedError

    def settled(self, address: str) -> bool:
        """Whether besides a neighbour has told everything after a restart, so that nothing of it is stale."""
        raise NotImplementedError

    def heard(self, prefix: str) -> list[Heard]:
        """The paths to a prefix."""
        raise NotImplementedError

    def bfd(self, address: str) -> bool:
        """Whether BFD says that a neighbour is up."""
        raise NotImplementedError

    def next_hops(self, prefix: str) -> set[str]:
        """The next hops of the kernel's route to a prefix; empty without one."""
        family = "-6" if ":" in prefix else "-4"
        words = ["ip", "-n", self.namespace, family, "-j", "route", "show", prefix]
        routes = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout or "[]")
        hops = (hop for route in routes for hop in route.get("nexthops", [route]))
        return {hop.get("gateway") or hop.get("via", {}).get("host", "") for hop in hops} - {""}

    def sh(self, argv: Sequence[str]) -> str:
        """Run a command beside it."""
        words = enter(netns.path(self.namespace), self.run, argv)
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    def _child(self, *argv: str) -> None:
        words = enter(netns.path(self.namespace), self.run, argv)
        self.children.append(Child(words, self.home / "log", {"PATH": os.environ["PATH"]}))

    def _wait_answer(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self._answers():
                return
            time.sleep(0.05)
        words = (self.home / "log").read_text(errors="replace")[-2000:]
        raise TimeoutError(f"{self.software} does not answer: {words}")

    def _answers(self) -> bool:
        raise NotImplementedError


class Bird(Router):
    """BIRD 2."""

    software = "bird"
    program = Path("/usr/sbin/bird")

    def start(self, configuration: str) -> None:
        (self.run / "bird").mkdir(exist_ok=True)
        path = self.home / "bird.conf"
        path.write_text(configuration)
        self._child(str(self.program), "-f", "-c", str(path), "-s", "/run/bird/bird.ctl", "-P", "/run/bird/pid")
        self._wait_answer()

    def _cli(self, words: str) -> str:
        return self.sh(["birdc", "-s", "/run/bird/bird.ctl", *words.split()])

    def _answers(self) -> bool:
        return "Daemon is up" in self._cli("show status")

    def established(self, address: str) -> bool:
        return "Established" in self._session(address)

    def settled(self, address: str) -> bool:
        text = self._session(address)
        return "Established" in text and "graceful restart active" not in text

    def _session(self, address: str) -> str:
        blocks = re.split(r"\n(?=\S)", self._cli("show protocols all"))
        return next((text for text in blocks if f"Neighbor address: {address}\n" in text), "")

    def heard(self, prefix: str) -> list[Heard]:
        return list(self._paths(self._cli(f"show route {prefix} all")))

    @staticmethod
    def _paths(text: str) -> Iterator[Heard]:
        for part in re.split(r"\n(?=\S|\s+(?:unicast|unreachable) )", text):
            hop = re.search(r"BGP\.next_hop: (\S+)", part)
            if hop is None:
                continue
            path = re.search(r"BGP\.as_path:(.*)", part)
            marks = re.search(r"BGP\.community:(.*)", part)
            numbers = re.findall(r"\((\d+),(\d+)\)", marks[1]) if marks else []
            found = {_community(int(high) << 16 | int(low)) for high, low in numbers}
            yield Heard(hop[1], tuple(map(int, path[1].split())) if path else (), frozenset(found))

    def bfd(self, address: str) -> bool:
        return any(
            line.split()[:1] == [address] and " Up " in line for line in self._cli("show bfd sessions").split("\n")
        )


class Frr(Router):
    """FRR: zebra, bgpd and bfdd."""

    software = "frr"
    program = FRR / "bgpd"

    def start(self, configuration: str) -> None:
        # Its daemons give up root for a user who may read nothing of a lab but this.
        place = self.run / "frr"
        place.mkdir(exist_ok=True)
        shutil.chown(place, "frr", "frr")
        (place / "bgpd.conf").write_text(f"log stdout informational\n{configuration}")
        for name in ("zebra", "bfdd"):
            (place / f"{name}.conf").write_text("log stdout informational\n")
        for name in ("zebra", "bfdd", "bgpd"):
            options = ["-f", f"/run/frr/{name}.conf", "-i", f"/run/frr/{name}.pid", "--vty_socket", "/run/frr"]
            self._child(str(FRR / name), *options, "-P", "0", "-z", "/run/frr/zserv.api")
            self._wait_socket(name)
        self._wait_answer()

    def _wait_socket(self, name: str) -> None:
        end = time.monotonic() + 20
        while not (self.run / "frr" / f"{name}.vty").exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{name}: {(self.home / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _cli(self, words: str) -> Any:
        said = self.sh(["vtysh", "--vty_socket", "/run/frr", "-c", words])
        try:
            return json.loads(said)
        except ValueError:
            return {}

    def _answers(self) -> bool:
        return bool(self._cli("show bgp summary json"))

    def established(self, address: str) -> bool:
        found = self._cli(f"show bgp neighbors {address} json")
        return bool(found.get(address, {}).get("bgpState") == "Established")

    def settled(self, address: str) -> bool:
        family = "ipv6" if ":" in address else "ipv4"
        paths = self._cli(f"show bgp {family} unicast neighbors {address} routes json").get("routes", {})
        return self.established(address) and not any(path.get("stale") for found in paths.values() for path in found)

    def heard(self, prefix: str) -> list[Heard]:
        family = "ipv6" if ":" in prefix else "ipv4"
        found = self._cli(f"show bgp {family} unicast {prefix} json")
        return [
            Heard(
                # A link-local address stands beside it.
                next(str(hop["ip"]) for hop in path["nexthops"] if hop.get("scope", "global") == "global"),
                tuple(int(word) for word in path["aspath"]["string"].split() if word.isdigit()),
                frozenset(path.get("community", {}).get("list", ())) - {""},
            )
            for path in found.get("paths", [])
        ]

    def bfd(self, address: str) -> bool:
        return any(
            peer.get("peer") == address and peer.get("status") == "up"
            for peer in self._cli("show bfd peers json") or []
        )


class Switch(Frr):
    """FRR as a switch has it: it filters in both directions."""

    software = "switch"


ROUTERS: tuple[type[Router], ...] = (Bird, Frr)


def _community(number: int) -> str:
    return _STANDARD.get(number, f"{number >> 16}:{number & 0xFFFF}")
