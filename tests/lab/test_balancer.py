"""The allocator over HTTP: writing, races, and leaders that come and go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from kuberouter.daemon.balancer import Balancer
from kuberouter.daemon.balancercounts import BalancerCounts
from kuberouter.daemon.metrics import expose
from kuberouter.decode.scalars import prefix
from kuberouter.engine.inbox import Inbox
from kuberouter.model.balancer import BalancerSettings
from kuberouter.model.core import Problem, Reason
from kuberouter.sources.lease import NAME, Elector
from kuberouter.wire.kubeapi import connect
from tests.support.apiserver import ApiServer
from tests.support.manifests import shipped
from tests.support.rbac import allowed, used

ROOT = Path(__file__).parents[2]
SHORT = 2.0
"""Seconds of a lease that is to run out."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


def service(number: int, **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": f"s{number}", "creationTimestamp": f"2026-01-01T00:00:{number % 60:02}Z"}
    return {"kind": "Service", "metadata": metadata, "spec": {"type": "LoadBalancer"}, **more}


def addresses(server: ApiServer) -> list[str]:
    with server.store.lock:
        stored = list(server.store.objects["services"].values())
    ingress = [s.get("status", {}).get("loadBalancer", {}).get("ingress", []) for s in stored]
    return [item["ip"] for items in ingress for item in items]


def wait(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not come to be"
        threading.Event().wait(0.02)


class Told:
    """A sink."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def raised(self, problem: Problem) -> None:
        self.problems.append(problem)

    def cleared(self, problem: Problem) -> None:
        self.problems.remove(problem)


@contextmanager
def running(server: ApiServer, *ranges: str) -> Iterator[tuple[Balancer, Told]]:
    api, told, stop = connect("", server.url), Told(), threading.Event()
    settings = BalancerSettings(tuple(map(prefix, ranges)), namespace="kube-system", identity="here")
    elector = Elector(api, "kube-system", "here")
    elector.step()
    balancer = Balancer(api, settings, elector, (told,))
    threads = [threading.Thread(target=source.run, args=(Inbox(), stop)) for source in (elector, balancer)]
    for thread in threads:
        thread.start()
    try:
        yield balancer, told
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_thousand_services_at_once_get_a_thousand_addresses(server: ApiServer) -> None:
    with running(server, "198.18.0.0/21") as (balancer, _):
        wait(lambda: balancer.loaded)
        began = time.monotonic()
        for number in range(1000):
            server.apply(service(number))
        wait(lambda: len(addresses(server)) == 1000)
        seconds, found = time.monotonic() - began, addresses(server)
        print(f"1000 Services: {seconds:.2f} s, duplicates={1000 - len(set(found))}")
        assert len(set(found)) == 1000
        writes = sum(method == "PATCH" for method, _ in server.requests)
        assert writes < 1100, "each status is written once, but for some that changed meanwhile"
        shown = expose(BalancerCounts(balancer).show())
        assert 'kube_router_lb_pool_addresses{range="198.18.0.0/21",state="allocated"} 1000' in shown
        assert 'kube_router_lb_pool_addresses{range="198.18.0.0/21",state="free"} 1046' in shown
        assert "kube_router_lb_leader 1" in shown
        assert balancer.state() == ("loadbalancer", True, "")


def test_a_conflict_a_refusal_and_an_error_are_got_over_and_what_is_lacking_is_told(server: ApiServer) -> None:
    foreign = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}
    server.apply(service(0, status=foreign))
    with running(server, "192.0.2.0/30") as (balancer, told):
        wait(lambda: len(addresses(server)) == 2)
        server.faults += [409, 500]
        server.apply(service(1))
        wait(lambda: len(addresses(server)) == 3)
        assert set(addresses(server)) == {"203.0.113.1", "192.0.2.1", "192.0.2.2"}
        odd = service(2)
        odd["metadata"]["annotations"] = {"kube-router.io/lb.ips": "nonsense"}
        server.apply(odd)
        wait(lambda: len(told.problems) == 2)
        assert [(p.owner.name, p.reason) for p in told.problems] == [("s2", Reason.UNSUPPORTED), ("s2", Reason.MISSING)]
        server.delete("Service", "shop", "s0")
        wait(lambda: len(told.problems) == 1 and len(addresses(server)) == 2)
        wait(lambda: balancer.state()[1])
    # What a status says is kept by who leads next.
    before = addresses(server)
    with running(server, "192.0.2.0/30") as (balancer, _):
        wait(lambda: balancer.loaded)
        assert addresses(server) == before


@contextmanager
def agents(server: ApiServer, *names: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            words = [
                sys.executable,
                "-m",
                "tests.support.balancer_agent",
                server.url,
                name,
                str(SHORT),
                "198.18.0.0/23",
            ]
            started[name] = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        yield started
    finally:
        for process in started.values():
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def holder(server: ApiServer) -> str:
    with server.store.lock:
        found = server.store.objects["leases"].get(("kube-system", NAME))
    return str(found["spec"].get("holderIdentity", "")) if found is not None else ""


def test_when_the_leader_is_killed_another_goes_on_and_who_hangs_takes_up_again(server: ApiServer) -> None:
    with agents(server, "a", "b") as processes:
        wait(lambda: holder(server) != "")
        first = holder(server)
        for number in range(300):
            server.apply(service(number))
        # In the middle of its work.
        wait(lambda: len(addresses(server)) > 30)
        processes[first].send_signal(signal.SIGKILL)
        began = time.monotonic()
        wait(lambda: len(addresses(server)) == 300)
        print(f"another leads and has written all after {time.monotonic() - began:.1f} s, with a lease of {SHORT} s")
        second = holder(server)
        assert second != first
        # It hangs until its lease has run out, and asks for it again, for there is nobody else.
        processes[second].send_signal(signal.SIGSTOP)
        threading.Event().wait(SHORT)
        processes[second].send_signal(signal.SIGCONT)
        server.apply(service(300))
        wait(lambda: len(addresses(server)) == 301)
    assert len(set(addresses(server))) == 301


def test_the_daemon_runs_with_nothing_else_and_gives_the_lease_up_when_it_ends(server: ApiServer) -> None:
    server.apply(service(0))
    flags = ["--run-router=false", "--run-firewall=false", "--run-service-proxy=false", "--run-loadbalancer"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags += [f"--master={server.url}", "--loadbalancer-ip-range=192.0.2.0/29", f"--health-port={port}"]
    environment = {**os.environ, "POD_NAME": "kube-router-x", "POD_NAMESPACE": "kube-system"}
    words = [sys.executable, "-m", "kuberouter", *flags, "--health-addr=127.0.0.1"]
    with subprocess.Popen(words, cwd=ROOT, env=environment) as process:
        try:
            wait(lambda: len(addresses(server)) == 1)
            with urlopen(f"http://127.0.0.1:{port}/readyz?verbose", timeout=10) as answer:
                assert "loadbalancer" in answer.read().decode()
            assert holder(server) == "kube-router-x"
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert holder(server) == ""
    # No right but these is needed, as long as nothing goes wrong; docs/load-balancer-allocator.md names them all.
    rights = {f"{right.verb} {right.resource}" for right in used(server.requests)}
    leases = {"get leases", "create leases", "update leases"}
    assert rights == {"list services", "watch services", "patch services/status", *leases}
    more = allowed(shipped("generic-kuberouter-all-features-loadbalancer"))
    assert rights - {"list services", "watch services"} == {
        f"{right.verb} {right.resource}" for right in more - allowed(shipped("generic-kuberouter-all-features"))
    }
