"""Allowances become policy chains, combinations of them become profile chains.

A rule's order never matters inside a policy chain, for it only allows; rules are sorted so that equal content has equal
text. A policy chain leaves by goto into the chain that sets the mark and from there returns to the profile chain. Ports
that a policy allows a peer are a chain of their own if they take more than one rule: policies name the same ones again
and again, and every rule is one more for the kernel to walk over with each change.

One rule in a dispatch chain sends the members of a profile's set into its chain by goto, so the first profile that
matches decides alone. While a pod moves from one profile to another it is in both sets for a moment: either verdict is
a complete one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import repeat

from kuberouter.compilers.policies.iptables.names import (
    block_set,
    chain_key,
    entries,
    named_set,
    open_set,
    policy_chain,
    profile_chain,
    profile_set,
)
from kuberouter.compilers.policies.names import (
    ALLOW_CHAIN,
    ALLOWED_MARK,
    CUT_CHAIN,
    CUT_MARK,
    DISPATCH_CHAIN,
    INVALID_CHAIN,
    NFLOG_GROUP,
    PASSED_MARK,
    PEER_USE,
    REFUSED_CHAIN,
    SERVICE_CUT_CHAIN,
    UNKNOWN_CHAIN,
    UNTOLD_MARK,
    USE,
)
from kuberouter.compilers.policies.rules import body, prefix_peers
from kuberouter.compilers.policies.spelling import Memberships, Place
from kuberouter.model.cluster import NetworkPolicy
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.netfilter import Chain, Member, MemberKey, Rule, RuleKey, make_chain, make_named_chain
from kuberouter.model.policy import Direction, PodSet, PortSpan
from kuberouter.model.settings import FirewallSettings

DISPATCH_RANK = 10
OPEN_RANK = 20
"""Behind all profiles: an address that is told by two pods is as closed as the one that policies select."""
PROTOCOL = {L4Protocol.TCP: "tcp", L4Protocol.UDP: "udp", L4Protocol.SCTP: "sctp"}
OWN_PORTS = (L4Protocol.TCP, L4Protocol.UDP)
"""Protocols whose own match takes one range and costs less than multiport: the nft tool has native words for it."""
Peer = PodSet | tuple[Prefix, ...] | None
MULTIPORT_SLOTS = 15
"""Ports that one multiport match holds; a range takes two (linux/netfilter/xt_multiport.h)."""

MASK = ALLOWED_MARK | PASSED_MARK
IF_ALLOWED = f"-m mark --mark {ALLOWED_MARK:#x}/{ALLOWED_MARK:#x}"
UNLESS_ALLOWED = f"-m mark --mark 0x0/{ALLOWED_MARK:#x}"
ALLOW = f"-g {ALLOW_CHAIN}"
SET_ALLOWED = f"-j MARK --set-xmark {MASK:#x}/{MASK:#x}"
CLEAR_BOTH = f"-j MARK --set-xmark 0x0/{MASK:#x}"
REFUSAL = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}
RESET = "-j REJECT --reject-with tcp-reset"
SPARES = (("-j NFLOG", ""), ("-j REJECT", "-j DROP"))
"""A kernel that cannot log what it refuses, or cannot say that it does, judges all the same."""
IF_OPEN_FLOW = "-m conntrack --ctstate ESTABLISHED"
IF_CUT = f"-m connmark --mark {CUT_MARK:#x}/{CUT_MARK:#x}"
IF_UNTOLD = f"-m connmark --mark {UNTOLD_MARK:#x}/{UNTOLD_MARK:#x}"
FURTHER_TCP = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"
"""What does not open a connection. A port that is used again does, though the kernel may still know the old one."""
CLEAR_ALLOWED = f"-j MARK --set-xmark 0x0/{ALLOWED_MARK:#x}"


def policy_rules(policy: NetworkPolicy, direction: Direction, family: Family) -> Chain | None:
    """The chain with what a policy allows in one direction, without rules if nothing; None if it does not govern it."""
    found = _chains(policy, direction, family)
    return found[0] if found else None


@lru_cache(maxsize=4096)
def _chains(policy: NetworkPolicy, direction: Direction, family: Family) -> tuple[Chain, ...]:
    """That chain and the chains of ports that it leads to."""
    allowed = body(policy, direction, family)
    if allowed is None:
        return ()
    spans: dict[Peer, list[PortSpan | PodSet | None]] = {}
    for allowance in allowed:
        spans.setdefault(allowance.peer, []).append(allowance.ports)
    rules: list[str] = []
    shared: dict[Chain, None] = {}
    for peer, ports in spans.items():
        words = _peer(peer, direction, family)
        matches = _matches(*ports, family=family)
        if peer is not None and len(matches) > 1:
            chain = _port_rules(matches, family)
            # Whoever comes back from there has its mark, or is asked about the other peers.
            rules.append(f"{words} -j {chain.key.name}")
            shared[chain] = None
        else:
            rules += [" ".join(filter(None, (protocol, words, ports, ALLOW))) for protocol, ports in matches]
    return _named(family, rules), *shared


def _named(family: Family, rules: Iterable[str]) -> Chain:
    """Should the kernel refuse one of its rules, the chain is put in without any: it then allows nothing."""
    texts = tuple(sorted(rules))
    return make_named_chain(policy_chain(family, texts), texts, fallback=())


@lru_cache(maxsize=256)
def _matches(*spans: PortSpan | PodSet | None, family: Family) -> tuple[tuple[str, str], ...]:
    """Protocol match and port match of each rule that these ports need; one without any allows what the others do."""
    found = {match for span in spans for match in _ports(span, family)}
    return (("", ""),) if ("", "") in found else tuple(sorted(found))


@lru_cache(maxsize=256)
def _port_rules(matches: tuple[tuple[str, str], ...], family: Family) -> Chain:
    return _named(family, [" ".join(filter(None, (*match, ALLOW))) for match in matches])


def _peer(peer: Peer, direction: Direction, family: Family) -> str:
    if peer is None:
        return ""
    use = PEER_USE[direction]
    members = named_set(family, peer) if isinstance(peer, PodSet) else block_set(family, use, peer)
    return f"-m set --match-set {members.key.name} {use}"


def _ports(ports: PortSpan | PodSet | None, family: Family) -> Iterator[tuple[str, str]]:
    """Protocol match and port match of each rule that these ports need."""
    if ports is None:
        yield "", ""
    elif isinstance(ports, PodSet):
        yield "", f"-m set --match-set {named_set(family, ports).key.name} dst,dst"
    elif not ports.intervals:
        yield f"-p {PROTOCOL[ports.protocol]}", ""
    else:
        protocol = PROTOCOL[ports.protocol]
        if len(ports.intervals) == 1 and ports.protocol in OWN_PORTS:
            (first, last) = ports.intervals[0]
            yield f"-p {protocol}", f"-m {protocol} --dport {first if first == last else f'{first}:{last}'}"
            return
        for listed in _slots(ports.intervals):
            yield f"-p {protocol}", f"-m multiport --dports {listed}"


def _slots(intervals: Iterable[tuple[int, int]]) -> Iterator[str]:
    words: list[str] = []
    used = 0
    for first, last in intervals:
        need = 1 if first == last else 2
        if used + need > MULTIPORT_SLOTS:
            yield ",".join(words)
            words, used = [], 0
        words.append(str(first) if first == last else f"{first}:{last}")
        used += need
    if words:
        yield ",".join(words)


def members(family: Family, memberships: Memberships, address: bytes) -> list[Row]:
    """A pod's entries in what it is in."""
    names, protocols, ports = entries(memberships)[family]
    return list(map(Member, map(MemberKey, names, repeat(address), repeat(len(address) * 8), protocols, ports)))


