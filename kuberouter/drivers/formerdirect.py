"""What the Go kube-router has left on the node of direct server return, and the way out for it.

It puts marking and clamping rules without a comment into builtin chains, a policy rule for each mark that leads to a
table in which everything is local, and one more that leads to a table with nothing in it, or, before its release 2.6,
with external addresses behind the pods' bridge. What is still wanted of its FWMARK services bears our mark by the time
that this is written. None of the rest is ours to keep: we mark in a chain of our own, and have the address itself
local. Names in rt_tables(5) stay: they are in a file of the host, and mean nothing without the tables.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

from kuberouter.drivers.former import existing
from kuberouter.drivers.iptables import Xtables
from kuberouter.drivers.ownership import OWNED
from kuberouter.model.core import Batch, Family, L4Protocol, Outcome, Prefix, Unavailable
from kuberouter.model.netfilter import FormerDirect, FormerDirectKey, Table
from kuberouter.wire import ipvs
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.command import run
from kuberouter.wire.netlink import NETLINK_GENERIC, Message, NetlinkSocket, error_text, generic_family
from kuberouter.wire.text.iptables import Script, complaint
from kuberouter.wire.text.marks import ClampRule, MarkRule, parse_marks

MARKED_TABLE, MARKED_PRIORITY = 78, 32764
EMPTY_TABLE, EMPTY_PRIORITY = 79, 32765
BRIDGE = "kube-bridge"
PODS = f"-i {BRIDGE} "
HANDSHAKE = "--tcp-flags SYN,RST SYN"
CHAINS = ("PREROUTING", "OUTPUT", "POSTROUTING")
GONE = frozenset((errno.ENOENT, errno.ESRCH))

IsTheirs = Callable[[bytes, L4Protocol, int, int], bool]
"""Whether the Go kube-router would choose this mark for this address, protocol and port."""


class FormerDirectDriver:
    """Driver of `FormerDirect` rows, one per family in which anything is left."""

    def __init__(
        self, variants: Iterable[Callable[[], Xtables]], families: Collection[Family], is_theirs: IsTheirs
    ) -> None:
        self._variants = tuple(variants)
        self._families = tuple(families)
        self._is_theirs = is_theirs
        self._wire = NetlinkSocket(rt.NETLINK_ROUTE, strict=True)

    def owns(self, row: FormerDirect) -> bool:
        """`read` yields nothing but what looks in all details as the Go kube-router makes it."""
        return True

    def read(self) -> Iterable[FormerDirect]:
        """The families in which anything is left."""
        for family in self._families:
            if self._routing(family) or any(rules for _, rules in self._rules(family)):
                yield FormerDirect(FormerDirectKey(family))

    def write(self, batch: Batch[FormerDirect]) -> Outcome:
        """Take it all out; there are only removals."""
        failed: dict[Hashable, str] = {}
        for row in batch.remove:
            for xtables, rules in self._rules(row.key.family):
                _drop_services(row.key.family, {rule.mark for rule in rules if isinstance(rule, MarkRule)})
                script = Script(Table.MANGLE.value)
                for rule in rules:
                    script.add(f"-D {rule.chain} {rule.words}", row.key)
                if rules and not (done := xtables.restore(row.key.family, script)).ok:
                    failed[row.key] = complaint(done.errors)
            for code in self._wire.transact(self._routing(row.key.family)):
                if code and code not in GONE:
                    failed[row.key] = error_text(code)
        return Outcome(failed)

    def _rules(self, family: Family) -> Iterator[tuple[Xtables, list[MarkRule | ClampRule]]]:
        """Their rules in each variant; what cannot be looked at has none."""
        for find in self._variants:
            try:
                xtables = find()
                if Table.MANGLE not in existing(xtables, family):
                    continue
                saved = run((xtables.tool(family, "save"), "-t", Table.MANGLE.value))
            except Unavailable:
                continue
            found = [
                rule for rule in parse_marks(saved.output) if rule.chain in CHAINS and "--comment" not in rule.words
            ]
            marks = [
                rule
                for rule in found
                if isinstance(rule, MarkRule) and self._is_theirs(rule.address, rule.protocol, rule.port, rule.mark)
            ]
            places = {rule.address for rule in marks}
            clamps = [rule for rule in found if isinstance(rule, ClampRule) and _clamps(rule, places)]
            yield xtables, [*marks, *clamps]

    def _routing(self, family: Family) -> list[Message]:
        """The messages that delete their policy rules and routes."""
        found: list[Message] = []
        for body in self._wire.dump(rt.RTM_GETRULE, rt.route_dump(int(family))):
            rule = rt.parse_rule(body)
            where = rule.table, rule.priority, bool(rule.mark), rule.length
            if where in ((MARKED_TABLE, MARKED_PRIORITY, True, 0), (EMPTY_TABLE, EMPTY_PRIORITY, False, 0)):
                request = rt.rule_request(int(family), b"", 0, rule.table, rule.priority, mark=rule.mark)
                found.append((rt.RTM_DELRULE, 0, request))
        for body in self._wire.dump(rt.RTM_GETROUTE, rt.route_dump(int(family))):
            route = rt.parse_route(body)
            if (route.table, route.kind, route.length) == (MARKED_TABLE, rt.RTN_LOCAL, 0):
                prefix = Prefix(route.address, 0)
                request = rt.route_request(MARKED_TABLE, prefix.address, 0, protocol=0, kind=rt.RTN_LOCAL)
                found.append((rt.RTM_DELROUTE, 0, request))
            elif (route.table, route.kind) == (EMPTY_TABLE, rt.RTN_UNICAST) and route.hops == ((b"", self._bridge()),):
                index = route.hops[0][1]
                request = rt.route_request(EMPTY_TABLE, route.address, route.length, protocol=0, index=index)
                found.append((rt.RTM_DELROUTE, 0, request))
        return found

    def _bridge(self) -> int:
        """The index of the pods' bridge; 0 where there is none."""
        try:
            return rt.parse_index(self._wire.ask(rt.RTM_GETLINK, rt.link_by_name(BRIDGE)))
        except OSError:
            return 0


def _clamps(rule: ClampRule, places: set[bytes]) -> bool:
    """Whether a clamping rule is theirs: of a form that they use now, or once used, for an address that they mark."""
    return HANDSHAKE in rule.words and (rule.address in places or (PODS in rule.words and rule.port > 0))


def _drop_services(family: Family, marks: Collection[int]) -> None:
    """Delete FWMARK services of these marks that do not bear our mark; a kernel without IPVS has none."""
    if not marks:
        return
    with NetlinkSocket(NETLINK_GENERIC) as wire:
        try:
            number = generic_family(wire, ipvs.FAMILY, ipvs.MODULE)
        except Unavailable:
            return
        facts = [ipvs.parse_service(answer) for answer in wire.dump(number, ipvs.header(ipvs.CMD_GET_SERVICE))]
        gone = [f for f in facts if f.family == int(family) and f.fwmark in marks and not f.flags & OWNED]
        head = ipvs.header(ipvs.CMD_DEL_SERVICE)
        wire.transact([(number, 0, head + ipvs.service_reference(ipvs.mark_key(f.family, f.fwmark))) for f in gone])
