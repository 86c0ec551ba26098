"""The apiserver is away for long, while a daemon runs and while one starts; meanwhile objects go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain

import pytest

from tests.lab.test_daemon import started
from tests.lab.test_firewall import ALLOW, DENY
from tests.lab.test_services import SHOP, VIP
from tests.lab.test_stop import look, settled
from tests.support.lab import Lab, objects
from tests.support.lab.fabric import Site
from tests.support.lab.stores import ApiStore
from tests.support.probes import until

pytestmark = pytest.mark.root
WATCHED = 6
"""Kinds that router and firewall watch."""
OTHERS = [Site(number, 1, f"other{number}") for number in (77, 78)]
"""Nodes that are nothing but objects of the API."""
VIPS = (VIP, "10.96.0.11")
STALL = 5.0
"""Seconds for an answer: a machine that stalls is no loss."""
Looks = dict[str, list[str]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    arguments = ["--run-service-proxy=false", "-v2"]
    # To somebody outside the cluster Services are told, be it that he never answers.
    arguments += ["--advertise-cluster-ip", "--peer-router-ips=192.0.2.99", "--peer-router-asns=65001"]
    with Lab(nodes=2, subnets=1, daemon_arguments=arguments) as lab:
        for site in OTHERS:
            lab.apply(objects.node(site, lab.families, {}))
        shop = SHOP.replace("app: web", "role: friend")
        for number, vip in enumerate(VIPS):
            own = shop.replace("name: web", f"name: shop{number}").replace("Port: 30", f"Port: 3{number}")
            lab.apply(own.replace(VIP, vip))
            lab.apply(DENY.replace("deny", f"shut{number}").replace("closed", f"shut{number}"))
        lab.apply(DENY)
        lab.apply(ALLOW)
        started(lab)
        lab.pod("friend", "node2", labels={"role": "friend"})
        lab.pod("target", "node1", labels={"app": "closed"})
        for number in range(len(VIPS)):
            lab.pod(f"leaves{number}", "node2", labels={"role": "friend"})
            lab.pod(f"shut{number}", "node1", labels={"app": f"shut{number}"})
        yield lab


class Case:
    """Objects that go: of each kind one, which has left its traces on a node."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab, self.number = lab, number
        self.node = lab.node("node1")
        self.friend, self.target, self.leaves, self.shut = (
            lab.pods[f"default/{name}"] for name in ("friend", "target", f"leaves{number}", f"shut{number}")
        )
        self.before: Looks = {}
        self.since = 0
        self.going = re.compile("")
        """What nothing is to be left of."""
        self.shared: list[str] = []
        """What changes if that was the last of its kind."""

    def begin(self) -> None:
        """Everything is in force; take note of it."""
        lab, node = self.lab, self.node
        for source, target, wanted in ((self.leaves, self.target, True), (self.friend, self.shut, False)):
            assert until(source.prober, target.job(), lambda r, wanted=wanted: r.allowed is wanted) is not None
        vip, other = VIPS[self.number], OTHERS[self.number]

        def stands() -> bool:
            # The kernel takes a second to take an IPv6 address for good.
            found = look(node)
            return vip in str(found["paths"]) and "tentative" not in str(found["addresses"])

        lab.wait(stands, 20, "a path of the Service")
        self.before, self.since = settled(lab, node), len(self.log())
        self.friend.prober.stream("steady", self.target.job(), rate=20.0, bound=STALL)
        text = "\n".join(chain(*self.before.values()))
        found = re.search(rf"add (\S+) {self.shut.ip}\n(?s:.*)--match-set \1 dst -g (\S+)", text)
        assert found is not None
        self.shared = [found[1], found[2], "KUBE-ROUTER-POD-INGRESS "]
        words = [f"{vip}/32", other.addresses[0], other.pod_cidrs[0], self.leaves.ip, f"{found[1]} {self.shut.ip}"]
        words += [f":3{self.number}080", f":3{self.number}053"]
        assert [word for word in words if word not in text] == []
        self.going = re.compile("|".join(rf"{re.escape(word)}\b" for word in words))

    def log(self) -> str:
        return (self.node.home / "daemon.log").read_text()

    def asked(self, page: str) -> tuple[bool, str]:
        """Whether the daemon says yes, and all that it says."""
        said = self.node.sh(f"curl -sS -w '%{{http_code}}' http://127.0.0.1:20244/{page} || true")
        return said.endswith("200"), said

    def missed(self) -> None:
        """Wait until the daemon has noticed of every kind that the apiserver is away."""
        words = "cannot be watched: "
        self.lab.wait(lambda: self.log()[self.since :].count(words) >= WATCHED, 10, "an apiserver that is missed")

    def go(self) -> None:
        """A Service, a NetworkPolicy, a Node and a Pod are deleted."""
        self.lab.delete("Service", "default", f"shop{self.number}")
        self.lab.delete("NetworkPolicy", "default", f"shut{self.number}")
        self.lab.delete("Node", "", OTHERS[self.number].name)
        self.lab.remove_pod(self.leaves)

    def unchanged(self) -> None:
        """Nothing has come and nothing has gone, nor has anything been written."""
        assert differing(self.before, look(self.node)) == []
        assert self.wrote() == []

    def gone(self) -> None:
        """Wait until there is nothing left of what went. Nothing else has come or gone."""
        after: Looks = {}

        def left() -> list[str]:
            after.update(look(self.node))
            return [line for line in chain(*after.values()) if self.going.search(line)]

        try:
            self.lab.wait(lambda: not left(), 20)
        except TimeoutError:
            pytest.fail(f"is left: {left()}")
        lines = [line for line in differing(self.before, after) if not self.going.search(line)]
        assert [line for line in lines if not any(word in line for word in self.shared)] == []
        assert until(self.friend.prober, self.shut.job(), lambda result: result.allowed) is not None

    def end(self) -> None:
        """Who stays has never been hindered."""
        report = self.friend.prober.stop_stream("steady")
        assert (report.lost, report.allowed > 0) == (0, True)

    def wrote(self) -> list[str]:
        """The rows that the daemon has written."""
        lines = self.log()[self.since :].splitlines()
        return [found[0] for line in lines if (found := re.search(r"\w+: [+~-] .*", line))]

    def written_anew(self) -> list[str]:
        """Those that it has not removed."""
        return [row for row in self.wrote() if ": - " not in row]


