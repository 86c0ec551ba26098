"""A restore tool that stays, against the real kernel and the real tool."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from kuberouter.drivers.iptables import ChainDriver, Variant, Xtables
from kuberouter.model.core import Batch, Family
from kuberouter.model.netfilter import Chain, ChainKey, Table, make_chain
from kuberouter.wire import kept
from kuberouter.wire.kept import KeptRestore
from tests.kernel.drive import owned, sh
from tests.support.lab import netns

WORDS = ("iptables-nft-restore", "--noflush", "--verbose")


def script(chain: str, *rules: str) -> str:
    return "\n".join(("*filter", f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules), "COMMIT", ""))


def rules(chain: str) -> list[str]:
    lines = sh("iptables-nft-save", "-t", "filter").splitlines()
    return [line.split(" ", 2)[2] for line in lines if line.startswith(f"-A {chain} ")]


def held(namespace: str) -> list[int]:
    """Restore tools that live in a namespace; what looks for them is in it too, and gone when it is looked at."""
    found = []
    for pid in netns.processes(namespace):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"-restore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_one_process_applies_one_script_after_the_other_whatever_others_do(namespace: str) -> None:
    tool = KeptRestore(WORDS)
    assert tool.apply(script("OURS", "-p tcp -j RETURN"))
    first = held(namespace)
    assert len(first) == 1
    for number in range(1, 30):
        # Others come, change and go between our scripts, also in our own chain.
        sh("iptables-nft", "-N", f"OTHERS-{number}")
        sh("iptables-nft", "-A", "OURS", "-p", "udp", "-j", f"OTHERS-{number}")
        if number > 1:
            sh("iptables-nft", "-X", f"OTHERS-{number - 1}")
        assert tool.apply(script("OURS", f"-p tcp -m tcp --dport {number} -j RETURN"))
        assert rules("OURS") == [f"-p tcp -m tcp --dport {number} -j RETURN"]
    assert held(namespace) == first
    sh("nft", "flush", "ruleset")
    assert tool.apply(script("OURS", "-p udp -j RETURN"))
    assert rules("OURS") == ["-p udp -j RETURN"]
    tool.close()
    assert held(namespace) == []


def test_a_refused_script_is_told_and_the_next_one_works(namespace: str) -> None:
    tool = KeptRestore(WORDS)
    assert tool.apply(script("OURS", "-p tcp -j RETURN"))
    for bad in ("-j NOWHERE", "-m set --match-set NONE src -j RETURN", "--nonsense", "-j MASQUERADE"):
        assert not tool.apply(script("OURS", "-p udp -j RETURN", bad))
        assert rules("OURS") == ["-p tcp -j RETURN"]
    assert tool.usable
    assert tool.apply(script("OURS", "-p sctp -j RETURN"))
    assert rules("OURS") == ["-p sctp -j RETURN"]


def test_a_process_that_was_killed_is_replaced(namespace: str) -> None:
    tool = KeptRestore(WORDS)
    for number in range(1, 4):
        assert tool.apply(script("OURS", f"-p tcp -m tcp --dport {number} -j RETURN"))
        (pid,) = held(namespace)
        os.kill(pid, signal.SIGKILL)
        # It may be found dead before the script is written or after; either way the next try starts another.
        assert tool.apply(script("OURS", "-p udp -j RETURN")) or tool.apply(script("OURS", "-p udp -j RETURN"))
        assert rules("OURS") == ["-p udp -j RETURN"]


def test_a_tool_that_prints_no_comments_is_not_kept(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PATIENCE", 0.3)
    tool = KeptRestore(WORDS[:2])
    assert not tool.apply(script("OURS", "-p tcp -j RETURN"))
    assert not tool.usable
    assert held(namespace) == []
    assert not KeptRestore(("no-such-tool",)).apply(script("OURS", "-p tcp -j RETURN"))


def test_small_changes_of_the_driver_go_through_a_process_that_ends_with_it(namespace: str) -> None:
    driver = ChainDriver(Xtables(Variant.NFT), tuple(Family), ("KUBE-",))
    for number in range(1, 6):
        rows: list[Chain] = [
            make_chain(ChainKey(f, Table.FILTER, "KUBE-A"), (f"-p tcp -m tcp --dport {number} -j RETURN",))
            for f in Family
        ]
        assert driver.write(Batch(tuple(rows))).failed == {}
        assert owned(driver) == {row.key: row for row in rows}
        assert len(held(namespace)) == (2 if number > 1 else 0)
    bad = make_chain(rows[0].key, ("-m set --match-set NONE src -j RETURN",), fallback=("-j DROP",))
    failed = driver.write(Batch(change=((rows[0], bad),))).failed
    assert "NONE" in failed[bad.key]
    assert owned(driver)[bad.key] == make_chain(bad.key, ("-j DROP",))
    del driver
    assert held(namespace) == []
