"""How long a start waits for the apiserver, as a user runs the daemon: what its exit code and its last words are."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.drive import sh
from tests.support.apiserver import ApiServer

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 2.0


@pytest.fixture
def server(namespace: str) -> Iterator[ApiServer]:
    sh("ip", "link", "set", "lo", "up")
    with contextlib.closing(ApiServer()) as server:
        yield server


def daemon(server: ApiServer, *words: str) -> subprocess.Popen[str]:
    """The service proxy alone, in the namespace of the test."""
    off = ("--run-router=false", "--run-firewall=false", "--health-port=0", "--hostname-override=n1")
    limit = f"--cache-sync-timeout={LIMIT}s"
    command = [sys.executable, "-m", "kuberouter", f"--master={server.url}", limit, *off, *words]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_start_ends_when_the_apiserver_has_not_told_of_everything_in_time(server: ApiServer) -> None:
    server.rules = {"": {"services", "nodes"}}
    with daemon(server) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = [line for line in said.splitlines() if "--cache-sync-timeout" in line]
    assert "after 2s there is no answer for endpointslices: " in line
    assert 'apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"]' in line
    assert "services" not in line.partition("endpointslices")[2]
    assert "kube-dummy-if" not in sh("ip", "link")


def test_what_can_be_done_without_is_not_waited_for(server: ApiServer) -> None:
    """Pods are watched for their grace periods only; a node that is not there yet is nobody's silence."""
    server.rules = {"": {"services", "nodes", "endpointslices"}}
    with daemon(server, "--ipvs-graceful-termination", "--enable-pprof") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(LIMIT + 3.0)
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "--cache-sync-timeout" not in said
    assert "--enable-pprof has no effect" in said
