"""How many processes it takes to have policies in force: a handful, however many policies there are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.pipeline import Firewall, Manifest
from tests.conformance.vocabulary import ADDRESSES, NODES, base, into, labels, merged, pods, port, source

pytestmark = pytest.mark.root
CIDRS = {"n1": ("10.253.1.0/24", "fd53:1::/64")}
BASE = [m for m in base({**NODES, **ADDRESSES}, CIDRS) if m["metadata"]["name"] != "n2"]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What has been started since the last look, by name."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    log.touch()
    families = ("iptables", "ip6tables")
    tools = [f"{f}-{v}-{verb}" for f in families for v in ("nft", "legacy") for verb in ("save", "restore")]
    for name in (*tools, "nft", "ipset"):
        wrapper = folder / name
        wrapper.write_text(f'#!/bin/sh\necho {name} >>{log}\nexec {shutil.which(name)} "$@"\n')
        wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))

    def look() -> list[str]:
        found = log.read_text().split()
        log.write_text("")
        return found

    return look


def some_policies(count: int) -> list[Manifest]:
    return [
        into(source(pods(labels(app=f"a{n % 7}")), ports=[port(n + 1)]), name=f"p{n}", own="xyz"[n % 3])
        for n in range(count)
    ]


@pytest.mark.parametrize("backend", ["iptables-nft", "iptables-legacy", "nftables"])
def test_many_policies_take_as_few_processes_as_one(
    namespace: str, backend: str, started: Callable[[], list[str]]
) -> None:
    """W28: one script for all chains of a family, sets and elements by netlink; an edit is one more script."""
    took: list[list[str]] = []
    for count in (1, 120):
        firewall = Firewall("n1", namespace, backend)
        firewall.apply(merged(BASE, some_policies(count)))
        took.append(started())
        firewall.apply(BASE)
        assert len(started()) <= 4
    one, many = took
    assert len(many) <= len(one) <= 8
    firewall.apply(merged(BASE, some_policies(2)))
    started()
    firewall.apply(merged(BASE, some_policies(3)))
    assert len(started()) <= 2
    firewall.apply(BASE)
