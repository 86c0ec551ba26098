"""The planner of MTUs as a table: underlay, encapsulation, direct return. The same table is in the docs."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from kuberouter.compilers.mtu import GUE, HEADER, LIMIT, SMALLEST, TCP, UDP, direct_segment, pod_mtu, tunnel_mtu
from kuberouter.model.core import Family
from kuberouter.model.node import NodeFacts
from kuberouter.model.settings import RouterSettings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tunnels.md"
V4, V6 = Family.IPV4, Family.IPV6
ADDRESSES = {V4: ip_address("192.0.2.1").packed, V6: ip_address("2001:db8::1").packed}
FAMILIES = {"IPv4": (V4,), "IPv6": (V6,), "both": (V4, V6)}
COLUMNS = "underlay, families, encapsulation; pods, tunnels of IPv4 and IPv6, segments of both for direct return"
TABLE = [
    (1500, "IPv4", "none", 1500, None, None, 1440, None),
    (1500, "IPv4", "ipip", 1480, 1480, None, 1420, None),
    (1500, "IPv4", "fou", 1468, 1468, None, 1408, None),
    (1500, "IPv6", "none", 1500, None, None, None, 1400),
    (1500, "IPv6", "ipip", 1452, None, 1452, None, 1352),
    (1500, "IPv6", "fou", 1440, None, 1440, None, 1340),
    (1500, "both", "none", 1500, None, None, 1440, 1400),
    (1500, "both", "ipip", 1452, 1480, 1452, 1392, 1352),
    (1500, "both", "fou", 1440, 1468, 1440, 1380, 1340),
    (9000, "IPv4", "ipip", 8980, 8980, None, 8920, None),
    (9000, "IPv4", "fou", 8968, 8968, None, 8908, None),
    (9000, "both", "ipip", 8952, 8980, 8952, 8892, 8852),
    (9000, "both", "fou", 8940, 8968, 8940, 8880, 8840),
    (1460, "IPv4", "ipip", 1440, 1440, None, 1380, None),
    (1450, "both", "fou", 1390, 1418, 1390, 1330, 1290),
    (1300, "IPv6", "ipip", 1280, None, 1280, None, 1180),
]


def facts(mtu: int, families: tuple[Family, ...], bridge: int = 0) -> NodeFacts:
    return NodeFacts("me", tuple(ADDRESSES[family] for family in families), mtu=mtu, bridge_mtu=bridge)


def planned(mtu: int, families: tuple[Family, ...], encap: str) -> tuple[int | None, ...]:
    """The columns of a row after its names, as they are planned."""
    overlay = encap != "none"
    settings = RouterSettings(overlay=overlay, overlay_encap=encap if overlay else "ipip", overlay_port=5555)
    node = facts(mtu, families)
    pods = pod_mtu(node, settings)
    after = facts(mtu, families, pods)
    return (
        pods,
        *(tunnel_mtu(node, settings, f) if overlay and f in families else None for f in (V4, V6)),
        *(direct_segment(after, f) if f in families else None for f in (V4, V6)),
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "-".join(map(str, row[:3])))
def test_the_table(row: tuple[int, str, str, *tuple[int | None, ...]]) -> None:
    """pain 21: overheads were taken off twice or not at all, and direct return dropped packets of full size."""
    mtu, families, encap, *expected = row
    assert planned(mtu, FAMILIES[families], encap) == tuple(expected), COLUMNS


def test_the_table_of_the_docs_is_this_one() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    shown = [
        (int(mtu), families, encap, *(int(cell) if cell.isdigit() else None for cell in cells.split(" | ")))
        for mtu, families, encap, cells in rows
    ]
    assert shown == TABLE


@pytest.mark.parametrize("mtu", [576, 1280, 1400, 1500, 9000])
@pytest.mark.parametrize("encap", ["ipip", "fou"])
@pytest.mark.parametrize("families", FAMILIES.values(), ids=FAMILIES)
def test_what_fits_into_a_pods_link_fits_all_the_way(mtu: int, encap: str, families: tuple[Family, ...]) -> None:
    settings = RouterSettings(overlay_encap=encap)
    node = facts(mtu, families)
    pods = pod_mtu(node, settings)
    carried = UDP + GUE if encap == "fou" else 0
    for family in families:
        tunnel = tunnel_mtu(node, settings, family)
        # Below what every link must carry the tunnel's own packets are fragmented instead.
        small = tunnel == SMALLEST[family]
        least = max(SMALLEST[other] for other in families)
        assert pods <= tunnel or small or pods == least
        assert tunnel + HEADER[family] + LIMIT[family] + carried <= mtu or small
        segment = direct_segment(facts(mtu, families, pods), family)
        assert segment + TCP + 2 * HEADER[family] <= min(pods, mtu)


@pytest.mark.parametrize("node", [facts(1500, (V4, V6)), facts(0, (V4, V6))], ids=["known", "unknown"])
def test_who_wants_no_plan_or_knows_no_underlay_leaves_mtus_alone(node: NodeFacts) -> None:
    settings = RouterSettings(auto_mtu=not node.mtu)
    assert [pod_mtu(node, settings), *(tunnel_mtu(node, settings, family) for family in Family)] == [0, 0, 0]
