"""Problems as Kubernetes Events over real HTTP: on which object, how often, and what happens while nobody listens."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.daemon.events import BURST, MOST_OBJECTS, MOST_WAITING, REFILL, EventSink, Limiter
from kuberouter.engine.inbox import Inbox
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import Planner
from kuberouter.model.core import ObjectRef, Owner, Problem, Reason
from kuberouter.model.settings import NodeSettings
from kuberouter.sources.apiserver import RESOURCES, ApiSource
from kuberouter.wire.kubeapi import connect
from tests.kernel.test_apiserver_source import eventually
from tests.support.apiserver import ApiServer

WEB = ObjectRef("Service", "shop", "web")
PORT = Problem(WEB, "spec.ports[0].port", Reason.MALFORMED, "70000 is not a port number")
SERVICE = {"kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}}
NODE = {"kind": "Node", "metadata": {"name": "node1"}}


class Reporter:
    """A journal whose only sink posts Events, on a thread that ends with the test."""

    def __init__(self, url: str) -> None:
        self.sink = EventSink(connect("", url), "node1", clock=lambda: self.now)
        self.now = 0.0
        self.journal = Journal([self.sink])
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.sink.run, args=(Inbox(), self.stop), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.apply(SERVICE)
        server.apply(NODE)
        yield server


@pytest.fixture
def reporter(server: ApiServer) -> Iterator[Reporter]:
    reporter = Reporter(server.url)
    yield reporter
    reporter.close()


def events(server: ApiServer) -> list[dict[str, Any]]:
    with server.store.lock:
        return [json.loads(json.dumps(event)) for event in server.store.objects["events"].values()]


def test_a_problem_becomes_an_event_on_its_object(server: ApiServer, reporter: Reporter) -> None:
    reporter.journal.report(Owner("ipvs", WEB), [PORT])
    reporter.journal.report(Owner("vips", WEB), [PORT])
    eventually(lambda: reporter.sink.posted == 1)
    (event,) = events(server)
    service = server.store.objects["services"]["shop", "web"]
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "name": "web",
        "namespace": "shop",
        "uid": service["metadata"]["uid"],
    }
    assert event["metadata"]["namespace"] == "shop"
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "Malformed", 1)
    assert event["message"] == "spec.ports[0].port: 70000 is not a port number"
    assert event["source"] == {"component": "kube-router", "host": "node1"}


def test_a_malformed_policy_gets_an_event_by_the_daemons_own_road(server: ApiServer, reporter: Reporter) -> None:
    """W30, pain 29."""
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.300/8"}}]}]}
    server.apply({"kind": "NetworkPolicy", "metadata": {"name": "odd", "namespace": "shop"}, "spec": spec})
    inbox, stop = Inbox(), threading.Event()
    source = ApiSource(connect("", server.url), RESOURCES["networkpolicies"])
    thread = threading.Thread(target=source.run, args=(inbox, stop), daemon=True)
    thread.start()
    planner = Planner(Cluster(NodeSettings("node1")), [], [], reporter.journal)
    try:
        eventually(lambda: len(inbox) >= 2)
        planner.step(inbox.take(1.0, 0.0))
        eventually(lambda: events(server))
    finally:
        stop.set()
        server.cut_streams()
    (event,) = events(server)
    about = event["involvedObject"]
    assert (about["apiVersion"], about["kind"], about["name"]) == ("networking.k8s.io/v1", "NetworkPolicy", "odd")
    assert about["uid"] == server.store.objects["networkpolicies"]["shop", "odd"]["metadata"]["uid"]
    assert "10.0.0.300/8" in event["message"]


def test_the_same_problem_again_raises_the_count_also_after_a_restart(server: ApiServer, reporter: Reporter) -> None:
    owner = Owner("ipvs", WEB)
    for told in (1, 2):
        reporter.journal.report(owner, [PORT])
        eventually(lambda told=told: reporter.sink.posted == told)
        reporter.journal.report(owner, [])
    successor = Reporter(server.url)
    try:
        successor.journal.report(owner, [PORT])
        eventually(lambda: successor.sink.posted == 1)
    finally:
        successor.close()
    (event,) = events(server)
    assert event["count"] == 3


def test_an_event_about_a_table_is_one_on_the_node_in_namespace_default(server: ApiServer, reporter: Reporter) -> None:
    table = ObjectRef("Table", "", "VirtualService")
    reporter.journal.report(Owner("x", table), [Problem(table, "", Reason.MISSING, "kernel module ip_vs is missing")])
    eventually(lambda: reporter.sink.posted)
    (event,) = events(server)
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"]["kind"] == "Node"
    assert event["involvedObject"]["name"] == "node1"
    assert event["message"] == "Table VirtualService: kernel module ip_vs is missing"


def test_one_object_can_neither_flood_nor_silence_the_others(server: ApiServer, reporter: Reporter) -> None:
    def many(first: int) -> list[Problem]:
        return [Problem(WEB, "spec", Reason.CONFLICT, f"conflict {n}") for n in range(first, first + BURST + 5)]

    reporter.journal.report(Owner("a", WEB), many(0))
    node = ObjectRef("Node", "", "node1")
    reporter.journal.report(Owner("b", node), [Problem(node, "", Reason.FAILED, "no space left")])
    eventually(lambda: reporter.sink.posted + reporter.sink.suppressed == BURST + 6)
    assert reporter.sink.suppressed == 5
    assert len(events(server)) == BURST + 1
    reporter.now = REFILL * 2 + 1
    reporter.journal.report(Owner("a", WEB), many(1000))
    eventually(lambda: reporter.sink.posted + reporter.sink.suppressed == 2 * BURST + 11)
    assert len(events(server)) == BURST + 3


def test_without_the_right_it_says_which_rule_is_missing_once_and_goes_on_when_it_is_there(
    server: ApiServer, reporter: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    server.rules = {"": {"services", "nodes"}}
    reporter.journal.report(Owner("ipvs", WEB), [PORT])
    posts = [("POST", "/api/v1/namespaces/shop/events")]
    eventually(lambda: [r for r in server.requests if r[0] == "POST"] == posts * 2)
    told = [message for message in caplog.messages if "cannot be posted" in message]
    assert len(told) == 1
    assert 'apiGroups: [""], resources: ["events"], verbs: ["create", "get", "patch"]' in told[0]
    server.rules = None
    eventually(lambda: events(server), 20)


@pytest.mark.usefixtures("namespace")
def test_an_apiserver_that_is_away_holds_nobody_up_and_hears_of_it_later(caplog: pytest.LogCaptureFixture) -> None:
    with ApiServer() as gone:
        url, port = gone.url, int(gone.url.rpartition(":")[2])
    caplog.set_level(logging.ERROR)
    reporter = Reporter(url)
    try:
        flood = [Problem(WEB, "", Reason.FAILED, str(n)) for n in range(MOST_WAITING + 50)]
        reporter.journal.report(Owner("a", WEB), [PORT])
        eventually(lambda: reporter.sink.trouble)
        reporter.journal.report(Owner("b", WEB), flood)
        assert reporter.sink.suppressed == 51
        # What is solved before anybody could be told is not told.
        reporter.journal.report(Owner("b", WEB), [])
        with ApiServer(port=port) as server:
            server.apply(SERVICE)
            eventually(lambda: events(server), 30)
            assert [event["reason"] for event in events(server)] == ["Malformed"]
    finally:
        reporter.close()
    assert len([message for message in caplog.messages if "cannot be posted" in message]) == 1


def test_an_object_that_is_gone_gets_no_event(server: ApiServer, reporter: Reporter) -> None:
    gone = ObjectRef("Service", "shop", "gone")
    reporter.journal.report(Owner("a", gone), [Problem(gone, "", Reason.CONFLICT, "its address is taken")])
    reporter.journal.report(Owner("b", WEB), [PORT])
    eventually(lambda: reporter.sink.posted)
    assert [event["involvedObject"]["name"] for event in events(server)] == ["web"]


def test_an_error_about_one_event_does_not_block_the_next(server: ApiServer, reporter: Reporter) -> None:
    server.faults = [500, 500]
    reporter.journal.report(Owner("b", WEB), [PORT])
    eventually(lambda: reporter.sink.posted, 20)
    assert len(events(server)) == 1


def test_credentials_that_are_not_accepted_lose_no_event_and_are_no_missing_rule(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    sink = EventSink(connect("", server.url), "node1", clock=lambda: 0.0)
    waits: list[float | None] = []

    class Impatient:
        def is_set(self) -> bool:
            return len(waits) == 20 or sink.posted > 0

        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    server.faults = [401] * 10
    sink.raised(PORT)
    sink.run(Inbox(), Impatient())
    assert (len(waits), len(events(server))) == (10, 1)
    (told,) = [message for message in caplog.messages if "cannot be posted" in message]
    assert "does not accept these credentials" in told
    assert "ClusterRole" not in told


def test_the_limiter_remembers_a_bounded_number_of_objects() -> None:
    limiter = Limiter()
    for _ in range(BURST):
        limiter.spend(WEB, 0.0)
    assert not limiter.allows(WEB, REFILL - 1)
    assert limiter.allows(WEB, REFILL)
    for n in range(MOST_OBJECTS):
        limiter.spend(ObjectRef("Pod", "shop", str(n)), 0.0)
    assert limiter.allows(WEB, 0.0), "the longest silent one is forgotten first"
