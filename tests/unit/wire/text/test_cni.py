"""The CNI configuration file: what of it is ours, and that the rest survives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kuberouter.model.core import Prefix
from kuberouter.wire.text import cni

RANGES = (Prefix(bytes((10, 244, 1, 0)), 24), Prefix(bytes((0xFD, 0x44)) + bytes(14), 64))
SHOWN = [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd44::/64"}]]
SHIPPED = Path(__file__).resolve().parents[4] / "cni"


def test_a_list_keeps_what_is_not_ours() -> None:
    before = {
        "cniVersion": "1.0.0",
        "name": "theirs",
        "x-owner": {"team": "net"},
        "plugins": [
            {"type": "loopback"},
            {"type": "bridge", "promiscMode": True, "ipam": {"type": "host-local", "dataDir": "/var/lib/x"}},
            {"type": "portmap"},
        ],
    }
    after = json.loads(cni.merge(json.dumps(before), RANGES, 1480))
    bridge = after["plugins"].pop(1)
    assert bridge.pop("mtu") == 1480
    assert bridge["ipam"].pop("ranges") == SHOWN
    assert bridge == before["plugins"].pop(1)  # type: ignore[attr-defined]  # the literal is a list
    assert after == before


def test_ranges_are_replaced_and_a_legacy_subnet_goes() -> None:
    old = {"type": "bridge", "ipam": {"subnet": "10.9.0.0/24", "ranges": [[{"subnet": "10.8.0.0/24"}]]}}
    after = json.loads(cni.merge(json.dumps(old), RANGES[:1], 0))
    assert after == {"type": "bridge", "ipam": {"ranges": SHOWN[:1]}}


FIRST = {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.10", "rangeEnd": "10.244.1.99", "gateway": "10.244.1.1"}
SECOND = {"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.200"}


def plugin(**ipam: object) -> str:
    return json.dumps({"type": "bridge", "mtu": 1500, "ipam": {"type": "host-local", **ipam}})


@pytest.mark.parametrize(
    ("ipam", "kept"),
    [
        ({"ranges": [[FIRST]]}, [FIRST]),
        ({"ranges": [[FIRST, SECOND], [{"subnet": "10.8.0.0/24"}]]}, [FIRST, SECOND]),
        ({"ranges": [[{"subnet": "fd09::/64"}], "nonsense", [], [1], [FIRST], [SECOND]]}, [FIRST]),
        # host-local refuses a subnet with host bits; the ranges of one set may be of several subnets.
        ({"ranges": [[{**FIRST, "subnet": "10.244.1.7/24"}]]}, [FIRST]),
        ({"ranges": [[FIRST, {"subnet": "10.8.0.0/24"}]]}, [FIRST]),
        ({**FIRST}, [FIRST]),
        ({**FIRST, "subnet": "10.9.0.0/24"}, SHOWN[0]),
        ({"ranges": 5}, SHOWN[0]),
    ],
)
def test_a_range_that_stays_keeps_what_its_owner_wrote_with_it(ipam: dict[str, object], kept: object) -> None:
    text = cni.merge(plugin(**ipam), RANGES, 1400)
    after = json.loads(text)
    assert after == {"type": "bridge", "mtu": 1400, "ipam": {"type": "host-local", "ranges": [kept, SHOWN[1]]}}
    assert cni.read(text) == (RANGES, 1400)
    assert cni.merge(text, RANGES, 1400) == text


MORE = Prefix(bytes((10, 244, 9, 0)), 24)


def test_b14_two_ranges_of_a_family_are_one_set_so_that_a_pod_gets_one_address_of_each() -> None:
    apart = plugin(ranges=[[{"subnet": "10.244.1.0/24"}], [{"subnet": "10.244.9.0/24"}], [{"subnet": "fd44::/64"}]])
    wanted = (RANGES[0], MORE, RANGES[1])
    assert cni.read(apart) != (wanted, 1500), "as the Go kube-router writes it, with an address of each range for a pod"
    text = cni.merge(apart, wanted, 1500)
    four = [{"subnet": "10.244.1.0/24"}, {"subnet": "10.244.9.0/24"}]
    assert json.loads(text)["ipam"]["ranges"] == [four, SHOWN[1]]
    assert cni.read(text) == (wanted, 1500)
    assert cni.merge(text, wanted, 1500) == text


def test_b14_another_spelling_of_a_range_is_the_same_range() -> None:
    text = plugin(ranges=[[{"subnet": "10.244.1.77/24"}], [{"subnet": "FD44:0::0/64"}]])
    assert cni.read(text) == (RANGES, 1500)
    assert json.loads(cni.merge(text, RANGES, 1500))["ipam"]["ranges"] == SHOWN


def test_b14_ranges_of_a_former_pod_cidr_go() -> None:
    text = plugin(ranges=[[{"subnet": "10.8.0.0/24"}], [{"subnet": "10.244.1.0/24"}], [{"subnet": "fd09::/64"}]])
    assert json.loads(cni.merge(text, RANGES, 1500))["ipam"]["ranges"] == SHOWN


@pytest.mark.parametrize("as_list", [False, True])
def test_what_was_merged_reads_back_and_merges_to_itself(as_list: bool) -> None:
    text = cni.merge(cni.template(as_list), RANGES, 1400)
    assert cni.read(text) == (RANGES, 1400)
    assert cni.merge(text, RANGES, 1400) == text
    assert ("plugins" in json.loads(text)) is as_list


@pytest.mark.parametrize("name", ["10-kuberouter.conf", "10-kuberouter.conflist"])
def test_the_shipped_files_are_the_templates(name: str) -> None:
    shipped = (SHIPPED / name).read_text()
    assert json.loads(shipped) == json.loads(cni.template(name.endswith("list")))
    assert cni.read(shipped) == ((), 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"plugins": {}}',
        '{"plugins": []}',
        '{"plugins": [{"type": "ptp"}]}',
        '{"type": "bridge", "ipam": []}',
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it has|it is|is no"):
        cni.merge(text, RANGES, 0)


def test_a_legacy_subnet_never_counts_as_ours() -> None:
    text = json.dumps({"type": "bridge", "ipam": {"subnet": "10.244.1.0/24"}})
    assert cni.read(text) != (RANGES[:1], 0)


@pytest.mark.parametrize("ranges", [5, {"a": 1}, [5], [[]], [[{}]], [[{"subnet": "10.8.0.0/24"}, {"subnet": "x"}]]])
def test_ranges_that_are_not_understood_are_not_read(ranges: object) -> None:
    with pytest.raises(ValueError):
        cni.read(plugin(ranges=ranges))


def test_a_runtimes_record_tells_what_the_link_of_a_pod_was_given() -> None:
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "kube-bridge", "mac": "02:00:00:00:00:01"},
            {"name": "veth1a2b3c4d", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1"},
        ],
        "ips": [{"interface": 2, "address": "10.244.1.2/24"}, {"interface": 2, "address": "fd44:1::2/64"}],
    }
    record = {"kind": "cniCacheV1", "containerId": "1", "ifName": "eth0", "result": result}
    found = cni.recorded(json.dumps(record))
    assert found["veth1a2b3c4d"] == (bytes((10, 244, 1, 2)), bytes.fromhex("fd44000100000000") + bytes(7) + b"\2")
    assert "eth0" not in found


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"result": 7}', '{"result": {"ips": [{"address": "x"}]}}'])
def test_what_is_no_record_is_told_by_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # its text is for the log only
        cni.recorded(text)
