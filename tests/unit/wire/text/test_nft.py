"""Scripts for nft and what its library says of them."""

from __future__ import annotations

from kuberouter.model.netfilter import OTHERWISE
from kuberouter.model.nftables import (
    BaseHook,
    NftChainKey,
    NftFamily,
    make_nft_chain,
)
from kuberouter.wire.text.nft import Script, complaint, jumps
from kuberouter.wire.text.tags import claimed

V4 = NftFamily.IPV4
TABLE = "ip kube-router-filter-ipv4"
POLICY = make_nft_chain(NftChainKey(V4, "KUBE-NWPLCY-A"), ("tcp dport 80 accept",))
TOP = make_nft_chain(NftChainKey(V4, "KUBE-ROUTER-X"), ("jump KUBE-NWPLCY-A",), hook=BaseHook("forward", -3))


def script() -> Script:
    made = Script(V4)
    for row in (TOP, POLICY):
        made.chain(row)
    return made


def test_all_chains_exist_before_any_rule_refers_to_them() -> None:
    assert str(script()).splitlines() == [
        f"add table {TABLE}",
        f"add chain {TABLE} KUBE-ROUTER-X {{ type filter hook forward priority -3; policy accept; }}",
        f"flush chain {TABLE} KUBE-ROUTER-X",
        f"add chain {TABLE} KUBE-NWPLCY-A",
        f"flush chain {TABLE} KUBE-NWPLCY-A",
        f'add rule {TABLE} KUBE-ROUTER-X jump KUBE-NWPLCY-A comment "kube-router:{TOP.tag.hex()}:1"',
        f'add rule {TABLE} KUBE-NWPLCY-A tcp dport 80 accept comment "kube-router:{POLICY.tag.hex()}:1"',
    ]


def test_a_complaint_leads_to_the_row_that_it_is_about() -> None:
    errors = "/proc/self/fd/4:7:22-24: Error: Could not process rule: No such file or directory\nadd rule ...\n   ^^^\n"
    assert [subject for subject, _ in script().faults(errors)] == [POLICY.key]
    assert complaint(errors) == "Could not process rule: No such file or directory"
    assert script().faults("/dev/stdin:1:1-5: Error: Could not process rule: File exists\n") == []
    assert script().faults("netlink: Error: cache initialization failed\n") == []


def test_rules_behind_a_loop_are_not_to_blame() -> None:
    errors = "".join(f"/proc/self/fd/4:{n}:1-9: Error: Could not process rule: Too many links\n" for n in (6, 7))
    assert [subject for subject, _ in script().faults(errors)] == [TOP.key]


def test_tags_and_targets_are_found() -> None:
    assert claimed("kube-router:0123456789:2", 2) == bytes.fromhex("0123456789")
    for comment in (
        "kube-router:0123456789",
        "kube-router:0123456789:1",
        "somebody else's",
        "kube-router:was here",
        "",
    ):
        assert claimed(comment, 2) == OTHERWISE
    assert jumps(["ct state new jump A", "goto B", "ip saddr 10.0.0.1 accept"]) == ["A", "B"]
