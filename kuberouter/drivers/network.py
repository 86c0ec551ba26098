"""Links, routes and policy rules in the kernel: three tables, one codec (wire/rtnetlink). Addresses: `addresses.py`."""

from __future__ import annotations

import errno
import re
import socket
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from kuberouter.model.core import Batch, Family, Outcome, Prefix
from kuberouter.model.network import (
    ROUTE_PROTOCOL,
    BridgePort,
    BridgePortKey,
    Link,
    LinkKey,
    LinkKind,
    PolicyRule,
    PolicyRuleKey,
    Route,
    RouteKey,
)
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    error_text,
    load_module,
)

KINDS = {kind.value: kind for kind in LinkKind}
MODULES = {LinkKind.DUMMY: "dummy", LinkKind.IPIP: "ipip", LinkKind.IP6TNL: "ip6_tunnel", LinkKind.BRIDGE: "bridge"}
ENCAP_MODULES = {LinkKind.IPIP: "fou", LinkKind.IP6TNL: "fou6"}
TUNNELS = frozenset((LinkKind.IPIP, LinkKind.IP6TNL))
HASH = re.compile(r"[0-9a-f]{1,11}")
"""What follows the prefix in the name of a tunnel: digits of a hash, once those of an address."""
FEW = 100
"""Links that cost less to ask for one by one than all links of a big node do."""
GONE = frozenset((errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL))
"""Errors of a removal that say the row was not there: just what was wanted."""


class Rtnetlink:
    """What all drivers of this protocol share: a socket, and results per row."""

    def __init__(self) -> None:
        self.wire = NetlinkSocket(rt.NETLINK_ROUTE, strict=True)

    def links(self) -> list[rt.LinkFacts]:
        return [rt.parse_link(body) for body in self.wire.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0))]

    def indexes(self, names: Collection[str]) -> dict[str, int]:
        """The indexes of those of these links that exist. A few are asked for one by one: a node may have thousands."""
        if len(names) > FEW:
            return {link.name: link.ifindex for link in self.links() if link.name in names}
        found: dict[str, int] = {}
        for name in names:
            try:
                found[name] = rt.parse_index(self.wire.ask(rt.RTM_GETLINK, rt.link_by_name(name)))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
        return found

    def apply(
        self,
        messages: Sequence[tuple[Hashable, Message]],
        failed: dict[Hashable, str],
        ignored: Collection[int] = (),
    ) -> None:
        """Send one message per key; record the keys whose message failed with an error that is not ignored."""
        codes = self.wire.transact([message for _, message in messages])
        for (key, _), code in zip(messages, codes, strict=True):
            if code and code not in ignored:
                failed[key] = error_text(code)


