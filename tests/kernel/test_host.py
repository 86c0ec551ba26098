"""Settings of the host and the CNI file, on real files: ours is set, the rest stays, nothing is half written."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from kuberouter.compilers.host import family_settings
from kuberouter.drivers.host import CniDriver, SysctlDriver
from kuberouter.model.core import Batch, Prefix
from kuberouter.model.host import CniSettings, CniSettingsKey, Sysctl, SysctlKey
from kuberouter.model.node import NodeFacts
from tests.kernel.drive import converge, owned, sh
from tests.support.lab import netns

pytestmark = pytest.mark.root

RANGE, OTHER = Prefix(bytes((10, 244, 1, 0)), 24), Prefix(bytes((10, 244, 2, 0)), 24)


def sysctl(path: str, value: str) -> Sysctl:
    return Sysctl(SysctlKey(path), value)


def cni_row(path: Path, *ranges: Prefix, mtu: int = 1480) -> CniSettings:
    return CniSettings(CniSettingsKey(str(path)), ranges, mtu)


def test_settings_are_written_and_read_back(namespace: str) -> None:
    del namespace
    driver = SysctlDriver()
    rows = [sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv6/conf/all/forwarding", "1")]
    assert converge(driver, rows) == {}
    assert owned(driver) == {row.key: row for row in rows}
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    assert converge(driver, rows) == {}
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


def test_a_node_that_begins_to_forward_keeps_its_default_route_of_router_advertisements(namespace: str) -> None:
    router = f"{namespace}-router"
    netns.add(router)
    try:
        sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", router)
        netns.configure(
            router, "link set eth0 addrgenmode none", "addr add fe80::1/64 dev eth0 nodad", "link set eth0 up"
        )
        Path("/proc/sys/net/ipv6/conf/up0/accept_ra").write_text("1")
        sh("ip", "link", "set", "up0", "up")
        assert advertised(router)
        kept = Sysctl(SysctlKey("net/ipv6/conf/up0/accept_ra"), "2", "1", optional=True)
        # Whatever the order in which they are asked for.
        assert converge(SysctlDriver(), [sysctl("net/ipv6/conf/all/forwarding", "1"), kept]) == {}
        assert default_route()
        sh("ip", "-6", "route", "flush", "default")
        assert advertised(router), "the next advertisement is listened to"
    finally:
        netns.remove(router)


def default_route() -> str:
    return sh("ip", "-6", "route", "show", "default")


def advertised(router: str) -> bool:
    """Have a router advertise itself until there is a default route."""
    end = time.monotonic() + 10.0
    with netns.inside(router):
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with made:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        with netns.inside(router):
            everybody = ("ff02::1", 0, 0, socket.if_nametoindex("eth0"))
        while time.monotonic() < end:
            # RFC 4861, 4.2: type, code, checksum, hop limit, flags, lifetime of half an hour, two timers.
            advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
            try:
                made.sendto(advertisement, everybody)
            except OSError as error:
                # A link that is up leads nowhere until the kernel has noticed that its other end is up as well.
                if error.errno != errno.ENETUNREACH:
                    raise
            if "proto ra" in default_route():
                return True
            time.sleep(0.1)
    return False


def test_a_removed_setting_stays_as_it_is(namespace: str) -> None:
    del namespace
    driver = SysctlDriver()
    converge(driver, [sysctl("net/ipv4/ip_forward", "1")])
    assert converge(driver, ()) == {}
    assert owned(driver) == {}
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


def test_ipv6_is_turned_on_for_links_of_now_and_later(namespace: str) -> None:
    driver, (row,) = SysctlDriver(), family_settings(NodeFacts("n", (bytes(16),)))
    home = Path("/proc/sys/net/ipv6/conf")
    netns.configure(namespace, "link add now type veth peer name end")
    (home / "all" / "disable_ipv6").write_text("1")
    assert (home / "now" / "disable_ipv6").read_text() == "1\n"
    assert converge(driver, [row]) == {}
    netns.configure(namespace, "link add later type veth peer name end2")
    assert {(home / name / "disable_ipv6").read_text() for name in ("all", "now", "later")} == {"0\n"}
    # One that is off alone stays so.
    (home / "now" / "disable_ipv6").write_text("1")
    assert converge(driver, [row]) == {}
    assert (home / "now" / "disable_ipv6").read_text() == "1\n"


def test_a_missing_setting_fails_alone_and_names_its_module(tmp_path: Path) -> None:
    # A kernel without the module has no such directory; here it is a tree of files that lacks it.
    (tmp_path / "net" / "ipv4").mkdir(parents=True)
    (tmp_path / "net" / "ipv4" / "ip_forward").write_text("0\n")
    good = sysctl("net/ipv4/ip_forward", "1")
    bridge, unknown = sysctl("net/bridge/bridge-nf-call-iptables", "1"), sysctl("net/ipv4/no_such", "1")
    failed = converge(SysctlDriver(tmp_path), [good, bridge, unknown])
    assert failed == {
        bridge.key: "kernel module br_netfilter is missing",
        unknown.key: "the kernel has no such setting",
    }
    assert (tmp_path / "net" / "ipv4" / "ip_forward").read_text() == "1"


class Told:
    """Who is told of changed settings."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []

    def __call__(self, name: str, old: str, new: str) -> None:
        self.changes.append((name, old, new))


