"""IPVS in the kernel: virtual services and destinations, through batched generic netlink."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

from kuberouter.drivers.ownership import OWNED, Ownership
from kuberouter.drivers.served import Served, concerns
from kuberouter.model.core import Batch, Family, L4Protocol, Outcome, Unavailable
from kuberouter.model.ipvs import (
    PERSISTENT,
    Destination,
    DestinationKey,
    Forward,
    IpvsTimeout,
    IpvsTimeoutKey,
    ServiceCount,
    Statistics,
    Timer,
    VirtualService,
    VirtualServiceKey,
    marked_service,
)
from kuberouter.wire import ipvs
from kuberouter.wire.netlink import (
    NETLINK_GENERIC,
    NetlinkSocket,
    error_text,
    generic_family,
    load_module,
)

FLAGS = 0x3D
"""The flag bits of a service that we set or clear (linux/ip_vs.h): persistent, one packet, three of the scheduler.

IP_VS_SVC_F_HASHED is the kernel's own; bits that a later kernel may define are left alone.
"""
AT_ONCE = 2000
"""Requests that are made before any is sent."""
PROTOCOLS = frozenset(L4Protocol)
GONE = frozenset((errno.ENOENT, errno.ESRCH))
LACKING = errno.ENOENT
"""What the kernel says of a service whose scheduler it neither has nor can load."""
DEFAULT_SCHEDULER = "rr"


class _Ipvs:
    """What the two drivers share: the socket and the family, resolved when first needed."""

    def __init__(self) -> None:
        self._wire = NetlinkSocket(NETLINK_GENERIC)
        self._family = 0

    def _number(self) -> int:
        if not self._family:
            try:
                self._family = generic_family(self._wire, ipvs.FAMILY, ipvs.MODULE)
            except Unavailable:
                if not load_module(ipvs.MODULE):
                    raise
                self._family = generic_family(self._wire, ipvs.FAMILY, ipvs.MODULE)
        return self._family

    def _services(self) -> list[ipvs.ServiceFacts]:
        answers = self._dump(ipvs.header(ipvs.CMD_GET_SERVICE))
        return [ipvs.parse_service(answer) for answer in answers]

    def _dump(self, body: bytes) -> list[bytes]:
        try:
            return self._wire.dump(self._number(), body)
        except OSError as error:
            self._family = 0
            raise Unavailable(f"IPVS cannot be read: {error.strerror}") from error

    def _apply(
        self, keys: Iterable[Hashable], requests: Iterable[bytes], failed: dict[Hashable, str], ignored: frozenset[int]
    ) -> list[tuple[Hashable, int]]:
        """Send a request for each key; returns what failed with an ignored error, records the rest."""
        number = self._number()
        met: list[tuple[Hashable, int]] = []
        codes: list[int] = []
        waiting = iter(requests)
        # Made as they go, for those of a whole cluster would take as much room as its table.
        while messages := [(number, 0, request) for request in islice(waiting, AT_ONCE)]:
            codes += self._wire.transact(messages)
        if not any(codes):
            return met
        for key, code in zip(keys, codes, strict=True):
            if code in ignored:
                met.append((key, code))
            elif code:
                failed[key] = error_text(code)
        return met


def _table() -> bytes:
    """The kernel's table as text, for the network namespace of this thread; empty where it cannot be read."""
    try:
        return Path("/proc/thread-self/net/ip_vs").read_bytes()
    except OSError:
        return b""


def _known(facts: ipvs.ServiceFacts) -> VirtualServiceKey | None:
    """The key of a service that the kernel tells of; None for what we never make."""
    if facts.fwmark:
        return marked_service(Family(facts.family), facts.fwmark)
    if facts.protocol not in PROTOCOLS:
        return None
    return VirtualServiceKey(Family(facts.family), L4Protocol(facts.protocol), facts.address, facts.port)


def _key(key: VirtualServiceKey) -> bytes:
    if key.mark:
        return ipvs.mark_key(key.family, key.mark)
    return ipvs.service_key(key.family, key.protocol, key.address, key.port)


def _service_requests(command: int, rows: Iterable[VirtualService]) -> Iterator[bytes]:
    head = ipvs.header(command)
    for row in rows:
        key = row.key
        yield head + ipvs.service_request(
            _key(key), int(key.family), row.scheduler, row.flags | OWNED, row.timeout, FLAGS | OWNED
        )


@lru_cache(maxsize=4096)
def _start(service: VirtualServiceKey) -> bytes:
    """What comes before a destination of a service; where one goes another mostly comes."""
    return ipvs.destination_start(ipvs.service_reference(_key(service)))