def policy(policy: NetworkPolicy, direction: Direction, family: Family) -> Iterator[Row]:
    """What a policy allows in one direction, with the sets of its ipBlocks."""
    chains = _chains(policy, direction, family)
    if not chains or not chains[0].rules:
        return
    for prefixes in prefix_peers(policy, direction, family):
        members = block_set(family, PEER_USE[direction], prefixes)
        yield members
        for prefix in prefixes:
            yield Member(MemberKey(members.key.name, prefix.address, prefix.length))
    yield from chains


def place(place: Place, settings: FirewallSettings) -> Iterator[Row]:
    """A pod's profile, and its membership in the profile's set."""
    family, direction = place.family, place.direction
    chains = [c for p in place.policies if (c := policy_rules(p, direction, family)) is not None]
    if chains:
        bodies = tuple(sorted({chain.key.name for chain in chains if chain.rules}))
        members = profile_set(family, direction, bodies)
        profile = profile_rules(family, direction, bodies, cut=settings.cut_flows)
        yield profile
        rank, verdict = DISPATCH_RANK, f"-g {profile.key.name}"
    else:
        members = open_set(family, direction)
        rank, verdict = OPEN_RANK, "-j RETURN"
    yield members
    for address in place.addresses:
        yield Member(MemberKey(members.key.name, address, len(address) * 8))
    text = f"-m set --match-set {members.key.name} {USE[direction].value} {verdict}"
    yield Rule(RuleKey(chain_key(family, DISPATCH_CHAIN[direction]), rank, text))


