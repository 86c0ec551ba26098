"""How long a start waits for the apiserver, as a user runs the daemon: what its exit code and its last words are."""

from __future__ import annotations

import base64
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.drive import sh
from tests.support.apiserver import ApiServer

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 2.0
KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: SERVER}}]
users: [{name: u, user: {token: TOKEN}}]
"""


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
    with daemon(server, "--ipvs-graceful-termination", "--config-sync-period=1m") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(LIMIT + 3.0)
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "--cache-sync-timeout" not in said
    assert "--config-sync-period has no effect: " in said


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_ever_told(form: str, server: ApiServer, tmp_path: Path) -> None:
    """Passwords of peers and a bearer token, at the highest verbosity, of which every lower one shows a part."""
    planted = {"hunter2", "hunter3", "t0ken-of-ours"}
    server.rules = {"t0ken-of-ours": {"nodes", "pods"}}
    passwords = [base64.b64encode(word.encode()).decode() for word in ("hunter2", "hunter3")]
    (tmp_path / "passwords").write_text(passwords[1])
    peer = "peer-router-ips: [192.0.2.1]\npeer-router-asns: [64513]\n"
    config, socket = tmp_path / "config.yaml", tmp_path / "admin.sock"
    config.write_text(f"{peer}peer-router-passwords: [{passwords[0]}]\n")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.replace("SERVER", server.url).replace("TOKEN", "t0ken-of-ours"))
    words = [
        *("--run-firewall=false", "--run-service-proxy=false", "--enable-cni=false", "--health-port=0", "-v9"),
        *(f"--config={config}", f"--kubeconfig={kubeconfig}", f"--log-format={form}", "--hostname-override=n1"),
        *("--enable-pprof", f"--admin-socket={socket}", f"--gobgp-socket={tmp_path}/none"),
    ]
    command = [sys.executable, "-m", "kuberouter", *words]
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stderr=out) as process:
        said(log, "pass: planned")
        # A mistake beside a secret, the other password instead, the same from a file.
        for text, answer in (
            (f"{peer}peer-router-passwords: *{passwords[0]}\n", "nothing of it is taken over"),
            (f"{peer}peer-router-passwords: [{passwords[1]}]\n", "needs a restart: --peer-router-passwords"),
            (f"{peer}peer-router-passwords-file: {tmp_path}/passwords\n", "--peer-router-passwords-file"),
        ):
            config.write_text(text)
            process.send_signal(signal.SIGHUP)
            said(log, answer)
        told = [
            subprocess.run(
                [sys.executable, "-m", "kuberouter", "debug", *verb, f"--admin-socket={socket}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
            for verb in (("threads",), ("memory",), ("profile", "1"))
        ]
        process.terminate()
        assert process.wait(30) == 0
    assert "engine (" in told[0]
    everything = log.read_text() + "".join(told)
    assert not [word for word in (*planted, *passwords) if word in everything]


def said(log: Path, text: str) -> None:
    """Wait until the log has a text in it."""
    deadline = time.monotonic() + 60.0
    while text not in log.read_text():
        assert time.monotonic() < deadline, f"{text!r} is not in\n{log.read_text()}"
        time.sleep(0.05)
