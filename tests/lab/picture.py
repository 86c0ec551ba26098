"""`python -m tests.lab.picture [--write]`: draw the firewall's chains as they stand on a node of a small, live lab.

The picture in docs/network-policy.md is this one: `--write` puts it there, a test compares it with a lab of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kuberouter.wire.text.iptables import SavedRule, parse_save
from tests.support.lab import Lab
from tests.support.probes import until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "network-policy.md"
BEGIN, END = "<!-- chains: begin -->\n", "<!-- chains: end -->\n"
HOOKS = ("INPUT", "FORWARD", "OUTPUT")
POLICIES = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: database, namespace: default}
spec:
  podSelector: {matchLabels: {app: database}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
  - from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: database}}}]
"""
_VETH = re.compile(r"veth[0-9a-f]+")
"""A link, or the beginning of its name."""


def tree(saved: str) -> Iterator[str]:
    """The chains below the hooks, each where it is first met; then only its name.

    Digits at the end of links are by chance, and so is how many chains they are spread over: it is one here.
    """
    chains: dict[str, list[SavedRule]] = {}
    for name, (_, rules) in parse_save(saved).items():
        chains.setdefault(_VETH.sub("vethN", name), []).extend(rules)
    drawn: set[str] = set()
    for hook in HOOKS:
        yield hook
        ours = [rule for rule in chains[hook] if rule.tag]
        yield from _rules(ours, chains, drawn, "  ")


def _rules(rules: list[SavedRule], chains: dict[str, list[SavedRule]], drawn: set[str], indent: str) -> Iterator[str]:
    texts = [_VETH.sub("vethN", rule.text.replace("-m comment --comment ", "")) for rule in rules]
    # Where digits are left out rules come together from several chains.
    ordered = sorted(dict.fromkeys(texts)) if any("vethN" in text for text in texts) else texts
    for words in ordered:
        before, _, target = words.rpartition("-j " if "-j " in words else "-g ")
        name = target.split(" ")[0]
        arrow = "=>" if "-g " in words else "->"
        again = " (above)" if name in drawn else ""
        yield f"{indent}{before}{arrow} {target}{again}"
        if name in chains and name not in drawn:
            drawn.add(name)
            yield from _rules(chains[name], chains, drawn, indent + "    ")


def sets(saved: str) -> Iterator[str]:
    """The sets of IPv4 and what is in them."""
    for line in saved.splitlines():
        words = line.split(" ")
        if words[0] == "create" and words[1].startswith("KUBE-") and " inet " in line:
            members = sorted(m.split(" ")[2] for m in saved.splitlines() if m.startswith(f"add {words[1]} "))
            yield f"{words[1]}  {words[2]}: {', '.join(members) or 'empty'}"


def _bound(saved: str) -> int:
    """How many links are bound to their pods."""
    return sum(" ! -s " in line and "--physdev-in" in line for line in saved.splitlines())


def draw() -> str:
    """Boot the lab and draw it."""
    with Lab(nodes=1, subnets=1, daemon_arguments=["--run-router=false", "--run-service-proxy=false"]) as lab:
        lab.wire_statically()
        lab.start()
        lab.wait(lambda: lab.check_alive() and lab.nodes[0].ready(), 40, "the daemon ready")
        web = lab.pod("web", "node1", labels={"app": "web"})
        ports = (("tcp", 5432, "postgres"), ("tcp", 80, "http"))
        database = lab.pod("database", "node1", labels={"app": "database"}, ports=ports)
        other = lab.pod("other", "node1")
        lab.apply(POLICIES)
        for source in (web, other):
            assert until(source.prober, database.job(80), lambda result: not result.allowed) is not None
        assert until(web.prober, database.job(5432), lambda result: result.allowed) is not None
        assert until(web.prober, other.job(80), lambda result: not result.allowed) is not None
        node = lab.nodes[0]
        lab.wait(lambda: _bound(node.sh("iptables-save -t filter")) == len(lab.pods), 10, "bound pods")
        chains = "\n".join(tree(node.sh("iptables-save -t filter")))
        members = "\n".join(sorted(sets(node.sh("ipset save"))))
    return f"```\n{chains}\n\n{members}\n```\n"


def shown() -> str:
    """The picture on the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def main(words: list[str]) -> int:
    """Draw, and print or write."""
    picture = draw()
    if "--write" not in words:
        print(picture)
        return 0
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{picture}{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
