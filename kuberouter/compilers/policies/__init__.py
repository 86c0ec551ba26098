"""NetworkPolicy to netfilter. Compilers, each for the smallest thing that changes:

- `policy`: what a policy allows: its chains, the sets they refer to, the prefixes of its ipBlocks;
- `membership`: a pod's entries in peer sets;
- `isolation`: a local pod's profiles and its place in them;
- `cluster-addresses`, `binding`: whose addresses a pod must not borrow, and through which link it sends;
- `served`: where a Service is reached, which policy leaves to the proxy;
- `firewall`: the fixed chains and hooks of the node;
- `annotation`: no rows, only what is to be said of an annotation without effect.

They say what is meant; the packages `iptables` and `nftables` spell it, each in rows of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kuberouter.compilers.policies import iptables, nftables
from kuberouter.compilers.policies.annotation import compile_annotation
from kuberouter.compilers.policies.binding import compile_binding, compile_cluster_addresses
from kuberouter.compilers.policies.firewall import compile_firewall, compile_served
from kuberouter.compilers.policies.isolation import compile_isolation
from kuberouter.compilers.policies.membership import compile_membership
from kuberouter.compilers.policies.policy import compile_policy
from kuberouter.compilers.policies.spelling import Spelling

__all__ = ["IPTABLES", "NFTABLES", "compilers"]


def compilers(spell: Spelling) -> tuple[tuple[str, Any], ...]:
    """Names and functions in the order in which they should run: what is referred to before what refers."""
    return (
        ("policy", partial(compile_policy, spell=spell)),
        ("membership", partial(compile_membership, spell=spell)),
        ("isolation", partial(compile_isolation, spell=spell)),
        ("cluster-addresses", partial(compile_cluster_addresses, spell=spell)),
        ("binding", partial(compile_binding, spell=spell)),
        ("served", partial(compile_served, spell=spell)),
        ("firewall", partial(compile_firewall, spell=spell)),
        ("annotation", compile_annotation),
    )


IPTABLES = compilers(iptables)
NFTABLES = compilers(nftables)
