"""Runs inside a network namespace: answers on the probed ports and sends probes on command.

Input lines are JSON lists of jobs [address, "TCP" or "UDP", port]; the answer line has one word for each: open, refused
or timeout. All jobs of a line run at the same time.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time

LIMIT = 0.3
"""Seconds after which a probe counts as timed out."""
RESEND = 0.09
"""Seconds after which a UDP probe is sent again."""


def serve(ports: list[int]) -> None:
    """Accept and close TCP connections, echo UDP datagrams, in both families."""
    poller = select.poll()
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
            poller.register(listener, select.POLLIN)
    while True:
        for number, _ in poller.poll():
            listener = sockets[number]
            try:
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    data, peer = listener.recvfrom(64)
                    listener.sendto(data, peer)
            except OSError:
                continue


def probe(jobs: list[tuple[str, str, int]]) -> list[str]:
    """Outcome of each job."""
    results = ["timeout"] * len(jobs)
    poller = select.poll()
    open_jobs: dict[int, tuple[int, socket.socket, str]] = {}
    for index, (address, protocol, port) in enumerate(jobs):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
        sock.setblocking(False)
        error = sock.connect_ex((address, port))
        if error not in (0, 115) or not _send(sock, protocol):
            results[index] = "refused"
            sock.close()
            continue
        open_jobs[sock.fileno()] = (index, sock, protocol)
        poller.register(sock, select.POLLOUT if protocol == "TCP" else select.POLLIN)
    end = time.monotonic() + LIMIT
    resend = time.monotonic() + RESEND
    while open_jobs and (now := time.monotonic()) < end:
        for number, _ in poller.poll(max(1, int((min(end, resend) - now) * 1000))):
            index, sock, protocol = open_jobs.pop(number)
            poller.unregister(number)
            results[index] = _outcome(sock, protocol)
            sock.close()
        if time.monotonic() >= resend:
            resend += RESEND
            for _, sock, protocol in open_jobs.values():
                _send(sock, protocol)
    for _, sock, _ in open_jobs.values():
        sock.close()
    return results


def _send(sock: socket.socket, protocol: str) -> bool:
    if protocol == "TCP":
        return True
    try:
        sock.send(b"probe")
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
    threading.Thread(target=serve, args=(ports,), daemon=True).start()
    for line in sys.stdin:
        print(json.dumps(probe(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
