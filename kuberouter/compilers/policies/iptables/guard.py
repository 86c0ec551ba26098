"""Through which link a pod sends: what comes in from it under the address of somebody else is dropped.

Every packet that comes in passes here, those of open flows too, so what it costs must not grow with the pods. No set
knows bridge ports: the kernel looks up `physdev:` entries of hash:net,iface only where the caller asks for that, and
the match of iptables never does. Links are told apart by their names instead, in steps: those that begin alike share a
chain, to which one rule leads. Host names of links end in random digits, whichever CNI plugin makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kuberouter.compilers.policies.firewall import ICMP_ALWAYS, ICMPV6_ALWAYS
from kuberouter.compilers.policies.iptables.names import chain_key, fixed_set
from kuberouter.compilers.policies.iptables.policies import PROTOCOL, SPARES, log
from kuberouter.compilers.policies.names import BORROWED_CHAIN, GUARD_CHAIN, GUARD_SET, STRANGE_CHAIN
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, L4Protocol, Prefix, Row
from kuberouter.model.netfilter import ChainKey, IpSet, Member, MemberKey, Rule, RuleKey, SetType, make_chain
from kuberouter.model.policy import Direction

STEPS = (4, 5)
"""Letters of a link's name by which it is looked for: `veth`, `cali` or `lxc1`, then one digit more."""
ANSWER_RANK = 4
"""Before the rules that drop what comes from a link."""
PORT_RANK, LINK_RANK = 5, 6
"""Bridge ports first: what comes in by one has come in by the bridge as well."""
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
"""What names of chains hold without harm; links may have any other letter in theirs."""


def guard_rows(family: Family) -> Iterator[Row]:
    """The chains for all links."""
    yield Rule(RuleKey(chain_key(family, GUARD_CHAIN), 0, "-i lo -j RETURN"))
    logged = log(GUARD_CHAIN, Direction.EGRESS)
    yield make_chain(chain_key(family, BORROWED_CHAIN), (logged, "-j DROP"), fallback=("-j DROP",), spares=SPARES)
    members = _cluster(family)
    yield members
    # Policy for what a pod sends on its own does not end what others have begun.
    answers = "-m conntrack --ctstate ESTABLISHED --ctdir REPLY -j RETURN"
    rules = (f"{_in(members)} -g {BORROWED_CHAIN}", answers, *always(family), f"-g {BORROWED_CHAIN}")
    yield make_chain(chain_key(family, STRANGE_CHAIN), rules, fallback=("-j DROP",))


def always(family: Family) -> Iterator[str]:
    """The rules that let pass what no policy may stop."""
    if family is Family.IPV4:
        yield from (f"-p icmp -m icmp --icmp-type {kind} -j RETURN" for kind in ICMP_ALWAYS)
    else:
        yield from (f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in ICMPV6_ALWAYS)


def cluster_addresses(family: Family, prefixes: Iterable[Prefix]) -> Iterator[Row]:
    """Addresses that no pod may borrow."""
    members = _cluster(family)
    yield members
    for prefix in prefixes:
        yield Member(MemberKey(members.key.name, prefix.address, prefix.length))


def guard(family: Family, link: PodLink, own: bytes | None, *, confined: bool) -> Iterator[Row]:
    """What comes in from a link without the pod's own address is dropped."""
    yield from _steps(family, link)
    words = [_from_link(link.ref.name, bridged=link.bridged)]
    if own is not None:
        words.insert(0, f"! -s {Prefix(own, len(own) * 8)}")
    words.append(f"-j {STRANGE_CHAIN}" if confined else f"{_in(_cluster(family))} -j {BORROWED_CHAIN}")
    yield Rule(RuleKey(_chain(family, link), LINK_RANK, " ".join(words)))


def answers(family: Family, link: PodLink, address: bytes, protocol: L4Protocol, port: int) -> Iterator[Row]:
    """What comes in from a link as an answer of a service is let through."""
    yield from _steps(family, link)
    name = PROTOCOL[protocol]
    words = [f"-s {Prefix(address, len(address) * 8)} -p {name} -m {name} --sport {port}"]
    if protocol is L4Protocol.TCP:
        words.append("! --tcp-flags FIN,SYN,RST,ACK SYN")
    words.append(f"{_from_link(link.ref.name, bridged=link.bridged)} -j RETURN")
    yield Rule(RuleKey(_chain(family, link), ANSWER_RANK, " ".join(words)))


def _beginnings(name: str) -> list[str]:
    """Parts of a name by which it is looked for; none if there are letters in them that no chain may have."""
    found = list(dict.fromkeys(name[:length] for length in STEPS))
    return found if BARE.issuperset(found[-1]) else []


def _steps(family: Family, link: PodLink) -> Iterator[Row]:
    """The rules that lead to the chain of a link, by goto: who returns from there is done with the guard."""
    chain = chain_key(family, GUARD_CHAIN)
    rank = PORT_RANK if link.bridged else LINK_RANK
    for beginning in _beginnings(link.ref.name):
        below = chain_key(family, f"{GUARD_CHAIN}-{beginning}")
        yield Rule(RuleKey(chain, rank, f"{_from_link(f'{beginning}+', bridged=link.bridged)} -g {below.name}"))
        chain = below


def _chain(family: Family, link: PodLink) -> ChainKey:
    return chain_key(family, "-".join([GUARD_CHAIN, *_beginnings(link.ref.name)[-1:]]))


def _cluster(family: Family) -> IpSet:
    return fixed_set(family, GUARD_SET, SetType.HASH_NET)


def _in(members: IpSet) -> str:
    return f"-m set --match-set {members.key.name} src"


def _from_link(name: str, *, bridged: bool) -> str:
    return f"-m physdev --physdev-in {name}" if bridged else f"-i {name}"
