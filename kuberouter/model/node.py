"""What compilers know of the node they run on."""

from __future__ import annotations

from functools import lru_cache

from kuberouter.model.core import Family, Prefix, Value, family_of


class NodeFacts(Value, frozen=True, gc=False):
    """This node: its name, addresses and pod CIDRs of the families in use, and the link that carries the primary one.

    A family is in use when its flag is on and the node has an address of it; addresses and CIDRs of other families are
    already left out here, so that no compiler has to ask. Policy alone asks for more: see `enabled`.
    """

    name: str
    addresses: tuple[bytes, ...]
    """InternalIPs then ExternalIPs in the Node's order; the first is the primary address."""
    pod_cidrs: tuple[Prefix, ...] = ()
    uplink: str = ""
    """Link that holds the primary address; empty when none does."""
    mtu: int = 0
    """MTU of the uplink; 0 when unknown."""
    subnets: tuple[Prefix, ...] = ()
    """Connected prefixes of the node's addresses."""
    local_addresses: tuple[bytes, ...] = ()
    """Every address on any link that is not ours (not kube-dummy-if, kube-bridge or a tunnel), but IPv6 link-local ones
    and those of Services."""
    bridge_mtu: int = 0
    """MTU of the pods' bridge; 0 while there is none with an address."""
    zone: str = ""
    """Where the node is, for hints that endpoints carry; empty when its Node object does not tell."""
    enabled: tuple[Family, ...] = (Family.IPV4,)
    """Families whose flag is on. Policy holds in all of them: pods have addresses of their own, and what the Node
    object tells of its addresses, for a moment or for good, must not open them."""
    other_cidrs: tuple[Prefix, ...] = ()
    """Pod CIDRs of enabled families of which the node has no address."""
    bindable: tuple[bytes, ...] = ()
    """Addresses that the Node names and a link has, or had before: a link that flaps ends no listener."""

    def address(self, family: Family) -> bytes | None:
        """The best address of a family: the primary one if it is of that family, else the first of it."""
        for address in self.addresses:
            if family_of(address) is family:
                return address
        return None

    @property
    def families(self) -> tuple[Family, ...]:
        """Families in use, IPv4 first."""
        return _families(self.addresses)


@lru_cache(maxsize=16)
def _families(addresses: tuple[bytes, ...]) -> tuple[Family, ...]:
    # Every compiler asks for each of its owners, and a node hardly ever changes its addresses.
    present = {family_of(address) for address in addresses}
    return tuple(family for family in Family if family in present)
