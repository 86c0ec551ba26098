"""Links, addresses, routes and policy rules in the kernel: four tables, one codec (wire/rtnetlink)."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Collection, Hashable, Iterable, Sequence

from kuberouter.model.core import Batch, Family, Outcome, Prefix
from kuberouter.model.network import (
    ROUTE_PROTOCOL,
    TABLE_LOCAL,
    Address,
    AddressKey,
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
GONE = frozenset((errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL))
"""Errors of a removal that say the row was not there: just what was wanted."""
SETTLE_TRIES = 40
SETTLE_PAUSE = 0.005
"""How long the kernel is given to add its own local route for a new IPv6 address; it does so from a work queue."""


class _Rtnetlink:
    """What the four drivers share: a socket, and results per row."""

    def __init__(self) -> None:
        self._wire = NetlinkSocket(rt.NETLINK_ROUTE, strict=True)

    def _links(self) -> list[rt.LinkFacts]:
        return [rt.parse_link(body) for body in self._wire.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0))]

    def _apply(
        self,
        messages: Sequence[tuple[Hashable, Message]],
        failed: dict[Hashable, str],
        ignored: Collection[int] = (),
    ) -> None:
        """Send one message per key; record the keys whose message failed with an error that is not ignored."""
        codes = self._wire.transact([message for _, message in messages])
        for (key, _), code in zip(messages, codes, strict=True):
            if code and code not in ignored:
                failed[key] = error_text(code)


class LinkDriver(_Rtnetlink):
    """Links that we make. Ours are recognised by name: the fixed names and prefixes given."""

    def __init__(self, names: Collection[str], prefixes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._names = frozenset(names)
        self._prefixes = prefixes
        self._any_mtu: set[str] = set()

    def owns(self, row: Link) -> bool:
        """By name; after an upgrade the names are the same."""
        name = row.key.name
        return name in self._names or (bool(self._prefixes) and name.startswith(self._prefixes))

    def read(self) -> Iterable[Link]:
        """All links of the kinds that we make."""
        for link in self._links():
            if (kind := KINDS.get(link.kind)) is not None:
                mtu = 0 if link.name in self._any_mtu else link.mtu
                yield Link(LinkKey(link.name), kind, mtu, link.local, link.remote, link.up)

    def write(self, batch: Batch[Link]) -> Outcome:
        """Make, mend and remove links. A link of another kind under the name is replaced."""
        failed: dict[Hashable, str] = {}
        replaced = [old for old, new in batch.change if (old.kind, old.local, old.remote) != _shape(new)]
        gone = [(row.key, _delete_link(row)) for row in (*batch.remove, *replaced)]
        self._apply(gone, failed, GONE)
        wanted = [*batch.add, *(new for _, new in batch.change)]
        for kind in LinkKind:
            rows = [row for row in wanted if row.kind is kind and row.key not in failed]
            if rows:
                self._make(kind, rows, failed)
        for row in wanted:
            (self._any_mtu.add if row.mtu == 0 else self._any_mtu.discard)(row.key.name)
        return Outcome(failed)

    def _make(self, kind: LinkKind, rows: list[Link], failed: dict[Hashable, str]) -> None:
        present = {link.name: link.ifindex for link in self._links()}
        messages = [(row.key, _new_link(row, present.get(row.key.name, 0))) for row in rows]
        results: dict[Hashable, str] = {}
        codes = self._wire.transact([message for _, message in messages])
        if errno.EOPNOTSUPP in codes:
            if load_module(MODULES[kind]):
                codes = self._wire.transact([message for _, message in messages])
            missing = f"kernel module {MODULES[kind]} is missing"
            results = {row.key: missing for row, code in zip(rows, codes, strict=True) if code == errno.EOPNOTSUPP}
        for row, code in zip(rows, codes, strict=True):
            if code and row.key not in results:
                results[row.key] = error_text(code)
        failed.update(results)


def _shape(row: Link) -> tuple[LinkKind, bytes, bytes]:
    return row.kind, row.local, row.remote


def _new_link(row: Link, index: int) -> Message:
    body = rt.link_request(row.key.name, row.kind.value, row.mtu, row.local, row.remote, index)
    return rt.RTM_NEWLINK, 0 if index else NLM_F_CREATE | NLM_F_EXCL, body


def _delete_link(row: Link) -> Message:
    return rt.RTM_DELLINK, 0, rt.link_by_name(row.key.name)


class AddressDriver(_Rtnetlink):
    """Addresses on links that are ours alone, each with its table-local route. Every address there is ours."""

    def __init__(self, links: Collection[str]) -> None:
        super().__init__()
        self._owned = frozenset(links)

    def owns(self, row: Address) -> bool:
        """Everything on our links, except the link-local address that the kernel gives each link."""
        return row.key.link in self._owned and not (
            len(row.key.address) == 16 and row.key.address[0] == 0xFE and row.key.address[1] & 0xC0 == 0x80
        )

    def _indexes(self) -> dict[str, int]:
        return {link.name: link.ifindex for link in self._links() if link.name in self._owned}

    def read(self) -> Iterable[Address]:
        """Addresses of our links; `source` is the preferred source of the local route that wins for them."""
        names = {index: name for name, index in self._indexes().items()}
        if not names:
            return []
        sources = self._sources(set(names))
        rows: list[Address] = []
        for body in self._wire.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0)):
            facts = rt.parse_address(body)
            if facts is not None and facts.ifindex in names:
                source = sources.get(facts.address, b"")
                # The kernel's own route names the address itself; then no source was asked for.
                source = b"" if source == facts.address else source
                rows.append(Address(AddressKey(names[facts.ifindex], facts.address, facts.length), source))
        return rows

    def _sources(self, indexes: set[int]) -> dict[bytes, bytes]:
        best: dict[bytes, tuple[int, bytes]] = {}
        for route in self._local_routes(indexes):
            if route.address not in best or route.metric < best[route.address][0]:
                best[route.address] = route.metric, route.source
        return {address: source for address, (_, source) in best.items()}

    def _local_routes(self, indexes: set[int]) -> list[rt.RouteFacts]:
        routes: list[rt.RouteFacts] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self._wire.dump(rt.RTM_GETROUTE, rt.route_dump(family)):
                route = rt.parse_route(body)
                if route.table == TABLE_LOCAL and route.kind == rt.RTN_LOCAL and route.hops[0][1] in indexes:
                    routes.append(route)
        return routes

    def write(self, batch: Batch[Address]) -> Outcome:
        """Add addresses with their local routes, mend sources in place, remove both."""
        failed: dict[Hashable, str] = {}
        indexes = self._indexes()
        known: list[Address] = []
        for row in (*batch.add, *(new for _, new in batch.change)):
            if row.key.link in indexes:
                known.append(row)
            else:
                failed[row.key] = f"link {row.key.link} does not exist"
        self._apply(
            [(row.key, (rt.RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address(row, indexes))) for row in known],
            failed,
            (errno.EEXIST,),
        )
        sourced = [row for row in known if row.source and row.key not in failed]
        self._apply(
            [
                (row.key, (rt.RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _local(row, indexes, row.source)))
                for row in sourced
            ],
            failed,
        )
        self._drop_kernel_routes({row.key.address: row for row in sourced if len(row.key.address) == 16}, indexes)
        gone = [row for row in batch.remove if row.key.link in indexes]
        self._apply([(row.key, (rt.RTM_DELADDR, 0, _address(row, indexes))) for row in gone], failed, GONE)
        self._apply([(row.key, (rt.RTM_DELROUTE, 0, _local(row, indexes, b""))) for row in gone], failed, GONE)
        return Outcome(failed)

    def _drop_kernel_routes(self, rows: dict[bytes, Address], indexes: dict[str, int]) -> None:
        """Remove the kernel's metric-0 local routes of IPv6 addresses: they win over ours (RFC 6724 has no say here).

        They appear a moment after the address, so this waits for them, within a bound; the audit finds a late one.
        """
        left = set(rows)
        pause = threading.Event()
        for _ in range(SETTLE_TRIES):
            if not left:
                return
            found = [r for r in self._local_routes(set(indexes.values())) if r.metric == 0 and r.address in left]
            self._wire.transact(
                [
                    (
                        rt.RTM_DELROUTE,
                        0,
                        rt.route_request(
                            TABLE_LOCAL,
                            r.address,
                            r.length,
                            protocol=0,
                            index=r.hops[0][1],
                            kind=rt.RTN_LOCAL,
                            metric=0,
                        ),
                    )
                    for r in found
                ]
            )
            left -= {r.address for r in found}
            if left:
                pause.wait(SETTLE_PAUSE)


def _address(row: Address, indexes: dict[str, int]) -> bytes:
    return rt.address_request(indexes[row.key.link], row.key.address, row.key.length)


def _local(row: Address, indexes: dict[str, int], source: bytes) -> bytes:
    return rt.route_request(
        TABLE_LOCAL,
        row.key.address,
        row.key.length,
        protocol=ROUTE_PROTOCOL if source else 0,
        index=indexes[row.key.link],
        source=source,
        kind=rt.RTN_LOCAL,
    )


class RouteDriver(_Rtnetlink):
    """Unicast routes of protocol 17 in the given tables. The protocol is how ours are recognised, then as now."""

    def __init__(self, tables: Collection[int]) -> None:
        super().__init__()
        self._tables = frozenset(tables)

    def owns(self, row: Route) -> bool:
        """Every route that `read` returns has protocol 17; the tables are the ones that we use."""
        return row.key.table in self._tables

    def read(self) -> Iterable[Route]:
        """All unicast routes of protocol 17."""
        names = {link.ifindex: link.name for link in self._links()}
        rows: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self._wire.dump(rt.RTM_GETROUTE, rt.route_dump(family, ROUTE_PROTOCOL)):
                route = rt.parse_route(body)
                if route.protocol != ROUTE_PROTOCOL or route.kind != rt.RTN_UNICAST:
                    continue
                gateways = tuple(sorted(gateway for gateway, _ in route.hops if gateway))
                # Behind a gateway the link follows from the gateway; only a route straight out names its device.
                device = "" if gateways else names.get(route.hops[0][1], "")
                key = RouteKey(route.table, Prefix(route.address, route.length))
                rows.append(Route(key, gateways, device, route.source))
        return rows

    def write(self, batch: Batch[Route]) -> Outcome:
        """Replace in place; a route is never away while it changes."""
        failed: dict[Hashable, str] = {}
        wanted = (*batch.add, *(new for _, new in batch.change))
        names = {link.name: link.ifindex for link in self._links()} if any(r.device for r in wanted) else {}
        messages: list[tuple[Hashable, Message]] = []
        for row in wanted:
            if row.device and row.device not in names:
                failed[row.key] = f"link {row.device} does not exist"
            else:
                body = _route(row, names.get(row.device, 0))
                messages.append((row.key, (rt.RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)))
        self._apply(messages, failed)
        self._apply([(row.key, (rt.RTM_DELROUTE, 0, _route_key(row.key))) for row in batch.remove], failed, GONE)
        return Outcome(failed)


def _route(row: Route, index: int) -> bytes:
    prefix = row.key.prefix
    return rt.route_request(
        row.key.table,
        prefix.address,
        prefix.length,
        protocol=ROUTE_PROTOCOL,
        gateways=row.gateways,
        index=index,
        source=row.source,
    )


def _route_key(key: RouteKey) -> bytes:
    body = rt.route_request(key.table, key.prefix.address, key.prefix.length, protocol=ROUTE_PROTOCOL)
    # Scope "nowhere" and type "any" match a route of any scope and type, as `ip route del` does.
    header = rt.RTMSG.unpack_from(body)
    return rt.RTMSG.pack(*header[:6], 255, 0, 0) + body[rt.RTMSG.size :]


class PolicyRuleDriver(_Rtnetlink):
    """Policy rules that look into our tables; the table number is how ours are recognised."""

    def __init__(self, tables: Collection[int]) -> None:
        super().__init__()
        self._tables = frozenset(tables)

    def owns(self, row: PolicyRule) -> bool:
        """By table number."""
        return row.key.table in self._tables

    def read(self) -> Iterable[PolicyRule]:
        """All rules of both families."""
        return [PolicyRule(key) for key in self._priorities()]

    def _priorities(self) -> dict[PolicyRuleKey, int]:
        found: dict[PolicyRuleKey, int] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self._wire.dump(rt.RTM_GETRULE, rt.route_dump(family)):
                rule = rt.parse_rule(body)
                key = PolicyRuleKey(Family(rule.family), Prefix(rule.source, rule.length), rule.table)
                found.setdefault(key, rule.priority)
        return found

    def write(self, batch: Batch[PolicyRule]) -> Outcome:
        """Add and remove rules."""
        failed: dict[Hashable, str] = {}
        create = NLM_F_CREATE | NLM_F_EXCL
        self._apply([(r.key, (rt.RTM_NEWRULE, create, _rule(r.key))) for r in batch.add], failed, (errno.EEXIST,))
        # By priority: a deletion by source alone may hit a wider or narrower rule of the same table.
        priorities = self._priorities() if batch.remove else {}
        gone = [(r.key, priorities[r.key]) for r in batch.remove if r.key in priorities]
        self._apply([(key, (rt.RTM_DELRULE, 0, _rule(key, priority))) for key, priority in gone], failed, GONE)
        return Outcome(failed)


def _rule(key: PolicyRuleKey, priority: int = 0) -> bytes:
    return rt.rule_request(int(key.family), key.source.address, key.source.length, key.table, priority)
