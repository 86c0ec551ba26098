"""A directory of Kubernetes YAML or JSON as events: a node without a cluster, and the same deltas as a watch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

from kuberouter.decode import DECODERS
from kuberouter.decode.localpod import LOCAL_PODS
from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef, Problem, Reason
from kuberouter.model.events import Accepted, Deleted, Rejected, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop

log = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between looks at the directory: a look is one stat per file."""
SUFFIXES = frozenset((".yaml", ".yml", ".json"))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Stamp = tuple[int, int, int]


class ManifestSource:
    """All kinds of one directory. A file that cannot be read keeps what it last gave; the others go on."""

    def __init__(self, directory: Path, sources: tuple[str, ...]) -> None:
        self.name = "manifests"
        self.trouble = ""
        """What keeps the directory from being read now; read by the health endpoint."""
        self._directory = directory
        self._sources = sources
        """Names of the sources that this one stands in for."""
        self._stamps: dict[Path, Stamp] = {}
        self._objects: dict[Path, dict[ObjectRef, ClusterObject]] = {}
        self._told: dict[ObjectRef, ClusterObject] = {}
        self._faulty: dict[Path, set[ObjectRef]] = {}

    def run(self, inbox: Inbox, stop: Stop) -> None:
        """Look at the directory until `stop`; in sync once it was read for the first time."""
        synced = False
        while not stop.is_set():
            if self._look(inbox) and not synced:
                synced = True
                for source in self._sources:
                    inbox.put(Synced(source))
            stop.wait(PERIOD)

    def _look(self, inbox: Inbox) -> bool:
        """One look; whether the directory could be read."""
        try:
            stamps = {
                path: (status.st_mtime_ns, status.st_size, status.st_ino)
                for path in sorted(self._directory.iterdir())
                if path.suffix in SUFFIXES and not path.name.startswith(".")
                for status in (path.stat(),)
            }
        except FileNotFoundError:
            if self._directory.exists():
                return False
            self._note(f"directory {self._directory} does not exist")
            return False
        except OSError as error:
            self._note(f"directory {self._directory}: {error.strerror}")
            return False
        self._note("")
        if stamps == self._stamps:
            return True
        for path in self._stamps.keys() - stamps.keys():
            self._objects.pop(path, None)
            self._clear(path, set(), inbox)
        for path, stamp in stamps.items():
            if self._stamps.get(path) != stamp:
                self._read(path, inbox)
        self._stamps = stamps
        self._tell(inbox)
        return True

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("manifests cannot be read: %s", trouble)
        self.trouble = trouble

    def _read(self, path: Path, inbox: Inbox) -> None:
        file = ObjectRef("File", "", path.name)
        try:
            documents = list(_documents(path))
        except (OSError, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
            message = " ".join(str(error).split())
            problem = Problem(file, "", Reason.MALFORMED, f"{message}; what it last gave stays")
            inbox.put(Rejected(file, (problem,)))
            self._faulty.setdefault(path, set()).add(file)
            return
        objects: dict[ObjectRef, ClusterObject] = {}
        faulty: set[ObjectRef] = set()
        before = self._objects.get(path, {})
        for document in documents:
            for kind in self._readings(document):
                obj, ref, problems = _decode(document, kind, path.name)
                if problems:
                    faulty.add(ref)
                    inbox.put(Rejected(ref, problems))
                if obj is not None:
                    objects[obj.ref] = obj
                elif problems and ref in before:
                    objects[ref] = before[ref]
        self._objects[path] = objects
        self._clear(path, faulty, inbox)

    def _readings(self, document: dict[str, object]) -> tuple[str, ...]:
        """As what an object is read."""
        kind = str(document.get("kind", ""))
        return (kind, "LocalPod") if kind == "Pod" and LOCAL_PODS in self._sources else (kind,)

    def _clear(self, path: Path, faulty: set[ObjectRef], inbox: Inbox) -> None:
        """Take back the problems that a file no longer has."""
        for ref in self._faulty.pop(path, set()) - faulty:
            inbox.put(Accepted(ref))
        if faulty:
            self._faulty[path] = faulty

    def _tell(self, inbox: Inbox) -> None:
        """Tell the difference to what was told. Of an object in several files the first file's counts."""
        now: dict[ObjectRef, ClusterObject] = {}
        for path in sorted(self._objects):
            for ref, obj in self._objects[path].items():
                now.setdefault(ref, obj)
        for ref, obj in now.items():
            if self._told.get(ref) != obj:
                inbox.put(Upserted(obj))
        for ref in self._told.keys() - now.keys():
            inbox.put(Deleted(ref))
        self._told = now


def _documents(path: Path) -> Iterator[dict[str, object]]:
    """Every object in a file, items of lists one by one. Raises ValueError for a document that is no object."""
    for index, document in enumerate(yaml.load_all(path.read_text(), Loader=_LOADER)):
        if document is None:
            continue
        if not isinstance(document, dict):
            raise ValueError(f"document {index} is no Kubernetes object")
        items = document.get("items")
        if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
            if not all(isinstance(item, dict) for item in items):
                raise ValueError(f"document {index} has items that are no Kubernetes objects")
            yield from items
        else:
            yield document


def _decode(
    document: dict[str, object], kind: str, file: str
) -> tuple[ClusterObject | None, ObjectRef, tuple[Problem, ...]]:
    decode = DECODERS.get(kind)
    if decode is None:
        return None, ObjectRef("File", "", file), ()
    namespaced = kind not in ("Node", "Namespace")
    metadata = document.get("metadata")
    if namespaced and isinstance(metadata, dict) and not metadata.get("namespace"):
        document = {**document, "metadata": {**metadata, "namespace": "default"}}
    obj, problems = decode(msgspec.json.encode(document, enc_hook=str))
    ref = obj.ref if obj is not None else problems[0].owner if problems else ObjectRef(kind, "", "?")
    named = tuple(Problem(p.owner, p.field, p.reason, f"{p.message} (file {file})") for p in problems)
    return obj, ref, named
