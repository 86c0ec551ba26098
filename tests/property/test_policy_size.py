"""How much a node holds for its policies, and how much a change costs: numbers of rows, not of seconds."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from types import FrameType
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kuberouter.compilers.policies.names import content_name
from kuberouter.model.cluster import PodLink
from kuberouter.model.core import Family, ObjectRef
from kuberouter.model.events import Upserted
from kuberouter.model.netfilter import Chain, IpSet, Member
from kuberouter.model.nftables import NftChain
from kuberouter.wire.text import iptables, nft
from tests.property.test_policies import BACKENDS, PLAIN, world
from tests.support.verdicts import packet, verdicts
from tests.support.world import NODE, World

Object = dict[str, Any]
FIXED = 80
"""Rules of a node without pods and policies, both families, and some to spare."""


def pod(number: int, node: str = NODE, **labels: str) -> Object:
    addresses = [f"10.244.{1 if node == NODE else 2}.{number}", f"fd00::{1 if node == NODE else 2}:{number:x}"]
    return {
        "kind": "Pod",
        "metadata": {"namespace": "x", "name": f"{node}-{number}", "labels": labels},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": a} for a in addresses]},
    }


def policy(name: str, app: str, sources: Iterable[str], port: int = 80) -> Object:
    """A policy with one rule per source."""
    rules = [
        {"from": [{"podSelector": {"matchLabels": {"app": source}}}], "ports": [{"port": port + n}]}
        for n, source in enumerate(sources)
    ]
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "x", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress", "Egress"], "ingress": rules},
    }


def fed(objects: Iterable[Object], backend: str = "iptables") -> World:
    made = world(PLAIN, backend)
    made.feed(json.dumps({"kind": "Namespace", "metadata": {"name": "x"}}).encode())
    for obj in objects:
        made.feed(json.dumps(obj).encode())
    made.sync()
    return made


def rules(made: World) -> int:
    return sum(len(chain.rules) for chain in made.table(Chain).values())


@given(st.integers(1, 12), st.integers(0, 8), st.integers(0, 3))
def test_rules_grow_with_pods_and_policies_and_not_with_their_product(pods: int, policies: int, each: int) -> None:
    """W26, pain 26."""
    some = [pod(n + 2, app=f"a{n % 2}") for n in range(pods)]
    made = fed([*some, *(policy(f"p{n}", f"a{n % 2}", ["a0", "a1", "b"][:each], 80 + n) for n in range(policies))])
    for n in range(pods):
        link = PodLink(ObjectRef("PodLink", "", f"veth{n}"), (bytes((10, 244, 1, n + 2)),), bridged=True)
        made.put(Upserted(link))
    made.sync()
    # Two families; a rule about a pod's addresses and two to lead there; two directions of a policy; a profile's own
    # handful of rules, of which there are four at most.
    bound = 2 * (FIXED + 3 * pods + 2 * policies * 2 + policies * each + 4 * 6)
    assert rules(made) <= bound


def test_a_hundred_pods_of_one_kind_have_the_rules_of_one() -> None:
    """W26, pain 26: no rule per pod for every packet to walk."""
    one, many = (fed([*(pod(n + 2, app="a") for n in range(count)), policy("p", "a", ["b"])]) for count in (1, 100))
    assert many.table(Chain) == one.table(Chain)
    assert len(many.table(IpSet)) == len(one.table(IpSet))
    assert len(many.table(Member)) - len(one.table(Member)) == 99 * 2 * 2


def linked(count: int, backend: str, *, bridged: bool) -> World:
    """Pods of one kind with links such as CNI plugins make them, a policy, and a pod of another node."""
    made = fed([*(pod(n + 2, app="a") for n in range(count)), pod(2, "other"), policy("p", "a", ["b"])], backend)
    for n in range(count):
        addresses = (bytes((10, 244, 1, n + 2)), ip_address(f"fd00::1:{n + 2:x}").packed)
        made.put(Upserted(PodLink(ObjectRef("PodLink", "", link_name(n)), addresses, bridged)))
    made.feed(
        json.dumps({"kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDRs": ["10.244.0.0/16"]}}).encode()
    )
    made.sync()
    return made


def link_name(number: int) -> str:
    return f"veth{crc32(str(number).encode()):08x}"


@pytest.mark.parametrize("bridged", [True, False])
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_what_a_packet_meets_of_who_may_send_what_does_not_grow_with_the_pods(backend: str, bridged: bool) -> None:
    """W26: not for what comes from elsewhere, and for what a pod sends by few of many."""
    walked: dict[int, list[int]] = {}
    for count in (20, 200):
        kernel = verdicts(linked(count, backend, bridged=bridged))
        for source, link, port in (
            ("10.9.9.9", "eth0", False),
            ("10.244.2.2", "eth0", False),
            *((f"10.244.1.{n + 2}", link_name(n), bridged) for n in range(20)),
        ):
            kernel.passes("FORWARD", packet(source, "10.9.9.8", "udp", 53, link, bridged=port))
            walked.setdefault(count, []).append(kernel.walked)
    few, many = walked[20], walked[200]
    assert many[:2] == few[:2]
    assert backend == "iptables" or many == few
    # In steps of sixteen: a few names more to look at.
    assert max(many) <= max(few) + 32


def test_policies_with_the_same_selectors_share_one_set_and_with_the_same_rules_one_chain() -> None:
    one, both = (fed([pod(2, app="a"), *(policy(name, "a", ["b"]) for name in names)]) for names in (["p"], ["p", "q"]))
    assert both.table(IpSet) == one.table(IpSet)
    assert both.table(Chain) == one.table(Chain)


def test_a_policy_without_a_pod_here_is_nothing_here() -> None:
    """W25, pain 26."""
    nothing = fed([])
    elsewhere = fed([pod(2, "other", app="a"), pod(3, "other", app="b"), policy("p", "a", ["b"])])
    for row in (Chain, IpSet):
        assert elsewhere.table(row) == nothing.table(row)
    # The peers of a policy that does select one are followed wherever they run.
    here = fed([pod(2, app="a"), pod(3, "other", app="b"), policy("p", "a", ["b"])])
    assert any(key.address == bytes((10, 244, 2, 3)) for key in here.table(Member))


def test_a_label_of_a_pod_elsewhere_writes_entries_and_no_rule() -> None:
    """W29, pain 26."""
    made = fed([pod(2, app="a"), *(pod(n, "other", app="c") for n in range(3, 50)), policy("p", "a", ["b"])])
    before = dict(made.table(Chain))
    made.feed(json.dumps(pod(7, "other", app="b")).encode())
    assert made.sync() == 2
    assert made.table(Chain) == before
    made.feed(json.dumps(pod(8, "other", app="d")).encode())
    assert made.sync() == 0


def test_an_edited_policy_is_a_new_chain_and_never_an_old_one_with_other_sets() -> None:
    """W17: names are hashes of what they stand for."""
    made = fed([pod(2, app="a"), policy("p", "a", ["b", "c"])])
    before = dict(made.table(Chain))
    made.feed(json.dumps(policy("p", "a", ["c", "b", "d"])).encode())
    made.sync()
    for key, chain in made.table(Chain).items():
        if key.name.startswith("KUBE-NWPLCY-") and key in before:
            assert chain == before[key]


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_names_differ_wherever_contents_do(one: list[str], other: list[str]) -> None:
    """W18: parts of a content have lengths."""
    assert (content_name("P-", one) == content_name("P-", other)) == (one == other)


def test_names_are_within_the_kernels_limits() -> None:
    made = fed([pod(2, app="a"), policy("p", "a", ["b", "c"])])
    # linux/netfilter/x_tables.h: 28 characters and NUL; linux/netfilter/ipset/ip_set.h: 31 and NUL.
    assert max(len(key.name) for key in made.table(Chain)) <= 28
    assert max(len(key.name) for key in made.table(IpSet)) <= 31
    assert {key.family for key in made.table(Chain)} == set(Family)


def test_what_an_object_is_called_is_in_no_rule() -> None:
    """comment_overlong, pain 29: comments have one length, and words of users are only in hashes."""
    name = "q" * 200 + ".\"'; \n-A INPUT"
    odd = policy(name, "a", ["z" * 63, "c"])
    rule: Object = {"from": [{"namespaceSelector": {"matchLabels": {"team": "q" * 63}}}], "ports": [{"port": "w" * 15}]}
    odd["spec"]["ingress"].append(rule)
    for backend in BACKENDS:
        made = fed([pod(2, app="a"), odd], backend)
        assert made.journal.standing == ()
        text = render(made)
        assert text.count("KUBE-NWPLCY-") > 4
        assert not any(part in text for part in ("qq", "zz", "ww"))
        comments = re.findall(r'comment "?(kube-router:\w+)', text)
        assert len(comments) == sum(" comment " in line or "--comment " in line for line in text.splitlines())
        assert {len(comment) for comment in comments} == {22}


# --- work, in lines of code that are run -----------------------------------------------------------------------------


def lines_run(do: Callable[[], object]) -> int:
    """How many lines of Python something takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        del frame, argument
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def node(size: int, backend: str) -> tuple[list[Object], Callable[[], World]]:
    """As many pods here, pods elsewhere, and policies of which each selects two pods here."""
    objects = [
        *(pod(n + 2, app=f"a{n // 2}") for n in range(size)),
        *(pod(n + 2, "other", app=f"b{n}") for n in range(size)),
        *(policy(f"p{n}", f"a{n}", [f"b{n}", f"a{n}"], 80 + n) for n in range(size // 2)),
    ]
    return objects, lambda: fed(objects, backend)


def render(made: World) -> str:
    """The text by which the tools get all chains."""
    if Chain in made.drivers:
        script = iptables.Script("filter")
        for chain in made.table(Chain).values():
            script.chain(chain.key.name, chain.rules, chain.key)
        return str(script)
    chains = list(made.table(NftChain).values())
    text = nft.Script(chains[0].key.family)
    for chain in chains:
        text.chain(chain)
    return str(text)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_twice_as_much_is_twice_the_work_from_objects_to_text(backend: str) -> None:
    """W27, W25: no text is looked through for another, nothing is looked up by looking at everything."""
    few, many = (lines_run(lambda size=size: render(node(size, backend)[1]())) for size in (20, 80))
    assert few > 10_000
    assert many < 4.4 * few


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_the_work_for_a_change_is_that_of_the_change(backend: str) -> None:
    """W29, pain 26: what a pod elsewhere or a policy takes does not grow with the cluster."""
    work: dict[str, list[int]] = {}
    for size in (20, 80):
        made = node(size, backend)[1]()
        for what, obj in (
            ("a peer is relabelled", pod(5, "other", app="b4")),
            ("a stranger is relabelled", pod(6, "other", app="z")),
            ("a pod is new", pod(200, app="a1")),
            ("a policy is edited", policy("p1", "a1", ["b1", "a2"], 443)),
        ):
            raw = json.dumps(obj).encode()
            work.setdefault(what, []).append(lines_run(lambda made=made, raw=raw: (made.feed(raw), made.sync())))
    assert {what: few for what, (few, many) in work.items() if many > 1.5 * few} == {}
