"""What annotations of a Node say of BGP: every spelling that counts, and every mistake with its place."""

from __future__ import annotations

import base64
import json
import re
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import kuberouter.decode.annotations as known_annotations
from kuberouter.cluster.store import Cluster
from kuberouter.decode.node import decode_node
from kuberouter.decode.scalars import prefix
from kuberouter.model.bgp import Bfd, NodeBgp, PeerSpec, Prepend, Reflector
from kuberouter.model.core import ObjectRef, Problem, Reason, Secret
from kuberouter.model.events import Deleted, Upserted
from kuberouter.model.settings import NodeSettings
from tests.support.pages import DOCS, objects

OURS = "kube-router.io/"
HUSH = base64.b64encode(b"hush").decode()


def packed(text: str) -> bytes:
    return ip_address(text).packed


def node(annotations: dict[str, str], name: str = "node-1") -> bytes:
    metadata = {"name": name, "annotations": {OURS + key: text for key, text in annotations.items()}}
    return json.dumps({"kind": "Node", "metadata": metadata}).encode()


def read(annotations: dict[str, str]) -> tuple[NodeBgp, tuple[Problem, ...]]:
    found, problems = decode_node(node(annotations))
    assert found is not None
    return found.options.bgp, problems


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, {}),
        ({"node.asn": "64600"}, {"asn": 64600}),
        ({"node.asn": "0xFC58"}, {"asn": 64600}),
        ({"node.asn": "4200000000"}, {"asn": 4200000000}),
        ({"rr.server": "42"}, {"reflector": Reflector(packed("0.0.0.42"), server=True)}),
        ({"rr.server": "0x2a"}, {"reflector": Reflector(packed("0.0.0.42"), server=True)}),
        ({"rr.client": "10.0.0.42"}, {"reflector": Reflector(packed("10.0.0.42"))}),
        ({"path-prepend.as": "64600", "path-prepend.repeat-n": "5"}, {"prepend": Prepend(64600, 5)}),
        ({"path-prepend.as": "0xFC58", "path-prepend.repeat-n": "0x5"}, {"prepend": Prepend(64600, 5)}),
        ({"path-prepend.as": "64600", "path-prepend.repeat-n": "0"}, {}),
        (
            {"node.bgp.communities": "65000:100, 4259840001,no-export,65000:100"},
            {"communities": (65000 << 16 | 1, 65000 << 16 | 100, 0xFFFFFF01)},
        ),
        ({"node.bgp.communities": ""}, {}),
        (
            {"node.bgp.customimportreject": "10.0.0.0/16, fd00::/64"},
            {"import_reject": (prefix("10.0.0.0/16"), prefix("fd00::/64"))},
        ),
        (
            {"bgp-local-addresses": "10.1.1.1, 2001:db8::1"},
            {"local_addresses": (packed("10.1.1.1"), packed("2001:db8::1"))},
        ),
    ],
)
def test_annotations_are_typed(annotations: dict[str, str], expected: dict[str, Any]) -> None:
    assert read(annotations) == (NodeBgp(**expected), ())


def test_peers_in_one_document() -> None:
    bgp, problems = read(
        {
            "peers": f"""
            - remoteip: 10.0.0.1
              remoteasn: 64640
              password: {HUSH}
              localip: 192.168.0.1
              port: 1790
              description: somebody's note
              bfd: {{enabled: true, detection_multiplier: 5, desired_min_tx_interval: 300}}
            - remoteip: 1:2:3:4:5:6:7:8
              remoteasn: 64641
              password: ""
              bfd: {{enabled: false, port: 3785}}
            """
        }
    )
    assert problems == ()
    assert bgp.peers == (
        PeerSpec(
            packed("10.0.0.1"),
            64640,
            1790,
            packed("192.168.0.1"),
            Secret("hush"),
            Bfd(multiplier=5, send_interval=300),
        ),
        PeerSpec(packed("1:2:3:4:5:6:7:8"), 64641),
    )


def test_peers_in_parallel_lists() -> None:
    lists = {"peer.ips": "10.0.0.1, 2001:db8::9", "peer.asns": "64640,64641"}
    both = (PeerSpec(packed("10.0.0.1"), 64640), PeerSpec(packed("2001:db8::9"), 64641))
    assert read(lists) == (NodeBgp(peers=both), ())
    more = {"peer.ports": "179,1790", "peer.passwords": f"{HUSH},", "peer.localips": ",2001:db8::1"}
    assert read(lists | more) == (
        NodeBgp(
            peers=(
                PeerSpec(packed("10.0.0.1"), 64640, password=Secret("hush")),
                PeerSpec(packed("2001:db8::9"), 64641, 1790, packed("2001:db8::1")),
            )
        ),
        (),
    )


def test_no_peers_is_a_word_as_well() -> None:
    assert read({"peers": ""})[0].peers == read({"peers": "[]"})[0].peers == ()
    assert read({})[0].peers is None