def differing(before: Looks, after: Looks) -> list[str]:
    """Lines that have come or gone."""
    old, new = Counter(chain(*before.values())), Counter(chain(*after.values()))
    return [*(old - new), *(new - old)]


def away(lab: Lab) -> AbstractContextManager[None]:
    """The apiserver is away meanwhile."""
    assert isinstance(lab.store, ApiStore)
    return lab.store.away()


def test_what_went_while_the_apiserver_was_away_goes_when_it_is_back_and_nothing_else(lab: Lab) -> None:
    case = Case(lab, 0)
    case.begin()
    with away(lab):
        case.missed()
        case.go()
        assert case.node.ready()
        case.unchanged()
    case.gone()
    # What stays is not even written again.
    assert case.written_anew() == []
    case.end()


def test_a_daemon_that_starts_while_the_apiserver_is_away_keeps_what_it_finds_until_it_is_back(lab: Lab) -> None:
    case = Case(lab, 1)
    case.begin()
    with away(lab):
        case.node.stop_daemon()
        case.since = len(case.log())
        case.node.start_daemon()
        case.missed()
        case.go()
        lab.wait(lambda: case.asked("startupz")[0], 20, "a daemon that is up")
        assert case.asked("livez")[0]
        ready, said = case.asked("readyz")
        assert not ready
        assert "router: not ready: waiting for endpointslices, " in said
        assert "Connection refused" in said
        case.unchanged()
    lab.wait(lambda: lab.check_alive() and case.node.ready(), 20, "a ready daemon")
    case.gone()
    case.end()
    # Settings are written at every start, and one chain named what has gone.
    anew = [row for row in case.written_anew() if not row.startswith("Sysctl: ")]
    assert [row for row in anew if not any(f"'{name.strip()}'" in row for name in case.shared)] == []