def profile_rules(family: Family, direction: Direction, bodies: tuple[str, ...], *, cut: bool = False) -> Chain:
    """The chain that judges one direction of the pods which these policy chains select; it lets pass by returning.

    It answers with an ICMP error also for TCP: IPVS translates that back wherever the client is. With `cut` it meets
    packets of open flows as well, and another chain ends those that it refuses. Should the kernel refuse another rule
    than those that it can do without (`SPARES`), the chain drops everything.

    It counts the packets that a policy chain is asked about: what one lets pass is what the next is not asked about.
    """
    key = profile_chain(family, direction, bodies, cut=cut)
    rules = [f"-m conntrack --ctstate INVALID -g {INVALID_CHAIN}"]
    # The mark is clear at first. One look at it per policy, not a rule of its own: every rule is one more for the
    # kernel to walk over with each change.
    rules += [f"{UNLESS_ALLOWED} -j {chain}" for chain in bodies]
    if bodies:
        rules.append(f"{IF_ALLOWED} -j RETURN")
    rules.append(log(key.name, direction))
    if cut:
        rules.append(f"{IF_OPEN_FLOW} -g {REFUSED_CHAIN}")
    rules.append(f"-j REJECT --reject-with {REFUSAL[family]}")
    return make_chain(key, tuple(rules), fallback=("-j DROP",), spares=SPARES)


def log(chain: str, direction: Direction | None = None) -> str:
    """The rule that tells a listener on the NFLOG group of what is refused.

    Who reads the log learns the chain, and by the direction which end of the packet is the pod.
    """
    prefix = f'"{chain} {direction.value}"' if direction is not None else chain
    return f"-m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-prefix {prefix} --nflog-group {NFLOG_GROUP}"


def open_flows(*, cut: bool) -> tuple[str, ...]:
    """The rules at the head of the top chains: which packets of open flows pass without being judged.

    With `cut` only replies do, as long as the other direction has not been refused. A flow that a helper announced (FTP
    data) is no policy's matter: its first packet passed as related.
    """
    if not cut:
        return ("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",)
    return (
        "-m conntrack --ctstate RELATED -j RETURN",
        "-m conntrack --ctstate ESTABLISHED --ctstatus EXPECTED -j RETURN",
        f"{IF_OPEN_FLOW} --ctdir REPLY {IF_CUT} -j {CUT_CHAIN}",
        f"{IF_OPEN_FLOW} --ctdir REPLY -j RETURN",
    )


def reopened() -> str:
    """The rule at the foot of the top chains, where packets arrive that all policies let pass."""
    return f"{IF_CUT} -j CONNMARK --set-xmark 0x0/{CUT_MARK | UNTOLD_MARK:#x}"


def untold() -> str:
    """The rule in OUTPUT, where what the node has not sent itself comes from IPVS, that knows clients of Services."""
    return f"-p tcp {IF_OPEN_FLOW} -j CONNMARK --set-xmark {UNTOLD_MARK:#x}/{UNTOLD_MARK:#x}"


def ended() -> str:
    """The rule before Services pass in INPUT: a client is told where its packet still has the Service's address."""
    return f"{FURTHER_TCP} {IF_OPEN_FLOW} {IF_CUT} -g {SERVICE_CUT_CHAIN}"


def cut_chains(family: Family) -> Iterator[Chain]:
    """The chains that end flows, TCP by a reset: an established connection takes no notice of ICMP errors.

    What asks a Service is refused behind IPVS. A reset from there has the endpoint's address; where the client is
    behind a bridge the kernel sends it past IPVS, so that nobody translates it, and forgets the connection ten seconds
    later for having ended it. So that packet is dropped, and the client's next one gets its reset before IPVS. A client
    that only listens has to be made to send: what the server sends passes until then.
    """
    refusal = f"-j REJECT --reject-with {REFUSAL[family]}"
    remember = f"-j CONNMARK --set-xmark {CUT_MARK:#x}/{CUT_MARK:#x}"
    rules = {
        REFUSED_CHAIN: (remember, f"{FURTHER_TCP} {IF_UNTOLD} -j DROP", f"{FURTHER_TCP} {RESET}", refusal),
        CUT_CHAIN: (f"-p tcp {IF_UNTOLD} -j RETURN", f"-p tcp {RESET}", refusal),
        SERVICE_CUT_CHAIN: (f"-j CONNMARK --set-xmark 0x0/{UNTOLD_MARK:#x}", f"-p tcp {RESET}"),
    }
    for name, texts in rules.items():
        yield make_chain(chain_key(family, name), texts, fallback=("-j DROP",), spares=SPARES)


def unknown_rules(family: Family) -> Chain:
    """The chain for addresses of which nobody has told yet whose they are.

    It drops and does not refuse: who tries again gets through as soon as the pod is known, and no connection fails.
    """
    rules = (log(UNKNOWN_CHAIN), "-j DROP")
    return make_chain(chain_key(family, UNKNOWN_CHAIN), rules, fallback=("-j DROP",), spares=SPARES)


def invalid_rules(family: Family) -> Chain:
    """The chain for packets that belong to no flow and can begin none."""
    rules = (log(INVALID_CHAIN), "-j DROP")
    return make_chain(chain_key(family, INVALID_CHAIN), rules, fallback=("-j DROP",), spares=SPARES)
