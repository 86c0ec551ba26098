"""What the compiled policies let out and in, judged the way GoBGP judges, whatever flags and annotations say."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kuberouter.cluster.dependents import routing
from kuberouter.compilers.routing import COMPILERS
from kuberouter.model import bgp
from kuberouter.model.cluster import Node, NodeOptions
from kuberouter.model.core import Family, ObjectRef, Prefix, Row
from kuberouter.model.events import Upserted
from kuberouter.model.host import CniSettings, Sysctl
from kuberouter.model.netfilter import Hook, IpSet, Member
from kuberouter.model.network import Link, PolicyRule, Route
from kuberouter.model.settings import Advertise, ExternalPeers, GracefulRestart, RouterSettings
from tests.support.examples import examples
from tests.support.world import NODE, World

ROWS: tuple[type[Row], ...] = (Sysctl, IpSet, Member, Hook, Link, Route, PolicyRule, *bgp.TABLES, CniSettings)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def block(text: str) -> Prefix:
    network = ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


OWN, OTHER, OUTSIDE, OUTSIDE6 = map(packed, ("192.0.2.1", "192.0.2.2", "192.0.2.254", "2001:db8::ff"))
OWN6 = packed("2001:db8::1")
PODS = (block("10.244.1.0/24"), block("fd44:1::/64"))
VIPS = (block("198.51.100.7/32"), block("2001:db8:5::7/128"))
DEFAULTS = (block("0.0.0.0/0"), block("::/0"))
LEARNED = (
    block("10.244.2.0/24"),
    block("fd44:2::/64"),
    block("10.9.0.0/16"),
    block("10.9.1.0/24"),
    block("10.8.0.0/16"),
    block("fd09:1::/64"),
)
ALL = (*PODS, *VIPS, *DEFAULTS, *LEARNED)
cidrs = st.lists(
    st.sampled_from((block("10.9.0.0/16"), block("10.9.1.0/24"), block("10.0.0.0/8"), block("fd09::/16"))), unique=True
).map(tuple)
specs = st.sampled_from(
    ((), (bgp.PeerSpec(OUTSIDE, 65000),), (bgp.PeerSpec(OUTSIDE, 65000), bgp.PeerSpec(OUTSIDE6, 65000)))
)
annotations = st.builds(
    bgp.NodeBgp,
    asn=st.just(64601),
    reflector=st.sampled_from((None, bgp.Reflector(OWN, server=True), bgp.Reflector(OWN))),
    prepend=st.sampled_from((None, bgp.Prepend(64601, 2))),
    communities=st.sampled_from(((), (1,))),
    import_reject=cidrs,
    peers=specs,
)
flags = st.builds(
    RouterSettings,
    full_mesh=st.booleans(),
    ibgp=st.booleans(),
    peers=st.builds(ExternalPeers, specs, next_hop_self=st.booleans()),
    graceful=st.sampled_from((None, GracefulRestart())),
    advertise=st.builds(Advertise, pod_cidr=st.booleans()),
    import_allow=cidrs,
)


class Judge:
    """GoBGP's judgement over the rows of a node."""

    def __init__(self, mine: bgp.NodeBgp, router: RouterSettings, *, longest_only: bool) -> None:
        """With `longest_only` only the longest entry of a set around a route counts, as in version 3."""
        self._longest_only = longest_only
        world = World([routing], COMPILERS, router, ROWS, tuple(Family))
        me = Node(ObjectRef("Node", "", NODE), (OWN, OWN6), (), PODS, options=NodeOptions(bgp=mine))
        role = bgp.Reflector(OWN, server=mine.reflector is None or not mine.reflector.server)
        other = structs.replace(me, ref=ObjectRef("Node", "", "other"), internal_addresses=(OTHER,), spec_pod_cidrs=())
        other = structs.replace(other, options=NodeOptions(bgp=bgp.NodeBgp(asn=64601, reflector=role)))
        world.put(Upserted(me))
        world.put(Upserted(other))
        world.sync()
        self.tables = {row: world.table(row) for row in bgp.TABLES}
        entries = [*self.tables[bgp.PrefixSetEntry]]
        # A service address that this node tells of.
        entries += [
            bgp.PrefixSetEntryKey("servicevipsdefinedset" + ("" if len(vip.address) == 4 else "v6"), vip, bits, bits)
            for vip in VIPS
            for bits in (vip.length,)
        ]
        self._entries: list[bgp.PrefixSetEntryKey] = entries

    @property
    def peers(self) -> set[bytes]:
        """Who has a session."""
        return {key.address for key in self.tables[bgp.Peer]}

    def passes(self, way: bgp.RouteDirection, peer: bytes, route: Prefix, *, internal: bool = False) -> bool:
        """Whether a route goes out to a peer or comes in from it."""
        assignment = self.tables[bgp.PolicyAssignment][bgp.PolicyAssignmentKey(way)]
        for policy in assignment.policies:
            for name in self.tables[bgp.Policy][bgp.PolicyKey(policy)].statements:
                statement = self.tables[bgp.Statement][bgp.StatementKey(name)]
                if self._matches(statement, peer, route, internal=internal):
                    return bool(statement.accept)
        return bool(assignment.accept)

    def _matches(self, statement: bgp.Statement, peer: bytes, route: Prefix, *, internal: bool) -> bool:
        if statement.internal and not internal:
            return False
        if statement.prefix_set and not self._inside(statement.prefix_set, route):
            return False
        members = [key.prefix for key in self.tables[bgp.NeighborSetEntry] if key.set == statement.neighbor_set]
        # To GoBGP an empty set of peers is all of them.
        return not members or any(member.covers(peer) for member in members)

    def _inside(self, name: str, route: Prefix) -> bool:
        around = [
            key
            for key in self._entries
            if key.set == name and key.prefix.covers(route.address) and key.prefix.length <= route.length
        ]
        if self._longest_only and around:
            longest = max(key.prefix.length for key in around)
            around = [key for key in around if key.prefix.length == longest]
        return any(key.shortest <= route.length <= key.longest for key in around)


