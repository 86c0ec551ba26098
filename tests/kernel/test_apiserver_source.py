"""The apiserver source over real HTTP: pages, resume, 410, 403, malformed objects, outages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kuberouter.model.cluster import ClusterObject, LocalPod
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Accepted, Deleted, Event, Rejected, Synced, Upserted
from kuberouter.sources.apiserver import RESOURCES, ApiSource, local_pods
from kuberouter.wire.kubeapi import connect
from tests.support.apiserver import ApiServer


class Listener:
    """An inbox that keeps what it hears, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        self.events.append(event)

    def objects(self) -> dict[ObjectRef, ClusterObject]:
        """What exists after all events."""
        state: dict[ObjectRef, ClusterObject] = {}
        for event in list(self.events):
            if isinstance(event, Upserted):
                state[event.obj.ref] = event.obj
            elif isinstance(event, Deleted):
                state.pop(event.ref, None)
        return state

    def names(self) -> set[str]:
        return {ref.name for ref in self.objects()}


def eventually(check: Callable[[], object], bound: float = 10.0) -> None:
    """Wait for a condition, within a bound."""
    end = time.monotonic() + bound
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


class Watch:
    """A source on its thread."""

    def __init__(self, server: ApiServer, resource: str = "namespaces") -> None:
        self.inbox = Listener()
        self.stop = threading.Event()
        self.source = ApiSource(connect("", server.url), RESOURCES[resource])
        self.thread = threading.Thread(target=self.source.run, args=(self.inbox, self.stop), daemon=True)
        self.thread.start()

    def synced(self) -> bool:
        return any(isinstance(event, Synced) for event in self.inbox.events)


@pytest.fixture
def watch(server: ApiServer) -> Iterator[Callable[..., Watch]]:
    watches: list[Watch] = []

    def start(resource: str = "namespaces") -> Watch:
        watches.append(Watch(server, resource))
        return watches[-1]

    yield start
    for each in watches:
        each.stop.set()
    for each in watches:
        for _ in range(100):
            # A watch that is only being opened is not cut by the first of these.
            server.cut_streams()
            each.thread.join(0.1)
            if not each.thread.is_alive():
                break
        assert not each.thread.is_alive()


def test_a_list_of_many_pages_is_told_before_it_is_in_sync(server: ApiServer, watch: Callable[..., Watch]) -> None:
    for n in range(1203):
        server.apply(namespace(f"n{n}"))
    one = watch()
    eventually(one.synced)
    assert len(one.inbox.objects()) == 1203
    assert one.inbox.events[-1] == Synced("namespaces")
    lists = [path for _, path in server.requests if "watch" not in path]
    assert len(lists) == 3
    assert sum("continue=" in path for path in lists) == 2


