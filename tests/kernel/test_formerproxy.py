"""What the Go kube-router leaves of guard and SNAT: removed, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.drivers.formerproxy import SNAT, FormerProxyDriver
from kuberouter.drivers.iptables import Variant, Xtables
from kuberouter.model.core import Family
from kuberouter.model.netfilter import FormerProxyKey
from tests.kernel.drive import converge, owned, sh

pytestmark = pytest.mark.root

SET = "-m set --match-set kube-router-svip dst"
THEIRS = f'INPUT -m comment --comment "traffic to services" {SET} -j KUBE-ROUTER-SERVICES'
OURS = f'INPUT -m comment --comment "kube-router:0123456789:first:20" {SET} -j KUBE-ROUTER-SERVICES'
HAIRPIN = "POSTROUTING -p tcp -j KUBE-ROUTER-HAIRPIN"


@pytest.mark.parametrize("variant", list(Variant), ids=lambda v: v.value)
def test_b22_jumps_go_and_what_is_ours_or_others_stays(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Variant
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    tool = f"iptables-{variant.value}"
    sh("ipset", "create", "kube-router-svip", "hash:ip")
    sh(tool, "-N", "KUBE-ROUTER-SERVICES")
    sh(tool, "-t", "nat", "-N", "KUBE-ROUTER-HAIRPIN")
    sh(tool, "-t", "nat", "-A", "KUBE-ROUTER-HAIRPIN", "-s", "10.244.1.5", "-j", "ACCEPT")
    for line in (THEIRS, OURS, "INPUT -s 10.9.9.9/32 -j ACCEPT"):
        sh("sh", "-c", f"{tool} -A {line}")
    for line in (HAIRPIN, "POSTROUTING -s 10.9.9.9/32 -j MASQUERADE"):
        sh("sh", "-c", f"{tool} -t nat -A {line}")
    driver = FormerProxyDriver([lambda: Xtables(Variant.NFT), lambda: Xtables(Variant.LEGACY)], tuple(Family))
    assert set(owned(driver)) == {FormerProxyKey(Family.IPV4)}
    assert converge(driver, []) == {}
    assert owned(driver) == {}
    filtering, nat = sh(f"{tool}-save", "-t", "filter"), sh(f"{tool}-save", "-t", "nat")
    assert filtering.count("-j KUBE-ROUTER-SERVICES") == 1
    assert "kube-router:0123456789" in filtering
    assert "10.9.9.9" in filtering
    assert "10.9.9.9" in nat
    assert "HAIRPIN" not in nat


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        ('-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j SNAT --to-source 192.0.2.1', True),
        (
            '! -s 10.244.1.0/24 ! -d 10.244.1.0/24 -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" '
            "-j SNAT --to-source 192.0.2.1 --random-fully",
            True,
        ),
        ('-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j MASQUERADE', True),
        ("-m ipvs --vdir ORIGINAL --vmethod MASQ -j SNAT --to-source 192.0.2.1", False),
        ("-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment lvs -j SNAT --to-source 192.0.2.1", False),
        ('-s 10.0.0.0/8 -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j MASQUERADE', False),
    ],
)
def test_b31_its_snat_is_known_by_its_form(words: str, theirs: bool) -> None:
    assert bool(SNAT.fullmatch(words)) == theirs


@pytest.mark.ipvs
def test_b31_its_snat_goes(namespace: str) -> None:
    from tests.kernel.conftest import need

    need("ip_vs")
    snat = ["-m", "ipvs", "--ipvs", "--vdir", "ORIGINAL", "--vmethod", "MASQ", "-m", "comment", "--comment", ""]
    for cidr in ("10.244.1.0/24", "10.245.1.0/24"):
        rule = ["!", "-s", cidr, "!", "-d", cidr, *snat, "-j", "SNAT", "--to-source", "192.0.2.1", "--random-fully"]
        sh("iptables", "-t", "nat", "-A", "POSTROUTING", *rule)
    sh("iptables", "-t", "nat", "-A", "POSTROUTING", *snat[:-4], "-j", "SNAT", "--to-source", "192.0.2.9")
    driver = FormerProxyDriver([lambda: Xtables(Variant.NFT), lambda: Xtables(Variant.LEGACY)], (Family.IPV4,))
    assert set(owned(driver)) == {FormerProxyKey(Family.IPV4)}
    assert converge(driver, []) == {}
    left = sh("iptables-save", "-t", "nat")
    assert left.count("-m ipvs") == 1
    assert "192.0.2.9" in left
