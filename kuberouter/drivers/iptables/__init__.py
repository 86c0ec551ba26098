"""Chains of ours and our hooks in builtin chains, through iptables-save and iptables-restore --noflush."""

from kuberouter.drivers.iptables.chains import ChainDriver
from kuberouter.drivers.iptables.hooks import HookDriver
from kuberouter.drivers.iptables.tools import TABLES, Variant, Xtables, detect_variant, hinted_variant

__all__ = [
    "TABLES",
    "ChainDriver",
    "HookDriver",
    "Variant",
    "Xtables",
    "detect_variant",
    "hinted_variant",
]
