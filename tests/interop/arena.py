"""Three nodes with real daemons, and routers of every make that is installed."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from ipaddress import ip_address
from types import TracebackType

from tests.support.lab import Lab, Node, objects
from tests.support.routers import ROUTERS, Router, Switch

FAMILIES = (4, 6)
ASN = 64512
"""Of the nodes."""
REFLECTS = {"bird": ["rr client", "if source = RTS_BGP"], "frr": ["route-reflector-client"]}
"""What makes a router of each make a reflector."""
RESTART = 6
"""Seconds for which peers keep routes of a gobgpd that is away."""
SESSION = 30.0
"""Seconds within which a session stands."""
SECRET = "secret"
VIP, VIP_RANGE = "203.0.113.10/32", "203.0.113.0/24"
STRANGE = "192.0.2.66/32"
"""What a node tells although the page's switch lets no such address in."""
TOLD4, TOLD6 = "198.51.100.0/24", "2001:db8:51::/48"
"""What the page has routers tell."""
OTHER = "172.30.1.103"
"""A second address of the third node, from which it speaks to routers where there are all of them."""
ARGUMENTS = (
    "--run-firewall=false",
    "--run-service-proxy=false",
    "--advertise-external-ip",
    f"--service-external-ip-range={VIP_RANGE},{STRANGE}",
    "--bgp-graceful-restart",
    f"--bgp-graceful-restart-time={RESTART}s",
)
SERVICE = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: web}}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalIPs: ["{VIP.split("/")[0]}"]
  ports: [{{name: http, port: 80, targetPort: 80, protocol: TCP}}]
