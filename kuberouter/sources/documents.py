"""One file of Kubernetes YAML or JSON as objects: which documents are ours to read, as what, and what is wrong.

In comes text, out go model values and Problems. What a file holds besides is named: nothing vanishes without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
import yaml

from kuberouter.decode import DECODERS
from kuberouter.decode.localpod import LOCAL_PODS
from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef, Problem, Reason
from kuberouter.sources.apiserver import RESOURCES
from kuberouter.wire.text.shallowyaml import load_all

LARGEST = 1_000_000
"""Values in a document with its aliases written out, 64 characters as one: few lines can stand for terabytes."""
WATCHED = {(resource.api_version, resource.kind): name for name, resource in RESOURCES.items()}
"""The source that each kind stands for."""
CLUSTER_SCOPED = frozenset(("Node", "Namespace"))
OTHERS: Mapping[str, frozenset[str]] = {
    "v1": frozenset(
        (
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        )
    ),
    "networking.k8s.io/v1": frozenset(("Ingress", "IngressClass", "IPAddress", "ServiceCIDR")),
    "discovery.k8s.io/v1": frozenset(),
}
"""Kinds beside ours in the API groups that we read (Kubernetes API reference, 1.34). Any other is a slip of the pen."""

Document = dict[str, Any]
"""What YAML makes of a mapping."""


class Given(msgspec.Struct, frozen=True):
    """What a file says."""

    objects: Mapping[ObjectRef, ClusterObject]
    problems: Mapping[ObjectRef, tuple[Problem, ...]]
    """By the object, or by the file for what cannot be told to be one."""
    skipped: tuple[str, ...] = ()
    """Kinds in it that nobody here reads, with their apiVersion."""


NOTHING = Given({}, {})


class _Unreadable(Exception):
    """Why a document is no object that we could read."""


def read(text: str, file: str, sources: Collection[str]) -> Given:
    """Every object in a file of this name, as far as one of these sources would tell of it.

    Of an object that is there twice the first counts. Raises ValueError with a sentence for what is no YAML.
    """
    reader = _Reader(file, sources)
    try:
        for index, document in enumerate(load_all(text), start=1):
            reader.take(document, index, aliases="&" in text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return Given(reader.objects, reader.problems, tuple(sorted(reader.skipped)))


def file_ref(file: str) -> ObjectRef:
    """What stands for a file where its objects cannot be told."""
    return ObjectRef("File", "", file)


class _Reader:
    """Gathers what the documents of one file say."""

    def __init__(self, file: str, sources: Collection[str]) -> None:
        self.objects: dict[ObjectRef, ClusterObject] = {}
        self.problems: dict[ObjectRef, tuple[Problem, ...]] = {}
        self.skipped: set[str] = set()
        self._file = file
        self._sources = sources
        self._seen: set[ObjectRef] = set()

    def take(self, document: object, index: int, *, aliases: bool) -> None:
        """Read one document, the items of a list one by one."""
        if document is None:
            return
        where = f"document {index}"
        try:
            if aliases:
                _weigh(document)
        except _Unreadable as error:
            self._reject(where, str(error))
            return
        for place, item in _items(document, where):
            try:
                self._object(item)
            except _Unreadable as error:
                self._reject(place, str(error))

    def _reject(self, where: str, message: str) -> None:
        """Note what is wrong with a document of which one cannot tell what object it is."""
        ref = file_ref(self._file)
        self._add(Problem(ref, where, Reason.MALFORMED, f"{message}; what the file last gave stays"))

    def _add(self, *problems: Problem) -> None:
        for problem in problems:
            self.problems[problem.owner] = (*self.problems.get(problem.owner, ()), problem)

    def _named(self, ref: ObjectRef, field: str, reason: Reason, message: str) -> Problem:
        return Problem(ref, field, reason, f"{message} (file {self._file})")

    def _object(self, document: object) -> None:
        if not isinstance(document, dict):
            raise _Unreadable("is no Kubernetes object")
        kind, version = document.get("kind"), document.get("apiVersion")
        if not isinstance(kind, str) or not kind:
            raise _Unreadable("has no kind" if not kind else f"kind {kind!r} is no text")
        if version is None and kind in DECODERS:
            message = f"is missing; without it this may be another API's {kind}"
            self._add(self._named(_reference(document, kind), "apiVersion", Reason.MALFORMED, message))
            return
        if not isinstance(version, str):
            raise _Unreadable(f"{kind} has no apiVersion" if version is None else f"apiVersion {version!r} is no text")
        source = WATCHED.get((version, kind))
        if source is None:
            self._other(document, kind, version)
            return
        if source in self._sources:
            self._decode(document, kind)
        if kind == "Pod" and LOCAL_PODS in self._sources:
            self._decode(document, "LocalPod")

    def _other(self, document: Document, kind: str, version: str) -> None:
        """A kind that we do not read: of another API, or a mistake in one of ours."""
        group = version.rpartition("/")[0]
        for ours, known in WATCHED:
            if ours != version and known == kind and ours.rpartition("/")[0] == group:
                message = f"{version!r} is not known, {ours} is"
                self._add(self._named(_reference(document, kind), "apiVersion", Reason.UNSUPPORTED, message))
                return
        if version in OTHERS and kind not in OTHERS[version]:
            raise _Unreadable(f"there is no kind {kind!r} in {version}")
        self.skipped.add(f"{kind} ({version})")

    def _decode(self, document: Document, kind: str) -> None:
        ref = _reference(document, kind)
        metadata = document.get("metadata")
        if not metadata or (isinstance(metadata, dict) and not metadata.get("name")):
            self._add(self._named(ref, "metadata.name", Reason.MALFORMED, "is missing"))
            return
        try:
            raw = msgspec.json.encode(_placed(document, kind), enc_hook=str)
        except (RecursionError, TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            self._add(self._named(ref, "", Reason.MALFORMED, f"cannot be written as JSON: {error}"))
            return
        obj, problems = DECODERS[kind](raw)
        ref = obj.ref if obj is not None else problems[0].owner if problems else ref
        if ref in self._seen and ref.name != "?":
            if kind != "LocalPod":
                self._add(self._named(ref, "", Reason.CONFLICT, "is there twice, and the first counts"))
            return
        self._seen.add(ref)
        self._add(*(self._named(p.owner, p.field, p.reason, p.message) for p in problems))
        if obj is not None:
            self.objects[obj.ref] = obj


def _items(document: object, where: str) -> Iterator[tuple[str, object]]:
    """The document, or if it is a list its items; items of a typed list need not repeat of what kind they are."""
    kind = document.get("kind") if isinstance(document, dict) else None
    # What has no items is no list, whatever it is called.
    if (
        not isinstance(document, dict)
        or not isinstance(kind, str)
        or not kind.endswith("List")
        or "items" not in document
    ):
        yield where, document
        return
    items = document["items"]
    if items is not None and not isinstance(items, list):
        # What follows is no object, and is told to be none.
        yield f"{where}, items", [items]
        return
    inherited = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")}
    for index, item in enumerate(items or (), start=1):
        if isinstance(item, dict) and inherited["kind"]:
            item = {**inherited, **item}
        yield from _items(item, f"{where}, item {index}")


def _reference(document: Document, kind: str) -> ObjectRef:
    """Which object a document is about, as far as it tells."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    if kind in CLUSTER_SCOPED:
        namespace = ""
    elif not isinstance(namespace, str) or not namespace:
        namespace = "default"
    return ObjectRef(kind, namespace, name if isinstance(name, str) and name else "?")


def _placed(document: Document, kind: str) -> Document:
    """The document with the namespace that the API would give it."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return document
    if kind in CLUSTER_SCOPED:
        return {**document, "metadata": {**metadata, "namespace": ""}}
    return {**document, "metadata": {**metadata, "namespace": metadata.get("namespace") or "default"}}


def _weigh(document: object) -> None:
    """Raise _Unreadable for a document that is endless, or too large, once its aliases are written out."""
    weights: dict[int, int] = {}

    def weigh(value: object) -> int:
        if not isinstance(value, dict | list):
            return 1 + len(value) // 64 if isinstance(value, str) else 1
        if id(value) not in weights:
            # Met again before it is weighed, it is part of itself.
            weights[id(value)] = LARGEST + 1
            weights[id(value)] = 1 + sum(map(weigh, value.values() if isinstance(value, dict) else value))
        return weights[id(value)]

    try:
        total = weigh(document)
    except RecursionError:
        total = LARGEST + 1
    if total > LARGEST:
        raise _Unreadable("contains itself, or is far too large with its aliases written out")
