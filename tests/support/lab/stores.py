"""Where a lab's API objects go: a directory of manifests, or the lab apiserver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.support.apiserver import ApiServer
from tests.support.lab import netns
from tests.support.lab.fabric import API_ADDRESS, API_PORT
from tests.support.lab.objects import Object, identity


class Store(Protocol):
    """Takes API objects and shows them to the daemons."""

    def apply(self, obj: Object) -> None: ...

    def delete(self, kind: str, namespace: str, name: str) -> None: ...

    def arguments(self) -> list[str]:
        """Daemon flags that point at this store."""
        ...

    def close(self) -> None: ...


class ManifestStore:
    """One file per object in a directory, for `--manifests`. A file appears whole, by renaming."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()

    def _file(self, kind: str, namespace: str, name: str) -> Path:
        return self._directory / f"{kind}_{namespace}_{name}.yaml".lower()

    def apply(self, obj: Object) -> None:
        """Write an object. JSON is YAML."""
        file = self._file(*identity(obj))
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(obj, indent=1))
        draft.rename(file)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object; one that is gone is no error."""
        self._file(kind, namespace, name).unlink(missing_ok=True)

    def arguments(self) -> list[str]:
        return [f"--manifests={self._directory}"]

    def close(self) -> None:
        """Nothing runs here."""


class ApiStore:
    """The lab apiserver, listening inside the fabric, where every node reaches it by its default route."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        # A socket stays in the namespace in which it was made; the threads that serve it don't matter.
        with netns.inside(namespace):
            self.server = ApiServer(API_ADDRESS, API_PORT)

    def apply(self, obj: Object) -> None:
        """Create or replace an object."""
        self.server.apply(obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object; one that is gone is no error."""
        self.server.delete(kind, namespace, name)

    def arguments(self) -> list[str]:
        return [f"--master={self.server.url}"]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers meanwhile. Then all is as it was changed, and its history forgotten, as after a long time."""
        self.server.close()
        try:
            yield
        finally:
            self.server.compact()
            with netns.inside(self._namespace):
                self.server = ApiServer(API_ADDRESS, API_PORT, self.server.store)

    def close(self) -> None:
        """End the server and its streams."""
        self.server.close()
