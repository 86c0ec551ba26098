"""What the API was asked for, and what roles allow, in the same words: group, resource, verb."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.support.apiserver import resolve
from tests.support.manifests import Object

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Right(NamedTuple):
    """One verb on one resource; a subresource stands behind a slash, as in RBAC."""

    group: str
    resource: str
    verb: str


def used(requests: Iterable[tuple[str, str]]) -> set[Right]:
    """The rights that requests (method, and path with query) need."""
    return {_right(method, path) for method, path in requests}


def _right(method: str, path: str) -> Right:
    url = urlsplit(path)
    served, _, name, sub = resolve(url.path)
    if method == "GET":
        watching = parse_qs(url.query).get("watch") == ["true"]
        verb = "get" if name else "watch" if watching else "list"
    else:
        verb = VERBS[method]
    return Right(served.group, f"{served.plural}/{sub}" if sub else served.plural, verb)


def allowed(objects: Sequence[Object]) -> set[Right]:
    """The rights that the roles among some objects give."""
    return {
        Right(group, resource, verb)
        for obj in objects
        if obj["kind"] in ("ClusterRole", "Role")
        for rule in obj["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
