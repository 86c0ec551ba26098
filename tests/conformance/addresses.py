"""Scenarios of addresses: blocks with exceptions, and pods of all sorts, some of which policy does not mean."""

from __future__ import annotations

from tests.conformance.vocabulary import (
    ADDRESSES,
    ALL4,
    ALL6,
    API,
    BLUE,
    BOTH,
    HOSTS4,
    HOSTS6,
    N1,
    N1V6,
    N2,
    N2V6,
    NODES,
    OUTSIDE,
    WEB,
    Manifest,
    block,
    goal,
    host_pod,
    into,
    ip4,
    ip6,
    labels,
    out,
    pod,
    pods,
    policy,
    port,
    source,
    spaces,
    where,
)

Scenarios = dict[str, list[Manifest]]
NODE1, NODE2, OUTSIDE4, OUTSIDE6 = (
    f"{NODES['n1'][0]}/32",
    f"{NODES['n2'][0]}/32",
    f"{OUTSIDE[0]}/32",
    f"{OUTSIDE[1]}/128",
)
CLOSED = policy("x", "closed", policyTypes=BOTH)

BLOCKS: Scenarios = {
    "a block": [into(source(block(N1)))],
    "a block with an exception": [into(source(block(HOSTS4, N2)))],
    "two exceptions": [into(source(block(ALL4, ip4("x/a"), OUTSIDE4)))],
    "exceptions inside each other": [into(source(block(ALL4, N1, ip4("x/a"), "10.253.1.8/29")))],
    "exceptions that leave nothing": [into(source(block(ALL4, "0.0.0.0/1", "128.0.0.0/1")))],
    "exceptions that leave nothing beside a peer": [into(source(block(ALL4, "0.0.0.0/1", "128.0.0.0/1"), pods(WEB)))],
    "an exception of one rule spares another rule": [into(source(block(HOSTS4, N2)), source(pods(WEB)))],
    "an exception of one rule spares another block": [into(source(block(HOSTS4, N2)), source(block(N2)))],
    "an exception spares a sibling": [into(source(block(HOSTS4, N2), block(ip4("x/c"))))],
    "an exception spares a sibling before it": [into(source(block(ip4("x/c")), block(HOSTS4, ip4("x/c"))))],
    "an exception spares a sibling after it": [into(source(block(HOSTS4, ip4("x/c")), block(ip4("x/c"))))],
    "exceptions of each other": [into(source(block(HOSTS4, N1), block(HOSTS4, N2)))],
    "an exception of one policy spares another policy": [
        into(source(block(HOSTS4, N2))),
        into(source(block(N2)), of=WEB, name="q"),
    ],
    "an exception of one port spares another port": [
        into(source(block(HOSTS4, N2), ports=[port(80)]), source(block(HOSTS4), ports=[port(81)]))
    ],
    "an exception spares pods outwards": [out(goal(block(HOSTS4, N2), spaces(BLUE)))],
    "overlapping blocks": [into(source(block(N1), block("10.253.1.8/29"), block(N2)))],
    "the same block twice": [into(source(block(N1), block(N1)), source(block(N1)))],
    "blocks side by side": [into(source(block("10.253.1.0/25"), block("10.253.1.128/25"), block("10.253.2.0/24")))],
    "a block with host bits": [into(source(block("10.253.1.77/24")))],
    "a block inside another's exception's inside": [
        into(source(block(ALL4, N1), block(N1, "10.253.1.8/29"), block(ip4("x/a"))))
    ],
    "everything of one family": [into(source(block(ALL4)))],
    "everything of IPv6": [into(source(block(ALL6)))],
    "everything of both families": [into(source(block(ALL4), block(ALL6)))],
    "everything of IPv6 but one": [into(source(block(ALL6, ip6("x/c"))))],
    "everything of IPv6 outwards": [out(goal(block(ALL6)))],
    "a block of IPv6": [into(source(block(HOSTS6, N2V6)))],
    "a block of IPv6 in other letters": [into(source(block("FD53:0001:0:0::/64")))],
    "a half of everything": [into(source(block("0.0.0.0/1"), block("::/1")))],
    "a block of each family": [into(source(block(N1), block(N2V6)))],
    "a block of one family beside pods": [into(source(block(N1V6), pods(API)))],
    "a block with ports": [into(source(block(N2), block(N1V6), ports=[port(80), port(81, "UDP")]))],
    "a block of one pod": [into(source(block(ip4("y/a")), block(ip6("y/b"))))],
    "a block of the outside host": [into(source(block(OUTSIDE4), block(OUTSIDE6)))],
    "a block of the other node": [into(source(block(NODE2)), of=WEB)],
    "a block of the own node": [into(source(block(NODE1)), of=WEB)],
    "blocks outwards": [out(goal(block(N2), block(N1V6)))],
    "the outside host outwards": [out(goal(block(OUTSIDE4), block(OUTSIDE6)))],
    "everything but the outside host outwards": [out(goal(block(ALL4, OUTSIDE4), block(ALL6, OUTSIDE6)))],
    "nodes outwards": [out(goal(block(NODE1), block(f"{NODES['n2'][1]}/128")))],
    "many blocks": [into(source(*(block(f"10.253.{n // 8 + 1}.{n % 8 * 3 + 4}/31") for n in range(16))))],
    "a block is not only for pods that are known": [
        pod("y/a", ips=()),
        into(source(block(ip4("y/a")))),
    ],
}
PODS_OF_ALL_SORTS: Scenarios = {
    "a finished pod is no target": [pod("x/a", phase="Succeeded"), CLOSED],
    "a failed pod is no target": [pod("x/c", phase="Failed"), CLOSED],
    "a finished pod is no peer": [pod("y/a", phase="Succeeded"), into(source(spaces(BLUE)))],
    "a finished pod is no peer outwards": [pod("y/a", phase="Failed"), out(goal(spaces(BLUE)))],
    "a finished pod whose address another has now": [
        pod("x/old", "y/a", labels={"app": "web"}, phase="Succeeded"),
        into(source(pods(WEB))),
        into(own="y", of=API),
    ],
    "an address that a finished target gave away": [
        pod("x/old", "y/a", labels={"app": "old"}, phase="Failed"),
        policy("x", "old", labels(app="old"), policyTypes=BOTH),
    ],
    "another pod at the address of one that is gone": [
        pod("y/a", ips=()),
        pod("x/new", "y/a", labels={"app": "api"}),
        into(source(pods(API))),
        into(source(pods(WEB)), own="y"),
    ],
    "a pod without an address is no target": [pod("x/a", ips=(), phase="Pending"), CLOSED],
    "a pod without an address is no peer": [pod("y/a", ips=(), phase="Pending"), into(source(spaces(BLUE)))],
    "a pending pod with an address is both": [
        pod("x/a", phase="Pending"),
        pod("y/a", phase="Pending"),
        into(source(spaces(BLUE))),
    ],
    "a pod of an unknown phase is both": [
        pod("x/a", phase="Unknown"),
        pod("y/a", phase="Unknown"),
        into(source(spaces(BLUE))),
    ],
    "a pod that is going is both": [
        {**(going := pod("x/a")), "metadata": {**going["metadata"], "deletionTimestamp": "2030-01-01T00:00:00Z"}},
        into(source(pods({}))),
    ],
    "a pod in its node's network is no target": [host_pod("x/h", "n1", app="web"), CLOSED],
    "a pod in its node's network is no peer": [
        host_pod("x/h", "n1", app="web"),
        host_pod("y/h", "n2", app="web"),
        into(source(spaces({}, WEB))),
    ],
    "a pod in its node's network is no peer outwards": [
        host_pod("x/h", "n1", app="web"),
        host_pod("y/h", "n2", app="web"),
        out(goal(spaces({}, WEB))),
    ],
    "a pod in its node's network has its node's address": [
        host_pod("y/h", "n2", app="web"),
        policy("x", "p", ingress=[source(block(NODE2))], egress=[goal(block(NODE2))]),
    ],
    "a pod with one address and no list": [
        {**(single := pod("x/a")), "status": {"phase": "Running", "podIP": single["status"]["podIP"]}},
        into(source(pods(WEB))),
    ],
    "a pod whose IPv6 address comes first": [
        pod("x/a", ips=ADDRESSES["x/a"][::-1]),
        pod("y/a", ips=ADDRESSES["y/a"][::-1]),
        into(source(spaces(BLUE))),
    ],
    "a pod of IPv4 only": [pod("x/a", ips=ADDRESSES["x/a"][:1]), into(source(pods(WEB)))],
    "a pod of IPv6 only": [pod("x/a", ips=ADDRESSES["x/a"][1:]), into(source(pods(WEB)))],
    "a peer of IPv4 only": [pod("y/a", ips=ADDRESSES["y/a"][:1]), into(source(spaces(BLUE)))],
    "a peer of IPv6 only": [pod("y/a", ips=ADDRESSES["y/a"][1:]), out(goal(spaces(BLUE)))],
    "an address in other letters": [
        pod("x/a", ips=(ADDRESSES["x/a"][0], "FD53:0001:0:0::000A")),
        pod("y/a", ips=(ADDRESSES["y/a"][0], "fd53:1:0:0:0:0:0:D")),
        into(source(spaces(BLUE))),
    ],
    "a pod without labels at all": [
        {**(bare := pod("x/a")), "metadata": {"namespace": "x", "name": bare["metadata"]["name"], "labels": None}},
        policy("x", "p", where("app", "DoesNotExist"), policyTypes=BOTH),
    ],
    "a pod that changed its labels": [pod("x/a", labels={"app": "db"}), into(source(pods(API)), of=labels(app="db"))],
    "nodes reach their own pods only": [policy(own, "p", policyTypes=["Ingress"]) for own in "xyz"],
    "pods do not reach their node unless allowed": [policy(own, "p", policyTypes=["Egress"]) for own in "xyz"],
    "pods reach a node that is allowed": [out(goal(block(NODE1)), own=own) for own in "xyz"],
}
