"""Runs inside a network namespace: answers on the probed ports and sends probes on command.

Input lines are JSON lists of jobs [address, "TCP", "UDP", "SCTP" or "ICMP", port]; the answer line has one word for
each: open, refused or timeout. All jobs of a line run at the same time. ICMP is an echo and has no port.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance import sctp
else:  # It runs as a script, beside the other file.
    import sctp

LIMIT = 3.0
"""Seconds after which a probe counts as timed out. The firewall refuses with an answer, so few probes wait for it."""
RESEND = 0.2
"""Seconds after which a probe without retries of its own is sent again."""
IP_PKTINFO, IP_RECVERR, IPV6_RECVERR = 8, 11, 25
"""Socket options of linux/in.h and linux/in6.h that Python does not name."""
UNLIMITED = {
    "ipv4/icmp_ratemask": "0",
    "ipv6/icmp/ratelimit": "0",
    "ipv6/icmp/ratemask": "",
    "ipv4/ping_group_range": "0 0",
}
"""Settings under which each refusal is answered, and echoes may be sent."""
_TYPES = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "ICMP": socket.SOCK_DGRAM}
FAMILIES = (socket.AF_INET, socket.AF_INET6)

Job = tuple[str, str, int]


def serve(ports: list[int]) -> None:
    """Accept and close TCP connections, echo UDP datagrams, acknowledge SCTP, in both families."""
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for port in ports:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            listener = socket.socket(socket.AF_INET6, kind)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("::", port))
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen(256)
            sockets[listener.fileno()] = listener
    sockets.update({sock.fileno(): sock for sock in map(sctp.raw, FAMILIES)})
    for number, listener in sockets.items():
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        poller.register(number, select.EPOLLIN)
    served = set(ports)
    while True:
        for number, _ in poller.poll():
            listener = sockets[number]
            try:
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    _answer(listener, served)
            except OSError:
                continue


def _answer(sock: socket.socket, served: set[int]) -> None:
    """Answer one datagram or SCTP packet from the address that it was sent to: a node has several."""
    data, ancillary, _, peer = sock.recvmsg(256, 256)
    if sock.type == socket.SOCK_RAW:
        data, peer = sctp.reply(sctp.bare(sock, data), served), (peer[0], 0)
    here = []
    for level, kind, info in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            here.append((level, kind, info[:16] + bytes(4)))
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            here.append((level, kind, bytes(4) + info[8:12] + bytes(4)))
    if data:
        sock.sendmsg([data], here, 0, peer)


class Prober:
    """Sends the probes of one line and collects what becomes of them."""

    def __init__(self, jobs: list[Job]) -> None:
        self.results = ["timeout"] * len(jobs)
        self._poller = select.epoll()
        self._open: dict[int, tuple[int, socket.socket, str]] = {}
        self._raw = {family: sctp.raw(family) for family in FAMILIES}
        for sock in self._raw.values():
            _report_errors(sock)
            self._poller.register(sock, select.EPOLLIN)
        self._inits: dict[int, tuple[int, str, int]] = {}
        """SCTP probes without an answer, by source port, which is their tag too: job, address, port."""
        for index, (address, protocol, port) in enumerate(jobs):
            if protocol == "SCTP":
                self._inits[40000 + index] = (index, address, port)
                self._send_init(40000 + index)
            else:
                self._start(index, address, protocol, port)

    def run(self) -> list[str]:
        """Wait until everything has an outcome or the time is up."""
        end = time.monotonic() + LIMIT
        resend = time.monotonic() + RESEND
        while (self._open or self._inits) and (now := time.monotonic()) < end:
            for number, seen in self._poller.poll(max(0.001, min(end, resend) - now)):
                if number in self._open:
                    self._finish(number, seen)
                else:
                    self._collect(next(sock for sock in self._raw.values() if sock.fileno() == number))
            if time.monotonic() >= resend:
                resend += RESEND
                for _, sock, protocol in self._open.values():
                    _send(sock, protocol)
                for source in self._inits:
                    self._send_init(source)
        for sock in (*self._raw.values(), *(sock for _, sock, _ in self._open.values())):
            sock.close()
        self._poller.close()
        return self.results

    def _start(self, index: int, address: str, protocol: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        number = 0 if protocol != "ICMP" else socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        sock = socket.socket(family, _TYPES[protocol], number)
        sock.setblocking(False)
        _report_errors(sock)
        error = sock.connect_ex((address, port))
        if error not in (0, 115) or not _send(sock, protocol):
            self.results[index] = "refused"
            sock.close()
            return
        self._open[sock.fileno()] = (index, sock, protocol)
        self._poller.register(sock, select.EPOLLOUT if protocol == "TCP" else select.EPOLLIN)

    def _finish(self, number: int, seen: int) -> None:
        index, sock, protocol = self._open.pop(number)
        self.results[index] = "refused" if seen & select.EPOLLERR else _outcome(sock, protocol)
        sock.close()

    def _send_init(self, source: int) -> None:
        _, address, port = self._inits[source]
        sock = self._raw[socket.AF_INET6 if ":" in address else socket.AF_INET]
        for _ in range(4):
            try:
                sock.sendto(sctp.packet(sctp.INIT, source, port, source), (address, 0))
            except OSError:
                # What is reported here is an error that an earlier packet met, and this one did not go out.
                continue
            return

    def _collect(self, sock: socket.socket) -> None:
        """Answers to SCTP probes, and the errors that name one."""
        for _ in range(256):
            try:
                data, peer = sock.recvfrom(256)
            except BlockingIOError:
                break
            except OSError:
                continue
            found = sctp.parse(sctp.bare(sock, data))
            if found is not None and found[0] == sctp.INIT_ACK:
                self._settle(found[2], peer[0], found[1], "open")
        for _ in range(256):
            try:
                data, _, _, target = sock.recvmsg(256, 256, socket.MSG_ERRQUEUE)
            except OSError:
                break
            if len(data) >= 4:
                self._settle(sctp.ports(data)[0], target[0], sctp.ports(data)[1], "refused")

    def _settle(self, source: int, address: str, port: int, outcome: str) -> None:
        if self._inits.get(source, (0, "", 0))[1:] == (address, port):
            self.results[self._inits.pop(source)[0]] = outcome


def _report_errors(sock: socket.socket) -> None:
    """Keep ICMP errors in the socket's error queue.

    One may arrive while connect() still holds the socket; TCP would otherwise hear of it a second later, by its next
    try.
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)


def _send(sock: socket.socket, protocol: str) -> bool:
    if protocol == "TCP":
        return True
    # An echo request: type 8 or 128, the kernel fills in checksum and identity.
    data = b"probe" if protocol == "UDP" else bytes((8 if sock.family == socket.AF_INET else 128, *bytes(7)))
    try:
        sock.send(data)
    except OSError:
        return False
    return True


def _outcome(sock: socket.socket, protocol: str) -> str:
    if protocol == "TCP":
        return "refused" if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else "open"
    try:
        sock.recv(64)
    except OSError:
        return "refused"
    return "open"


def main() -> None:
    ports = [int(word) for word in sys.argv[1:]]
    for key, value in UNLIMITED.items():
        Path("/proc/sys/net", key).write_text(value + "\n")
    threading.Thread(target=serve, args=(ports,), daemon=True).start()
    for line in sys.stdin:
        print(json.dumps(Prober(json.loads(line)).run()), flush=True)


if __name__ == "__main__":
    main()
