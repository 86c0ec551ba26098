"""The proxy with graceful termination in a node of two pods, and flows through it with both ends in hand."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec import structs

from kuberouter.compilers.names import DUMMY_LINK
from kuberouter.drivers.addresses import AddressDriver, LocalRouteDriver
from kuberouter.drivers.conntrack import StaleFlows
from kuberouter.drivers.ipvs import DestinationDriver
from kuberouter.drivers.served import Served, Serving
from kuberouter.engine.inbox import Inbox
from kuberouter.model.core import Row
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.ipvs import Destination, VirtualServiceKey
from kuberouter.model.network import Address, LocalRoute
from kuberouter.model.settings import ProxySettings
from kuberouter.sources.connections import ConnectionSource
from tests.kernel.drive import sh
from tests.kernel.proxynode import (
    FAMILIES,
    NODE_OBJECT,
    PODS,
    TARGET,
    Net,
    Proxy,
    real_drivers,
    vips,
)
from tests.support.lab import netns
from tests.support.probes import PATIENCE
from tests.support.world import ProxyWorld

TALK = 9090
"""Where the pods have somebody who listens to what is said."""
WORD = 2.0


class Talk:
    """A TCP connection through a service address, both ends in hand."""

    def __init__(self, client: socket.socket, server: socket.socket, pod: str) -> None:
        self.client, self.server, self.pod = client, server, pod

    def goes_on(self) -> bool:
        """Whether a word arrives each way."""
        for speaker, listener in ((self.client, self.server), (self.server, self.client)):
            speaker.send(b"word")
            if not select.select([listener], [], [], WORD * PATIENCE)[0] or listener.recv(64) != b"word":
                return False
        return True

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Echo(threading.Thread):
    """Answers every datagram to the pods with the pod's name and the sender."""

    def __init__(self, sockets: Mapping[str, socket.socket]) -> None:
        super().__init__(daemon=True)
        self._names = {found: name for name, found in sockets.items()}
        self._over = False

    def run(self) -> None:
        while not self._over:
            for found in select.select(list(self._names), [], [], 0.2)[0]:
                _, peer = found.recvfrom(256)
                found.sendto(f"{self._names[found]} {peer[0]}".encode(), peer)

    def close(self) -> None:
        self._over = True
        self.join(5.0)
        for found in self._names:
            found.close()


class Draining(Proxy):
    """The proxy with graceful termination, and what else the daemon runs for it."""

    def __init__(self, net: Net) -> None:
        self.stale = StaleFlows()
        self.between: Callable[[], None] = lambda: None
        super().__init__(net)
        # Else the client learns to send to the other node what this one sends on there, and comes here no more.
        netns.sysctls(net.client, {f"ipv4/conf/{name}/accept_redirects": "0" for name in ("all", "eth0")})
        self.inbox = Inbox()
        self._listeners: dict[str, socket.socket] = {}
        datagrams: dict[str, socket.socket] = {}
        for pod, name in zip(("pod1", "pod2"), net.pods, strict=True):
            with netns.inside(name):
                self._listeners[pod] = socket.create_server(("::", TALK), family=socket.AF_INET6, dualstack_ipv6=True)
                datagrams[pod] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                datagrams[pod].bind(("::", TARGET))
        self._echo = Echo(datagrams)
        self._echo.start()

    def moved(self, service: VirtualServiceKey, serving: Serving, addresses: Collection[bytes]) -> None:
        """Sweeps at once, as the fastest thread would, and lets something happen right after."""
        if not service.mark:
            self.stale.check(service, frozenset(serving.get(service, ())))
            self.stale.work(0.0)
            self.between()

    def make_world(self, settings: ProxySettings, *, start: bool) -> ProxyWorld:
        """A process that begins."""
        settings = structs.replace(settings, graceful=True, graceful_period=30.0)
        served = Served(self.moved)
        drivers: dict[type[Row], Any] = {
            **real_drivers(),
            Destination: DestinationDriver(served=served),
            Address: AddressDriver((DUMMY_LINK,), arrived=served.arrived),
            LocalRoute: LocalRouteDriver(arrived=served.arrived),
        }
        return ProxyWorld(settings, FAMILIES, node=NODE_OBJECT, drivers=drivers, start=start)

    def close(self) -> None:
        self._echo.close()
        for listener in self._listeners.values():
            listener.close()

    def talks(self, name: str, number: int, *pods: str, scheduler: str = "rr", **more: Any) -> None:
        """A Service of TCP port 80 with these pods behind it."""
        metadata = {
            "name": name,
            "namespace": "shop",
            "annotations": {"kube-router.io/service.scheduler": scheduler},
        }
        spec = {
            "clusterIP": vips(number)[0],
            "clusterIPs": list(vips(number)),
            "ports": [{"name": "talk", "protocol": "TCP", "port": 80}],
            **more,
        }
        self.apply({"kind": "Service", "metadata": metadata, "spec": spec})
        self.serve(name, *pods)

    def serve(self, name: str, *pods: str) -> int:
        """From now on these pods are behind a Service; the number of rows written."""
        slices = self.slices(name, *pods)
        for each in slices:
            each["ports"] = [{"name": "talk", "protocol": "TCP", "port": TALK}]
        return self.apply(*slices)

    def connect(self, vip: str, client: socket.socket | None = None) -> Talk:
        """A connection of the client, with its own socket if there is one, and who took it."""
        if client is not None:
            client.connect((vip, 80))
        else:
            with netns.inside(self.net.client):
                client = socket.create_connection((vip, 80), WORD * PATIENCE)
        ready, _, _ = select.select(list(self._listeners.values()), [], [], WORD * PATIENCE)
        assert len(ready) == 1
        (pod,) = [name for name, listener in self._listeners.items() if listener is ready[0]]
        server, _ = ready[0].accept()
        server.settimeout(WORD * PATIENCE)
        return Talk(client, server, pod)

    def takers(self, vip: str, count: int = 4) -> set[str]:
        """Who takes new connections."""
        found: set[str] = set()
        for _ in range(count):
            talk = self.connect(vip)
            found.add(talk.pod)
            talk.close()
        return found

    def await_idle(self, count: int, bound: float = 8.0) -> int:
        """Have connections looked at until so many departures are over; rows written for it."""
        stop = threading.Event()
        assert self.world.departures is not None
        source = ConnectionSource(self.world.departures.draining, period=0.2)
        thread = threading.Thread(target=source.run, args=(self.inbox, stop))
        thread.start()
        end, written = time.monotonic() + bound * PATIENCE, 0
        try:
            while count and time.monotonic() < end:
                for event in self.inbox.take(0.1, 0.0):
                    assert isinstance(event, Upserted | Deleted)
                    self.world.put(event)
                    count -= 1
                written += self.world.sync()
        finally:
            stop.set()
            thread.join(5.0)
        assert not source.trouble
        assert not count, "connections have ended and nobody says so"
        return written


def weights(vip: str) -> Mapping[str, int]:
    """Pods behind port 80 of an address with their weights, as ipvsadm(8) reads it."""
    names = {address: pod for pod, (four, six, _) in PODS.items() for address in (four, six)}
    place = f"[{vip}]:80" if ":" in vip else f"{vip}:80"
    found: dict[str, int] = {}
    for line in sh("ipvsadm", "-Sn").splitlines():
        words = line.split()
        if words[:3] == ["-a", "-t", place]:
            address = words[4].rpartition(":")[0].strip("[]")
            found[names[address]] = int(words[-1])
    return found
