"""The isolation annotation of a Namespace: what counts, and that nonsense harms nobody."""

from __future__ import annotations

import json

import pytest

from kuberouter.decode.annotations import NAMESPACE_POLICY
from kuberouter.decode.node import decode_namespace


def namespace(text: str | None) -> bytes:
    annotations = {} if text is None else {NAMESPACE_POLICY.key: text}
    return json.dumps({"metadata": {"name": "shop", "labels": {"team": "a"}, "annotations": annotations}}).encode()


@pytest.mark.parametrize(
    ("text", "denies"),
    [
        ('{"ingress":{"isolation":"DefaultDeny"}}', True),
        ('{"ingress": {"isolation": "DefaultDeny", "more": 1}, "egress": {}}', True),
        ('{"ingress":{"isolation":"DefaultAllow"}}', False),
        ('{"ingress":{}}', False),
        ('{"ingress":null}', False),
        ("{}", False),
        (None, False),
    ],
)
def test_what_the_annotation_says(text: str | None, denies: bool) -> None:
    found, problems = decode_namespace(namespace(text))
    assert found is not None
    assert found.default_deny is denies
    assert problems == ()


@pytest.mark.parametrize(
    "text",
    ["", "DefaultDeny", "{", "[]", '{"ingress":"DefaultDeny"}', '{"ingress":{"isolation":"Deny"}}', "[" * 100_000],
)
def test_nonsense_is_one_problem_and_the_namespace_is_known_all_the_same(text: str) -> None:
    found, problems = decode_namespace(namespace(text))
    assert found is not None
    assert not found.default_deny
    assert found.labels == (("team", "a"),)
    assert [problem.field for problem in problems] == [f"metadata.annotations[{NAMESPACE_POLICY.key}]"]
    assert problems[0].message.endswith("it is ignored")
