"""What a file of YAML says, and what it is told when it makes no sense: one fault never hides another object."""

from __future__ import annotations

import json

import pytest

from kuberouter.model.core import ObjectRef
from kuberouter.sources.apiserver import RESOURCES
from kuberouter.sources.documents import Given, read

ALL = (*RESOURCES, "localpods")
GOOD = "{apiVersion: v1, kind: Namespace, metadata: {name: good}}"
DENY = "{apiVersion: %s, kind: NetworkPolicy, metadata: {name: deny, namespace: shop}, spec: {podSelector: {}}}"


def given(*documents: str, sources: tuple[str, ...] = ALL) -> Given:
    return read("\n---\n".join(documents), "x.yaml", sources)


def refs(found: Given) -> set[str]:
    return {str(ref) for ref in found.objects}


def told(found: Given) -> list[str]:
    return [str(problem) for problems in found.problems.values() for problem in problems]


def test_each_kind_is_read_and_those_without_a_namespace_are_in_the_default_one() -> None:
    metadata = {"name": "a"}
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "nonsense"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": metadata},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": "a"}},
        },
    ]
    found = given(*map(json.dumps, documents))
    assert told(found) == []
    assert refs(found) == {
        "Namespace a",
        "Node a",
        *(f"{kind} default/a" for kind in ("Pod", "LocalPod", "Service", "NetworkPolicy", "EndpointSlice")),
    }


def test_kinds_of_which_nobody_asked_are_left_out() -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIPs: [{ip: 10.0.0.1}], containerStatuses: []}}"
    assert refs(given(pod, GOOD, sources=("pods",))) == {"Pod default/a"}
    assert refs(given(pod, GOOD, sources=("localpods", "namespaces"))) == {"LocalPod default/a", "Namespace good"}
    assert given(pod, "{apiVersion: v1, kind: Service, metadata: {name: 7}}", sources=()) == given()


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1", "extensions/v1beta1"])
def test_a_kind_of_another_api_is_not_taken_for_ours(version: str) -> None:
    found = given(DENY % version, GOOD)
    assert refs(found) == {"Namespace good"}
    assert told(found) == []
    assert found.skipped == (f"NetworkPolicy ({version})",)


def test_kinds_that_are_not_ours_are_named_and_are_no_mistake() -> None:
    documents = [f"{{apiVersion: {v}, kind: {k}}}" for v, k in (("v1", "Secret"), ("apps/v1", "Deployment"))]
    found = given(*documents, *documents, "{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: a}}]}")
    assert (refs(found), told(found)) == (set(), [])
    assert found.skipped == ("Deployment (apps/v1)", "Secret (v1)")
    assert given("{apiVersion: example.com/v1, kind: AccessList}").skipped == ("AccessList (example.com/v1)",)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (DENY % "networking.k8s.io/v2", "NetworkPolicy shop/deny: apiVersion: 'networking.k8s.io/v2' is not known, "),
        (DENY % "null", "NetworkPolicy shop/deny: apiVersion: is missing; without it this may be another API's"),
        (DENY % "v1", "File x.yaml: document 2: there is no kind 'NetworkPolicy' in v1"),
        (DENY % "7", "File x.yaml: document 2: apiVersion 7 is no text"),
        ("{apiVersion: networking.k8s.io/v1, kind: networkpolicy}", "document 2: there is no kind 'networkpolicy' in"),
        ("{apiVersion: v1, kind: [a]}", "File x.yaml: document 2: kind ['a'] is no text"),
        ("{apiVersion: v1, metadata: {name: a}}", "File x.yaml: document 2: has no kind"),
        ("{kind: Deployment}", "File x.yaml: document 2: Deployment has no apiVersion"),
        ("hello", "File x.yaml: document 2: is no Kubernetes object"),
        ("[1]", "File x.yaml: document 2: is no Kubernetes object"),
        ("{apiVersion: v1, kind: List, items: [1]}", "File x.yaml: document 2, item 1: is no Kubernetes object"),
        ("{apiVersion: v1, kind: List, items: [{metadata: {name: a}}]}", "document 2, item 1: has no kind"),
        ("{apiVersion: v1, kind: PodList, items: {a: b}}", "document 2, items: is no Kubernetes object"),
        ("{kind: NodeList, items: [{metadata: {name: a}}]}", "Node a: apiVersion: is missing"),
        ("&a {apiVersion: v1, kind: Pod, metadata: {name: x}, spec: *a}", "document 2: contains itself, or is far"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {x: 1}}}",
            "Pod default/a: metadata.labels[...]: Exp",
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {labels: {x: y}}}", "Pod default/?: metadata.name: is missing"),
        ("{apiVersion: v1, kind: Pod, metadata: [a]}", "Pod ?: metadata: Expected `object`"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: 99999999999999999999}}", "spec.nodeName"),
    ],
)
def test_a_fault_is_named_and_the_other_documents_are_read(document: str, said: str) -> None:
    found = given("{apiVersion: v1, kind: Node, metadata: {name: good}}", document, GOOD)
    assert {"Node good", "Namespace good"} == refs(found)
    assert any(said in line for line in told(found)), told(found)
    assert all("x.yaml" in line for line in told(found))


def test_a_document_that_stands_for_terabytes_is_refused() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 14))]
    (line,) = told(given("\n".join(lines), GOOD))
    assert "contains itself, or is far too large with its aliases written out" in line
    (line,) = told(given(f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1000)}]"))
    assert "far too large" in line
    few = "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: &l {x: y}, annotations: *l}}"
    assert refs(given(few)) == {"Namespace a"}


@pytest.mark.parametrize("depth", [300, 3_000, 100_000])
def test_deep_nesting_is_refused_before_it_takes_the_process_along(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError, match="nested more than 200 levels deep"):
            given(GOOD, text)
    # Pops as it pushes: breadth is no depth.
    assert refs(given("[" + "[a]," * 300 + "]", GOOD)) == {"Namespace good"}


def test_what_is_no_yaml_is_told_with_the_place() -> None:
    with pytest.raises(ValueError, match="line 1, column"):
        given("a: [1")


def test_items_of_a_typed_list_are_of_the_lists_kind() -> None:
    found = given("{apiVersion: v1, kind: NamespaceList, items: [{metadata: {name: a}}, {metadata: {name: b}}]}")
    assert (refs(found), told(found)) == ({"Namespace a", "Namespace b"}, [])
    nested = (
        "{apiVersion: v1, kind: List, items: [%s, {apiVersion: v1, kind: NodeList, items: [{metadata: {name: n}}]}]}"
    )
    assert refs(given(nested % GOOD)) == {"Namespace good", "Node n"}
    empty = given("{apiVersion: v1, kind: PodList, items: null}", "{apiVersion: v1, kind: List, items: []}", "")
    assert (refs(empty), told(empty)) == (set(), [])


def test_of_an_object_that_is_there_twice_the_first_counts_and_that_is_told() -> None:
    first = "{apiVersion: v1, kind: Namespace, metadata: {name: good, labels: {n: first}}}"
    found = given(first, GOOD, GOOD)
    assert found.objects == given(first).objects
    ref = ObjectRef("Namespace", "", "good")
    assert [p.message for p in found.problems[ref]] == ["is there twice, and the first counts (file x.yaml)"] * 2
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}}"
    assert len(told(given(pod, pod))) == 1, "both readings of a Pod are one object"
