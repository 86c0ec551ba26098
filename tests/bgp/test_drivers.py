"""Each BGP table against a real gobgpd: what is written reads back beside what others put there, refusals are small."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec import structs

from kuberouter.compilers.names import BGP_SETS
from kuberouter.model import bgp
from kuberouter.model.core import Batch, Family, Prefix, Row, Secret, Unavailable
from kuberouter.wire.gobgp.calls import Calls
from kuberouter.wire.gobgp.client import DEADLINE, Connection, Refused
from kuberouter.wire.gobgp.codec import packed_of
from kuberouter.wire.gobgp.gobgpd import Gobgp
from kuberouter.wire.gobgp.v3 import V3
from kuberouter.wire.gobgp.v4 import V4
from tests.kernel.drive import converge, owned
from tests.support import gobgpd as programs
from tests.support.bgp import Station, Wire, bgp_drivers, prefix, wait

pytestmark = pytest.mark.root

A = "192.0.2.1"
SPEAKER = bgp.Speaker(bgp.SpeakerKey(), 64512, ip_address(A).packed, 179, (ip_address(A).packed,))
PODS, NODES = "podcidrdefinedset", "iBGPpeerset"
PODS6, NODES6 = PODS + "v6", NODES + "v6"


def entry(name: str, text: str) -> bgp.PrefixSetEntry:
    block = prefix(text)
    return bgp.PrefixSetEntry(bgp.PrefixSetEntryKey(name, block, block.length, block.length))


def neighbor(name: str, text: str) -> bgp.NeighborSetEntry:
    return bgp.NeighborSetEntry(bgp.NeighborSetEntryKey(name, prefix(text)))


def peer(text: str, *families: Family) -> bgp.Peer:
    return bgp.Peer(bgp.PeerKey(ip_address(text).packed), 64512, ip_address(A).packed, 179, families)


def path(text: str, next_hop: str) -> bgp.Path:
    return bgp.Path(bgp.PathKey(prefix(text)), ip_address(next_hop).packed)


STATEMENT = bgp.Statement(bgp.StatementKey(PODS + NODES), PODS, NODES, True)
CHANGING = bgp.Statement(
    bgp.StatementKey(PODS + NODES + "-1"),
    PODS,
    NODES,
    True,
    bgp.Prepend(65001, 3),
    next_hop_self=True,
    communities=(65000 << 16 | 100, 0xFFFFFF01),
)
REFLECTING = bgp.Statement(bgp.StatementKey(NODES + "-2"), "", "", True, internal=True)
EXTERNAL = bgp.Peer(
    bgp.PeerKey(ip_address("192.0.2.4").packed),
    65001,
    ip_address(A).packed,
    1790,
    (Family.IPV4, Family.IPV6),
    hold_time=30,
    password=Secret("hush"),
    multihop_ttl=4,
    restart_time=120,
    deferral_time=3,
    passive=True,
)
CLIENT = bgp.Peer(
    bgp.PeerKey(ip_address("192.0.2.5").packed),
    0,
    ip_address(A).packed,
    reflector_cluster=ip_address("0.0.0.42").packed,
)
POLICY = bgp.Policy(bgp.PolicyKey("kube_router_export1"), (STATEMENT.key.name,))
CLOSED = bgp.PolicyAssignment(bgp.PolicyAssignmentKey(bgp.RouteDirection.EXPORT), (POLICY.key.name,), False)
JUDGED = bgp.PolicyAssignment(bgp.PolicyAssignmentKey(bgp.RouteDirection.IMPORT), (POLICY.key.name,), True)
WORLD: tuple[tuple[type[Row], tuple[Any, ...]], ...] = (
    (bgp.Speaker, (SPEAKER,)),
    (
        bgp.DefinedSet,
        (
            *(bgp.DefinedSet(bgp.DefinedSetKey(bgp.SetKind.PREFIX, name)) for name in (PODS, PODS6)),
            *(bgp.DefinedSet(bgp.DefinedSetKey(bgp.SetKind.NEIGHBOR, name)) for name in (NODES, NODES6)),
        ),
    ),
    (bgp.PrefixSetEntry, (entry(PODS, "10.244.1.0/24"), entry(PODS, "10.245.0.0/16"), entry(PODS6, "fd44::/64"))),
    (bgp.NeighborSetEntry, (neighbor(NODES, "192.0.2.2/32"), neighbor(NODES6, "2001:db8::2/128"))),
    (bgp.Statement, (STATEMENT, CHANGING, REFLECTING)),
    (bgp.Policy, (POLICY,)),
    (bgp.PolicyAssignment, (CLOSED, JUDGED)),
    (bgp.Path, (path("10.244.1.0/24", A), path("fd44::/64", "2001:db8::1"))),
    (bgp.Peer, (peer("192.0.2.2", Family.IPV4), peer("192.0.2.3", Family.IPV4, Family.IPV6), EXTERNAL, CLIENT)),
)


@pytest.fixture
def station(tmp_path: Path, gobgpd: str) -> Iterator[Station]:
    with Wire(tmp_path, gobgpd) as wire:
        yield wire.station("a", A)


@pytest.fixture
def gobgp(station: Station) -> Gobgp:
    return serving(station)


def serving(station: Station) -> Gobgp:
    """The gobgpd of a station once it answers."""
    gobgp = Gobgp(Connection(f"unix://{station.socket}"))
    wait(lambda: answers(gobgp), 5, "gobgpd")
    return gobgp


def answers(gobgp: Gobgp) -> bool:
    try:
        gobgp.api.speaker()
    except Unavailable:
        return False
    return True


def test_every_table_reads_as_written_and_empties_in_reverse(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    assert all(not owned(driver) for driver in drivers.values())
    for row, rows in WORLD:
        assert converge(drivers[row], rows) == {}
        assert owned(drivers[row]) == {r.key: r for r in rows}
        assert not drivers[row].write(Batch()).failed
    # A second look finds nothing to do.
    for row, rows in WORLD:
        assert owned(drivers[row]) == {r.key: r for r in rows}
    for row, _ in reversed(WORLD[1:]):
        assert converge(drivers[row], ()) == {}
        assert owned(drivers[row]) == {}


def test_changes_in_place_and_foreign_neighbours_survive(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD:
        converge(drivers[row], rows)
    prefixes, peers = (bgp.DefinedSetKey(bgp.SetKind.PREFIX, "theirs"), bgp.DefinedSetKey(bgp.SetKind.NEIGHBOR, "them"))
    gobgp.api.add_set(prefixes, [entry("theirs", "198.51.100.0/24").key])
    gobgp.api.add_set(peers, [neighbor("them", "198.51.100.1/32").key])
    gobgp.api.add_statement(bgp.Statement(bgp.StatementKey("theirs"), "theirs", "them", True))
    gobgp.api.add_policy(bgp.Policy(bgp.PolicyKey("their-policy"), ("theirs",)))
    changed = {
        bgp.Path: (path("10.244.1.0/24", "192.0.2.9"),),
        bgp.Peer: (peer("192.0.2.2", Family.IPV4, Family.IPV6),),
        bgp.PrefixSetEntry: (entry(PODS, "10.245.0.0/16"), entry(PODS, "10.246.0.0/16")),
        bgp.PolicyAssignment: (bgp.PolicyAssignment(CLOSED.key, (), False),),
        bgp.Policy: (),
        bgp.Statement: (),
        bgp.NeighborSetEntry: (neighbor(NODES, "192.0.2.7/32"),),
    }
    for row, rows in changed.items():
        assert converge(drivers[row], rows) == {}
        assert owned(drivers[row]) == {r.key: r for r in rows}
    assert {key.name for key, _ in gobgp.api.sets()} >= {"theirs", "them", *BGP_SETS[:2]}
    assert {row.key.name for row in gobgp.api.statements()} == {"theirs"}
    assert {row.key.name for row in gobgp.api.policies()} == {"their-policy"}


def test_one_bad_row_is_named_and_the_others_are_written(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD[:2]:
        converge(drivers[row], rows)
    first, second = entry(PODS, "10.244.1.0/24"), entry(PODS, "10.244.2.0/24")
    other_family = entry(PODS, "fd44::/64")
    assert converge(drivers[bgp.PrefixSetEntry], (first,)) == {}
    failed = converge(drivers[bgp.PrefixSetEntry], (first, second, other_family))
    assert set(failed) == {other_family.key}
    assert owned(drivers[bgp.PrefixSetEntry]) == {row.key: row for row in (first, second)}
    orphan = bgp.Statement(bgp.StatementKey("podcidrdefinedsetnowhere"), PODS, "nowhere", True)
    keys: set[Hashable] = set(converge(drivers[bgp.Statement], (orphan, STATEMENT)))
    assert keys == {orphan.key}


def test_no_peer_is_added_while_everything_would_be_exported_or_imported(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    converge(drivers[bgp.Speaker], (SPEAKER,))
    row = peer("192.0.2.2", Family.IPV4)
    assert converge(drivers[bgp.Peer], (row,)) == {row.key: "the import and export policy is not in place"}
    for table, rows in WORLD[1:6]:
        converge(drivers[table], rows)
    for assigned, lacking in ((CLOSED, "import"), (JUDGED, "export")):
        assert converge(drivers[bgp.PolicyAssignment], (assigned,)) == {}
        assert converge(drivers[bgp.Peer], (row,)) == {row.key: f"the {lacking} policy is not in place"}
        assert owned(drivers[bgp.Peer]) == {}
    converge(drivers[bgp.PolicyAssignment], (CLOSED, JUDGED))
    assert converge(drivers[bgp.Peer], (row,)) == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"asn": 65002},
        {"port": 179},
        {"families": (Family.IPV4,)},
        {"hold_time": 90},
        {"password": Secret("hush, hush")},
        {"password": None},
        {"multihop_ttl": 0},
        {"restart_time": 0, "deferral_time": 0},
        {"deferral_time": 30},
        {"passive": False},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_b15_a_change_of_a_peer_reaches_it_and_no_other(
    gobgp: Gobgp, station: Station, changed: dict[str, Any]
) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD:
        converge(drivers[row], rows)
    added = log_lines(station, "Add a peer configuration")
    wanted = (*WORLD[-1][1][:2], structs.replace(EXTERNAL, **changed), CLIENT)
    assert converge(drivers[bgp.Peer], wanted) == {}
    assert owned(drivers[bgp.Peer]) == {row.key: row for row in wanted}
    assert log_lines(station, "Add a peer configuration") == added + 1


def test_bfd_is_asked_for_or_its_lack_told_once(gobgp: Gobgp, station: Station) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD[:-1]:
        converge(drivers[row], rows)
    wanted = structs.replace(EXTERNAL, bfd=bgp.Bfd(3785, 4, 300, 500))
    assert owned(drivers[bgp.Peer]) == {}
    outcome = drivers[bgp.Peer].write(Batch(add=(wanted,)))
    if isinstance(gobgp.api, V4):
        assert (outcome.failed, outcome.instead) == ({}, {})
        assert owned(drivers[bgp.Peer]) == {wanted.key: wanted}
        assert converge(drivers[bgp.Peer], (EXTERNAL,)) == {}
        assert owned(drivers[bgp.Peer]) == {EXTERNAL.key: EXTERNAL}
        return
    said = "gobgpd 3, which answers here, has no BFD (that came with 4.5); the session runs without"
    assert outcome.instead == {wanted.key: said}
    assert owned(drivers[bgp.Peer]) == {EXTERNAL.key: EXTERNAL}
    added = log_lines(station, "Add a peer configuration")
    assert drivers[bgp.Peer].write(Batch(change=((EXTERNAL, wanted),))).instead == {wanted.key: said}
    assert log_lines(station, "Add a peer configuration") == added


def test_no_password_is_logged_by_gobgpd_or_shown_by_a_row(gobgp: Gobgp, station: Station) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD:
        converge(drivers[row], rows)
    (found,) = (row for row in drivers[bgp.Peer].read() if row.password is not None)
    assert found.password == Secret("hush")
    assert "hush" not in repr(found) + str(found) + f"{found.password}" + (station.home / "gobgpd.log").read_text()


def test_b16_only_the_first_peers_of_a_new_process_hear_of_a_restart(gobgp: Gobgp, station: Station) -> None:
    drivers = bgp_drivers(gobgp)
    for row, rows in WORLD[:-1]:
        converge(drivers[row], rows)
    first, late = EXTERNAL, structs.replace(EXTERNAL, key=bgp.PeerKey(ip_address("192.0.2.9").packed))
    assert converge(drivers[bgp.Peer], (first,)) == {}
    assert converge(drivers[bgp.Peer], (first, late)) == {}
    assert restarting(gobgp) == {first.key: True, late.key: False}
    # A change of identity is no restart: everybody was told good-bye.
    other = structs.replace(SPEAKER, router_id=ip_address("192.0.2.77").packed)
    identify(station, gobgp, other)
    for row, rows in (*WORLD[1:-1], (bgp.Peer, (first,))):
        assert owned(drivers[row]) == {}
        assert converge(drivers[row], rows) == {}
    assert restarting(gobgp) == {first.key: False}
    # A process that dies is one again.
    station.kill()
    station.start()
    wait(lambda: answers(gobgp), 5, "gobgpd")
    for row, rows in ((bgp.Speaker, (other,)), *WORLD[1:-1], (bgp.Peer, (first,))):
        assert converge(drivers[row], rows) == {}
    assert restarting(gobgp) == {first.key: True}


def test_tables_read_before_another_start_have_to_be_read_again(gobgp: Gobgp, station: Station) -> None:
    drivers = bgp_drivers(gobgp)
    assert owned(drivers[bgp.Path]) == {}
    with pytest.raises(Unavailable, match="not been given an identity"):
        drivers[bgp.Path].write(Batch(add=(path("10.244.1.0/24", A),)))
    for row, rows in WORLD:
        converge(drivers[row], rows)
    other = bgp.Speaker(SPEAKER.key, 64513, SPEAKER.router_id, 179, SPEAKER.addresses)
    identify(station, gobgp, other)
    assert owned(drivers[bgp.Speaker]) == {other.key: other}
    with pytest.raises(Unavailable, match="another identity"):
        drivers[bgp.Peer].write(Batch(add=(peer("192.0.2.5", Family.IPV4),)))
    assert owned(drivers[bgp.Peer]) == {}


def test_an_address_that_cannot_be_listened_on_is_the_speakers_failure(gobgp: Gobgp) -> None:
    nowhere = bgp.Speaker(SPEAKER.key, 64512, SPEAKER.router_id, 179, (ip_address("203.0.113.1").packed,))
    failed = converge(bgp_drivers(gobgp)[bgp.Speaker], (nowhere,))
    assert "cannot assign requested address" in failed[SPEAKER.key]
    assert converge(bgp_drivers(gobgp)[bgp.Speaker], (SPEAKER,)) == {}


def test_many_paths_go_in_one_stream(gobgp: Gobgp) -> None:
    drivers = bgp_drivers(gobgp)
    converge(drivers[bgp.Speaker], (SPEAKER,))
    rows = [
        bgp.Path(bgp.PathKey(Prefix(bytes((10, 100 + n // 256, n % 256, 0)), 24)), SPEAKER.router_id)
        for n in range(1201)
    ]
    assert converge(drivers[bgp.Path], rows) == {}
    assert owned(drivers[bgp.Path]) == {row.key: row for row in rows}
    assert converge(drivers[bgp.Path], rows[:1]) == {}
    assert owned(drivers[bgp.Path]) == {rows[0].key: rows[0]}


def test_a_hung_gobgpd_costs_one_deadline_and_not_one_per_table(station: Station, gobgp: Gobgp) -> None:
    assert station.gobgpd is not None
    drivers = bgp_drivers(gobgp)
    station.gobgpd.send(signal.SIGSTOP)
    # Its threads stop one by one, and the last of them could still answer.
    os.waitid(os.P_PID, station.gobgpd.pid, os.WSTOPPED | os.WNOWAIT)
    began = time.monotonic()
    for driver in drivers.values():
        with pytest.raises(Unavailable, match="gobgpd does not answer on unix:"):
            owned(driver)
    assert DEADLINE - 0.5 < time.monotonic() - began < DEADLINE + 1


@pytest.mark.parametrize("gobgpd", ["gobgp4"], indirect=True)
def test_gobgpd_4_that_cannot_be_ended_goes_on_with_its_identity(gobgp: Gobgp, station: Station) -> None:
    """As in a container with processes of its own: there whoever listens has no process id that we could use."""
    assert station.gobgpd is not None
    drivers = bgp_drivers(gobgp)
    assert converge(drivers[bgp.Speaker], (SPEAKER,)) == {}
    link = station.home / "apart"
    link.symlink_to(station.socket)
    apart = Gobgp(Connection(f"unix://{link}"))
    assert apart.api.speaker() == SPEAKER
    link.unlink()
    other = structs.replace(SPEAKER, asn=64513)
    failed = bgp_drivers(apart)[bgp.Speaker].write(Batch(change=((SPEAKER, other),))).failed
    assert "takes another identity only from its start, and its process cannot be ended" in failed[SPEAKER.key]
    assert gobgp.api.speaker() == SPEAKER
    assert station.gobgpd.returncode() is None


@pytest.mark.parametrize("gobgpd", ["gobgp4"], indirect=True)
def test_gobgpd_of_another_version_takes_its_place(gobgp: Gobgp, station: Station) -> None:
    """As at an upgrade of the sidecar, and back: which version it is, is asked after every break."""
    drivers = bgp_drivers(gobgp)
    newer = station.program
    for program, version in ((programs.V3, V3), (newer, V4)):
        station.kill()
        station.program = program
        station.start()
        wait(lambda: answers(gobgp), 5, "gobgpd")
        assert isinstance(gobgp.api, version)
        for row, rows in WORLD:
            assert converge(drivers[row], rows) == {}
            assert owned(drivers[row]) == {r.key: r for r in rows}


def test_what_is_no_gobgpd_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        with pytest.raises(Unavailable) as caught:
            Gobgp(Connection(f"unix://{path}")).api.speaker()
    finally:
        server.stop(None).wait()
    said = (
        f"what answers on unix://{path} speaks neither the API of GoBGP 4 nor that of GoBGP 3; one of the two is needed"
    )
    assert str(caught.value) == said


def test_the_sidecar_listens_on_its_socket_only_and_survives_a_stale_one(station: Station, gobgp: Gobgp) -> None:
    gobgp.api.start(SPEAKER)
    assert listeners(station) == {f"{A}:179"}
    assert station.socket.stat().st_mode & 0o077 == 0
    station.kill()
    assert station.socket.is_socket()
    station.start("--gobgp-admin-port=50051")
    serving(station)
    assert listeners(station) == {"127.0.0.1:50051"}


def test_a_second_sidecar_leaves_the_first_its_socket(station: Station, gobgp: Gobgp) -> None:
    gobgp.api.start(SPEAKER)
    first = station.gobgpd
    station.start()
    second, station.gobgpd = station.gobgpd, first
    assert second is not None
    wait(lambda: second.returncode() == 1, 5, "refusal")
    assert f"another gobgpd serves {station.socket}" in second.tail()
    assert serving(station).api.speaker() == SPEAKER


def test_the_sidecar_removes_nothing_but_sockets(station: Station, gobgp: Gobgp) -> None:
    with pytest.raises(Refused):
        list(gobgp.api.paths())
    station.kill()
    station.socket.unlink()
    station.socket.write_text("somebody's file")
    station.start()
    assert station.gobgpd is not None
    child = station.gobgpd
    wait(lambda: child.returncode() == 1, 5, "refusal")
    assert child.tail(1) == f"gobgpd-sidecar: {station.socket} exists and is no socket"
    assert station.socket.read_text() == "somebody's file"


def listeners(station: Station) -> set[str]:
    words = ["ip", "netns", "exec", station.namespace, "ss", "-Hltn"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3] for line in lines}


def identify(station: Station, gobgp: Gobgp, row: bgp.Speaker) -> None:
    """Give gobgpd another identity; whoever runs one of version 4 has to start it again for that."""
    drivers = bgp_drivers(gobgp)
    if isinstance(gobgp.api, V4):
        assert station.gobgpd is not None
        with pytest.raises(Unavailable, match="gobgpd was ended, for it takes another identity only from its start"):
            converge(drivers[bgp.Speaker], (row,))
        child = station.gobgpd
        wait(lambda: child.returncode() == 0, 5, "end of gobgpd")
        station.start()
        wait(lambda: answers(gobgp), 5, "gobgpd")
    assert converge(drivers[bgp.Speaker], (row,)) == {}


def restarting(gobgp: Gobgp) -> dict[bgp.PeerKey, bool]:
    assert isinstance(gobgp.api, Calls)
    found = (reply.peer for reply in gobgp.api._peers())
    return {
        bgp.PeerKey(packed_of(peer.conf.neighbor_address)): peer.graceful_restart.local_restarting for peer in found
    }


def log_lines(station: Station, word: str) -> int:
    return (station.home / "gobgpd.log").read_text().count(word)
