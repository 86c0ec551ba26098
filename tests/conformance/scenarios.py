"""What is put on the cluster by hand, one scenario for each line of what NetworkPolicy means.

A scenario is a list of manifests that are laid over the usual cluster: policies, and pods or namespaces that take the
place of those of the same name.
"""

from __future__ import annotations

from tests.conformance.addresses import BLOCKS, OUTSIDE4, OUTSIDE6, PODS_OF_ALL_SORTS, Scenarios
from tests.conformance.vocabulary import (
    API,
    BLUE,
    BOTH,
    FRONT,
    HOSTS4,
    HOSTS6,
    N1,
    N1V6,
    N2,
    N2V6,
    NOBODY,
    RED,
    WEB,
    block,
    both,
    container,
    goal,
    host_pod,
    into,
    labels,
    merged,
    namespace,
    out,
    pod,
    pods,
    policy,
    port,
    source,
    spaces,
    where,
)

ISOLATION: Scenarios = {
    "no policy": [],
    "deny ingress": [policy("x", "p", policyTypes=["Ingress"])],
    "deny egress": [policy("x", "p", policyTypes=["Egress"])],
    "deny both": [policy("x", "p", policyTypes=BOTH)],
    "deny everything everywhere": [policy(own, "p", policyTypes=BOTH) for own in "xyz"],
    "deny ingress by an empty list": [policy("x", "p", ingress=[])],
    "deny both by null lists": [policy("x", "p", policyTypes=BOTH, ingress=None, egress=None)],
    "an empty spec denies ingress": [policy("x", "p")],
    "deny some pods": [policy("x", "p", WEB)],
    "deny one pod": [policy("x", "p", both(WEB, FRONT), policyTypes=BOTH)],
    "types default to ingress": [policy("y", "p", ingress=[{}])],
    "types default to both with egress rules": [policy("y", "p", egress=[goal(pods(WEB))])],
    "types default to both with rules of both": [policy("y", "p", ingress=[source(pods({}))], egress=[goal(pods({}))])],
    "an empty list of types is none given": [policy("y", "p", policyTypes=[], egress=[goal(pods(WEB))])],
    "an empty egress list does not isolate egress": [policy("x", "p", egress=[])],
    "a null egress list does not isolate egress": [policy("x", "p", ingress=[{}], egress=None)],
    "types of ingress leave egress rules idle": [
        policy("x", "p", policyTypes=["Ingress"], ingress=[{}], egress=[goal(pods(NOBODY))])
    ],
    "types of egress leave ingress rules idle": [
        policy("x", "p", policyTypes=["Egress"], ingress=[source(pods(NOBODY))], egress=[{}])
    ],
    "types of egress without rules": [policy("x", "p", policyTypes=["Egress"], ingress=[{}])],
    "types of both without ingress rules": [policy("x", "p", policyTypes=BOTH, egress=[{}])],
    "types of both without egress rules": [policy("x", "p", policyTypes=BOTH, ingress=[{}])],
    "allow everything in": [policy("x", "p", ingress=[{}])],
    "allow everything out": [policy("x", "p", policyTypes=["Egress"], egress=[{}])],
    "a policy that selects nobody": [policy("x", "p", NOBODY, policyTypes=BOTH)],
    "a policy of a namespace without pods": [namespace("w"), policy("w", "p", policyTypes=BOTH)],
    "a policy selects in its own namespace only": [policy("z", "p", WEB, policyTypes=BOTH)],
    "one policy of both types keeps its directions apart": [
        policy("x", "p", policyTypes=BOTH, ingress=[], egress=[{}])
    ],
    "one policy of both types, the other way": [policy("x", "p", policyTypes=BOTH, ingress=[{}], egress=[])],
    "one policy of both types with a port for each": [
        policy("x", "p", policyTypes=BOTH, ingress=[{"ports": [port(80)]}], egress=[{"ports": [port(81)]}])
    ],
    "one policy of both types with a peer for each": [
        policy("x", "p", policyTypes=BOTH, ingress=[source(pods(WEB))], egress=[goal(pods(API))])
    ],
    "both ends have a say": [
        policy("x", "out", WEB, policyTypes=["Egress"], egress=[goal(spaces(BLUE))]),
        policy("y", "in", policyTypes=["Ingress"], ingress=[source(spaces(RED, WEB))]),
    ],
    "both ends allow different ports": [out({"ports": [port(80)]}), into({"ports": [port(81, "UDP")]}, own="y")],
}
TARGETS: Scenarios = {
    "selectors of targets by expression": [policy("x", "p", where("tier", "DoesNotExist"), policyTypes=["Ingress"])],
    "targets by In": [policy("x", "p", where("app", "In", "api", "db"), policyTypes=BOTH)],
    "targets by NotIn, an absent key": [policy("z", "p", where("app", "NotIn", "api"), policyTypes=BOTH)],
    "targets by Exists": [policy("x", "p", where("tier", "Exists"), policyTypes=BOTH)],
    "targets by labels and expressions together": [
        policy("x", "p", both(WEB, where("tier", "DoesNotExist")), policyTypes=BOTH)
    ],
    "targets by two expressions of one key": [
        policy("x", "p", both(where("app", "Exists"), where("app", "NotIn", "web", "db")), policyTypes=BOTH)
    ],
    "targets by what contradicts itself": [
        policy("x", "p", both(where("app", "In", "web"), where("app", "NotIn", "web")), policyTypes=BOTH)
    ],
    "targets by an empty value": [policy("y", "p", labels(empty=""), policyTypes=BOTH)],
    "targets without labels": [policy("z", "p", where("app", "DoesNotExist"), policyTypes=BOTH)],
    "a null selector selects all": [{**policy("x", "p"), "spec": {"podSelector": None, "policyTypes": BOTH}}],
    "a selector of null parts selects all": [
        policy("x", "p", {"matchLabels": None, "matchExpressions": None}, policyTypes=BOTH)
    ],
}
PEERS: Scenarios = {
    "empty from is everybody": [policy("x", "p", ingress=[{"from": [], "ports": [port(80)]}])],
    "null from is everybody": [policy("x", "p", ingress=[{"from": None, "ports": [port(80)]}])],
    "empty to is everybody": [out({"to": [], "ports": [port(81)]})],
    "null to and null ports are everything": [out({"to": None, "ports": None})],
    "empty ports are all": [into({"from": [pods(API)], "ports": []})],
    "null ports are all": [into({"from": [pods(API)], "ports": None})],
    "pods of the own namespace": [into(source(pods({})))],
    "pods of the own namespace outwards": [out(goal(pods({})))],
    "pods by label are those of the own namespace": [into(source(pods(WEB)), own="y")],
    "a peer that matches nothing": [into(source(pods(NOBODY)))],
    "a peer that contradicts itself": [
        into(source(spaces({}, both(where("app", "In", "web"), where("app", "NotIn", "web")))))
    ],
    "a namespace that matches nothing": [into(source(spaces(labels(team="none"))))],
    "a peer that matches nothing beside one that does": [into(source(pods(NOBODY), spaces(BLUE)))],
    "namespaces by label": [into(source(spaces(BLUE)))],
    "namespaces by two labels": [into(source(spaces(labels(team="blue", env="prod"))), own="z")],
    "all namespaces": [into(source(spaces({})))],
    "all namespaces outwards": [out(goal(spaces({})))],
    "all pods of all namespaces": [into(source(spaces({}, {})))],
    "some pods of all namespaces": [into(source(spaces({}, WEB)))],
    "all pods of some namespaces": [into(source(spaces(BLUE, {})))],
    "namespace and pods together": [into(source(spaces(BLUE, WEB)))],
    "namespace and pods together outwards": [out(goal(spaces(BLUE, WEB)))],
    "namespace or pods": [into(source(spaces(BLUE), pods(WEB)))],
    "namespace or pods, in two rules": [into(source(spaces(BLUE)), source(pods(WEB)))],
    "namespace by its name": [into(source(spaces(labels(**{"kubernetes.io/metadata.name": "z"}))))],
    "namespaces by In of their names": [
        into(source(spaces(where("kubernetes.io/metadata.name", "In", "x", "z"), API)), own="y")
    ],
    "namespaces by NotIn, an absent key": [into(source(spaces(where("team", "NotIn", "blue"))))],
    "namespaces by Exists": [into(source(spaces(where("team", "Exists"))), own="z")],
    "namespaces by DoesNotExist": [into(source(spaces(where("team", "DoesNotExist"))))],
    "namespaces by labels and expressions": [into(source(spaces(both(RED, where("env", "DoesNotExist")))), own="z")],
    "namespaces that are labelled alike": [namespace("z", team="blue"), into(source(spaces(BLUE)))],
    "a namespace that loses its labels": [namespace("y"), into(source(spaces(BLUE)))],
    "In": [into(source(spaces({}, where("app", "In", "web", "db"))))],
    "In needs the key": [into(source(spaces({}, where("tier", "In", "front", "back"))))],
    "NotIn holds for an absent key": [into(source(spaces({}, where("app", "NotIn", "web"))))],
    "NotIn of several": [into(source(spaces({}, where("app", "NotIn", "web", "api"))))],
    "Exists": [into(source(spaces({}, where("tier", "Exists"))))],
    "DoesNotExist": [into(source(spaces({}, where("app", "DoesNotExist"))))],
    "an empty label value needs the key": [into(source(spaces({}, labels(empty=""))))],
    "an empty value by In": [into(source(spaces({}, where("empty", "In", ""))))],
    "an empty value by NotIn": [into(source(spaces({}, where("empty", "NotIn", ""))))],
    "labels and expressions of one peer": [into(source(spaces({}, both(WEB, where("tier", "NotIn", "back")))))],
    "three expressions of one peer": [
        into(source(spaces({}, both(where("app", "Exists"), where("tier", "Exists"), where("tier", "NotIn", "back")))))
    ],
    "rules do not mix their peers and ports": [
        into(source(pods(WEB), ports=[port(80)]), source(spaces(BLUE), ports=[port(81, "UDP")]))
    ],
    "one rule combines all its peers and ports": [
        into(source(pods(WEB), spaces(BLUE), ports=[port(80), port(81, "UDP")]))
    ],
    "an empty rule beside a narrow one": [into(source(pods(NOBODY), ports=[port(80)]), {})],
    "peers of all three kinds": [into(source(pods(API), spaces(BLUE, WEB), block(OUTSIDE4), block(OUTSIDE6)))],
    "the same peer twice": [into(source(pods(WEB), pods(WEB)), source(pods(WEB)))],
    "the same selector in and out": [
        policy("x", "p", ingress=[source(spaces({}, WEB))], egress=[goal(spaces({}, WEB))])
    ],
}
PORTS: Scenarios = {
    "one port": [into({"ports": [port(80)]})],
    "one port outwards": [out({"ports": [port(80)]})],
    "one port of UDP": [into({"ports": [port(81, "UDP")]})],
    "one number of two protocols": [into({"ports": [port(80, "TCP"), port(80, "UDP")]})],
    "a whole protocol": [into({"ports": [port(protocol="UDP")]})],
    "a whole protocol outwards": [out(goal(spaces({}), ports=[port(protocol="TCP")]))],
    "a whole protocol beside a port of the other": [into({"ports": [port(protocol="UDP"), port(80)]})],
    "a whole protocol beside one of its ports": [into({"ports": [port(protocol="TCP"), port(80)]})],
    "a nil protocol without a port is all of TCP": [into({"ports": [port()]})],
    "SCTP alone opens neither of the others": [into({"ports": [port(protocol="SCTP"), port(80, "SCTP")]})],
    "all three protocols": [into({"ports": [port(80, "SCTP"), port(80, "TCP"), port(81, "UDP")]})],
    "a range": [into({"ports": [port(79, end=80)]})],
    "a range of one": [into({"ports": [port(81, end=81)]})],
    "a range that begins above": [into({"ports": [port(81, end=90)]})],
    "a range that ends below": [into({"ports": [port(1, end=79)]})],
    "a range of all": [into({"ports": [port(1, end=65535)]})],
    "a range of both": [into({"ports": [port(80, "TCP", 81), port(81, "UDP")]})],
    "a range of UDP outwards": [out({"ports": [port(70, "UDP", 80)]})],
    "ranges that overlap": [into({"ports": [port(70, end=80), port(75, end=80), port(80, "UDP", 90)]})],
    "ranges that touch": [into({"ports": [port(70, end=80), port(81, end=90)]})],
    "more ports than one match holds": [into({"ports": [*(port(n) for n in range(1001, 1041, 2)), port(81)]})],
    "more ranges than one match holds": [
        into({"ports": [*(port(n, "UDP", n + 2) for n in range(1000, 1080, 4)), port(80, "UDP", 81)]})
    ],
}
NAMES: Scenarios = {
    "a named port differs per pod": [into({"ports": [port("http")]})],
    "a named port and its protocol": [into({"ports": [port("dns", "UDP")]})],
    "a name of another protocol": [into({"ports": [port("dns", "TCP")]})],
    "a name that nobody has": [into(source(spaces({}), ports=[port("nobody")]))],
    "a name that nobody has, from everybody": [into({"ports": [port("nobody")]})],
    "a name that nobody has beside a number": [into(source(spaces({}), ports=[port("nobody"), port(81)]))],
    "a name that nobody has, outwards": [out({"ports": [port("nobody")]})],
    "a name that one pod has": [into({"ports": [port("serve")]})],
    "a name and a number": [into({"ports": [port("serve"), port(81, "UDP")]})],
    "a name from some peers": [into(source(spaces(BLUE), ports=[port("http")]))],
    "a name from addresses": [into(source(block(N2), block(N1V6), ports=[port("http")]))],
    "names in two rules": [into(source(pods(WEB), ports=[port("http")]), source(spaces(BLUE), ports=[port("serve")]))],
    "named ports of destinations": [out(goal(spaces({}), ports=[port("http")]))],
    "named ports of some destinations": [out(goal(spaces(BLUE), ports=[port("serve")]))],
    "named ports of any destination": [out({"ports": [port("http")]})],
    "named ports of UDP of any destination": [out({"ports": [port("dns", "UDP")]})],
    "named ports of addresses": [out(goal(block(HOSTS4, N2), block(HOSTS6, N1V6), ports=[port("http")]))],
    "a name beside a number outwards": [out(goal(spaces({}), ports=[port("other"), port(81, "UDP")]))],
    "one name for two protocols": [
        pod("x/a", containers=[container(("dns", 80, "TCP"), ("dns", 80, "UDP"), ("other", 81, "UDP"))]),
        into({"ports": [port("dns", "UDP")]}),
        into({"ports": [port("dns", "TCP")]}, own="y"),
        out({"ports": [port("dns", "TCP")]}, own="z"),
    ],
    "ports of two pods do not mix": [
        pod("x/a", containers=[container(("http", 80, "TCP"), ("metrics", 81, "TCP"))]),
        pod("x/b", containers=[container(("http", 80, "TCP"))]),
        into({"ports": [port("metrics")]}),
    ],
    "names of two containers": [
        pod("x/a", containers=[container(("first", 80, "TCP")), container(("second", 81, "TCP"))]),
        into({"ports": [port("second")]}),
    ],
    "a sidecar's port has a name": [
        pod("x/a", initContainers=[container(("side", 81, "TCP"), restartPolicy="Always")]),
        into({"ports": [port("side")]}),
    ],
    "an init container's port has none": [
        pod("x/a", initContainers=[container(("side", 81, "TCP"))]),
        into({"ports": [port("side")]}),
    ],
    "a pod without ports": [pod("x/a", containers=[{}]), into({"ports": [port("http")]})],
    "a port without a protocol is of TCP": [
        pod("x/a", containers=[{"ports": [{"name": "plain", "containerPort": 81}]}]),
        into({"ports": [port("plain")]}),
    ],
    "a name of a finished pod means nothing": [
        pod("y/a", phase="Succeeded"),
        out({"ports": [port("http")]}),
    ],
    "a name of a pod in its node's network means nothing": [
        host_pod("x/h", "n2", app="web"),
        out({"ports": [port("http")]}),
    ],
}
OVERLAPS: Scenarios = {
    "policies add up": [
        into(source(pods(WEB))),
        into(source(spaces(BLUE), ports=[port(81, "UDP")]), name="q"),
    ],
    "a deny takes nothing back": [policy("x", "deny"), policy("x", "allow", ingress=[{}])],
    "a deny takes nothing back, whatever its name": [policy("x", "z-deny"), policy("x", "a-allow", ingress=[{}])],
    "one policy for each direction": [into(source(pods(API))), out(goal(pods(WEB)), name="q")],
    "a direction is open that no policy names": [into(source(pods(NOBODY))), into(source(spaces({})), name="q")],
    "overlapping policies select different pods": [
        into(source(pods(API)), of=WEB),
        into(source(spaces(BLUE)), of=where("tier", "Exists"), name="q"),
    ],
    "five policies for one pod": [
        into({"ports": [port(80)]}, name="p1"),
        into(source(pods(API)), of=WEB, name="p2"),
        into(source(spaces(BLUE), ports=[port(81)]), of=FRONT, name="p3"),
        policy("x", "p4", where("app", "Exists"), policyTypes=BOTH, egress=[goal(spaces({}), ports=[port(80)])]),
        out(goal(block(N1), block(N2V6)), of=both(WEB, FRONT), name="p5"),
    ],
    "the same policy under two names": [into(source(pods(WEB))), into(source(pods(WEB)), name="q")],
    "the same body in every namespace": [
        policy(own, "same", ingress=[source(spaces({}, WEB), ports=[port(80)])]) for own in "xyz"
    ],
    "the same words mean other pods in every namespace": [
        policy(own, "same", ingress=[source(pods(WEB))], egress=[goal(pods({}))]) for own in "xyz"
    ],
    "names that join alike": [
        policy("x", "yz", WEB, policyTypes=["Ingress"]),
        into({"ports": [port(81)]}, own="y", of=WEB),
    ],
    "long names with dots": [
        into(source(pods(WEB)), name="a.very.long-name" * 15),
        into(source(pods(API)), name="a.very.long-name" * 15 + "s", own="y"),
    ],
    "many rules of one policy": [
        into(*(source(pods(labels(app=f"app-{n}")), ports=[port(n)]) for n in range(60, 100)))
    ],
    "a web of namespaces": [
        policy("x", "p", ingress=[source(spaces(BLUE))], egress=[goal(spaces(where("team", "DoesNotExist")))]),
        policy("y", "p", ingress=[source(spaces(labels(team="none")))], egress=[goal(spaces(RED))]),
        policy("z", "p", ingress=[source(spaces(RED, WEB))], egress=[goal(spaces(BLUE), ports=[port("http")])]),
    ],
}

