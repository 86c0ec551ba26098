"""The health endpoints over real HTTP on loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from kuberouter.daemon.web import MOST_CLIENTS, HealthServer, MetricsServer


class View(NamedTuple):
    """A state of health."""

    lives: bool = True
    states: tuple[tuple[str, bool, str], ...] = ()

    def alive(self) -> bool:
        return self.lives

    def readiness(self) -> Sequence[tuple[str, bool, str]]:
        return self.states

    def startup(self) -> Sequence[tuple[str, bool, str]]:
        return [(name, True, reason) for name, _, reason in self.states]

    def pod(self, name: str) -> tuple[int, str]:
        return 200, f"{name}: in force\n"


READY = View(states=(("router", True, ""), ("firewall", True, "")))
PARTLY = View(states=(("router", True, ""), ("service-proxy", False, "kernel module ip_vs is missing")))


@pytest.fixture
def server() -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0)
    try:
        yield server
    finally:
        server.close()


def ask(server: HealthServer | MetricsServer, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_from_the_start_it_is_alive_and_not_ready(server: HealthServer) -> None:
    assert ask(server, "/healthz") == (200, "OK\n")
    assert ask(server, "/livez") == (200, "OK\n")
    assert ask(server, "/readyz") == (500, "process: not ready: starting\nreadyz check failed\n")


def test_startup_waits_for_the_process_and_for_nothing_outside_of_it(server: HealthServer) -> None:
    assert ask(server, "/startupz") == (500, "process: not started: starting\nstartupz check failed\n")
    server.serve(PARTLY)
    assert ask(server, "/startupz") == (200, "OK\n")
    body = "router: started\nservice-proxy: started: kernel module ip_vs is missing\nstartupz check passed\n"
    assert ask(server, "/startupz?verbose") == (200, body)


def test_ready(server: HealthServer) -> None:
    server.serve(READY)
    assert ask(server, "/readyz") == (200, "OK\n")
    assert ask(server, "/readyz?verbose") == (200, "router: ready\nfirewall: ready\nreadyz check passed\n")


def test_what_is_missing_is_told_and_does_not_end_life(server: HealthServer) -> None:
    server.serve(PARTLY)
    body = "router: ready\nservice-proxy: not ready: kernel module ip_vs is missing\nreadyz check failed\n"
    assert ask(server, "/readyz?verbose") == (500, body)
    assert ask(server, "/readyz") == (500, body)
    assert ask(server, "/healthz") == (200, "OK\n")


def test_a_stuck_process_is_unhealthy(server: HealthServer) -> None:
    server.serve(View(lives=False))
    assert ask(server, "/healthz") == (500, "Unhealthy")
    assert ask(server, "/livez") == (500, "Unhealthy")


def test_a_pod_is_asked_for_by_name(server: HealthServer) -> None:
    assert ask(server, "/podz?pod=shop/web") == (503, "starting\n")
    server.serve(READY)
    assert ask(server, "/podz?pod=shop/web") == (200, "shop/web: in force\n")
    for words in ("", "?pod=web", "?pod=a/b/c", "?pod=a/b&pod=c/d"):
        assert ask(server, f"/podz{words}")[0] == 400


def test_others_are_told_nothing_of_pods() -> None:
    server = HealthServer("", 0)
    server.serve(READY)
    try:
        with socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.2", 0)) as client:
            client.sendall(b"GET /podz?pod=shop/web HTTP/1.0\r\n\r\n")
            assert client.recv(200).split()[1] == b"403"
        assert ask(server, "/podz?pod=shop/web")[0] == 200
    finally:
        server.close()


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS"])
def test_any_method_will_do(server: HealthServer, method: str) -> None:
    assert ask(server, "/healthz", method) == (200, "" if method == "HEAD" else "OK\n")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/metrics", "//healthz/x"])
def test_nothing_else_is_served(server: HealthServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_a_client_that_says_nothing_or_nonsense_disturbs_nobody(server: HealthServer) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(5):
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.sendall(b"\x00\xff nonsense\r\n\r\n")
            assert b"400" in client.recv(200)
        assert ask(server, "/healthz") == (200, "OK\n")


def test_too_many_clients_are_turned_away_and_seats_are_given_back(server: HealthServer) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            for _ in range(MOST_CLIENTS + 1)
        ]
        ended, _, _ = select.select(clients, [], [], 4.0)
        assert [client.recv(1) for client in ended] == [b""]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n") if client not in ended else None
        answers = [client.recv(12) for client in clients if client not in ended]
        assert answers == [b"HTTP/1.0 200"] * MOST_CLIENTS
    assert ask(server, "/healthz") == (200, "OK\n")


def test_an_ipv6_address_will_do() -> None:
    server = HealthServer("::1", 0)
    try:
        with urllib.request.urlopen(f"http://[::1]:{server.port}/livez", timeout=5) as answer:
            assert answer.read() == b"OK\n"
    finally:
        server.close()


def test_a_port_in_use_is_an_error(server: HealthServer) -> None:
    with pytest.raises(OSError, match="in use"):
        HealthServer("127.0.0.1", server.port)


def test_metrics_are_under_one_path_once_they_are_there() -> None:
    server = MetricsServer("127.0.0.1", 0, "/numbers")
    try:
        assert ask(server, "/numbers") == (503, "starting\n")
        pages = iter(("x 1\n", "x 2\n"))
        server.serve(lambda: next(pages))
        assert ask(server, "/numbers?name[]=x") == (200, "x 1\n")
        assert ask(server, "/metrics") == (404, "not found\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/numbers", timeout=5) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.read() == b"x 2\n"
    finally:
        server.close()
