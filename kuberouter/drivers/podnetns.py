"""Receivers of direct server return inside pods: the end of the tunnel, the service addresses, reverse path filtering.

A director sends a client's packet inside another one to the pod. In the pod a tunnel link takes the outer packet off,
the service address lies on that link, and so the pod takes the packet as its own and answers the client itself. Names
of the links are the Go kube-router's: what it left in pods is found and is ours.

What else is in the pod's namespace is not touched. Reverse path filtering has to be off for what comes out of the
tunnel, and the kernel takes the stricter of a link's setting and that of all links; the loose mode (2) on the tunnel
alone is enough whatever the others are. IPv6 has no such filter.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path

from kuberouter.model.core import Batch, Family, Outcome, Unavailable, Value, family_of
from kuberouter.model.network import LinkKind
from kuberouter.model.receivers import PodReceiver, PodReceiverKey
from kuberouter.wire import rtnetlink as rt
from kuberouter.wire.cri.client import Placed, Runtime
from kuberouter.wire.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSocket, error_text, load_module
from kuberouter.wire.netns import inside, number
from kuberouter.wire.sysctl import DIRECTORY

TUNNELS = {Family.IPV4: "kube-tunnel-if", Family.IPV6: "kube-tunnel-v6"}
KINDS = {Family.IPV4: LinkKind.IPIP, Family.IPV6: LinkKind.IP6TNL}
MODULES = {Family.IPV4: "ipip", Family.IPV6: "ip6_tunnel"}
LOOSE = "2"
FILTER = DIRECTORY / "net" / "ipv4" / "conf"
NO_VIP = b""
"""In what is read: a tunnel on which there is no service address."""
GONE = frozenset((errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL))


class _Tunnel(Value, frozen=True, gc=False):
    """The tunnel of one family in the namespace that we are in."""

    link: rt.LinkFacts
    vips: frozenset[bytes]

    def sound(self, family: Family) -> bool:
        """Whether it takes packets for the pod."""
        return self.link.up and self.link.kind == KINDS[family].value and _filter(family) in ("", LOOSE)


class PodReceiverDriver:
    """Driver of `PodReceiver` rows; the container runtime says where pods are.

    Nobody is asked and nothing is read as long as `in_use` says that no receiver is wanted and none can be left.
    """

    def __init__(self, runtime: Runtime, in_use: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._in_use = in_use
        self._written = False
        self._loaded: set[Family] = set()
        """Families of which the kernel module is known to be there."""

    def owns(self, row: PodReceiver) -> bool:
        """`read` yields nothing but what lies on links with our names in pods of this node."""
        return True

    def read(self) -> Iterable[PodReceiver]:
        """The receivers in all pods that run on this node, each with the first container by id that is in there.

        One that would not work yields no container, so that it is mended.
        """
        if not (self._written or self._in_use()):
            return
        for container, path, inode in self._namespaces():
            try:
                found = inside(path, _look, expect=inode)
            except OSError:
                # The pod has gone meanwhile, and all that was in it. If it is only closed to us, what should be in
                # there is found missing, and the attempt to put it there says why it cannot.
                continue
            for tunnel, sound in found:
                for vip in tunnel.vips or (NO_VIP,):
                    if tunnel.link.local:
                        yield PodReceiver(PodReceiverKey(tunnel.link.local, vip), container if sound else "")

    def _namespaces(self) -> Iterator[tuple[str, Path, int]]:
        """Each network namespace of a container once, but not the one that we are in ourselves."""
        known = {number()}
        for container in sorted(self._runtime.running()):
            placed = self._runtime.find(container)
            entry = _entry(placed) if placed is not None else None
            if entry is not None and entry[1] not in known:
                known.add(entry[1])
                yield container, *entry

    def write(self, batch: Batch[PodReceiver]) -> Outcome:
        """Make and remove receivers, all of one pod in one visit."""
        failed: dict[Hashable, str] = {}
        wanted = [*batch.add, *(new for _, new in batch.change)]
        self._written = self._written or bool(wanted)
        for family in {family_of(row.key.pod) for row in wanted} - self._loaded:
            if load_module(MODULES[family]):
                self._loaded.add(family)
        for container, rows in _by_container(wanted).items():
            error = self._visit(container, rows, _receive)
            failed.update((row.key, text) for row in rows if (text := error.get(row.key, "")))
        for container, rows in _by_container(batch.remove).items():
            error = self._visit(container, rows, _release)
            # Where no container runs any more there is no pod, or the next reading finds it by another container.
            failed.update((row.key, text) for row in rows if (text := error.get(row.key, "")) and text != NOT_RUNNING)
        return Outcome(failed)

    def _visit(
        self, container: str, rows: list[PodReceiver], work: Callable[[list[PodReceiver]], dict[Hashable, str]]
    ) -> dict[Hashable, str]:
        """Do work on these rows in a container's namespace; the rows that failed."""
        placed = self._runtime.find(container) if container else None
        if placed is None:
            return dict.fromkeys((row.key for row in rows), NOT_RUNNING)
        entry = _entry(placed)
        if entry is None:
            text = f"no network namespace of container {container} can be seen; does the daemon run with hostPID?"
            return dict.fromkeys((row.key for row in rows), text)
        path, inode = entry
        if inode == number():
            return dict.fromkeys((row.key for row in rows), "the pod is in the network namespace of the node")
        try:
            return inside(path, lambda: work(rows), expect=inode)
        except (OSError, Unavailable) as error:
            return dict.fromkeys((row.key for row in rows), f"the pod cannot be entered: {error}")