"""


STRANGE_SERVICE = (
    SERVICE.replace("name: web, namespace", "name: strange, namespace")
    .replace("10.96.0.10", "10.96.0.11")
    .replace(VIP.split("/")[0], STRANGE.split("/")[0])
)


class Wrong(Exception):
    """A check failed."""


class Arena:
    """A context manager. `near` routers are on the nodes' wire, `far` ones a hop away, `watched` ones have BFD.

    `inside` ones are of the nodes' AS, reflect what these tell, and are peers only once somebody says so.
    """

    def __init__(self, *, gobgpd: str, full: bool) -> None:
        """`gobgpd` is the program that the nodes run; without `full` there are `near` routers only."""
        self.lab = Lab(nodes=3, subnets=1, families=FAMILIES, daemon_arguments=ARGUMENTS)
        self.full = full
        self.near: dict[str, Router] = {}
        self.far: dict[str, Router] = {}
        self.watched: dict[str, Router] = {}
        self.inside: dict[str, Router] = {}
        self.reflector = ""
        """Of the `inside` routers the one that is a peer."""
        for number, make in enumerate(ROUTERS):
            if make.installed():
                where = self.lab.prefix, self.lab.home
                self.near[make.software] = make(*where, 251 + number, 65001 + number)
                if full:
                    self.far[make.software] = make(*where, 201 + number, 65011 + number, far=True)
                    self.watched[make.software] = make(*where, 231 + number, 65021 + number)
                    self.inside[make.software] = make(*where, 221 + number, ASN)
        if full and Switch.installed():
            self.near[Switch.software] = Switch(self.lab.prefix, self.lab.home, 253, 65003)
        self._gobgpd = gobgpd
        self._passwords: dict[tuple[str, str], str] = {}
        self._said: dict[str, dict[str, str]] = {}

    @property
    def routers(self) -> list[Router]:
        """All of them."""
        return [each for kind in (self.near, self.far, self.watched, self.inside) for each in kind.values()]

    def __enter__(self) -> Arena:
        self.lab.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        for router in self.routers:
            router.close()
        self.lab.close()

    def _start(self) -> None:
        third = self.lab.node("node3")
        third.sh(f"ip addr add {OTHER}/24 dev eth0")
        for node in self.lab.nodes:
            if node is not third:
                node.daemon_arguments.append("--peer-router-multihop-ttl=5")
            if self._gobgpd != "gobgpd":
                place = node.home / "bin"
                place.mkdir()
                (place / "gobgpd").symlink_to(self._gobgpd)
                node.programs.append(str(place))
            self.say(node)
        for router in self.routers:
            router.build(self.lab.fabric)
            far, watched = router in self.far.values(), router in self.watched.values()
            options = ["multihop" if router.software == "bird" else "ebgp-multihop"] if far else []
            options += ["bfd"] if watched else []
            options += REFLECTS[router.software] if router in self.inside.values() else []
            speaks = self.speaking(self.lab.node("node3"), 4)
            router.start(router.configuration(*options).replace("172.30.1.3 ", f"{speaks} "))
        self.lab.start()
        lab = self.lab
        lab.wait(lambda: lab.check_alive() and all(node.cni_ready() for node in lab.nodes), 40, "CNI configurations")

    def say(self, node: Node, **annotations: str) -> None:
        """Annotate a node, besides its peers: names without `kube-router.io/`, `_` for `.` and `__` for `-`."""
        known = {key.replace("__", "-").replace("_", "."): text for key, text in annotations.items()}
        self._said[node.name] = known
        self._apply(node)

    def password(self, node: Node, router: Router, password: str) -> None:
        """Have a node speak to a router with another password."""
        self._passwords[node.name, router.name] = password
        self._apply(node)

    def reflect(self, software: str) -> None:
        """Have all nodes speak to this `inside` router and to no other one."""
        self.reflector = software
        for node in self.lab.nodes:
            self._apply(node)

    def _apply(self, node: Node) -> None:
        texts = {"peers": self._peers(node), **self._said.get(node.name, {})}
        annotations = {f"kube-router.io/{key}": text for key, text in texts.items()}
        self.lab.apply(objects.node(node.site, FAMILIES, annotations))

    def _peers(self, node: Node) -> str:
        lines = []
        for router in self.routers:
            watched = router in self.watched.values()
            if watched and node.name != "node2":
                continue
            if router in self.inside.values() and router.software != self.reflector:
                continue
            password = base64.b64encode(self._passwords.get((node.name, router.name), SECRET).encode()).decode()
            for address in router.addresses:
                fields = [f"remoteip: '{address}'", f"remoteasn: {router.asn}", f"password: {password}"]
                if self._elsewhere(node, ip_address(address).version):
                    fields.append(f"localip: {OTHER}")
                if watched:
                    fields.append("bfd: {enabled: true}")
                lines.append(f"- {{{', '.join(fields)}}}\n")
        return "".join(lines)

    def speaking(self, node: Node, family: int) -> str:
        """The address from which a node speaks to routers."""
        return OTHER if self._elsewhere(node, family) else node.site.addresses[FAMILIES.index(family)]

    def _elsewhere(self, node: Node, family: int) -> bool:
        # Nobody listens there, so that a session takes as long as GoBGP likes to wait before it dials.
        return self.full and node.name == "node3" and family == 4

    def serve(self) -> None:
        """A Service with an endpoint on every node, which each node tells of as long as it has one."""
        if "default/web-1" not in self.lab.pods:
            for number, node in enumerate(self.lab.nodes, 1):
                self.lab.pod(f"web-{number}", node.name, labels={"app": "web"})
            self.lab.apply(SERVICE)


def wait(condition: Callable[[], object], what: Callable[[], str] | str, bound: float = 10.0) -> float:
    """Wait until a condition holds; seconds that it took. Raises Wrong."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > bound:
            raise Wrong(f"{what if isinstance(what, str) else what()} (within {bound:g} s)")
        time.sleep(0.1)
    return time.monotonic() - started


def expect(seen: object, wanted: object, what: str) -> None:
    """Raise Wrong where what is seen is not what is wanted."""
    if seen != wanted:
        raise Wrong(f"{what}: {seen}, not {wanted}")
