"""Container -> network namespace, as the container runtime tells it.

What `ContainerStatus` says when it is asked to be verbose is not part of the interface, but containerd and CRI-O agree:
under the key `info` there is a JSON object with the first process (`pid`) and the OCI configuration (`runtimeSpec`).
Every call has a deadline; a runtime that does not answer raises Unavailable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kuberouter.model.core import Unavailable, Value

DEADLINE = 15.0
"""Seconds that a call may take; the Go kube-router gives it as many, for a runtime that starts pods is busy."""
HUNG = 30.0
"""Seconds after a call that got no answer in which no other is tried: whoever calls has more to do than wait."""
PREFIX = "unix://"
SERVICE = "/runtime.v1.RuntimeService/"
PROC = Path("/proc")
MOST_BYTES = 16 << 20
"""The longest answer that is read: a verbose one carries the whole configuration of a container."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: how long an attempt to connect may take. Who is busy greets nobody for a while.
    ("grpc.min_reconnect_backoff_ms", int(DEADLINE * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class _Namespace(msgspec.Struct):
    type: str = ""
    path: str = ""


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] | None = None


class _Spec(msgspec.Struct):
    linux: _Linux | None = None


class _Info(msgspec.Struct):
    """What both runtimes write under `info`."""

    pid: int = 0
    spec: _Spec | None = msgspec.field(default=None, name="runtimeSpec")


_INFO = msgspec.json.Decoder(_Info, strict=False)


class Placed(Value, frozen=True, gc=False):
    """Where a running container is: files that stand for its network namespace, the likeliest first."""

    container: str
    paths: tuple[Path, ...]


def namespace_paths(info: Mapping[str, str], proc: Path = PROC) -> tuple[Path, ...]:
    """The files that verbose information names: by the first process, then the one that the container was to join.

    The second is how the runtime itself sees the file system, which is not always how we do. Nothing useful gives none.
    """
    try:
        known = _INFO.decode(info.get("info", "{}"))
    except msgspec.DecodeError:
        known = _Info()
    pid = known.pid or (int(info["pid"]) if info.get("pid", "").isdigit() else 0)
    linux = known.spec.linux if known.spec is not None else None
    named = [n.path for n in (linux.namespaces if linux is not None else None) or () if n.type == "network" and n.path]
    paths = [proc / str(pid) / "ns" / "net"] if pid > 0 else []
    return (*paths, *(Path(path) for path in named))


class Runtime:
    """One container runtime. The library that speaks to it is loaded with the first question."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is `unix://` with the absolute path of the socket."""
        self.endpoint = endpoint
        self._channel: Any = None
        self._hung_until = 0.0

    def running(self) -> list[str]:
        """The ids of all containers that run. Raises Unavailable."""
        from kuberouter.wire.cri.stubs import runtime_pb2 as pb

        asked = pb.ListContainersRequest()
        asked.filter.state.state = pb.CONTAINER_RUNNING
        answer = self._call("ListContainers", asked, pb.ListContainersResponse.FromString)
        # Whoever does not know the filter may answer with more.
        return [c.id for c in answer.containers if c.state == pb.CONTAINER_RUNNING] if answer is not None else []

    def find(self, container: str) -> Placed | None:
        """Where a container is; None if it does not run, or is not known any more. Raises Unavailable."""
        from kuberouter.wire.cri.stubs import runtime_pb2 as pb

        asked = pb.ContainerStatusRequest(container_id=container, verbose=True)
        answer = self._call("ContainerStatus", asked, pb.ContainerStatusResponse.FromString)
        if answer is None or answer.status.state != pb.CONTAINER_RUNNING:
            return None
        return Placed(container, namespace_paths(dict(answer.info)))

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _call(self, method: str, request: Any, decode: Callable[[bytes], Any]) -> Any:
        """The answer; None when what was asked for does not exist."""
        import grpc

        if time.monotonic() < self._hung_until:
            raise self._silent()
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix:{self.endpoint.removeprefix(PREFIX)}", options=_OPTIONS)
        invoke = self._channel.unary_unary(SERVICE + method, lambda message: message.SerializeToString(), decode)
        try:
            return invoke(request, timeout=DEADLINE)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code is grpc.StatusCode.NOT_FOUND:
                return None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._hung_until = time.monotonic() + HUNG
            if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise self._silent() from None
            raise Unavailable(f"the container runtime refuses {method}: {details or code.name}") from None

    def _silent(self) -> Unavailable:
        return Unavailable(f"the container runtime does not answer on {self.endpoint}")