NOT_RUNNING = "no container of the pod runs"


def _by_container(rows: Iterable[PodReceiver]) -> dict[str, list[PodReceiver]]:
    found: dict[str, list[PodReceiver]] = {}
    for row in rows:
        found.setdefault(row.container, []).append(row)
    return found


def _entry(placed: Placed) -> tuple[Path, int] | None:
    """The first of the files that exists, with the number of its namespace."""
    for path in placed.paths:
        try:
            return path, number(path)
        except OSError:
            continue
    return None


class LeftReceiverDriver:
    """Receivers in whatever network namespace a process of this host runs in, with nobody to ask about pods.

    In the place of a container rows name the namespace's file. There are only removals.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def owns(self, row: PodReceiver) -> bool:
        """`read` yields nothing but what lies on links with our names."""
        return True

    def read(self) -> Iterable[PodReceiver]:
        """The receivers in all namespaces but the one that we are in."""
        for path, inode in self._namespaces():
            try:
                found = inside(path, _look, expect=inode)
            except OSError:
                continue
            for tunnel, _ in found:
                for vip in tunnel.vips or (NO_VIP,):
                    if tunnel.link.local:
                        yield PodReceiver(PodReceiverKey(tunnel.link.local, vip), str(path))

    def write(self, batch: Batch[PodReceiver]) -> Outcome:
        """Remove receivers, all of one pod in one visit."""
        failed: dict[Hashable, str] = {}
        for path, rows in _by_container(batch.remove).items():
            try:
                failed.update(inside(Path(path), partial(_release, rows)))
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.update((row.key, f"{path} cannot be entered: {error.strerror}") for row in rows)
        return Outcome(failed)

    def _namespaces(self) -> Iterator[tuple[Path, int]]:
        known = {number()}
        for path in sorted(self._proc.glob("[0-9]*/ns/net")):
            try:
                inode = number(path)
            except OSError:
                continue
            if inode not in known:
                known.add(inode)
                yield path, inode


# --- inside of a pod -------------------------------------------------------------------------------------------------


def _look() -> list[tuple[_Tunnel, bool]]:
    with NetlinkSocket(rt.NETLINK_ROUTE) as wire:
        return [(tunnel, tunnel.sound(family)) for family, tunnel in _tunnels(wire).items()]


def _tunnels(wire: NetlinkSocket) -> dict[Family, _Tunnel]:
    links = [rt.parse_link(body) for body in wire.dump(rt.RTM_GETLINK, rt.IFINFO.pack(0, 0, 0, 0, 0, 0))]
    ours = {family: link for link in links for family, name in TUNNELS.items() if link.name == name}
    addresses: dict[int, set[bytes]] = {}
    if ours:
        for body in wire.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0)):
            facts = rt.parse_address(body)
            # The kernel gives IPv6 links addresses of their own, of scope link and half the length.
            if facts is not None and facts.length == len(facts.address) * 8:
                addresses.setdefault(facts.ifindex, set()).add(facts.address)
    return {family: _Tunnel(link, frozenset(addresses.get(link.ifindex, ()))) for family, link in ours.items()}


def _filter(family: Family) -> str:
    """The tunnel's reverse path filter; empty where there is none."""
    if family is Family.IPV6:
        return ""
    try:
        return (FILTER / TUNNELS[family] / "rp_filter").read_text().strip()
    except OSError:
        return "?"