@pytest.mark.parametrize(
    ("annotations", "field", "key", "said"),
    [
        ({"node.asn": "0"}, "asn", "node.asn", "0 is not an AS number"),
        ({"node.asn": "as1"}, "asn", "node.asn", "'as1'"),
        ({"node.asn": "4294967296"}, "asn", "node.asn", "out of range"),
        ({"rr.server": "0"}, "reflector", "rr.server", "'0'"),
        ({"rr.server": "2001:db8::1"}, "reflector", "rr.server", "'2001:db8::1'"),
        ({"rr.client": "10.0.0"}, "reflector", "rr.client", "'10.0.0'"),
        ({"path-prepend.as": "64600"}, "prepend", "path-prepend.as", "path-prepend.repeat-n must be there, too"),
        ({"path-prepend.as": "x", "path-prepend.repeat-n": "5"}, "prepend", "path-prepend.as", "'x'"),
        ({"path-prepend.as": "1", "path-prepend.repeat-n": "256"}, "prepend", "path-prepend.repeat-n", "255"),
        ({"node.bgp.communities": "1:2,65536:1"}, "communities", "node.bgp.communities", "'65536:1'"),
        ({"node.bgp.communities": "nobody"}, "communities", "node.bgp.communities", "'nobody'"),
        ({"node.bgp.communities": "1:2,"}, "communities", "node.bgp.communities", "''"),
        ({"node.bgp.customimportreject": "10.0.0.0/16,x"}, "import_reject", "node.bgp.customimportreject", "'x'"),
        ({"bgp-local-addresses": "10.0.0.256"}, "local_addresses", "bgp-local-addresses", "'10.0.0.256'"),
        ({"peers": "{"}, "peers", "peers", "it is not YAML (line 1)"),
        ({"peers": "5"}, "peers", "peers", "it is not a list of peers"),
        ({"peers": "[5]"}, "peers", "peers", "[0] is not a mapping"),
        ({"peers": "- remoteip: 10.0.0.1"}, "peers", "peers", "[0].remoteasn is missing"),
        ({"peers": "- remoteasn: 1"}, "peers", "peers", "[0].remoteip is missing"),
        ({"peers": "- {remoteip: x, remoteasn: 1}"}, "peers", "peers", "[0].remoteip: 'x'"),
        ({"peers": "- {remoteip: '::', remoteasn: 1}"}, "peers", "peers", "[0].remoteip: '::' is not the address"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, localip: 224.0.0.5}"}, "peers", "peers", "[0].localip: '224"),
        ({"peer.ips": "0.0.0.0", "peer.asns": "1"}, "peers", "peer.ips", "'0.0.0.0' is not the address of a host"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 23456}"}, "peers", "peers", "[0].remoteasn: '23456'"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: [1]}"}, "peers", "peers", "[0].remoteasn is neither"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, port: 0}"}, "peers", "peers", "[0].port: 0"),
        ({"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, localip: fd00::1}"}, "peers", "peers", "of the other family"),
        ({"peers": "- &a {remoteip: 10.0.0.1, remoteasn: 1}\n- *a"}, "peers", "peers", "10.0.0.1 is named twice"),
        (
            {"peers": "- {remoteip: 10.0.0.1, remoteasn: 1, bfd: {enabled: true, detection_multiplier: 256}}"},
            "peers",
            "peers",
            "[0].bfd.detection_multiplier: '256'",
        ),
        ({"peer.ips": "10.0.0.1"}, "peers", "peer.ips", "peer.asns must be there, too"),
        ({"peer.asns": "1"}, "peers", "peer.asns", "peer.ips must be there, too"),
        ({"peer.ips": "10.0.0.1", "peer.asns": "1,2"}, "peers", "peer.ips", "1 addresses and 2 AS numbers"),
        ({"peer.ips": "10.0.0.1", "peer.asns": "64000"}, "peers", "peer.asns", "'64000'"),
        ({"peer.ips": "10.0.0.1", "peer.asns": "1", "peer.ports": ","}, "peers", "peer.ports", "''"),
        ({"peer.ips": "10.0.0.1", "peer.asns": "1", "peer.localips": "x"}, "peers", "peer.localips", "'x'"),
    ],
)
def test_an_unusable_value_is_one_problem_and_leaves_the_others(
    annotations: dict[str, str], field: str, key: str, said: str
) -> None:
    bgp, problems = read(
        {"node.asn": "64600", "rr.server": "1", **annotations} if field == "import_reject" else annotations
    )
    assert bgp.unreadable == (field,)
    (problem,) = problems
    assert (problem.owner, problem.reason) == (ObjectRef("Node", "", "node-1"), Reason.MALFORMED)
    assert problem.field == f"metadata.annotations[{OURS}{key}]"
    assert said in problem.message
    assert problem.message.endswith("the last good value stays")
    assert field != "import_reject" or bgp.asn == 64600


