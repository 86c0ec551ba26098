"""UDP ports at which the kernel takes tunnelled packets out of UDP."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator

from kuberouter.drivers.network import ENCAP_MODULES, KINDS, Rtnetlink
from kuberouter.model.core import Batch, Family, Outcome, Unavailable
from kuberouter.model.network import FouPort, FouPortKey, LinkKind
from kuberouter.wire import fou
from kuberouter.wire.netlink import NETLINK_GENERIC, NetlinkSocket, error_text, generic_family, load_module

FAMILIES = {LinkKind.IPIP: Family.IPV4, LinkKind.IP6TNL: Family.IPV6}
MODULES = {family: ENCAP_MODULES[kind] for kind, family in FAMILIES.items()}


class FouPortDriver(Rtnetlink):
    """GUE ports. A kernel without them has none, and then only who wants one fails."""

    def __init__(self, prefixes: tuple[str, ...], wanted: Callable[[FouPortKey], bool] = lambda key: False) -> None:
        """`prefixes` are those of the names of our tunnels."""
        super().__init__()
        self._generic = NetlinkSocket(NETLINK_GENERIC)
        self._prefixes = prefixes
        self._wanted = wanted
        self._known: set[FouPortKey] = set()
        self._elsewhere: set[FouPortKey] = set()
        self._number = 0

    def owns(self, row: FouPort) -> bool:
        """Ports have no mark: ours are those that are wanted, and those to which tunnels of ours have sent."""
        return row.key in self._known or self._wanted(row.key)

    def read(self) -> Iterable[FouPort]:
        """All GUE ports."""
        used = set(self._used())
        self._known.update(key for key, ours in used if ours)
        self._elsewhere = {key for key, ours in used if not ours}
        if not self._find():
            return ()
        found = map(fou.parse_port, self._generic.dump(self._number, fou.list_request()))
        return [FouPort(FouPortKey(Family(f.family), f.port)) for f in found if f.gue]

    def _used(self) -> Iterator[tuple[FouPortKey, bool]]:
        """The ports to which tunnels send, and whether the tunnel is ours."""
        for link in self.links():
            family = FAMILIES.get(KINDS.get(link.kind, LinkKind.DUMMY))
            if family is not None and link.encap_port > 0:
                yield FouPortKey(family, link.encap_port), link.name.startswith(self._prefixes)

    def write(self, batch: Batch[FouPort]) -> Outcome:
        """Open and close ports."""
        failed: dict[Hashable, str] = {}
        if batch.add:
            for name in {MODULES[row.key.family] for row in batch.add}:
                load_module(name)
        if not self._find():
            return Outcome({row.key: "kernel module fou is missing" for row in batch.add})
        added = [fou.add_request(row.key.family, row.key.port) for row in batch.add]
        for row, code in zip(batch.add, self._send(added), strict=True):
            if code in (errno.EADDRINUSE, errno.EALREADY):
                failed[row.key] = f"UDP port {row.key.port} is in use"
            elif code:
                failed[row.key] = error_text(code)
            else:
                self._known.add(row.key)
        gone = [fou.remove_request(row.key.family, row.key.port) for row in batch.remove]
        for row, code in zip(batch.remove, self._send(gone), strict=True):
            if code not in (0, errno.EINVAL):
                # That a port is not there is told as an invalid one.
                failed[row.key] = error_text(code)
        return Outcome(failed)

    def _send(self, bodies: list[bytes]) -> list[int]:
        return self._generic.transact([(self._number, 0, body) for body in bodies])

    def _find(self) -> bool:
        """Whether the kernel knows such ports."""
        try:
            self._number = generic_family(self._generic, fou.FAMILY, "fou")
        except Unavailable:
            return False
        return True


class LeftFouPortDriver(FouPortDriver):
    """For cleanup: the port that we use is ours even where no tunnel of ours is left, unless others' tunnels use it."""

    def __init__(self, prefixes: tuple[str, ...], port: int) -> None:
        super().__init__(prefixes, lambda key: key.port == port and key not in self._elsewhere)
