"""Every flag, as data; and the parser that reads them by the rules that kube-router's users know (those of pflag).

A flag stands here once it works. Nothing else in the project defines, documents or defaults a flag.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from kuberouter.decode.scalars import boolean, duration

Value = bool | int | float | str | tuple[str, ...]


class Kind(NamedTuple):
    """How a flag's text becomes a value. `many` flags collect; the first use replaces the default."""

    label: str
    parse: Callable[[str], Value]
    many: bool = False


def _unsigned(bits: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text, 0) if not (text.startswith("0") and text[1:].isdigit()) else int(text, 8)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not 0 <= number < 1 << bits:
            raise ValueError(f"{number} is not from 0 to {(1 << bits) - 1}")
        return number

    return parse


def _items(text: str) -> tuple[str, ...]:
    """Comma separated items, quoted as in CSV."""
    return tuple(next(csv.reader([text]), ())) if text else ()


BOOL = Kind("", boolean)
STRING = Kind("string", str)
STRINGS = Kind("strings", _items, many=True)
DURATION = Kind("duration", duration)
UINT = Kind("uint", _unsigned(64))
UINT16 = Kind("uint16", _unsigned(16))
UINT32 = Kind("uint32", _unsigned(32))


class Flag(NamedTuple):
    """One flag: name, kind, default, what it does in a sentence or two, and its one-letter form."""

    name: str
    kind: Kind
    default: Value
    help: str
    short: str = ""


FLAGS: tuple[Flag, ...] = (
    Flag("auto-mtu", BOOL, True, "Give pods and kube-bridge the MTU of the node's uplink, less what tunnels need."),
    Flag("bgp-port", UINT32, 179, "TCP port on which BGP listens, and on which the other nodes are dialled."),
    Flag("cluster-asn", UINT, 64512, "Private AS number of the nodes."),
    Flag("enable-cni", BOOL, True, "Keep the CNI configuration file up to date with this node's pod CIDRs."),
    Flag("enable-ibgp", BOOL, True, "Peer with the other nodes of the cluster."),
    Flag("enable-ipv4", BOOL, True, "Serve IPv4 where the node has an IPv4 address."),
    Flag("enable-ipv6", BOOL, False, "Serve IPv6 where the node has an IPv6 address."),
    Flag("enable-overlay", BOOL, True, "Reach nodes of other subnets through IP-in-IP tunnels."),
    Flag("enable-pod-egress", BOOL, True, "SNAT what pods send to addresses outside the cluster."),
    Flag(
        "gobgp-socket",
        STRING,
        "/run/kube-router/gobgp.sock",
        "Unix socket on which the GoBGP sidecar serves its API.",
    ),
    Flag("health-addr", STRING, "", "Address on which the health endpoints listen; empty is every address."),
    Flag("health-port", UINT16, 20244, "Port of the health endpoints /healthz, /livez and /readyz; 0 is none."),
    Flag("help", BOOL, False, "Show this list.", "h"),
    Flag(
        "hostname-override",
        STRING,
        "",
        "Name of this node's Node object; without it the environment's NODE_NAME counts, then the host name.",
    ),
    Flag("injected-routes-sync-period", DURATION, 60.0, "How often the kernel's routes are compared with the learned."),
    Flag("iptables-sync-period", DURATION, 300.0, "How often chains and sets are compared with what policies ask for."),
    Flag(
        "ipvs-permit-all",
        BOOL,
        True,
        "Guard service addresses: let in what a Service serves and refuse every other port of them.",
    ),
    Flag("ipvs-sync-period", DURATION, 300.0, "How often IPVS and the service addresses are compared with Services."),
    Flag("kubeconfig", STRING, "", "File that says where the apiserver is and how to log in."),
    Flag(
        "loadbalancer-ip-range",
        STRINGS,
        (),
        "CIDR from which load balancer addresses come; may be repeated. Policy leaves traffic to them to the proxy.",
    ),
    Flag(
        "manifests",
        STRING,
        "",
        "Directory of Kubernetes YAML to work from instead of an apiserver; it is watched for changes.",
    ),
    Flag("masquerade-all", BOOL, False, "SNAT every proxied connection, not only those from outside the pod CIDR."),
    Flag("master", STRING, "", "URL of the apiserver; replaces the one of the kubeconfig."),
    Flag("overlay-type", STRING, "subnet", "When to tunnel: subnet, only to nodes of other subnets; full, to all."),
    Flag(
        "router-id",
        STRING,
        "",
        "BGP router id; empty is the primary IPv4 address, generate derives one from the primary address.",
    ),
    Flag("routes-sync-period", DURATION, 300.0, "How often BGP and the node's plumbing are compared with the cluster."),
    Flag("run-firewall", BOOL, True, "Enforce NetworkPolicies."),
    Flag("run-router", BOOL, True, "Exchange pod routes over BGP and set up pod networking."),
    Flag("run-service-proxy", BOOL, True, "Serve Services with IPVS."),
    Flag(
        "service-cluster-ip-range",
        STRINGS,
        ("10.96.0.0/12",),
        "CIDR of the cluster IPs; once, or once per family.",
    ),
    Flag(
        "service-external-ip-range",
        STRINGS,
        (),
        "CIDR from which external IPs come; may be repeated. Policy leaves traffic to them to the proxy.",
    ),
    Flag("service-node-port-range", STRING, "30000-32767", "Ports of NodePort Services, as first-last."),
    Flag("v", STRING, "0", "How much to log: 0 is what an operator has to know, 2 tells every change.", "v"),
    Flag("version", BOOL, False, "Show the version.", "V"),
)
BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}
BY_SHORT: Mapping[str, Flag] = {flag.short: flag for flag in FLAGS if flag.short}


