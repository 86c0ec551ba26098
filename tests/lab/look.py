"""`python -m tests.lab.look`, or `make look [ON=place] [RUN='command']`: look around in a running lab.

Without words it lists the cluster; `look node1 ipvsadm -Ln` runs a command on a node, `look shop/frontend-1 ip route`
in a pod, `look outside ...` on the outside client; `look node1` is a shell, `look node1 log` the end of the daemon's
log. The newest demo is looked at, or with `look --any ...` the newest lab, a test's for instance. A demo in a guest is
found and entered in the same way; if it hangs, Ctrl-] gets a terminal out of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab import kept
from tests.support.lab import janitor, netns
from tests.support.lab.objects import Json, Object, field, items, text
from tests.support.lab.process import enter
from tests.vm import channel
from tests.vm.server import Refused


def homes() -> list[Path]:
    """Directories of the labs that run now, newest last."""
    found = Path(tempfile.gettempdir()).glob(f"{netns.PREFIX}*/lab.json")
    alive = [note.parent for note in found if (pid := janitor.owner(note.parent.name)) and janitor.running(pid)]
    return sorted(alive, key=lambda home: home.stat().st_mtime)


def command(home: Path, place: str, argv: list[str]) -> list[str]:
    """The command line that runs `argv` at a node, a pod (namespace/name) or `outside`."""
    note = json.loads((home / "lab.json").read_text())
    if place in note["nodes"]:
        return enter(netns.path(note["nodes"][place]), home / place / "run", argv)
    if place == "outside":
        return ["ip", "netns", "exec", note["outside"], *argv]
    if place in note["pods"]:
        return ["ip", "netns", "exec", note["pods"][place][0], *argv]
    known = ", ".join([*note["nodes"], "outside", *note["pods"]])
    raise Refused(f"no such place: {place}; there are {known}")


def listing(objects: list[Object]) -> str:
    """The cluster as a few tables."""
    rows: dict[str, list[tuple[str, ...]]] = {
        "Node": [("NAME", "ADDRESS", "POD CIDR")],
        "Pod": [("NAMESPACE/NAME", "READY", "ADDRESS", "NODE")],
        "Service": [("NAMESPACE/NAME", "TYPE", "CLUSTER-IP", "PORTS")],
        "EndpointSlice": [("NAMESPACE/NAME", "ENDPOINTS")],
        "NetworkPolicy": [("NAMESPACE/NAME", "TYPES")],
    }
    for obj in objects:
        kind = text(obj, "kind")
        if kind in rows:
            rows[kind].append(_row(kind, obj))
    return "\n\n".join(f"{_plural(kind)}\n{_table(table)}" for kind, table in rows.items() if len(table) > 1)


def _plural(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def _row(kind: str, obj: Object) -> tuple[str, ...]:
    name = text(obj, "metadata", "name")
    full = f"{text(obj, 'metadata', 'namespace')}/{name}"
    if kind == "Node":
        first = (items(obj, "status", "addresses") or [{}])[0]
        return name, text(first, "address"), text(obj, "spec", "podCIDR")
    if kind == "Pod":
        ready = text((items(obj, "status", "conditions") or [{}])[0], "status")
        return full, ready, text(obj, "status", "podIP"), text(obj, "spec", "nodeName")
    if kind == "Service":
        ports = ",".join(_port(port) for port in items(obj, "spec", "ports"))
        return full, text(obj, "spec", "type", default="ClusterIP"), text(obj, "spec", "clusterIP"), ports
    if kind == "EndpointSlice":
        return full, ", ".join(_endpoint(endpoint) for endpoint in items(obj, "endpoints"))
    return full, ",".join(str(kind) for kind in items(obj, "spec", "policyTypes"))


def _port(port: Json) -> str:
    node = f":{field(port, 'nodePort')}" if field(port, "nodePort") else ""
    return f"{field(port, 'port')}{node}/{text(port, 'protocol', default='TCP')}"


def _endpoint(endpoint: Json) -> str:
    ready = "" if field(endpoint, "conditions", "ready") else " (not ready)"
    return f"{(items(endpoint, 'addresses') or [''])[0]}{ready}"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def answer(home: Path, words: Sequence[str]) -> list[str] | str:
    """What the words stand for in a lab on this kernel: the cluster's listing, or a command line. Raises Refused."""
    if not words:
        return listing(json.loads((home / "objects.json").read_text()))
    argv = list(words[1:]) or ["sh"]
    if argv == ["log"]:
        argv = ["tail", "-n", "30", str(home / words[0] / "daemon.log")]
    return command(home, words[0], argv)


def _here(home: Path, words: Sequence[str]) -> int:
    """Look at a lab on this machine."""
    told = answer(home, words)
    if isinstance(told, str):
        print(told)
        return 0
    # The network tools are not in the PATH of everybody who can become root.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return subprocess.run(told, check=False, env={**os.environ, "PATH": path}).returncode


def _there(demo: kept.Kept, way: Path, words: Sequence[str]) -> int:
    """Look at a lab in a guest."""
    if not demo.held:
        raise Refused("the demo has not finished its checks: it can be looked at afterwards")
    return channel.call(way, words, lambda: demo.keeper.alive)


def main(words: list[str], root: Path = kept.KEPT) -> int:
    """List, or run a command; its exit status."""
    if os.geteuid():
        print("look: needs root to enter network namespaces", file=sys.stderr)
        return 2
    demos, labs = kept.alive(root), homes()
    try:
        if words[:1] == ["--any"]:
            words = words[1:]
        elif demos and (way := demos[-1].channel):
            return _there(demos[-1], way, words)
        else:
            keepers = {demo.keeper.pid for demo in demos}
            labs = [home for home in labs if janitor.owner(home.name) in keepers]
        if not labs:
            raise Refused("no demo is running: start one with `make demo KEEP=1`")
        return _here(labs[-1], words)
    except (Refused, channel.Gone) as error:
        print(f"look: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