def _receive(rows: list[PodReceiver]) -> dict[Hashable, str]:
    """Have each pod address receive for its service addresses."""
    failed: dict[Hashable, str] = {}
    with NetlinkSocket(rt.NETLINK_ROUTE) as wire:
        here = {facts.address for body in _addresses(wire) if (facts := rt.parse_address(body)) is not None}
        for pod in dict.fromkeys(row.key.pod for row in rows):
            mine = [row for row in rows if row.key.pod == pod]
            if pod not in here:
                # A process id that was given out again leads somewhere else.
                failed.update((row.key, "the pod's address is not in the namespace of its container") for row in mine)
                continue
            text = _open(wire, pod)
            if text:
                failed.update((row.key, text) for row in mine)
                continue
            index = _tunnels(wire)[family_of(pod)].link.ifindex
            requests = [rt.address_request(index, row.key.vip, len(row.key.vip) * 8) for row in mine]
            codes = wire.transact([(rt.RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, request) for request in requests])
            failed.update(
                (row.key, error_text(code))
                for row, code in zip(mine, codes, strict=True)
                if code and code != errno.EEXIST
            )
    return failed


def _addresses(wire: NetlinkSocket) -> list[bytes]:
    return wire.dump(rt.RTM_GETADDR, rt.IFADDR.pack(0, 0, 0, 0, 0))


def _open(wire: NetlinkSocket, pod: bytes) -> str:
    """Make or mend the tunnel that ends at a pod's address; what went wrong."""
    family = family_of(pod)
    name, kind = TUNNELS[family], KINDS[family]
    tunnel = _tunnels(wire).get(family)
    if tunnel is not None and (tunnel.link.kind, tunnel.link.local) != (kind.value, pod):
        wire.transact([(rt.RTM_DELLINK, 0, rt.link_by_name(name))])
        tunnel = None
    if tunnel is None or not tunnel.link.up:
        index = tunnel.link.ifindex if tunnel is not None else 0
        body = rt.link_request(name, kind.value, 0, local=pod, index=index)
        (code,) = wire.transact([(rt.RTM_NEWLINK, 0 if index else NLM_F_CREATE | NLM_F_EXCL, body)])
        if code == errno.EOPNOTSUPP:
            return f"kernel module {MODULES[family]} is missing"
        if code:
            return f"the tunnel cannot be made: {error_text(code)}"
    if _filter(family) not in ("", LOOSE):
        try:
            (FILTER / name / "rp_filter").write_text(LOOSE)
        except OSError as error:
            return f"the reverse path filter of the tunnel cannot be set: {error.strerror}"
    return ""


def _release(rows: list[PodReceiver]) -> dict[Hashable, str]:
    """Take service addresses off, and the tunnel with the last of them."""
    failed: dict[Hashable, str] = {}
    with NetlinkSocket(rt.NETLINK_ROUTE) as wire:
        for family, tunnel in _tunnels(wire).items():
            mine = [row for row in rows if row.key.pod == tunnel.link.local]
            named = [row for row in mine if row.key.vip != NO_VIP]
            requests = [rt.address_request(tunnel.link.ifindex, r.key.vip, len(r.key.vip) * 8) for r in named]
            for row, code in zip(named, wire.transact([(rt.RTM_DELADDR, 0, r) for r in requests]), strict=True):
                if code and code not in GONE:
                    failed[row.key] = error_text(code)
            if mine and not tunnel.vips - {row.key.vip for row in mine}:
                wire.transact([(rt.RTM_DELLINK, 0, rt.link_by_name(TUNNELS[family]))])
    return failed
