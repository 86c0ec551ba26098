"""Which link leads to which pod: by address, first come, and only for pods of this node."""

from __future__ import annotations

from kuberouter.cluster.bindings import BindingIndex
from kuberouter.model.cluster import Pod, PodLink
from kuberouter.model.core import ObjectRef

A, B = bytes((10, 244, 1, 2)), bytes((10, 244, 1, 3))
A6 = b"\xfd" + bytes(14) + b"\2"


def pod(name: str, *addresses: bytes, node: str = "n1", finished: bool = False) -> Pod:
    return Pod(ObjectRef("Pod", "default", name), node, addresses=addresses, finished=finished)


def link(name: str, *addresses: bytes, witnessed: bool = False) -> PodLink:
    return PodLink(ObjectRef("PodLink", "", name), addresses, True, witnessed)


def test_a_pod_is_bound_whichever_is_known_first() -> None:
    for order in (0, 1):
        index = BindingIndex("n1")
        for step in (order, 1 - order):
            index.update(None, pod("a", A) if step else link("veth1", A))
        assert index.touched == {pod("a").ref}
        assert index.link_of(pod("a", A)) == link("veth1", A)


def test_an_address_of_a_second_link_is_not_believed_until_the_first_is_gone() -> None:
    index = BindingIndex("n1")
    first, second = link("veth1", A, witnessed=True), link("veth2", A, witnessed=True)
    index.update(None, pod("a", A))
    index.update(None, first)
    index.update(None, second)
    assert index.link_of(pod("a", A)) == first
    # One that only learns its second family keeps its place.
    more = link("veth1", A, A6, witnessed=True)
    index.update(first, more)
    assert index.link_of(pod("a", A)) == more
    index.update(more, None)
    assert index.touched == {pod("a").ref}
    assert index.link_of(pod("a", A)) == second


def test_of_links_that_were_there_before_us_none_is_believed_against_another() -> None:
    """A pod may have taken the address of its neighbour before the daemon was started again."""
    index = BindingIndex("n1")
    thief, victim, witnessed = link("veth1", A), link("veth2", A), link("veth3", A, witnessed=True)
    index.update(None, pod("a", A))
    index.update(None, thief)
    assert index.disputed(pod("a", A)) == ()
    index.update(None, victim)
    assert index.touched == {pod("a").ref}
    assert index.link_of(pod("a", A)) is None
    assert index.disputed(pod("a", A)) == (thief, victim)
    index.update(None, witnessed)
    assert index.link_of(pod("a", A)) == witnessed
    assert index.disputed(pod("a", A)) == ()
    index.update(witnessed, None)
    index.update(thief, None)
    assert index.touched == {pod("a").ref}
    assert index.link_of(pod("a", A)) == victim


def test_who_has_taken_one_address_of_two_is_not_believed() -> None:
    index = BindingIndex("n1")
    index.update(None, pod("a", A, A6))
    index.update(None, link("veth1", A, B))
    index.update(None, link("veth2", A, A6))
    assert index.link_of(pod("a", A, A6)) == link("veth2", A, A6)
    assert index.link_of(pod("b", B)) == link("veth1", A, B)


def test_other_nodes_and_finished_pods_bind_nothing() -> None:
    index = BindingIndex("n1")
    index.update(None, pod("far", A, node="n2"))
    assert index.touched == set()
    index.update(None, pod("done", A, finished=True))
    assert index.touched == set()
    index.update(None, link("veth1", A))
    assert index.touched == set()


def test_a_pod_that_ends_frees_its_address_for_the_next() -> None:
    index = BindingIndex("n1")
    old, new = pod("a", A), pod("b", A)
    index.update(None, old)
    index.update(old, pod("a", A, finished=True))
    assert index.touched == {old.ref}
    index.update(None, new)
    index.update(None, link("veth1", A))
    assert index.touched == {new.ref}
    index.update(link("veth1", A), None)
    assert index.link_of(new) is None


def test_a_link_of_nobody_is_no_pods() -> None:
    index = BindingIndex("n1")
    index.update(None, link("uplink", B))
    assert index.touched == set()
    assert index.link_of(pod("a", A)) is None
