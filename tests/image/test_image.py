"""What is in the image, what is not, and what its programs do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kuberouter import __version__
from kuberouter.daemon import flags
from tests.image import build
from tests.image.conftest import Run

pytestmark = [pytest.mark.root, pytest.mark.timeout(1200)]
LARGEST = 220_000_000
"""Bytes that the image may have beyond its base."""
PROGRAMS = (
    "bash conntrack curl gobgp gobgpd gobgpd-sidecar cni-install ip ip6tables ip6tables-legacy ip6tables-nft ipset "
    "iptables iptables-legacy iptables-nft iptables-save iptables-restore ipvsadm kube-router kmod modprobe nft ping "
    "ps sysctl tcpdump"
)
BUILDERS = "cc gcc g++ make pip pip3 git ld as"
ENTRYPOINT = ["/usr/local/bin/kube-router"]


def test_it_is_small(image: Path, tell: Callable[[str], None]) -> None:
    with build.unpacked(build.BASE) as base:
        more = build.size(image) - build.size(base)
    own = build.size(image / "opt/kube-router/kuberouter")
    tell(f"image: {more / 1e6:.0f} MB unpacked beyond its base, {own / 1e6:.1f} MB of it kube-router's own layer")
    assert more < LARGEST


def test_it_says_what_it_is() -> None:
    said = json.loads(build.buildah("inspect", "--type", "image", build.IMAGE))["OCIv1"]["config"]
    assert (said["Entrypoint"], said["WorkingDir"]) == (ENTRYPOINT, "/root")
    assert said["Labels"]["org.opencontainers.image.version"] == __version__
    assert said["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_daemon_answers(run: Run) -> None:
    assert run(*ENTRYPOINT, "--version").startswith(f"kube-router version {__version__}, Python 3.")
    known = any(flag.name == "cleanup-config" for flag in flags.FLAGS)
    words = ("--cleanup-config", "--dry-run") if known else ("--help",)
    assert run(*ENTRYPOINT, *words)


def test_every_program_of_an_operator_is_there(run: Run) -> None:
    script = f"for name in {PROGRAMS}; do command -v $name > /dev/null || echo $name is missing; done"
    assert run("sh", "-c", script) == ""
    assert set(run("ls", "/usr/libexec/cni").split()) == {"bridge", "host-local", "loopback", "portmap"}


def test_nothing_of_the_builder_stays(image: Path, run: Run) -> None:
    """No compiler, no pip, no secret of the build, no lists of packages, nothing half done."""
    script = f"for name in {BUILDERS}; do command -v $name; done; true"
    assert run("sh", "-c", script) == ""
    # Of the secrets only the empty place is left at which they were mounted.
    assert [path for path in (image / "run").rglob("*") if path.is_file() and path.stat().st_size] == []
    left = ["etc/pip.conf", "pip", "made", "usr/sbin/policy-rc.d", "opt/kube-router/image"]
    assert [path for path in left if (image / path).exists()] == []
    assert list((image / "var/lib/apt/lists").iterdir()) == []
    assert run("dpkg", "--audit") == ""


def test_iptables_is_the_one_that_the_daemon_takes(run: Run, tmp_path: Path) -> None:
    """The kubelet's chain decides, and before it what a running daemon says."""
    assert "(nf_tables)" in run("iptables", "--version")
    hint = "iptables-legacy -t mangle -N KUBE-KUBELET-CANARY && iptables --version && ip6tables-save --version"
    assert run("sh", "-c", hint).count("(legacy)") == 2
    (tmp_path / "kube-router").mkdir()
    (tmp_path / "kube-router" / "iptables-variant").write_text("nft\n")
    assert "(nf_tables)" in run("iptables", "--version", run=tmp_path)


def test_plugins_are_installed_and_work(run: Run, tmp_path: Path) -> None:
    target, conf = tmp_path / "bin", tmp_path / "net.d"
    target.mkdir()
    conf.mkdir()
    told = run("cni-install", opt__cni__bin=target, etc__cni=conf)
    assert told.count("installed (missing)") == 4
    environment = {"CNI_COMMAND": "VERSION"}
    for plugin in target.iterdir():
        done = subprocess.run(
            [plugin], input="{}", env=environment, capture_output=True, text=True, timeout=20, check=True
        )
        assert "supportedVersions" in done.stdout
        assert os.access(plugin, os.X_OK)
    assert run("cni-install", opt__cni__bin=target).count("stays") == 4
    locked = "mount --bind -o ro /opt/cni/bin /opt/cni/bin && mount -o remount,bind,ro /opt/cni/bin && cni-install"
    (target / "bridge").unlink()
    assert "/opt/cni/bin is mounted read-only" in run("sh", "-c", locked, fails=True, opt__cni__bin=target)
