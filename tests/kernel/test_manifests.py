"""The manifest directory beside the apiserver: the same steps come to the same; and what only files can do wrong."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef
from kuberouter.model.events import Accepted, Deleted, Event, Rejected, Synced, Upserted
from kuberouter.sources.apiserver import RESOURCES, ApiSource
from kuberouter.sources.manifests import ManifestSource
from kuberouter.wire.kubeapi import connect
from tests.kernel.test_apiserver_source import Listener, eventually
from tests.support.apiserver import ApiServer

Problems = dict[ObjectRef, tuple[tuple[str, str], ...]]


class Inbox(Listener):
    """One that also knows what stands of problems, as the journal does."""

    def problems(self) -> Problems:
        """Field and message by object, without the files that they are in."""
        state: Problems = {}
        for event in list(self.events):
            match event:
                case Rejected(ref=ref, problems=problems):
                    state[ref] = tuple((p.field, p.message.partition(" (file ")[0]) for p in problems)
                case Accepted(ref=ref) | Deleted(ref=ref):
                    state.pop(ref, None)
        return state

    def state(self) -> tuple[dict[ObjectRef, ClusterObject], Problems]:
        return self.objects(), self.problems()

    def told(self) -> list[str]:
        """Every problem that was ever told, as people read it."""
        return [str(p) for event in list(self.events) if isinstance(event, Rejected) for p in event.problems]


class Directory:
    """A directory and the source that reads it; `look` has it do so."""

    def __init__(self, path: Path, sources: tuple[str, ...] = tuple(RESOURCES)) -> None:
        self.path = path
        self.inbox = Inbox()
        self.source = ManifestSource(path, sources)

    def write(self, name: str, *objects: dict[str, Any] | str) -> None:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in objects]
        (self.path / name).write_text("\n---\n".join(texts))

    def look(self) -> list[Event]:
        """What one look at the directory tells."""
        before = len(self.inbox.events)
        assert self.source._look(self.inbox)
        return self.inbox.events[before:]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


CREATED = "2026-01-01T00:00:00Z"
"""Without it the apiserver puts in when it was told."""


def namespace(name: str, **labels: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def service(name: str, port: object, ip: str = "10.96.0.1") -> dict[str, Any]:
    spec = {"clusterIP": ip, "ports": [{"port": port}]}
    metadata = {"name": name, "namespace": "shop", "creationTimestamp": CREATED}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def policy(name: str, selector: object) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": CREATED},
        "spec": {"podSelector": selector},
    }


STEPS: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("a", namespace("a")),
    ("web", service("web", 80)),
    ("a", namespace("a", team="x")),
    ("bad", namespace("bad", n=7)),
    ("web", service("web", "eighty")),
    ("deny", policy("deny", {"matchLabels": {"app": "db"}})),
    ("deny", policy("deny", {"matchExpressions": [{"key": "app", "operator": "Like"}]})),
    ("a", None),
    ("web", service("web", 81)),
    ("bad", namespace("bad", n="7")),
    ("bad", namespace("bad", n=["7"])),
    ("bad", None),
    ("a", namespace("a")),
    ("never", namespace("never", n=7)),
    ("deny", None),
    ("never", None),
)
"""What becomes of an object by the name of its file; None deletes it."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def test_both_sources_tell_the_same(server: ApiServer, directory: Directory) -> None:
    watching, stop = Inbox(), threading.Event()
    sources = [ApiSource(connect("", server.url), resource) for resource in RESOURCES.values()]
    threads = [threading.Thread(target=source.run, args=(watching, stop), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: sum(isinstance(event, Synced) for event in watching.events) == len(sources))
        objects: dict[str, dict[str, Any]] = {}
        seen = []
        for name, obj in STEPS:
            if obj is None:
                gone = objects.pop(name)
                server.delete(gone["kind"], gone["metadata"].get("namespace", ""), gone["metadata"]["name"])
                (directory.path / f"{name}.yaml").unlink()
            else:
                objects[name] = obj
                server.apply(obj)
                directory.write(f"{name}.yaml", obj)
            directory.look()
            wanted = directory.inbox.state()
            eventually(lambda: watching.state() == wanted)  # noqa: B023 - it is over before the next turn
            seen.append(wanted)
        assert max(len(objects) for objects, _ in seen) == 3
        assert max(len(problems) for _, problems in seen) == 3
        assert seen[-1][1] == {}
    finally:
        stop.set()
        for thread in threads:
            for _ in range(100):
                server.cut_streams()
                thread.join(0.1)
                if not thread.is_alive():
                    break


def test_it_is_in_sync_for_all_its_sources_once_the_directory_was_read(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "later", ("nodes", "services"))
    stop = threading.Event()
    thread = threading.Thread(target=directory.source.run, args=(directory.inbox, stop), daemon=True)
    thread.start()
    eventually(lambda: directory.source.trouble)
    assert directory.source.trouble == f"directory {tmp_path}/later: No such file or directory"
    assert directory.inbox.events == []
    directory.path.mkdir()
    (directory.path / "nowhere.yaml").symlink_to("missing")
    eventually(lambda: directory.inbox.events[-2:] == [Synced("nodes"), Synced("services")])
    directory.write("web.yaml", service("web", 80), namespace("of-no-use-to-these-two"))
    eventually(lambda: directory.inbox.names() == {"web"})
    assert directory.source.trouble == ""
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_malformed_object_is_named_with_file_and_field_and_keeps_its_last_good_form(directory: Directory) -> None:
    directory.write("a.yaml", namespace("a", team="x"), namespace("b"))
    directory.look()
    directory.write("a.yaml", namespace("a", team=["x"]), namespace("b", n="new"), namespace("c"))
    directory.look()
    assert directory.inbox.told() == ["Namespace a: metadata.labels[...]: Expected `str`, got `array` (file a.yaml)"]
    found = {ref.name: obj.labels for ref, obj in directory.inbox.objects().items()}  # type: ignore[union-attr]
    assert found == {"a": (("team", "x"),), "b": (("n", "new"),), "c": ()}
    assert directory.look() == [], "told once"
    directory.write("a.yaml", namespace("a", team="x"), namespace("b", n="new"), namespace("c"))
    assert directory.look() == [Accepted(ObjectRef("Namespace", "", "a"))]


def test_an_object_goes_with_its_document_and_with_its_file(directory: Directory) -> None:
    directory.write("a.yaml", namespace("a"), namespace("b"))
    directory.write("c.json", namespace("c"))
    directory.look()
    directory.write("a.yaml", namespace("b"))
    assert directory.look() == [Deleted(ObjectRef("Namespace", "", "a"))]
    (directory.path / "c.json").unlink()
    assert directory.look() == [Deleted(ObjectRef("Namespace", "", "c"))]
    assert directory.inbox.names() == {"b"}


@pytest.mark.parametrize(
    "fault", ["a: [1", "\x00", "[" * 3000, "{kind: networkpolicy, apiVersion: networking.k8s.io/v1}"]
)
def test_a_file_with_something_unreadable_takes_nothing_back(directory: Directory, fault: str) -> None:
    directory.write("a.yaml", policy("deny", {}), namespace("a"))
    directory.write("b.yaml", namespace("b"))
    directory.look()
    directory.write("a.yaml", fault)
    directory.write("b.yaml", namespace("b", n="new"))
    told = directory.look()
    assert len(told) == 2
    assert directory.inbox.names() == {"deny", "a", "b"}
    (line,) = directory.inbox.told()
    assert line.startswith("File a.yaml: ")
    assert line.endswith(("; what it last gave stays", "; what the file last gave stays"))
    directory.write("a.yaml", policy("deny", {}))
    assert directory.look() == [Deleted(ObjectRef("Namespace", "", "a")), Accepted(ObjectRef("File", "", "a.yaml"))]


def test_an_object_in_two_files_is_told_and_the_first_file_counts(directory: Directory) -> None:
    ref = ObjectRef("Namespace", "", "a")
    directory.write("2.yaml", namespace("a", n="second"))
    directory.look()
    directory.write("1.yaml", namespace("a", n="first"))
    directory.look()
    assert directory.inbox.told() == ["Namespace a: is in 1.yaml as well, and that one counts (file 2.yaml)"]
    assert directory.inbox.objects()[ref].labels == (("n", "first"),)  # type: ignore[union-attr]
    (directory.path / "1.yaml").unlink()
    told = directory.look()
    assert told[0] == Accepted(ref)
    assert isinstance(told[1], Upserted)
    assert directory.inbox.objects()[ref].labels == (("n", "second"),)  # type: ignore[union-attr]
    directory.write("1.yaml", namespace("a", n=7))
    directory.look()
    directory.write("2.yaml", namespace("a", n=8))
    directory.look()
    assert [field for field, _ in directory.inbox.problems()[ref]] == ["metadata.labels[...]"] * 2
    (directory.path / "1.yaml").unlink()
    directory.look()
    assert len(directory.inbox.problems()[ref]) == 1, "the other file's fault is still there"


def test_a_link_that_leads_nowhere_stops_nothing(directory: Directory) -> None:
    link = directory.path / "link.yaml"
    link.symlink_to("target")
    (directory.path / "loop.yaml").symlink_to("loop.yaml")
    directory.write("a.yaml", namespace("a"))
    directory.look()
    assert directory.inbox.names() == {"a"}
    assert sorted(directory.inbox.told()) == [
        "File link.yaml: No such file or directory; what it last gave stays",
        "File loop.yaml: Too many levels of symbolic links; what it last gave stays",
    ]
    directory.write("target", namespace("b"))
    directory.look()
    assert directory.inbox.names() == {"a", "b"}
    (directory.path / "target").unlink()
    directory.look()
    assert directory.inbox.names() == {"a", "b"}
    link.unlink()
    directory.look()
    assert directory.inbox.names() == {"a"}


def test_what_is_no_file_is_not_waited_for(directory: Directory) -> None:
    os.mkfifo(directory.path / "pipe.yaml")
    (directory.path / "folder.yaml").mkdir()
    directory.write("a.yaml", namespace("a"))
    directory.look()
    assert directory.inbox.names() == {"a"}
    assert [line.partition(";")[0] for line in directory.inbox.told()] == [
        "File folder.yaml: is no regular file",
        "File pipe.yaml: is no regular file",
    ]


def test_a_change_that_leaves_size_and_mtime_is_seen(directory: Directory) -> None:
    directory.write("a.yaml", namespace("a", n="x"))
    directory.look()
    file = directory.path / "a.yaml"
    before = file.stat()
    directory.write("a.yaml", namespace("a", n="y"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert len(directory.look()) == 1


def test_what_is_of_another_api_is_left_out_with_a_line(directory: Directory, caplog: pytest.LogCaptureFixture) -> None:
    other = policy("deny", {}) | {"apiVersion": "projectcalico.org/v3"}
    directory.write("a.yaml", other, {"apiVersion": "apps/v1", "kind": "Deployment"}, namespace("a"))
    with caplog.at_level(logging.INFO, "kuberouter.sources.manifests"):
        directory.look()
        directory.look()
    assert directory.inbox.names() == {"a"}
    assert directory.inbox.told() == []
    assert [record.getMessage() for record in caplog.records] == [
        "a.yaml: left out, for nothing here reads it: Deployment (apps/v1), NetworkPolicy (projectcalico.org/v3)"
    ]
