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