def _destination_requests(
    command: int, rows: Iterable[Destination], services: set[VirtualServiceKey]
) -> Iterator[bytes]:
    """Requests for destinations; `services` comes to hold the service of each.

    Those of one service follow each other and differ by little but their address: the rest is made once.
    """
    head = ipvs.header(command)
    service: VirtualServiceKey | None = None
    start = end = b""
    port = weight = forward = size = -1
    for row in rows:
        key = row.key
        address = key.address
        if key.service is not service:
            service = key.service
            services.add(service)
            start = head + _start(service)
        if key.port != port or row.weight != weight or row.forward != forward or len(address) != size:
            port, weight, forward, size = key.port, row.weight, int(row.forward), len(address)
            end = ipvs.destination_end(size, port, weight, forward)
        yield start + address + end


def _keys(rows: Iterable[VirtualService | Destination]) -> Iterator[Hashable]:
    return (row.key for row in rows)


class VirtualServiceDriver(_Ipvs):
    """Virtual services by address or mark. Services of others are left alone."""

    def __init__(self, ownership: Ownership | None = None) -> None:
        super().__init__()
        self._ownership = ownership or Ownership()

    def owns(self, row: VirtualService) -> bool:
        """By our mark, a flag bit; without it what is wanted, and what the Go kube-router has left."""
        return self._ownership.ours(row.key)

    def read(self) -> Iterable[VirtualService]:
        """Every service of the protocols that we serve."""
        found = [(key, facts) for facts in self._services() if (key := _known(facts)) is not None]
        self._ownership.look((key, facts.flags) for key, facts in found)
        for key, facts in found:
            timeout = facts.timeout if facts.flags & PERSISTENT else 0
            intact = bool(facts.flags & OWNED) and facts.netmask == ipvs.NETMASKS[facts.family]
            yield VirtualService(key, facts.scheduler, facts.flags & FLAGS, timeout, intact)

    def write(self, batch: Batch[VirtualService]) -> Outcome:
        """Create, change in place, delete. One that exists already under the key is adopted and set.

        A scheduler that this kernel does not have is replaced by rr: better served otherwise than not at all.
        """
        self._ownership.changed()
        failed: dict[Hashable, str] = {}
        instead: dict[Hashable, str] = {}
        requests = _service_requests(ipvs.CMD_NEW_SERVICE, batch.add)
        met = self._apply(_keys(batch.add), requests, failed, frozenset((errno.EEXIST, LACKING)))
        wanted: dict[Hashable, VirtualService] = {row.key: row for row in batch.add}
        self._by_default(ipvs.CMD_NEW_SERVICE, [wanted[key] for key, code in met if code == LACKING], failed, instead)
        wanted = {key: wanted[key] for key, code in met if code == errno.EEXIST}
        wanted.update((new.key, new) for _, new in batch.change)
        requests = _service_requests(ipvs.CMD_SET_SERVICE, wanted.values())
        met = self._apply(wanted, requests, failed, frozenset((LACKING,)))
        self._by_default(ipvs.CMD_SET_SERVICE, [wanted[key] for key, _ in met], failed, instead)
        head = ipvs.header(ipvs.CMD_DEL_SERVICE)
        gone = (head + ipvs.service_reference(_key(row.key)) for row in batch.remove)
        self._apply(_keys(batch.remove), gone, failed, GONE)
        return Outcome(failed, instead)

    def _by_default(
        self, command: int, rows: list[VirtualService], failed: dict[Hashable, str], instead: dict[Hashable, str]
    ) -> None:
        """Write services with the scheduler that every kernel has."""
        plain = [VirtualService(row.key, DEFAULT_SCHEDULER, row.flags & PERSISTENT, row.timeout) for row in rows]
        self._apply(_keys(plain), _service_requests(command, plain), failed, frozenset())
        for row in rows:
            if row.key not in failed:
                text = f"this kernel has no scheduler {row.scheduler} (module ip_vs_{row.scheduler})"
                instead[row.key] = f"{text}; {DEFAULT_SCHEDULER} is used"


