"""Health check node ports with real clients, good and bad ones."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest

from kuberouter.drivers import healthports
from kuberouter.drivers.healthports import HealthPortDriver
from kuberouter.model.core import Batch
from kuberouter.model.host import HealthPort, HealthPortKey
from tests.kernel.drive import converge, owned

pytestmark = pytest.mark.root

PORT, OTHER = 31999, 31998


def row(count: int, port: int = PORT, name: str = "web") -> HealthPort:
    return HealthPort(HealthPortKey(port), "shop", name, count)


@pytest.fixture
def driver(namespace: str) -> Iterator[HealthPortDriver]:
    del namespace
    driver = HealthPortDriver()
    yield driver
    driver.close()


def ask(port: int = PORT, host: str = "127.0.0.1", path: str = "/healthz", method: str = "GET") -> tuple[int, bytes]:
    """Status and body."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path, body=b"x" * 20_000 if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_answers_as_kube_proxy_does_on_every_address(driver: HealthPortDriver) -> None:
    assert converge(driver, [row(300)]) == {}
    connection = http.client.HTTPConnection("::1", PORT, timeout=5)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200
    headers = dict(answer.getheaders())
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "300"
    assert json.loads(answer.read()) == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 300,
        "serviceProxyHealthy": True,
    }
    connection.close()
    assert ask(method="HEAD") == (200, b"")
    assert ask(method="POST")[0] == 200


def test_no_endpoint_or_no_working_proxy_is_a_503(namespace: str) -> None:
    del namespace
    healthy = [True]
    driver = HealthPortDriver(lambda: healthy[0])
    assert converge(driver, [row(1)]) == {}
    assert ask()[0] == 200
    assert converge(driver, [row(0)]) == {}
    status, body = ask()
    assert (status, json.loads(body)["localEndpoints"]) == (503, 0)
    assert converge(driver, [row(2)]) == {}
    healthy[0] = False
    status, body = ask()
    assert (status, json.loads(body)["serviceProxyHealthy"]) == (503, False)
    driver.close()


def test_b15_a_port_in_use_fails_alone_and_is_had_later(driver: HealthPortDriver) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        failed = converge(driver, [row(1), row(1, OTHER)])
        assert failed == {HealthPortKey(PORT): f"port {PORT} cannot be had: Address already in use"}
        assert ask(OTHER)[0] == 200
        assert set(owned(driver)) == {HealthPortKey(OTHER)}
    assert converge(driver, [row(1), row(1, OTHER)]) == {}
    assert ask()[0] == 200


def test_b15_a_port_changes_hands_without_a_gap_and_closes_at_once(driver: HealthPortDriver) -> None:
    assert converge(driver, [row(1)]) == {}
    assert converge(driver, [row(2, name="api")]) == {}
    assert json.loads(ask()[1])["service"]["name"] == "api"
    for _ in range(20):
        assert converge(driver, []) == {}
        with pytest.raises(ConnectionRefusedError):
            ask()
        assert converge(driver, [row(1)]) == {}
        assert ask()[0] == 200


def test_clients_that_say_nothing_or_nonsense_hold_nobody_up(driver: HealthPortDriver) -> None:
    assert converge(driver, [row(1)]) == {}
    silent = [socket.create_connection(("127.0.0.1", PORT)) for _ in range(healthports.MOST_CLIENTS + 10)]
    assert ask()[0] == 200
    nonsense = socket.create_connection(("127.0.0.1", PORT))
    nonsense.sendall(b"\x16\x03\x01\r\n\r\n")
    assert nonsense.recv(100).startswith(b"HTTP/1.1 400 ")
    endless = socket.create_connection(("127.0.0.1", PORT))
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        endless.sendall(b"x" * 10_000_000)
    began = time.monotonic()
    assert silent[-1].recv(1) == b"", "it is hung up on after a while"
    assert time.monotonic() - began < healthports.PATIENCE + 2
    for each in (*silent, nonsense, endless):
        each.close()
    assert ask()[0] == 200


def test_a_thread_that_ended_is_found_by_the_next_look(driver: HealthPortDriver) -> None:
    assert converge(driver, [row(1)]) == {}
    server = driver._server
    assert server is not None
    server.end()
    assert converge(driver, [row(1)]) == {}
    assert ask()[0] == 200
    assert not driver.write(Batch()).failed
