"""What the firewall of the Go kube-router (v2.11) leaves on a node: its names and shapes, in each backend."""

from __future__ import annotations

from kuberouter.model.core import Family

IDS = {"INPUT": "4IA2OSFRMVNDXBVV", "FORWARD": "TEMCG2JMHZYE7H7T", "OUTPUT": "VEAAIY32XVBHCSCY"}
"""What it puts into the comment of its jump from each builtin chain."""
POD, POLICY, TARGETS = "KUBE-POD-FW-IDIX352DRLNY3D23", "KUBE-NWPLCY-C23KD7UE4TAT3Y5M", "KUBE-DST-IZ5JGF4W6BKI7CEV"
LOCAL_PODS = "kube-router-local-pods"
DRAFT = "TMP-XD7BSSQZELS7TP35"
SETS = (TARGETS, LOCAL_PODS, DRAFT)


def jumps() -> list[str]:
    """What leads from builtin chains into its own."""
    return [f'-A {c} -m comment --comment "kube-router netpol - {i}" -j KUBE-ROUTER-{c}' for c, i in IDS.items()]


def sets(family: Family) -> str:
    """Its sets as input of `ipset restore`."""
    prefix, options = ("", "") if family is Family.IPV4 else ("inet6:", "family inet6 ")
    return "".join(f"create {prefix}{name} hash:ip {options}timeout 0\n" for name in SETS)


def rules(family: Family, pod: str) -> str:
    """Input of `iptables-restore --noflush` that closes a pod to everybody; its sets have to be there."""
    prefix = "" if family is Family.IPV4 else "inet6:"
    own = [f"KUBE-ROUTER-{chain}" for chain in IDS]
    lines = ["*filter"]
    lines += [f":{name} - [0:0]" for name in (*own, "KUBE-NWPLCY-COMMON", "KUBE-NWPLCY-TAIL", POLICY, POD)]
    lines += jumps()
    for chain in own:
        lines += [f'-A {chain} -d {pod} -m comment --comment "to the pod" -j {POD}', f"-A {chain} -j KUBE-NWPLCY-TAIL"]
        lines.append(f'-A {chain} -m comment --comment "passed" -m mark --mark 0x20000/0x20000 -j ACCEPT')
    lines += [
        "-A KUBE-NWPLCY-COMMON -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A KUBE-NWPLCY-TAIL -m set ! --match-set {prefix}{LOCAL_PODS} dst -d {pod} -j REJECT",
        f"-A {POLICY} -m set --match-set {prefix}{TARGETS} dst -p sctp -j MARK --set-xmark 0x10000/0x10000",
        f"-A {POD} -j KUBE-NWPLCY-COMMON",
        f"-A {POD} -d {pod} -j {POLICY}",
        f"-A {POD} -m mark ! --mark 0x10000/0x10000 -j REJECT",
        f"-A {POD} -j MARK --set-xmark 0x0/0x10000",
    ]
    return "\n".join([*lines, "COMMIT", ""])


def tables(family: Family, pod: str) -> str:
    """The same meaning as input of `nft -f -`, for its other backend."""
    kind, name = ("ip", "kube-router-filter-ipv4") if family is Family.IPV4 else ("ip6", "kube-router-filter-ipv6")
    lines = [
        f"set {TARGETS} {{ type {'ipv4' if family is Family.IPV4 else 'ipv6'}_addr; }}",
        f"chain {POLICY} {{ {kind} daddr @{TARGETS} counter meta mark set meta mark or 0x10000 return; }}",
        f"chain {POD} {{ jump {POLICY}; meta mark and 0x10000 == 0x0 counter reject; }}",
    ]
    for chain in IDS:
        base = f"type filter hook {chain.lower()} priority filter; {kind} daddr {pod} jump {POD};"
        lines.append(f"chain KUBE-ROUTER-{chain} {{ {base} }}")
    return "\n".join([f"table {kind} {name} {{", *lines, "}", ""])


def egress() -> list[tuple[str, str]]:
    """What its route controller leaves in iptables-nft, as commands with their input."""
    forward = (
        '-i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT',
        '-o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT',
        "-o eth0 -m comment --comment "
        '"allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT',
    )
    found: list[tuple[str, str]] = []
    for tool, prefix, family in (("iptables", "", "inet"), ("ip6tables", "inet6:", "inet6")):
        pods, nodes = f"{prefix}kube-router-pod-subnets", f"{prefix}kube-router-node-ips"
        sets = ((pods, "hash:net"), (nodes, "hash:ip"))
        found.append(("ipset restore", "".join(f"create {n} {kind} family {family} timeout 0\n" for n, kind in sets)))
        match = f"-m set --match-set {pods} src -m set ! --match-set {pods} dst -m set ! --match-set {nodes} dst"
        masquerade = f"-A POSTROUTING {match} -j MASQUERADE --random-fully"
        lines = ["*filter", *(f"-A FORWARD {words}" for words in forward), "COMMIT", "*nat", masquerade, "COMMIT", ""]
        found.append((f"{tool}-nft-restore --noflush", "\n".join(lines)))
    return found