class LinkDriver(Rtnetlink):
    """Links that we make. Ours are recognised by name: fixed ones, and of tunnels prefixes with a hash behind them."""

    def __init__(self, names: Collection[str], prefixes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._names = frozenset(names)
        self._prefixes = prefixes
        self._any_mtu: set[str] = set()

    def owns(self, row: Link) -> bool:
        """By name, and by kind where others' links may begin alike; after an upgrade the names are the same."""
        name = row.key.name
        return name in self._names or (row.kind in TUNNELS and self._named(name))

    def _named(self, name: str) -> bool:
        return any(name.startswith(each) and HASH.fullmatch(name, len(each)) for each in self._prefixes)

    def read(self) -> Iterable[Link]:
        """All links of the kinds that we make."""
        for link in self.links():
            if (kind := KINDS.get(link.kind)) is not None:
                mtu = 0 if link.name in self._any_mtu else link.mtu
                yield Link(LinkKey(link.name), kind, mtu, link.local, link.remote, link.up, link.encap_port)

    def write(self, batch: Batch[Link]) -> Outcome:
        """Make, mend and remove links. Only a link of another kind under the name is replaced.

        What is mended is never away: a tunnel that gets another end or encapsulation keeps its routes.
        """
        failed: dict[Hashable, str] = {}
        replaced = [old for old, new in batch.change if old.kind is not new.kind]
        gone = [(row.key, _delete_link(row)) for row in (*batch.remove, *replaced)]
        self.apply(gone, failed, GONE)
        # Changes first: what is then added may have the ends that a changed one had.
        wanted = [*(new for _, new in batch.change), *batch.add]
        for kind in LinkKind:
            rows = [row for row in wanted if row.kind is kind and row.key not in failed]
            if rows:
                failed.update(self._make(kind, rows))
        for row in wanted:
            (self._any_mtu.add if row.mtu == 0 else self._any_mtu.discard)(row.key.name)
        return Outcome(failed)

    def _make(self, kind: LinkKind, rows: list[Link]) -> dict[Hashable, str]:
        """Make or mend links of one kind; returns those that could not be, and why."""
        codes = self._send(rows)
        missing = {name for row, code in zip(rows, codes, strict=True) if (name := _module(row, code))}
        loaded = {name for name in missing if load_module(name)}
        if loaded:
            codes = self._send(rows)
        if errno.EEXIST in codes and self._make_room([r for r, c in zip(rows, codes, strict=True) if c]):
            codes = self._send(rows)
        failed: dict[Hashable, str] = {}
        for row, code in zip(rows, codes, strict=True):
            if (module := _module(row, code)) and (code != errno.EINVAL or module not in loaded):
                failed[row.key] = f"kernel module {module} is missing"
            elif code == errno.EEXIST:
                failed[row.key] = "another link has the same end points"
            elif code:
                failed[row.key] = error_text(code)
        return failed

    def _send(self, rows: list[Link]) -> list[int]:
        present = self.indexes({row.key.name for row in rows})
        return self.wire.transact([_new_link(row, present.get(row.key.name, 0)) for row in rows])

    def _make_room(self, rows: list[Link]) -> bool:
        """Remove tunnels of ours that have the ends of these under another name; the kernel has only one of each.

        So it is after an upgrade from a release with other names, and when two addresses swap names.
        """
        ends = {(row.kind, row.local, row.remote): row.key for row in rows if row.remote}
        found = [row for row in self.read() if ends.get((row.kind, row.local, row.remote), row.key) != row.key]
        old = [row for row in found if self.owns(row)]
        self.apply([(row.key, _delete_link(row)) for row in old], {})
        return bool(old)


def _module(row: Link, code: int) -> str:
    """The kernel module that an error may come from the lack of; empty for other errors.

    Of a kind that it does not know the kernel says that it is not supported, of an encapsulation that it is invalid.
    """
    if code == errno.EOPNOTSUPP:
        return MODULES[row.kind]
    if code == errno.EINVAL and row.encap_port > 0:
        return ENCAP_MODULES[row.kind]
    return ""


def _new_link(row: Link, index: int) -> Message:
    body = rt.link_request(
        row.key.name,
        row.kind.value,
        row.mtu,
        local=row.local,
        remote=row.remote,
        encap_port=row.encap_port,
        index=index,
    )
    return rt.RTM_NEWLINK, 0 if index else NLM_F_CREATE | NLM_F_EXCL, body


def _delete_link(row: Link) -> Message:
    return rt.RTM_DELLINK, 0, rt.link_by_name(row.key.name)


class BridgePortDriver(Rtnetlink):
    """Hairpin mode of bridge ports. It is never taken away: CNI plugins set it as well."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: set[BridgePortKey] = set()

    def owns(self, row: BridgePort) -> bool:
        """The ports that this process was asked for; there is no telling who set the mode of another."""
        return row.key in self._asked

    def read(self) -> Iterable[BridgePort]:
        """Ports in hairpin mode."""
        for body in self.wire.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0)):
            if rt.parse_hairpin(body):
                yield BridgePort(BridgePortKey(rt.parse_link(body).name))

    def write(self, batch: Batch[BridgePort]) -> Outcome:
        """Set the mode."""
        failed: dict[Hashable, str] = {}
        self._asked.difference_update(row.key for row in batch.remove)
        self._asked.update(row.key for row in batch.add)
        indexes = self.indexes({row.key.link for row in batch.add})
        messages: list[tuple[Hashable, Message]] = []
        for row in batch.add:
            if row.key.link in indexes:
                messages.append((row.key, (rt.RTM_SETLINK, 0, rt.hairpin_request(indexes[row.key.link]))))
            else:
                failed[row.key] = f"link {row.key.link} does not exist"
        self.apply(messages, failed)
        return Outcome(failed)


class RouteDriver(Rtnetlink):
    """Unicast routes of protocol 17 in the given tables. The protocol is how ours are recognised, then as now."""

    def __init__(self, tables: Collection[int]) -> None:
        super().__init__()
        self._tables = frozenset(tables)
        self._known: dict[bytes, Route] = {}
        """Routes through gateways that the last reading found, by what the kernel said of them."""
        self._written: deque[Sequence[Route]] = deque(maxlen=64)
        """The routes that were last written: what is read is the same row then, and not another that is equal."""

    def owns(self, row: Route) -> bool:
        """Every route that `read` returns has protocol 17; the tables are the ones that we use."""
        return row.key.table in self._tables

    def read(self) -> Iterable[Route]:
        """All unicast routes of protocol 17."""
        bodies = [
            body
            for family in (socket.AF_INET, socket.AF_INET6)
            for body in self.wire.dump(rt.RTM_GETROUTE, rt.route_dump(family, ROUTE_PROTOCOL))
        ]
        # Nearly all are what they were, and to know them again takes a tenth of the time. What a name stands for may
        # have changed, though, so routes straight out are looked at each time.
        known = {body: row for body in bodies if (row := self._known.get(body)) is not None}
        routes = [(body, rt.parse_route(body)) for body in bodies if body not in known]
        written = {row.key: row for rows in self._written for row in rows} if routes else {}
        direct: list[Route] = []
        names: dict[int, str] = {}
        for body, route in routes:
            if route.protocol != ROUTE_PROTOCOL or route.kind != rt.RTN_UNICAST:
                continue
            key = RouteKey(route.table, Prefix(route.address, route.length))
            if gateways := tuple(sorted(gateway for gateway, _ in route.hops if gateway)):
                # Behind a gateway the link follows from the gateway; only a route straight out names its device.
                row = Route(key, gateways, (), route.source)
                same = written.get(key, row)
                known[body] = same if same == row else row
                continue
            names = names or {link.ifindex: link.name for link in self.links()}
            devices = tuple(sorted(names.get(index, "") for _, index in route.hops))
            direct.append(Route(key, (), devices, route.source))
        self._known = known
        self._written.clear()
        return [*known.values(), *direct]

    def write(self, batch: Batch[Route]) -> Outcome:
        """Replace in place; a route is never away while it changes. What somebody else has put there stays."""
        failed: dict[Hashable, str] = {}
        changed = [new for _, new in batch.change]
        names = self.indexes({device for row in (*batch.add, *changed) if row.devices for device in row.devices})
        taken = self._send(batch.add, NLM_F_CREATE | NLM_F_EXCL, names, failed)
        if taken:
            others = self._others()
            for row in taken:
                if row.key in others:
                    failed[row.key] = f"a route to it is there that is not ours, of protocol {others[row.key]}"
            changed += [row for row in taken if row.key not in failed]
        self._send(changed, NLM_F_CREATE | NLM_F_REPLACE, names, failed)
        self.apply([(row.key, (rt.RTM_DELROUTE, 0, _route_key(row.key))) for row in batch.remove], failed, GONE)
        return Outcome(failed)

    def _send(
        self, rows: Sequence[Route], flags: int, names: Mapping[str, int], failed: dict[Hashable, str]
    ) -> list[Route]:
        """Write routes; returns those of which the kernel says that there is one already."""
        known: list[Route] = []
        for row in rows:
            if row.devices and (missing := [device for device in row.devices if device not in names]):
                failed[row.key] = f"link {missing[0]} does not exist"
            else:
                known.append(row)
        codes = self.wire.transact([(rt.RTM_NEWROUTE, flags, _route(row, names)) for row in known])
        self._written.append(known)
        taken: list[Route] = []
        for row, code in zip(known, codes, strict=True) if any(codes) else ():
            if code == errno.EEXIST and flags & NLM_F_EXCL:
                taken.append(row)
            elif code:
                failed[row.key] = error_text(code)
        return taken

    def _others(self) -> dict[RouteKey, str]:
        """Routes in our tables that are not of protocol 17, with what they are of."""
        found: dict[RouteKey, str] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self.wire.dump(rt.RTM_GETROUTE, rt.route_dump(family), keep=rt.is_foreign_route):
                route = rt.parse_route(body)
                key = RouteKey(route.table, Prefix(route.address, route.length))
                found[key] = rt.PROTOCOLS.get(route.protocol, str(route.protocol))
        return found


def _route(row: Route, names: Mapping[str, int]) -> bytes:
    key, gateways = row.key, row.gateways
    prefix = key.prefix
    if len(gateways) == 1 and not row.source and len(prefix.address) == len(gateways[0]) == 4:
        start, middle = rt.around_route(key.table, prefix.length, ROUTE_PROTOCOL)
        return start + prefix.address + middle + gateways[0]
    return rt.route_request(
        key.table,
        prefix.address,
        prefix.length,
        protocol=ROUTE_PROTOCOL,
        gateways=gateways,
        devices=tuple(names[device] for device in row.devices) if row.devices else (),
        source=row.source,
    )


def _route_key(key: RouteKey) -> bytes:
    body = rt.route_request(key.table, key.prefix.address, key.prefix.length, protocol=ROUTE_PROTOCOL)
    # Scope "nowhere" and type "any" match a route of any scope and type, as `ip route del` does.
    header = rt.RTMSG.unpack_from(body)
    return rt.RTMSG.pack(*header[:6], 255, 0, 0) + body[rt.RTMSG.size :]


class PolicyRuleDriver(Rtnetlink):
    """Policy rules by source that look into our tables; that and the table number is how ours are recognised."""

    def __init__(self, tables: Collection[int]) -> None:
        super().__init__()
        self._tables = frozenset(tables)

    def owns(self, row: PolicyRule) -> bool:
        """By table number."""
        return row.key.table in self._tables

    def read(self) -> Iterable[PolicyRule]:
        """All rules of both families."""
        return [PolicyRule(key) for key in self._priorities()]

    def _priorities(self) -> dict[PolicyRuleKey, list[int]]:
        """Mostly one each, but the kernel takes the same rule again with another priority."""
        found: dict[PolicyRuleKey, list[int]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self.wire.dump(rt.RTM_GETRULE, rt.route_dump(family)):
                rule = rt.parse_rule(body)
                if rule.mark or rule.narrowed:
                    continue
                key = PolicyRuleKey(Family(rule.family), Prefix(rule.source, rule.length), rule.table)
                found.setdefault(key, []).append(rule.priority)
        return found

    def write(self, batch: Batch[PolicyRule]) -> Outcome:
        """Add and remove rules."""
        failed: dict[Hashable, str] = {}
        create = NLM_F_CREATE | NLM_F_EXCL
        self.apply([(r.key, (rt.RTM_NEWRULE, create, _rule(r.key))) for r in batch.add], failed, (errno.EEXIST,))
        # By priority: a deletion by source alone may hit a wider or narrower rule of the same table.
        priorities = self._priorities() if batch.remove else {}
        gone = [(r.key, priority) for r in batch.remove for priority in priorities.get(r.key, ())]
        self.apply([(key, (rt.RTM_DELRULE, 0, _rule(key, priority))) for key, priority in gone], failed, GONE)
        return Outcome(failed)


def _rule(key: PolicyRuleKey, priority: int = 0) -> bytes:
    return rt.rule_request(int(key.family), key.source.address, key.source.length, key.table, priority)