@pytest.mark.parametrize(
    ("annotations", "key"),
    [
        ({"rr.server": "1", "rr.client": "1"}, "rr.client"),
        ({"path-prepend.repeat-n": "5"}, "path-prepend.repeat-n"),
        ({"peers": "[]", "peer.ips": "10.0.0.1"}, "peer.ips"),
    ],
)
def test_what_has_no_effect_is_told(annotations: dict[str, str], key: str) -> None:
    bgp, problems = read(annotations)
    assert bgp.unreadable == ()
    assert [(p.field, p.reason) for p in problems] == [(f"metadata.annotations[{OURS}{key}]", Reason.IGNORED)]


SECRETS = ("hush", "hu%sh", "*hush", "&hush", "'hush", "{hush", "hush: [", "aHVzaA==hush", "\thush", "!hush", "`hush")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", ["list", "document"])
def test_no_problem_shows_a_password(secret: str, form: str) -> None:
    annotations = {"peers": f"- remoteip: 10.0.0.1\n  remoteasn: 1\n  password: {secret}\n  port: [\n"}
    if form == "list":
        annotations = {"peer.ips": "10.0.0.1", "peer.asns": "1", "peer.passwords": secret + "h"}
    bgp, problems = read(annotations)
    assert bgp.unreadable == ("peers",)
    assert "hush" not in repr((bgp, problems))


@given(st.sampled_from(("peers", "peer.passwords", "node.asn", "rr.server", "node.bgp.communities")), st.text())
def test_no_text_breaks_the_reader(key: str, text: str) -> None:
    bgp, problems = read({"peer.ips": "10.0.0.1", "peer.asns": "1", key: text})
    assert bool(bgp.unreadable) is any(p.reason is Reason.MALFORMED for p in problems)


def test_the_last_good_value_of_a_field_stays() -> None:
    cluster = Cluster(NodeSettings("node-1"))

    def put(annotations: dict[str, str], name: str = "node-1") -> NodeBgp:
        found, _ = decode_node(node(annotations, name))
        assert found is not None
        cluster.apply(Upserted(found))
        kept = cluster.node_object(name)
        assert kept is not None
        return kept.options.bgp

    peers = "- {remoteip: 10.0.0.1, remoteasn: 64640}"
    good = put({"node.asn": "64600", "peers": peers})
    assert put({"node.asn": "no", "peers": peers}) == good
    assert put({"node.asn": "64601", "peers": "[5]"}) == NodeBgp(64601, peers=good.peers)
    assert put({"peers": "{"}) == NodeBgp(peers=good.peers) == cluster.bgp
    assert put({}) == NodeBgp() == cluster.bgp
    # Of a node that is not known yet there is nothing good.
    client = Reflector(packed("0.0.0.7"))
    unknown = NodeBgp(reflector=client, unreadable=("asn",))
    assert put({"node.asn": "no", "rr.client": "7"}, "node-2") == unknown
    assert put({"node.asn": "no", "rr.client": "x"}, "node-2") == unknown
    assert put({"node.asn": "64600", "rr.client": "x"}, "node-2") == NodeBgp(64600, client)
    assert put({"node.asn": "x", "rr.client": "x"}, "node-2") == NodeBgp(64600, client)


def test_what_was_read_stays_where_the_node_vanishes() -> None:
    cluster = Cluster(NodeSettings("node-1"))
    found, _ = decode_node(node({"node.asn": "64600"}))
    assert found is not None
    cluster.apply(Upserted(found))
    cluster.apply(Deleted(found.ref))
    assert cluster.bgp == NodeBgp(64600)


def test_the_page_has_a_good_example_of_every_annotation() -> None:
    known = {
        each.key
        for name, each in vars(known_annotations).items()
        if name.startswith("NODE_") and "POD_CIDR" not in name and name != "NODE_DRAIN"
    }
    shown: set[str] = set()
    for raw in objects("bgp.md", "Node"):
        found, problems = decode_node(raw)
        assert found is not None
        assert problems == ()
        assert found.options.bgp != NodeBgp()
        shown |= set(json.loads(raw)["metadata"]["annotations"])
    assert shown == known
    table = set(re.findall(r"^\| (`.+?`) \|", (DOCS / "bgp.md").read_text(), re.MULTILINE))
    assert {OURS + key for row in table for key in re.findall(r"`([^`]+)`", row)} >= known


def test_both_forms_of_the_page_name_the_same_peers() -> None:
    found = [decode_node(raw)[0] for raw in objects("bgp.md", "Node")]
    # A third Node is for the routers of the page and names others.
    one, other, _ = (node.options.bgp.peers for node in found if node is not None and node.options.bgp.peers)
    assert one is not None
    assert other == tuple(structs.replace(spec, bfd=None) for spec in one)