def within(route: Prefix, blocks: Iterable[Prefix]) -> bool:
    networks = [ip_network((each.address, each.length)) for each in blocks]
    mine = ip_network((route.address, route.length))
    return any(_subnet(mine, each) for each in networks)


def _subnet(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


@examples(150)
@given(annotations, flags, st.booleans())
def test_policies_mean_what_the_page_says(mine: bgp.NodeBgp, router: RouterSettings, longest_only: bool) -> None:
    """Pain 18: nobody outside can have a node take a default route, of either family."""
    judge = Judge(mine, router, longest_only=longest_only)
    outside = {OUTSIDE, OUTSIDE6} & judge.peers
    named = router.peers.specs or mine.peers or ()
    assert outside == {spec.address for spec in named}
    assert judge.peers - outside == ({OTHER} if router.ibgp else set())
    reflects = mine.reflector is not None and mine.reflector.server
    for peer in judge.peers:
        for route in ALL:
            told = judge.passes(bgp.RouteDirection.EXPORT, peer, route)
            if peer in outside:
                assert told is (route in VIPS or (route in PODS and router.advertise.pod_cidr)), (peer, route)
            else:
                assert told is (route in PODS), (peer, route)
            passed_on = judge.passes(bgp.RouteDirection.EXPORT, peer, route, internal=True)
            assert passed_on is (peer not in outside if reflects else told), (peer, route)
            taken = judge.passes(bgp.RouteDirection.IMPORT, peer, route)
            barred = route in (*VIPS, *DEFAULTS) or within(route, mine.import_reject)
            allowed = not router.import_allow or within(route, router.import_allow)
            assert taken is (allowed and not barred), (peer, route)
