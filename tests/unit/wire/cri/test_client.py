"""Asking a container runtime: both dialects of what it tells of a container, and answers that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kuberouter.model.core import Unavailable
from kuberouter.wire.cri.client import Placed, Runtime, namespace_paths
from tests.support.cri import Container, RuntimeServer, containerd_info, crio_info
from tests.support.late import Late

PROC = Path("/host/proc")


@pytest.fixture(params=[containerd_info, crio_info])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuntimeServer]:
    server = RuntimeServer(tmp_path / "cri.sock", request.param)
    yield server
    server.stop()


@pytest.fixture
def runtime(server: RuntimeServer) -> Iterator[Runtime]:
    runtime = Runtime(server.endpoint)
    yield runtime
    runtime.close()


@pytest.mark.parametrize("dialect", [containerd_info, crio_info])
def test_the_first_process_leads_to_the_namespace_then_the_path(
    dialect: Callable[[Container], dict[str, str]],
) -> None:
    both = dialect(Container("a", 4711, "/var/run/netns/cni-1"))
    assert namespace_paths(both, PROC) == (PROC / "4711/ns/net", Path("/var/run/netns/cni-1"))
    assert namespace_paths(dialect(Container("a", 4711)), PROC) == (PROC / "4711/ns/net",)
    assert namespace_paths(dialect(Container("a", 0, "/var/run/netns/x")), PROC) == (Path("/var/run/netns/x"),)


@pytest.mark.parametrize(
    ("info", "paths"),
    [
        ({}, ()),
        ({"info": "no JSON"}, ()),
        ({"info": "[]"}, ()),
        ({"info": '{"pid": "12"}'}, (PROC / "12/ns/net",)),
        ({"info": '{"pid": -1, "runtimeSpec": {"linux": {}}}'}, ()),
        ({"info": '{"pid": 0, "runtimeSpec": {"linux": {"namespaces": null}}}'}, ()),
        ({"pid": "12", "sandboxId": "x"}, (PROC / "12/ns/net",)),
    ],
)
def test_other_information_is_read_as_far_as_it_goes(info: dict[str, str], paths: tuple[Path, ...]) -> None:
    assert namespace_paths(info, PROC) == paths


def test_containers_are_found_while_they_run(server: RuntimeServer, runtime: Runtime) -> None:
    server.put("one", pid=17)
    server.put("two", pid=18, running=False)
    assert runtime.running() == ["one"]
    assert runtime.find("one") == Placed("one", (Path("/proc/17/ns/net"),))
    assert runtime.find("two") is None
    assert runtime.find("three") is None


def test_a_runtime_that_is_away_says_so_and_is_found_again(server: RuntimeServer, runtime: Runtime) -> None:
    server.put("one", pid=17)
    assert runtime.running() == ["one"]
    server.stop()
    with pytest.raises(Unavailable, match=r"does not answer on unix:///.*cri\.sock"):
        runtime.find("one")
    again = Runtime(server.endpoint)
    server.start()
    assert again.running() == ["one"]
    again.close()


def test_a_busy_runtime_is_waited_for(server: RuntimeServer, tmp_path: Path) -> None:
    server.put("one", pid=17)
    with Late(tmp_path / "late.sock", tmp_path / "cri.sock") as late:
        runtime = Runtime(f"unix://{tmp_path}/late.sock")
        assert runtime.running() == ["one"]
        runtime.close()
        assert late.impatient == 0


def test_a_runtime_that_does_not_speak_this_version_says_so(tmp_path: Path) -> None:
    server = RuntimeServer(tmp_path / "old.sock", start=False)
    server.start()
    runtime = Runtime(server.endpoint)
    with pytest.raises(Unavailable, match="refuses Version"):
        runtime._call("Version", server_request(), bytes)
    runtime.close()
    server.stop()


def server_request() -> object:
    """Any message."""
    from kuberouter.wire.cri.stubs import runtime_pb2 as pb

    return pb.ListContainersRequest()
