"""Allowances become policy chains, combinations of them profile chains, and a pod's place is an element of a map.

Each direction is judged in a base chain of its own, where `accept` ends nothing but that direction; so a verdict is a
verdict, and no packet is marked. A rule's order never matters inside a policy chain, for it only allows; rules are
sorted so that equal content has equal text. A pod moves from one profile to another by the replacement of one element.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from kuberouter.compilers.policies.names import (
    CUT_CHAIN,
    CUT_MARK,
    INVALID_CHAIN,
    NFLOG_GROUP,
    PEER_USE,
    REFUSED_CHAIN,
    SERVICE_CUT_CHAIN,
    UNTOLD_MARK,
)
from kuberouter.compilers.policies.nftables.names import (
    IP,
    block_set,
    chain_key,
    dispatch_map,
    entries,
    named_set,
    policy_chain,
    profile_chain,
)
from kuberouter.compilers.policies.rules import body, prefix_peers, span
from kuberouter.compilers.policies.spelling import Memberships, Place
from kuberouter.model.cluster import NetworkPolicy
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.nftables import (
    NftChain,
    NftElement,
    NftElementKey,
    NftSetKey,
    NftVerdict,
    NftVerdictKey,
    make_nft_chain,
)
from kuberouter.model.policy import Allowance, Body, Direction, PodSet, PortSpan, Use
from kuberouter.model.settings import FirewallSettings

PROTOCOL = {L4Protocol.TCP: "tcp", L4Protocol.UDP: "udp", L4Protocol.SCTP: "sctp"}
END = {Use.SOURCE: "saddr", Use.DESTINATION: "daddr"}
REFUSAL = {
    Family.IPV4: "reject with icmp type port-unreachable",
    Family.IPV6: "reject with icmpv6 type port-unreachable",
}
SPARES = (("log prefix", ""), ("reject with", "counter drop"))
"""A kernel that cannot log what it refuses, or cannot say that it does, judges all the same."""
RESET = "reject with tcp reset"
IF_CUT = f"ct mark and {CUT_MARK:#x} == {CUT_MARK:#x}"
IF_UNTOLD = f"ct mark and {UNTOLD_MARK:#x} == {UNTOLD_MARK:#x}"
FURTHER_TCP = "tcp flags & (fin | syn | rst | ack) != syn"
"""What does not open a connection. A port that is used again does, though the kernel may still know the old one."""


@lru_cache(maxsize=4096)
def policy_rules(policy: NetworkPolicy, direction: Direction, family: Family) -> NftChain | None:
    """The chain with what a policy allows in one direction, without rules if nothing; None if it does not govern it.

    Should the kernel refuse one of its rules, the chain is put in without any: it then allows nothing.
    """
    allowed = body(policy, direction, family)
    if allowed is None:
        return None
    rules = tuple(sorted(set(_spell(allowed, direction, family))))
    return make_nft_chain(policy_chain(family, rules), rules, fallback=())


def _spell(allowed: Body, direction: Direction, family: Family) -> Iterator[str]:
    for allowance in allowed:
        for ports in _ports(allowance.ports, family):
            yield " ".join(filter(None, (ports, _peer(allowance, direction, family), "accept")))


def _peer(allowance: Allowance, direction: Direction, family: Family) -> str:
    peer = allowance.peer
    if peer is None:
        return ""
    use = PEER_USE[direction]
    members = named_set(family, peer) if isinstance(peer, PodSet) else block_set(family, use, peer)
    return f"{IP[family]} {END[use]} @{members.key.name}"


def _ports(ports: PortSpan | PodSet | None, family: Family) -> Iterator[str]:
    """The port match of each rule that these ports need.

    A rule holds one range: a set of ports in a rule would be a set of the table as well, and those without a name make
    the kernel search all others with every new one.
    """
    if ports is None:
        yield ""
    elif isinstance(ports, PodSet):
        yield f"{IP[family]} daddr . meta l4proto . th dport @{named_set(family, ports).key.name}"
    elif not ports.intervals:
        yield f"meta l4proto {PROTOCOL[ports.protocol]}"
    else:
        for first, last in ports.intervals:
            yield f"{PROTOCOL[ports.protocol]} dport {first if first == last else f'{first}-{last}'}"


def members(family: Family, memberships: Memberships, address: bytes) -> list[Row]:
    """A pod's entries in what it is in."""
    sets, ports = entries(family, memberships)
    return list(map(NftElement, map(NftElementKey, sets, map(address.__add__, ports))))


def block(members: NftSetKey, prefix: Prefix) -> NftElement:
    """A prefix in a set of ranges."""
    first, last = span(prefix)
    size = len(prefix.address)
    return NftElement(NftElementKey(members, first.to_bytes(size, "big"), last.to_bytes(size, "big")))


