"""What the install script puts on a node, and what it leaves alone. Plugins are scripts that answer as real ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "cmd" / "cni-install"
PLUGINS = ("bridge", "host-local", "loopback", "portmap")
OURS = {"type": "bridge", "bridge": "kube-bridge", "ipam": {"type": "host-local"}}


def plugin(path: Path, spoken: str, own: str = "v1.1.1", more: str = "") -> None:
    """One that speaks CNI up to a version."""
    versions = json.dumps({"cniVersion": spoken, "supportedVersions": ["0.4.0", spoken]})
    script = f'[ "$CNI_COMMAND" = VERSION ] && echo \'{versions}\' || echo "CNI x plugin {own}" >&2'
    path.write_text(f"#!/bin/sh\n{script}\n# {more}\n")
    path.chmod(0o755)


class Node:
    """The directories of a node, and those of the image."""

    def __init__(self, home: Path) -> None:
        self.source, self.bin, self.net = home / "source", home / "bin", home / "net.d"
        self.template, self.conf = home / "cni-conf.json", self.net / "10-kuberouter.conflist"
        for folder in (self.source, self.bin, self.net):
            folder.mkdir()
        for name in PLUGINS:
            plugin(self.source / name, "1.0.0")

    def install(self, status: int = 0) -> str:
        """Run the script; what it says."""
        variables = {
            "LOCAL_BIN_PATH": str(self.source),
            "HOST_BIN_PATH": str(self.bin),
            "CNI_TEMPLATE": str(self.template),
            "KUBE_ROUTER_CNI_CONF_FILE": str(self.conf),
            "PATH": os.environ["PATH"],
        }
        words = [sys.executable, str(PROGRAM)]
        done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        there = [folder for folder in (self.bin, self.net) if folder.is_dir()]
        left = [path for folder in there for path in folder.iterdir() if path.name.startswith(".")]
        assert left == []
        return done.stdout + done.stderr

    def stays(self, name: str) -> bool:
        """Whether a plugin of the node is not the image's, after an install."""
        self.install()
        return (self.bin / name).read_bytes() != (self.source / name).read_bytes()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_plugins_are_installed_once(node: Node) -> None:
    (node.source / "vlan").write_text("nobody asked for it")
    (node.bin / ".kube-router-bridge-77").write_text("half of one, left by a killed process")
    assert node.install().count("installed (missing)") == len(PLUGINS)
    assert sorted(path.name for path in node.bin.iterdir()) == list(PLUGINS)
    assert all(os.access(path, os.X_OK) for path in node.bin.iterdir())
    assert node.install().count("stays") == len(PLUGINS)


def test_what_is_older_or_does_not_work_is_replaced_and_what_is_newer_stays(node: Node) -> None:
    plugin(node.bin / "bridge", "0.4.0", "v0.8.0")
    (node.bin / "portmap").write_text("#!/bin/sh\nexit 1\n")
    (node.bin / "portmap").chmod(0o755)
    plugin(node.bin / "host-local", "1.1.0", "v1.9.0")
    plugin(node.bin / "loopback", "1.0.0", "v1.3.0")
    said = node.install()
    assert "bridge: installed (older)" in said
    assert "portmap: installed (does not work)" in said
    assert "host-local: stays" in said
    assert "loopback: stays" in said


def test_of_two_that_do_not_tell_their_version_the_images_is_taken(node: Node) -> None:
    for folder in (node.source, node.bin):
        plugin(folder / "bridge", "1.0.0", "version unknown", str(folder))
    assert not node.stays("bridge")


def test_one_that_cannot_be_executed_is_replaced(node: Node) -> None:
    node.install()
    (node.bin / "bridge").chmod(0o644)
    assert "bridge: installed (not executable)" in node.install()
    assert os.access(node.bin / "bridge", os.X_OK)


def test_a_plugin_in_use_is_replaced_as_well(node: Node) -> None:
    """Writing to a program that runs is refused (ETXTBSY); putting another in its place is not."""
    (node.bin / "bridge").write_bytes(Path("/bin/sleep").read_bytes())
    (node.bin / "bridge").chmod(0o755)
    with subprocess.Popen([node.bin / "bridge", "60"]) as running:
        try:
            assert not node.stays("bridge")
        finally:
            running.kill()


def test_several_configurations_are_no_trouble(node: Node) -> None:
    """The Go kube-router's script breaks with two files named *.conf."""
    (node.net / "10-kuberouter.conf").write_text(json.dumps(OURS))
    (node.net / "05-other.conf").write_text(json.dumps({"type": "macvlan"}))
    (node.net / "87-other.conflist").write_text("{}")
    said = node.install()
    assert sorted(path.name for path in node.net.iterdir()) == ["05-other.conf", "87-other.conflist"]
    assert "10-kuberouter.conf: removed" in said
    assert said.count("warning:") == 1
    assert "05-other.conf comes before" in said


def test_a_file_of_that_name_that_is_somebody_elses_stays(node: Node) -> None:
    (node.net / "10-kuberouter.conf").write_text(json.dumps({"type": "bridge", "bridge": "cni0"}))
    assert "warning:" in node.install()
    assert (node.net / "10-kuberouter.conf").exists()


def test_a_template_is_followed_and_keeps_what_the_daemon_filled_in(node: Node) -> None:
    """The Go kube-router's script never looks at a configuration again."""
    ranges = [[{"subnet": "10.244.1.0/24"}]]
    present = {"name": "old", "plugins": [{**OURS, "mtu": 1480, "ipam": {"type": "host-local", "ranges": ranges}}]}
    node.conf.write_text(json.dumps(present))
    node.template.write_text(json.dumps({"name": "kubernetes", "plugins": [OURS, {"type": "portmap"}]}))
    assert f"{node.conf}: written" in node.install()
    written = json.loads(node.conf.read_text())
    assert (written["name"], written["plugins"][1]) == ("kubernetes", {"type": "portmap"})
    assert written["plugins"][0] == {**OURS, "mtu": 1480, "ipam": {"type": "host-local", "ranges": ranges}}
    assert f"{node.conf}: stays" in node.install()


def test_without_a_template_the_daemons_configuration_stays(node: Node) -> None:
    node.conf.write_text(json.dumps({"plugins": [OURS]}))
    node.install()
    assert json.loads(node.conf.read_text()) == {"plugins": [OURS]}


def test_what_cannot_be_done_is_said_in_one_line(node: Node) -> None:
    node.template.write_text(json.dumps({"type": "macvlan"}))
    assert "is no CNI configuration with a plugin of type bridge" in node.install(1)
    for path in node.bin.iterdir():
        path.unlink()
    node.bin.rmdir()
    said = node.install(1)
    assert said.count("\n") == 1
    assert f"{node.bin} is no directory" in said
    for path in node.source.iterdir():
        path.unlink()
    assert "there are no plugins in" in node.install(1)
