"""Somebody takes our rules away: repaired within about a second where the kernel tells, else by the next audit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.lab.test_firewall import DENY
from tests.support.lab import Lab
from tests.support.lab.pods import Pod

pytestmark = pytest.mark.root
DAMAGE = {
    "iptables": (
        "iptables -F",
        "iptables -F KUBE-ROUTER-FORWARD",
        "iptables -I FORWARD -j ACCEPT",
        "nft flush ruleset",
    ),
    "nftables": (
        "nft flush ruleset",
        "nft delete table ip kube-router-filter-ipv4",
        "nft flush chain ip kube-router-filter-ipv4 KUBE-ROUTER-FORWARD-INGRESS",
        "nft flush map ip kube-router-filter-ipv4 KUBE-ROUTER-POD-INGRESS",
        "nft insert rule ip kube-router-filter-ipv4 KUBE-ROUTER-FORWARD-INGRESS accept",
        "nft add table ip kube-router-filter-ipv4 '{ flags dormant; }'",
    ),
}
BOUND = 1.0
"""Seconds that are promised on a machine with time to spare; the test allows ten times as many."""
UNTOLD = {
    "nft": ("ipset flush",),
    "legacy": (
        "ipset flush",
        "iptables-legacy -F",
        "iptables-legacy -F KUBE-ROUTER-FORWARD",
        "iptables-legacy -I FORWARD -j ACCEPT",
    ),
}
"""What the kernel tells nobody of, by variant of iptables."""
PERIOD = 1.0
"""Seconds between audits."""


@pytest.fixture(scope="module", params=list(DAMAGE))
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str]]:
    arguments = ["--run-router=false", "--run-service-proxy=false", "--iptables-mode=nft"]
    arguments += ["--use-nftables-for-netpol"] if request.param == "nftables" else []
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        lab.pod("source", "node1")
        lab.pod("target", "node1", labels={"app": "closed"})
        lab.apply(DENY)
        yield lab, request.param


def in_both_families(words: str) -> str:
    """The same done to IPv6 as well."""
    other = words.replace("iptables", "ip6tables").replace(" ip ", " ip6 ").replace("-ipv4", "-ipv6")
    return words if other == words else f"{words} && {other}"


def ways(source: Pod, target: Pod) -> list[str]:
    """The addresses of a pod at which another one reaches it."""
    return [ip for ip in target.ips if source.reaches(ip)]


def test_what_others_destroy_stands_again_soon(lab: tuple[Lab, str]) -> None:
    """flush_by_admin, W22."""
    made, backend = lab
    source, target = made.pods["default/source"], made.pods["default/target"]
    took: dict[str, float] = {}
    for words in DAMAGE[backend]:
        made.wait(lambda: not ways(source, target), 10, "policy in force")
        made.nodes[0].sh(in_both_families(words))
        began = time.monotonic()
        made.wait(lambda: not ways(source, target), 10 * BOUND, f"a repair of {words!r}")
        took[words] = time.monotonic() - began
        made.wait(made.nodes[0].ready, 40, "the daemon ready")
    print(backend, {words: f"{seconds:.2f}" for words, seconds in took.items()})
    assert set(took) == set(DAMAGE[backend])


@pytest.mark.parametrize("variant", list(UNTOLD))
def test_what_the_kernel_does_not_tell_of_stands_again_after_an_audit(variant: str) -> None:
    """flush_by_admin: ipsets and iptables-legacy."""
    arguments = ["--run-router=false", "--run-service-proxy=false", f"--iptables-sync-period={PERIOD}s"]
    arguments.append(f"--iptables-mode={variant}")
    with Lab(nodes=1, subnets=1, families=(4, 6), daemon_arguments=arguments) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "a ready daemon")
        source, target = lab.pod("source", "node1"), lab.pod("target", "node1", labels={"app": "closed"})
        lab.apply(DENY)
        for words in UNTOLD[variant]:
            lab.wait(lambda: not ways(source, target), 10, "policy in force")
            daemon = lab.nodes[0].daemon
            assert daemon is not None
            # While it stands still no audit comes between the damage and the look at it.
            daemon.send(signal.SIGSTOP)
            lab.nodes[0].sh(in_both_families(words))
            assert ways(source, target) == list(target.ips), words
            daemon.send(signal.SIGCONT)
            lab.wait(lambda: not ways(source, target), PERIOD + 10 * BOUND, f"a repair of {words!r}")
            lab.wait(lab.nodes[0].ready, 40, "the daemon ready")