class UsageError(Exception):
    """An unknown flag or a value that it cannot take. The text names both."""


class Parsed(NamedTuple):
    """The outcome of parsing: a value for every flag, the flags that were given, and what was no flag."""

    values: Mapping[str, Value]
    given: frozenset[str]
    positionals: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Parsed:
    """Read a command line.

    `--f=v`, `--f v`, `-v2`, `-v 2` and `-v=2` are the same; a boolean never takes the next word; `--` ends the flags;
    of scalars the last use counts. Raises UsageError.
    """
    values: dict[str, Value] = {flag.name: flag.default for flag in FLAGS}
    given: set[str] = set()
    positionals: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            positionals += words
            break
        if not word.startswith("-") or word == "-":
            positionals.append(word)
            continue
        for flag, text in _split(word, words):
            try:
                value = flag.kind.parse(text)
            except ValueError as error:
                name = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
                raise UsageError(f"invalid argument {text!r} for {name}: {error}") from None
            if flag.kind.many and flag.name in given:
                before = values[flag.name]
                assert isinstance(before, tuple)
                assert isinstance(value, tuple)
                value = before + value
            values[flag.name] = value
            given.add(flag.name)
    return Parsed(values, frozenset(given), tuple(positionals))


def _split(word: str, rest: list[str]) -> list[tuple[Flag, str]]:
    """The flags in one word with their texts; takes the next word where a flag needs one."""
    if word.startswith("--"):
        name, equals, text = word[2:].partition("=")
        flag = BY_NAME.get(name)
        if flag is None:
            raise UsageError(f"unknown flag: --{name}")
        return [(flag, text if equals else _next(flag, f"--{name}", rest))]
    found: list[tuple[Flag, str]] = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = BY_SHORT.get(letter)
        if flag is None:
            raise UsageError(f"unknown shorthand flag: {letter!r} in {word}")
        if letters.startswith("="):
            return [*found, (flag, letters[1:])]
        if flag.kind is not BOOL:
            return [*found, (flag, letters or _next(flag, f"-{letter}", rest))]
        found.append((flag, "true"))
    return found


def _next(flag: Flag, shown: str, rest: list[str]) -> str:
    if flag.kind is BOOL:
        return "true"
    if not rest:
        raise UsageError(f"flag needs an argument: {shown}")
    return rest.pop(0)


def show_duration(seconds: float) -> str:
    """A duration in Go's spelling: 300 is 5m0s."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _default(flag: Flag) -> str:
    value = flag.default
    if flag.kind is DURATION and isinstance(value, float):
        return f" (default {show_duration(value)})" if value else ""
    if not value or value == "0":
        return ""
    if isinstance(value, tuple):
        return f" (default [{','.join(value)}])"
    if isinstance(value, bool):
        return " (default true)"
    return f' (default "{value}")' if flag.kind is STRING else f" (default {value})"


def usage(program: str) -> str:
    """The help text: every flag in alphabetical order."""
    rows = []
    for flag in sorted(FLAGS, key=lambda f: f.name):
        short = f"-{flag.short}, " if flag.short else "    "
        rows.append((f"  {short}--{flag.name} {flag.kind.label}".rstrip(), flag.help + _default(flag)))
    width = max(len(left) for left, _ in rows) + 3
    return "\n".join([f"Usage of {program}:", *(left.ljust(width) + right for left, right in rows), ""])
