"""Sets and members against the real kernel, read back by us and by ipset(8)."""

from __future__ import annotations

import random
from collections.abc import Hashable
from ipaddress import ip_address

import pytest

from kuberouter.compilers.policies.iptables.fixed import node_ports
from kuberouter.drivers.ipsets import MemberDriver, SetDriver
from kuberouter.model.core import Batch, Family, L4Protocol, Row
from kuberouter.model.netfilter import IpSet, IpSetKey, Member, MemberKey, SetType, SourcedKey
from tests.kernel.drive import converge, owned, sh


def ours(name: str) -> bool:
    return name.removeprefix("inet6:").startswith("KUBE-")


SETS = {
    (SetType.HASH_IP, Family.IPV4): "KUBE-SRC-IP",
    (SetType.HASH_IP, Family.IPV6): "inet6:KUBE-SRC-IP",
    (SetType.HASH_NET, Family.IPV4): "KUBE-SRC-NET",
    (SetType.HASH_NET, Family.IPV6): "inet6:KUBE-SRC-NET",
    (SetType.HASH_IP_PORT, Family.IPV4): "KUBE-DST-IPPORT",
    (SetType.HASH_IP_PORT, Family.IPV6): "inet6:KUBE-DST-IPPORT",
    (SetType.HASH_NET_PORT, Family.IPV4): "KUBE-DST-NETPORT",
    (SetType.HASH_NET_PORT, Family.IPV6): "inet6:KUBE-DST-NETPORT",
    (SetType.HASH_IP_PORT_NET, Family.IPV4): "KUBE-DST-SOURCES",
    (SetType.HASH_IP_PORT_NET, Family.IPV6): "inet6:KUBE-DST-SOURCES",
}
ALL = [IpSet(IpSetKey(name), kind, family) for (kind, family), name in SETS.items()]