def policy(policy: NetworkPolicy, direction: Direction, family: Family) -> Iterator[Row]:
    """What a policy allows in one direction, with the sets of its ipBlocks."""
    chain = policy_rules(policy, direction, family)
    if chain is None or not chain.rules:
        return
    for prefixes in prefix_peers(policy, direction, family):
        yield from _ranges(family, PEER_USE[direction], prefixes)
    yield chain


@lru_cache(maxsize=256)
def _ranges(family: Family, use: Use, prefixes: tuple[Prefix, ...]) -> tuple[Row, ...]:
    """The set of what ipBlocks come down to, with its elements; many rules name the same ones."""
    found = block_set(family, use, prefixes)
    return (found, *(block(found.key, prefix) for prefix in prefixes))


def place(place: Place, settings: FirewallSettings) -> Iterator[Row]:
    """A pod's profile, and the verdict that leads there."""
    family, direction = place.family, place.direction
    chains = [c for p in place.policies if (c := policy_rules(p, direction, family)) is not None]
    verdict = ""
    if chains:
        bodies = tuple(sorted({chain.key.name for chain in chains if chain.rules}))
        profile = profile_rules(family, direction, bodies, cut=settings.cut_flows)
        yield profile
        verdict = profile.key.name
    dispatch = dispatch_map(family, direction).key
    for address in place.addresses:
        yield NftVerdict(NftVerdictKey(dispatch, address), verdict)


def profile_rules(family: Family, direction: Direction, bodies: tuple[str, ...], *, cut: bool = False) -> NftChain:
    """The chain that judges one direction of the pods which these policy chains select.

    It answers with an ICMP error also for TCP: IPVS translates that back wherever the client is. With `cut` it meets
    packets of open flows as well, and another chain ends those that it refuses. Should the kernel refuse another rule
    than those that it can do without (`SPARES`), the chain drops everything.

    It counts the packets that a policy chain is asked about: what one lets pass is what the next is not asked about.
    """
    key = profile_chain(family, direction, bodies, cut=cut)
    rules = [f"ct state invalid counter goto {INVALID_CHAIN}", *(f"counter jump {chain}" for chain in bodies)]
    rules.append(log(key.name, direction))
    if cut:
        rules.append(f"ct state established counter goto {REFUSED_CHAIN}")
    rules.append(f"counter {REFUSAL[family]}")
    return make_nft_chain(key, tuple(rules), fallback=("drop",), spares=SPARES)


def untold() -> str:
    """The rule in OUTPUT, where what the node has not sent itself comes from IPVS, that knows clients of Services."""
    return f"meta l4proto tcp ct state established ct mark set ct mark or {UNTOLD_MARK:#x}"


def ended() -> str:
    """The rule before Services pass in INPUT: a client is told where its packet still has the Service's address."""
    return f"{FURTHER_TCP} ct state established {IF_CUT} goto {SERVICE_CUT_CHAIN}"


def reopened() -> str:
    """The rule for packets that all policies let pass, and for answers to what they refused, which are related."""
    forget = f"ct mark set ct mark and {0xFFFFFFFF ^ CUT_MARK ^ UNTOLD_MARK:#x}"
    return f"ct state established ct direction original {IF_CUT} {forget}"


def cut_chains(family: Family) -> Iterator[NftChain]:
    """The chains that end flows, TCP by a reset: an established connection takes no notice of ICMP errors.

    What asks a Service is refused behind IPVS. A reset from there has the endpoint's address; where the client is
    behind a bridge the kernel sends it past IPVS, so that nobody translates it, and forgets the connection ten seconds
    later for having ended it. So that packet is dropped, and the client's next one gets its reset before IPVS. A client
    that only listens has to be made to send: what the server sends passes until then.
    """
    remember, tell = f"ct mark set ct mark or {CUT_MARK:#x}", f"meta l4proto tcp {RESET}"
    told = f"ct mark set ct mark and {0xFFFFFFFF ^ UNTOLD_MARK:#x}"
    rules = {
        REFUSED_CHAIN: (remember, f"{FURTHER_TCP} {IF_UNTOLD} drop", f"{FURTHER_TCP} {RESET}", REFUSAL[family]),
        CUT_CHAIN: (f"meta l4proto tcp {IF_UNTOLD} accept", tell, REFUSAL[family]),
        SERVICE_CUT_CHAIN: (told, tell),
    }
    for name, texts in rules.items():
        yield make_nft_chain(chain_key(family, name), texts, fallback=("drop",), spares=SPARES)


def log(chain: str, direction: Direction | None = None) -> str:
    """The rule that tells a listener on the NFLOG group of what is refused.

    Who reads the log learns the chain, and by the direction which end of the packet is the pod.
    """
    prefix = f"{chain} {direction.value}" if direction is not None else chain
    return f'limit rate 10/minute burst 10 packets log prefix "{prefix}" group {NFLOG_GROUP}'