def test_changes_arrive_as_they_happen(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.apply(namespace("a"))
    one = watch()
    eventually(one.synced)
    server.apply(namespace("b"))
    server.apply(namespace("a", team="x"))
    server.delete("Namespace", "", "b")
    eventually(lambda: one.inbox.names() == {"a"} and len(one.inbox.events) == 5)
    (only,) = one.inbox.objects().values()
    assert only.labels == (("team", "x"),)  # type: ignore[union-attr]


def test_a_cut_watch_resumes_without_listing_again(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.apply(namespace("a"))
    one = watch()
    eventually(one.synced)
    eventually(lambda: any("watch=true" in path for _, path in server.requests))
    server.cut_streams()
    server.apply(namespace("b"))
    eventually(lambda: one.inbox.names() == {"a", "b"})
    assert sum("watch" not in path for _, path in server.requests) == 1
    assert sum(isinstance(e, Synced) for e in one.inbox.events) == 1


def test_bookmarks_move_the_point_of_resumption(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.apply(namespace("a"))
    one = watch()
    eventually(one.synced)
    server.apply({"kind": "ConfigMap", "metadata": {"name": "other", "namespace": "default"}})
    wanted = str(server.store.version)
    eventually(lambda: one.source._version == wanted)
    server.compact()
    server.cut_streams()
    server.apply(namespace("b"))
    eventually(lambda: one.inbox.names() == {"a", "b"})
    assert sum("watch" not in path for _, path in server.requests) == 1


def test_410_lists_again_and_tells_what_vanished(server: ApiServer, watch: Callable[..., Watch]) -> None:
    for name in "abc":
        server.apply(namespace(name))
    one = watch()
    eventually(one.synced)
    one.source._version = "1"
    server.cut_streams()
    server.delete("Namespace", "", "b")
    server.apply(namespace("d"))
    server.compact()
    eventually(lambda: one.inbox.names() == {"a", "c", "d"})
    assert sum(isinstance(e, Synced) for e in one.inbox.events) == 1


def test_403_names_the_rule_that_is_missing(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.rules = {"": {"services"}}
    one = watch("networkpolicies")
    eventually(lambda: one.source.trouble)
    assert 'apiGroups: ["networking.k8s.io"], resources: ["networkpolicies"]' in one.source.trouble
    assert 'verbs: ["get", "list", "watch"]' in one.source.trouble
    assert not one.synced()
    server.rules = None
    eventually(one.synced)
    eventually(lambda: one.source.trouble == "")


def test_401_names_the_credentials_and_no_rule(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.rules = {"another-token": {"namespaces"}}
    one = watch()
    eventually(lambda: one.source.trouble)
    assert one.source.trouble.startswith("HTTP 401: the apiserver does not accept these credentials: ")
    assert "ClusterRole" not in one.source.trouble
    server.rules = None
    eventually(one.synced)


def test_server_errors_are_retried(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.apply(namespace("a"))
    server.faults = [500, 429, 503]
    one = watch()
    eventually(one.synced)
    assert one.inbox.names() == {"a"}


def test_a_malformed_object_is_one_problem_and_the_rest_goes_on(server: ApiServer, watch: Callable[..., Watch]) -> None:
    for name in ("a", "b", "c"):
        server.apply(namespace(name))
    server.apply({"kind": "Namespace", "metadata": {"name": "bad", "labels": {"n": 7}}})
    one = watch()
    eventually(one.synced)
    assert one.inbox.names() == {"a", "b", "c"}
    (rejected,) = [e for e in one.inbox.events if isinstance(e, Rejected)]
    assert str(rejected.problems[0]) == "Namespace bad: metadata.labels[...]: Expected `str`, got `int`"
    server.apply(namespace("bad", n="7"))
    eventually(lambda: "bad" in one.inbox.names())
    assert Accepted(ObjectRef("Namespace", "", "bad")) in one.inbox.events


def test_a_good_object_that_turns_bad_keeps_its_last_good_form(server: ApiServer, watch: Callable[..., Watch]) -> None:
    server.apply(namespace("a", team="x"))
    one = watch()
    eventually(one.synced)
    server.apply({"kind": "Namespace", "metadata": {"name": "a", "labels": {"team": ["x"]}}})
    eventually(lambda: any(isinstance(e, Rejected) for e in one.inbox.events))
    (only,) = one.inbox.objects().values()
    assert only.labels == (("team", "x"),)  # type: ignore[union-attr]


@pytest.mark.usefixtures("namespace")
def test_an_outage_of_the_apiserver_ends_in_a_clean_catch_up(watch: Callable[..., Watch], server: ApiServer) -> None:
    first = ApiServer()
    for name in "abc":
        first.apply(namespace(name))
    one = Watch(first)
    eventually(one.synced)
    port = int(first.url.rpartition(":")[2])
    first.close()
    eventually(lambda: one.source.trouble)
    with ApiServer(port=port) as second:
        second.store.version = 10_000
        second.store.compacted = 9_000
        second.apply(namespace("c"))
        second.apply(namespace("d"))
        eventually(lambda: one.inbox.names() == {"c", "d"}, 20)
        one.stop.set()
        second.cut_streams()
        one.thread.join(10)
    assert not one.thread.is_alive()


def test_a_kubeconfig_carries_the_token(server: ApiServer, tmp_path: Path) -> None:
    server.rules = {"secret-token": {"namespaces"}}
    server.apply(namespace("a"))
    file = tmp_path / "kubeconfig"
    file.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: lab
clusters: [{{name: lab, cluster: {{server: "{server.url}"}}}}]
users: [{{name: me, user: {{token: secret-token}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: me}}}}]
"""
    )
    assert b'"name": "a"' in connect(str(file), "").list_page(RESOURCES["namespaces"].path)


def test_only_the_pods_of_this_node_are_asked_for(server: ApiServer) -> None:
    def pod(name: str, node: str, container: str) -> dict[str, Any]:
        state = {
            "containerID": f"containerd://{container}",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }
        return {
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"nodeName": node},
            "status": {"podIPs": [{"ip": "10.244.1.2"}], "containerStatuses": [state]},
        }

    server.apply(pod("mine", "n1", "c1"))
    server.apply(pod("other", "n2", "c2"))
    inbox, stop = Listener(), threading.Event()
    source = ApiSource(connect("", server.url), local_pods("n1"))
    thread = threading.Thread(target=source.run, args=(inbox, stop), daemon=True)
    thread.start()
    try:
        eventually(lambda: Synced("localpods") in inbox.events)
        mine = ObjectRef("LocalPod", "shop", "mine")
        assert inbox.objects() == {mine: LocalPod(mine, "n1", (bytes((10, 244, 1, 2)),), "c1")}
        server.apply(pod("other", "n2", "c3"))
        server.apply(pod("mine", "n1", "c4"))
        eventually(lambda: inbox.objects() == {mine: LocalPod(mine, "n1", (bytes((10, 244, 1, 2)),), "c4")})
        server.delete("Pod", "shop", "mine")
        eventually(lambda: inbox.objects() == {})
    finally:
        stop.set()
        server.cut_streams()
        thread.join(5)