def member(kind: SetType, family: Family, number: int) -> Member:
    """The number-th possible entry of a set."""
    bits = 32 if family is Family.IPV4 else 128
    length = bits if "ip" in kind.value else (0, 1, 8, 16, 24, bits)[number % 6]
    raw = (number * 2654435761 + (1 << (bits - 3))) % (1 << bits)
    raw = raw >> (bits - length) << (bits - length)
    protocol, port = ((6, 17, 132)[number % 3], number % 65535 + 1) if "port" in kind.value else (0, 0)
    if length == 1:
        raw = 0
    if kind is SetType.HASH_IP_PORT_NET:
        network = raw.to_bytes(bits // 8, "big") if number % 5 else bytes(bits // 8)
        where = (SETS[kind, family], raw.to_bytes(bits // 8, "big"), bits, protocol, port)
        return Member(SourcedKey(*where, network, bits if number % 5 else 1 + number % 8))
    return Member(MemberKey(SETS[kind, family], raw.to_bytes(bits // 8, "big"), length, protocol, port))


def test_any_sets_and_members_become_any_others(namespace: str) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    sh("ipset", "create", "FOREIGN", "hash:ip")
    sh("ipset", "add", "FOREIGN", "192.0.2.1")
    dice = random.Random(42)
    for _ in range(12):
        assert converge(sets, ALL) == {}
        state = {
            row.key: row
            for kind, family in SETS
            for number in dice.sample(range(60), dice.randrange(40))
            if (row := member(kind, family, number)).key.length != 1
        }
        assert converge(members, state.values()) == {}
        assert owned(members) == state
        if dice.random() < 0.3:
            assert converge(sets, []) == {}
            assert owned(sets) == {}
    assert "add FOREIGN 192.0.2.1" in sh("ipset", "save")


def test_ipset_reads_what_we_wrote(namespace: str) -> None:
    """W8, pain 30: both families, and both halves of everything."""
    sets, members = SetDriver(ours), MemberDriver(ours)
    assert converge(sets, ALL) == {}
    rows = [
        Member(MemberKey("KUBE-SRC-IP", ip_address("10.1.2.3").packed, 32)),
        Member(MemberKey("inet6:KUBE-SRC-IP", ip_address("fd00::3").packed, 128)),
        Member(MemberKey("KUBE-SRC-NET", ip_address("10.1.0.0").packed, 16)),
        Member(MemberKey("inet6:KUBE-SRC-NET", bytes(16), 0)),
        Member(MemberKey("KUBE-DST-IPPORT", ip_address("10.1.2.3").packed, 32, 132, 80)),
        Member(MemberKey("KUBE-DST-NETPORT", ip_address("10.1.0.0").packed, 16, 17, 53)),
        Member(SourcedKey("KUBE-DST-SOURCES", b"\x0a\x01\x02\x03", 32, 6, 80, b"\xcb\0\x71\0", 24)),
        Member(SourcedKey("inet6:KUBE-DST-SOURCES", bytes(15) + b"\1", 128, 17, 53, bytes(15) + b"\2", 128)),
    ]
    assert converge(members, rows) == {}
    saved = sh("ipset", "save").splitlines()
    for line in (
        "add KUBE-SRC-IP 10.1.2.3",
        "add inet6:KUBE-SRC-IP fd00::3",
        "add KUBE-SRC-NET 10.1.0.0/16",
        "add inet6:KUBE-SRC-NET ::/1",
        "add inet6:KUBE-SRC-NET 8000::/1",
        "add KUBE-DST-IPPORT 10.1.2.3,sctp:80",
        "add KUBE-DST-NETPORT 10.1.0.0/16,udp:53",
        "add KUBE-DST-SOURCES 10.1.2.3,tcp:80,203.0.113.0/24",
        "add inet6:KUBE-DST-SOURCES ::1,udp:53,::2",
    ):
        assert line in saved
    assert owned(members) == {r.key: r for r in rows}


@pytest.mark.parametrize("family", Family)
def test_node_ports_stand_after_they_were_read_back(namespace: str, family: Family) -> None:
    """A port at every address is two entries of the kernel and one row, or the audit takes both away again."""
    sets, members = SetDriver(ours), MemberDriver(ours)
    ports = [(L4Protocol.TCP, 30080), (L4Protocol.UDP, 30053)]
    # The set itself is named with every port.
    rows: dict[Hashable, Row] = {row.key: row for row in node_ports(family, ports)}
    (own,) = (row for row in rows.values() if isinstance(row, IpSet))
    entries = [row for row in rows.values() if isinstance(row, Member)]
    assert converge(sets, [own]) == {}
    for _ in range(3):
        assert converge(members, entries) == {}
        assert owned(members) == {row.key: row for row in entries}
        listed = sh("ipset", "save", own.key.name)
        assert listed.count(",tcp:30080") == listed.count(",udp:30053") == 2


@pytest.mark.parametrize("family", Family)
def test_entries_with_marks(namespace: str, family: Family) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    name = "KUBE-MARKS" if family is Family.IPV4 else "inet6:KUBE-MARKS"
    row = IpSet(IpSetKey(name), SetType.HASH_IP_PORT, family, marks=True)
    sh("ipset", "create", name, "hash:ip,port", "family", "inet" if family is Family.IPV4 else "inet6")
    assert converge(sets, [row]) == {}, "one without marks is replaced"
    assert owned(sets) == {row.key: row}
    size = 4 if family is Family.IPV4 else 16
    keys = [MemberKey(name, (n + 1).to_bytes(size, "big"), size * 8, 6 + 11 * (n % 2), n + 1) for n in range(3000)]
    rows = {key: Member(key, n + 1) for n, key in enumerate(keys)}
    assert converge(members, rows.values()) == {}
    assert owned(members) == rows
    assert "skbmark 0x7" in sh("ipset", "list", name)
    changed = {**rows, keys[7]: Member(keys[7], 0x3FFF)}
    assert converge(members, changed.values()) == {}
    assert owned(members) == changed
    assert converge(members, [changed[keys[7]]]) == {}
    assert owned(members) == {keys[7]: changed[keys[7]]}


def test_ten_thousand_members_and_one_change(namespace: str) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    assert converge(sets, [ALL[0]]) == {}
    rows = [Member(MemberKey("KUBE-SRC-IP", (0x0A000000 + n).to_bytes(4, "big"), 32)) for n in range(10_000)]
    assert converge(members, rows) == {}
    assert len(owned(members)) == 10_000
    assert members.write(Batch(remove=(rows[77],))).failed == {}
    assert owned(members).keys() == {r.key for r in rows} - {rows[77].key}


@pytest.mark.parametrize("family", Family)
def test_a_big_set_is_made_big_at_once_though_rules_refer_to_it(namespace: str, family: Family) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    name = "KUBE-SRC-ABCDEFGHIJKLMNOP" if family is Family.IPV4 else "inet6:KUBE-SRC-ABCDEFGHIJKLMNOP"
    row = IpSet(IpSetKey(name), SetType.HASH_IP, family)
    assert converge(sets, [row]) == {}
    tool = "iptables" if family is Family.IPV4 else "ip6tables"
    sh(tool, "-A", "INPUT", "-m", "set", "--match-set", name, "src", "-j", "DROP")
    size = 4 if family is Family.IPV4 else 16
    rows = {r.key: r for n in range(20_000) if (r := Member(MemberKey(name, (n + 1).to_bytes(size, "big"), size * 8)))}
    assert members.write(Batch(tuple(rows.values()))).failed == {}
    listed = sh("ipset", "list", name, "-t")
    assert "hashsize 32768" in listed
    assert "References: 1" in listed
    assert owned(sets) == {row.key: row}
    assert owned(members) == rows


def test_more_than_one_send_can_carry_arrives(namespace: str) -> None:
    """W19: no set is full."""
    sets, members = SetDriver(ours), MemberDriver(ours)
    row = IpSet(IpSetKey("inet6:KUBE-DST-ALL"), SetType.HASH_IP_PORT, Family.IPV6)
    assert converge(sets, [row]) == {}
    keys = [MemberKey(row.key.name, (n + 1).to_bytes(16, "big"), 128, 6, n % 60_000 + 1) for n in range(200_000)]
    assert members.write(Batch(tuple(map(Member, keys)))).failed == {}
    assert set(owned(members)) == set(keys)


def test_a_member_of_a_missing_set_fails_alone(namespace: str) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    assert converge(sets, [ALL[0]]) == {}
    good = Member(MemberKey("KUBE-SRC-IP", b"\x0a\0\0\1", 32))
    lost = Member(MemberKey("KUBE-SRC-NONE", b"\x0a\0\0\1", 32))
    assert members.write(Batch((good, lost))).failed == {lost.key: "set KUBE-SRC-NONE does not exist"}
    assert owned(members) == {good.key: good}


def test_one_bad_entry_of_many_is_found(namespace: str) -> None:
    sets, members = SetDriver(ours), MemberDriver(ours)
    assert converge(sets, [ALL[2]]) == {}
    rows = [Member(MemberKey("KUBE-SRC-NET", bytes((10, n, 0, 0)), 16)) for n in range(100)]
    bad = Member(MemberKey("KUBE-SRC-NET", bytes((11, 0, 0, 0)), 0, 0, 0))
    odd = Member(MemberKey("KUBE-SRC-NET", bytes(16), 64))
    failed = members.write(Batch((*rows[:50], odd, *rows[50:]))).failed
    assert list(failed) == [odd.key]
    assert owned(members) == {r.key: r for r in rows}
    assert bad.key not in failed


def test_a_set_that_somebody_uses_keeps_no_other_from_going(namespace: str) -> None:
    """W23: one that cannot be destroyed is told, the others go, and it goes when it can."""
    sets = SetDriver(ours)
    rows = [IpSet(IpSetKey(f"KUBE-SRC-{n}"), SetType.HASH_IP, Family.IPV4) for n in range(5)]
    assert converge(sets, rows) == {}
    sh("iptables", "-A", "INPUT", "-m", "set", "--match-set", "KUBE-SRC-0", "src", "-j", "DROP")
    assert set(sets.write(Batch(remove=tuple(rows))).failed) == {rows[0].key}
    assert owned(sets) == {rows[0].key: rows[0]}
    sh("iptables", "-F", "INPUT")
    assert converge(sets, []) == {}
    assert owned(sets) == {}


@pytest.mark.parametrize("command", ["destroy", "flush"])
def test_what_an_admin_destroyed_is_rebuilt(namespace: str, command: str) -> None:
    """Pain 30."""
    sets, members = SetDriver(ours), MemberDriver(ours)
    row = Member(MemberKey("KUBE-SRC-IP", b"\x0a\0\0\1", 32))
    for driver, rows in ((sets, [ALL[0]]), (members, [row])):
        assert converge(driver, rows) == {}
    sh("ipset", command, "KUBE-SRC-IP")
    for driver, rows in ((sets, [ALL[0]]), (members, [row])):
        assert converge(driver, rows) == {}
    assert owned(members) == {row.key: row}


def test_a_set_of_another_type_is_replaced(namespace: str) -> None:
    """Pain 30."""
    sets = SetDriver(ours)
    sh("ipset", "create", "KUBE-SRC-IP", "hash:net")
    assert converge(sets, [ALL[0]]) == {}
    assert owned(sets) == {ALL[0].key: ALL[0]}
