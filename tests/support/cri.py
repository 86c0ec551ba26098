"""A container runtime for tests: the two calls of runtime.v1 that we make, over a unix socket, with any containers.

It answers as containerd or as CRI-O does; both put a JSON object under `info`, with different things in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kuberouter.wire.cri.client import SERVICE
from kuberouter.wire.cri.stubs import runtime_pb2 as pb


@dataclass(slots=True)
class Container:
    """A container of the runtime. `path` is what its OCI configuration says of its network namespace."""

    id: str
    pid: int = 0
    path: str = ""
    running: bool = True


def containerd_info(container: Container) -> dict[str, str]:
    """What containerd tells of a container when it is asked to be verbose."""
    info = {
        "sandboxID": "5e" * 32,
        "pid": container.pid,
        "removing": False,
        "snapshotter": "overlayfs",
        "runtimeType": "io.containerd.runc.v2",
        "config": {"metadata": {"name": "main"}},
        "runtimeSpec": _spec(container, {"type": "mount"}, {"type": "pid"}),
    }
    return {"info": json.dumps(info)}


def crio_info(container: Container) -> dict[str, str]:
    """What CRI-O tells."""
    info = {
        "sandboxID": "c0" * 32,
        "pid": container.pid,
        "runtimeSpec": _spec(container, {"type": "ipc", "path": "/var/run/ipcns/1"}, {"type": "cgroup"}),
        "privileged": False,
        "checkpointedAt": "0001-01-01T00:00:00Z",
    }
    return {"info": json.dumps(info)}


def _spec(container: Container, *others: dict[str, str]) -> dict[str, Any]:
    network = {"type": "network", "path": container.path} if container.path else {"type": "network"}
    return {"ociVersion": "1.1.0", "process": {"args": ["/main"]}, "linux": {"namespaces": [*others, network]}}


class RuntimeServer:
    """The runtime; `containers` may be changed while it serves, `calls` says what it was asked."""

    def __init__(
        self, socket: Path, info: Callable[[Container], dict[str, str]] = containerd_info, *, start: bool = True
    ) -> None:
        self.endpoint = f"unix://{socket}"
        self.containers: dict[str, Container] = {}
        self.calls: list[str] = []
        self._info = info
        self._socket = socket
        self._server: Any = None
        if start:
            self.start()

    def start(self) -> None:
        """Begin to serve, again after `stop`."""
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handlers = {
            "ListContainers": grpc.unary_unary_rpc_method_handler(
                self._list, pb.ListContainersRequest.FromString, pb.ListContainersResponse.SerializeToString
            ),
            "ContainerStatus": grpc.unary_unary_rpc_method_handler(
                self._status, pb.ContainerStatusRequest.FromString, pb.ContainerStatusResponse.SerializeToString
            ),
        }
        name = SERVICE.strip("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        assert self._server.add_insecure_port(f"unix:{self._socket}")
        self._server.start()

    def stop(self) -> None:
        """End, as a runtime that is restarted does."""
        if self._server is not None:
            self._server.stop(0).wait(5)
            self._server = None

    def put(self, name: str, *, pid: int = 0, path: str = "", running: bool = True) -> str:
        """Have a container of this id."""
        self.containers[name] = Container(name, pid, path, running)
        return name

    def _list(self, request: Any, context: Any) -> Any:
        self.calls.append("list")
        wanted = request.filter.state.state if request.filter.HasField("state") else None
        states = [
            (each, pb.CONTAINER_RUNNING if each.running else pb.CONTAINER_EXITED) for each in self.containers.values()
        ]
        found = [pb.Container(id=each.id, state=state) for each, state in states if wanted in (None, state)]
        return pb.ListContainersResponse(containers=found)

    def _status(self, request: Any, context: Any) -> Any:
        self.calls.append(f"status {request.container_id}")
        container = self.containers.get(request.container_id)
        if container is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"container {request.container_id!r}: not found")
        assert container is not None
        state = pb.CONTAINER_RUNNING if container.running else pb.CONTAINER_EXITED
        status = pb.ContainerStatus(id=container.id, state=state)
        return pb.ContainerStatusResponse(status=status, info=self._info(container) if request.verbose else {})