class DestinationDriver(_Ipvs):
    """Destinations of our virtual services; `served` follows them."""

    def __init__(
        self,
        ownership: Ownership | None = None,
        wanted: Callable[[DestinationKey], bool] = lambda key: False,
        *,
        served: Served | None = None,
    ) -> None:
        super().__init__()
        self._ownership = ownership or Ownership()
        self._wanted = wanted
        self._served = served or Served()

    def owns(self, row: Destination) -> bool:
        """Those of services that are ours, `read` returns no others; of excluded CIDRs only those that are wanted."""
        return not self._ownership.excluded(row.key.address) or self._wanted(row.key)

    def read(self) -> Iterable[Destination]:
        """Destinations of our services.

        The kernel answers one request per service, several at a time are refused, and so its table as a text, which is
        one read, takes a fraction of the time. A destination that the text leaves out because the table changes
        meanwhile is added once more, which changes nothing. Where another network namespace has services too, the
        kernel leaves out some of ours (`ip_vs_info_seq_next` counts theirs, `ip_vs_info_array` does not); a service
        that is there is whole. Those are asked for, and FWMARK services, whose families the text does not tell apart.
        """
        keys = self._ownership.just_seen()
        if keys is None:
            found = [(key, facts.flags) for facts in self._services() if (key := _known(facts)) is not None]
            self._ownership.look(found)
            self._ownership.changed()
            keys = tuple(key for key, _ in found)
        ours = [key for key in keys if self._ownership.ours(key)]
        told = ipvs.parse_table(_table() if ours else b"")
        rows: list[Destination] = []
        masquerade, tunnel = Forward.MASQUERADE, Forward.TUNNEL
        for key in ours:
            place = (key.family, key.protocol, key.address, key.port)
            facts_of = self._asked(key) if key.mark or place not in told else told[place]
            rows += [
                Destination(DestinationKey(key, e.address, e.port), e.weight, tunnel if e.forward else masquerade)
                for e in facts_of
            ]
        self._served.read(rows if any(map(concerns, ours)) else ())
        return rows

    def plain(self, key: VirtualServiceKey) -> bool:
        """Whether all destinations of a service are as the Go kube-router makes them: it knows no weights."""
        return all(each.forward == Forward.MASQUERADE and each.weight <= 1 for each in self._asked(key))

    def _asked(self, key: VirtualServiceKey) -> list[ipvs.DestinationFacts]:
        answers = self._dump(ipvs.header(ipvs.CMD_GET_DEST) + ipvs.service_reference(_key(key)))
        return [ipvs.parse_destination(answer, int(key.family)) for answer in answers]

    def write(self, batch: Batch[Destination]) -> Outcome:
        """Create, change weights in place, delete. One that exists already is set."""
        failed: dict[Hashable, str] = {}
        services: set[VirtualServiceKey] = set()
        requests = _destination_requests(ipvs.CMD_NEW_DEST, batch.add, services)
        met = self._apply(_keys(batch.add), requests, failed, frozenset((errno.EEXIST,)))
        existing = {key for key, _ in met}
        adopted = [row for row in batch.add if row.key in existing] if existing else []
        changed = [*adopted, *(new for _, new in batch.change)]
        requests = _destination_requests(ipvs.CMD_SET_DEST, changed, services)
        self._apply(_keys(changed), requests, failed, frozenset())
        requests = _destination_requests(ipvs.CMD_DEL_DEST, batch.remove, services)
        self._apply(_keys(batch.remove), requests, failed, GONE)
        if any(map(concerns, services)):
            self._served.wrote(batch, failed)
        return Outcome(failed)


TIMERS = {
    Timer.TCP: ipvs.ATTR_TIMEOUT_TCP,
    Timer.TCP_FIN: ipvs.ATTR_TIMEOUT_TCP_FIN,
    Timer.UDP: ipvs.ATTR_TIMEOUT_UDP,
}


class TimeoutDriver(_Ipvs):
    """Idle times of connections, one value each for the whole network namespace."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: set[IpvsTimeoutKey] = set()

    def owns(self, row: IpvsTimeout) -> bool:
        """Whatever this process was asked to set; there is no telling who set a value before."""
        return row.key in self._asked

    def read(self) -> Iterable[IpvsTimeout]:
        """The timers that were asked for so far. As long as none was, the kernel is not asked and needs no IPVS."""
        if not self._asked:
            return []
        try:
            seconds = ipvs.parse_timeouts(self._wire.ask(self._number(), ipvs.header(ipvs.CMD_GET_CONFIG)))
        except OSError as error:
            self._family = 0
            raise Unavailable(f"IPVS cannot be read: {error.strerror}") from error
        found = {timer: seconds[kind] for timer, kind in TIMERS.items() if kind in seconds}
        return [IpvsTimeout(IpvsTimeoutKey(timer), value) for timer, value in found.items()]

    def write(self, batch: Batch[IpvsTimeout]) -> Outcome:
        """Set timers; what is no longer asked for stays as it is, for nobody knows what it was before."""
        failed: dict[Hashable, str] = {}
        wanted = (*batch.add, *(new for _, new in batch.change))
        self._asked.update(row.key for row in wanted)
        self._asked.difference_update(row.key for row in batch.remove)
        if wanted:
            head = ipvs.header(ipvs.CMD_SET_CONFIG)
            requests = [head + ipvs.timeout_request(TIMERS[row.key.timer], row.seconds) for row in wanted]
            self._apply((row.key for row in wanted), requests, failed, frozenset())
        return Outcome(failed)


class ServiceStatistics(_Ipvs):
    """What the virtual services have counted; a look that changes nothing, so it loads no module either."""

    def read(self) -> list[ServiceCount]:
        """Every virtual service of the network namespace, by one dump. Raises Unavailable."""
        if not self._family:
            self._family = generic_family(self._wire, ipvs.FAMILY, ipvs.MODULE)
        answers = self._dump(ipvs.header(ipvs.CMD_GET_SERVICE))
        return [
            ServiceCount(_known(ipvs.parse_service(answer)), Statistics(*ipvs.parse_statistics(answer)))
            for answer in answers
        ]