def test_each_change_of_a_setting_is_told_once(tmp_path: Path) -> None:
    told = Told()
    driver = SysctlDriver(tmp_path, told)
    (tmp_path / "a").write_text("0\n")
    (tmp_path / "b").write_text("1\n")
    rows = [sysctl("a", "1"), sysctl("b", "1")]
    for _ in range(3):
        assert converge(driver, rows) == {}
    assert told.changes == [("a", "0", "1")]
    (tmp_path / "b").write_text("0\n")
    converge(driver, rows)
    assert told.changes[1:] == [("b", "0", "1")]


def test_a_setting_that_cannot_be_written_fails_alone_and_says_what_it_is(tmp_path: Path) -> None:
    # A directory cannot be written by root either, unlike a file without the permission.
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("0")
    good, bad = sysctl("b", "1"), sysctl("a", "1")
    assert converge(SysctlDriver(tmp_path), [bad, good]) == {
        bad.key: "is not readable and cannot be made 1: Is a directory"
    }
    assert (tmp_path / "b").read_text() == "1"


def test_a_strict_filter_is_loosened_and_nothing_else(tmp_path: Path) -> None:
    told = Told()
    driver = SysctlDriver(tmp_path, told)
    for name in ("0", "1", "2"):
        (tmp_path / name).write_text(name)
    rows = [Sysctl(SysctlKey(name), "2", "1", optional=True) for name in ("0", "1", "2", "absent")]
    for _ in range(2):
        assert converge(driver, rows) == {}
        assert owned(driver) == {row.key: row for row in rows}
    assert [(tmp_path / name).read_text() for name in ("0", "1", "2")] == ["0", "2", "2"]
    # The link comes later, and somebody else tightens another one.
    (tmp_path / "absent").write_text("1")
    (tmp_path / "0").write_text("1")
    assert converge(driver, rows) == {}
    assert sorted(told.changes) == [("0", "1", "2"), ("1", "1", "2"), ("absent", "1", "2")]


def test_our_fields_are_merged_and_the_file_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "10-kuberouter.conflist"
    theirs = {"name": "x", "plugins": [{"type": "bridge", "promiscMode": True}, {"type": "tuning"}]}
    path.write_text(json.dumps(theirs))
    inode = path.stat().st_ino
    driver = CniDriver([str(path)])
    row = cni_row(path, RANGE)
    assert converge(driver, [row]) == {}
    assert owned(driver) == {row.key: row}
    after = json.loads(path.read_text())
    assert after["plugins"][0]["promiscMode"] is True
    assert after["plugins"][1] == {"type": "tuning"}
    # A rename, so that nobody ever reads half a file; and no draft is left.
    assert path.stat().st_ino != inode
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == [path.name]


def test_ranges_are_replaced_and_what_is_equal_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-kuberouter.conf"
    driver = CniDriver([str(path)])
    # The file is missing, its directory too: both are made from the template.
    assert converge(driver, [cni_row(path, RANGE)]) == {}
    assert converge(driver, [cni_row(path, OTHER)]) == {}
    assert json.loads(path.read_text())["ipam"]["ranges"] == [[{"subnet": "10.244.2.0/24"}]]
    before = path.stat()
    assert not driver.write(Batch(add=(cni_row(path, OTHER),))).failed
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("text", ["{", "[]", '{"plugins": [{"type": "ptp"}]}'])
def test_a_file_that_is_not_understood_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "10-kuberouter.conflist"
    path.write_text(text)
    row = cni_row(path, RANGE)
    failed = converge(CniDriver([str(path)]), [row])
    assert str(path) in failed[row.key]
    assert "is left as it is" in failed[row.key]
    assert path.read_text() == text


def test_a_file_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "05-theirs.conf"
    theirs.write_text("{}")
    ours = tmp_path / "10-kuberouter.conf"
    converge(CniDriver([str(ours)]), [cni_row(ours, RANGE)])
    assert theirs.read_text() == "{}"
    assert not CniDriver([str(ours)]).owns(cni_row(theirs, RANGE))
