"""A directory of Kubernetes YAML or JSON as events: a node without a cluster, and the same deltas as a watch."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from pathlib import Path

from kuberouter.model.cluster import ClusterObject
from kuberouter.model.core import ObjectRef, Problem, Reason
from kuberouter.model.events import Accepted, Deleted, Rejected, Synced, Upserted
from kuberouter.model.ports import Inbox, Stop
from kuberouter.sources.documents import NOTHING, Given, file_ref, read

log = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between looks at the directory: a look is one stat per file."""
SUFFIXES = frozenset((".yaml", ".yml", ".json"))

Stamp = tuple[int, int, int, int] | str
"""What changes with a file: mtime, ctime, size and inode; or why it cannot be looked at."""


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
        self._files: dict[Path, Given] = {}
        self._told: dict[ObjectRef, ClusterObject] = {}
        self._faulty: dict[ObjectRef, tuple[Problem, ...]] = {}
        self._looked = time.monotonic()

    def silence(self) -> float:
        """Seconds since the directory could last be looked at; called from any thread."""
        return time.monotonic() - self._looked

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
            paths = sorted(self._directory.iterdir())
        except OSError as error:
            self._note(f"directory {self._directory}: {error.strerror}")
            return False
        self._note("")
        self._looked = time.monotonic()
        chosen = (path for path in paths if path.suffix in SUFFIXES and not path.name.startswith("."))
        stamps = {path: found for path in chosen if (found := _stamp(path)) is not None}
        if stamps == self._stamps:
            return True
        for path in self._stamps.keys() - stamps.keys():
            del self._files[path]
        for path, found in stamps.items():
            if self._stamps.get(path) != found:
                self._files[path] = self._read(path, found)
        self._stamps = stamps
        self._tell(inbox)
        return True

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("manifests cannot be read: %s", trouble)
        self.trouble = trouble

    def _read(self, path: Path, stamp: Stamp) -> Given:
        """What a file gives now; as long as something in it cannot be told apart, also what it gave before."""
        file, before = file_ref(path.name), self._files.get(path, NOTHING)
        try:
            if isinstance(stamp, str):
                raise ValueError(stamp)
            given = read(path.read_text(encoding="utf-8-sig"), path.name, self._sources)
        except (OSError, ValueError) as error:
            message = (error.strerror if isinstance(error, OSError) else None) or str(error)
            problem = Problem(file, "", Reason.MALFORMED, f"{message}; what it last gave stays")
            return Given(before.objects, {**before.problems, file: (problem,)})
        if given.skipped:
            log.info("%s: left out, for nothing here reads it: %s", path.name, ", ".join(given.skipped))
        if file in given.problems:
            return Given({**before.objects, **given.objects}, given.problems)
        return given

    def _tell(self, inbox: Inbox) -> None:
        """Tell the difference to what was told. Of an object in several files the first file's counts."""
        now: dict[ObjectRef, ClusterObject] = {}
        faulty: dict[ObjectRef, tuple[Problem, ...]] = {}
        homes: dict[ObjectRef, str] = {}
        for path, given in sorted(self._files.items()):
            for ref, problems in given.problems.items():
                faulty[ref] = (*faulty.get(ref, ()), *problems)
            for ref, obj in given.objects.items():
                if ref not in now:
                    now[ref], homes[ref] = obj, path.name
                elif ref.kind != "LocalPod":
                    message = f"is in {homes[ref]} as well, and that one counts (file {path.name})"
                    faulty[ref] = (*faulty.get(ref, ()), Problem(ref, "", Reason.CONFLICT, message))
        # An object that cannot be read any more stays as it was.
        now |= {ref: self._told[ref] for ref in faulty if ref not in now and ref in self._told}
        for ref in dict.fromkeys((*now, *faulty)):
            if faulty.get(ref) != self._faulty.get(ref):
                inbox.put(Rejected(ref, faulty[ref]) if ref in faulty else Accepted(ref))
            if ref in now and self._told.get(ref) != now[ref]:
                inbox.put(Upserted(now[ref]))
        for ref in dict.fromkeys((*self._told, *self._faulty)):
            if ref not in now and ref not in faulty:
                inbox.put(Accepted(ref) if ref.kind == "File" else Deleted(ref))
        self._told, self._faulty = now, faulty


def _stamp(path: Path) -> Stamp | None:
    """None for a file that is gone. A link that leads nowhere is not: whoever made it meant something."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.lexists(path):
            return None
        return error.strerror or str(error)
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