GROUPS = (ISOLATION, TARGETS, PEERS, PORTS, NAMES, BLOCKS, PODS_OF_ALL_SORTS, OVERLAPS)
WRITTEN: Scenarios = {name: manifests for group in GROUPS for name, manifests in group.items()}
"""Every scenario by what it shows."""
assert len(WRITTEN) == sum(map(len, GROUPS)), "two scenarios have one name"
assert all(len(merged(manifests)) == len(manifests) for manifests in WRITTEN.values()), "two manifests have one name"

SERVES: dict[str, tuple[str, ...]] = {
    "W1": (
        "one policy of both types keeps its directions apart",
        "one policy of both types, the other way",
        "one policy of both types with a port for each",
        "one policy of both types with a peer for each",
    ),
    "W2": (
        "a name that nobody has",
        "a name that nobody has, from everybody",
        "a name that nobody has beside a number",
        "a name that nobody has, outwards",
    ),
    "W3": (
        "an exception spares a sibling",
        "an exception spares a sibling before it",
        "an exception spares a sibling after it",
        "exceptions of each other",
    ),
    "W4": (
        "an exception of one rule spares another block",
        "overlapping blocks",
        "the same block twice",
        "a block inside another's exception's inside",
    ),
    "W5": ("ports of two pods do not mix",),
    "W6": (
        "named ports of any destination",
        "named ports of UDP of any destination",
        "named ports of addresses",
        "a name of a finished pod means nothing",
    ),
    "W7": ("a nil protocol without a port is all of TCP", "one port", "a port without a protocol is of TCP"),
    "W8": ("everything of IPv6", "everything of IPv6 but one", "everything of IPv6 outwards"),
    "W18": ("names that join alike", "long names with dots"),
    "pain 29": ("a pod without an address is no target", "a pod without an address is no peer", "a pod without ports"),
    "pain 32": ("deny everything everywhere",),
    "except_then_allow": ("an exception of one rule spares another rule", "an exception spares pods outwards"),
    "protocol_only_rule": ("a whole protocol", "a whole protocol outwards"),
    "named_port_many_pods": ("a named port differs per pod", "named ports of some destinations"),
    "named_port_differs_per_pod": ("named ports of destinations", "one name for two protocols"),
    "comment_overlong": ("long names with dots",),
    "pod_without_ip": ("a pod without an address is no target", "a block is not only for pods that are known"),
    "nd_always": ("deny everything everywhere",),
    "ns_label_change": ("namespaces that are labelled alike", "a namespace that loses its labels"),
}
"""Scenarios by what they are there for: a weakness of the original, a pain of users, a test that users ask for."""
assert {name for names in SERVES.values() for name in names} <= WRITTEN.keys()
