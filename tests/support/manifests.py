"""`python -m tests.support.manifests`, or `make manifests`: writes `daemonset/*.yaml` from `daemonset/kustomize`.

Tests compare what is shipped with what comes out here, and walk every object of it along the fields of the API.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient, models

from tests.support.kubectl import kubectl

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "daemonset"
LAYERS = frozenset(("daemon", "base", "node-daemonset"))
"""What others are made of and nobody applies."""
UPSTREAM = frozenset(
    (
        "generic-kuberouter",
        "generic-kuberouter-all-features",
        "generic-kuberouter-all-features-advertise-routes",
        "generic-kuberouter-only-advertise-routes",
        "kube-router-all-service-daemonset",
        "kube-router-all-service-daemonset-advertise-routes",
        "kube-router-firewall-daemonset",
        "kube-router-proxy-daemonset",
        "kubeadm-kuberouter",
        "kubeadm-kuberouter-all-features",
        "kubeadm-kuberouter-all-features-dsr",
        "kubeadm-kuberouter-all-features-hostport",
    )
)
"""The names that users of the Go kube-router know."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with it."""
MISTYPED = {"str": str, "int": int, "bool": bool}

Object = dict[str, Any]


def overlays() -> list[str]:
    """The names of all shipped manifests."""
    return sorted(path.name for path in (HOME / "kustomize").iterdir() if path.name not in LAYERS)


def render(name: str) -> str:
    """What kustomize makes of an overlay. Raises Missing without a kubectl."""
    words = [kubectl(), "kustomize", str(HOME / "kustomize" / name)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


@functools.cache
def shipped(name: str) -> list[Object]:
    """The objects of a shipped manifest, to be looked at and not changed."""
    return load((HOME / f"{name}.yaml").read_text())


def load(text: str) -> list[Object]:
    """The objects of a text of YAML, in an order that does not depend on who wrote it."""
    found = [document for document in yaml.load_all(text, Loader=_LOADER) if document]
    return sorted(found, key=lambda obj: (obj["kind"], obj["metadata"]["name"]))


def text(name: str) -> str:
    """A whole file: what it is for, where it comes from, and its objects."""
    said = (HOME / "kustomize" / name / "kustomization.yaml").read_text()
    purpose = "".join(line for line in said.splitlines(keepends=True) if line.startswith("#"))
    return f"{purpose}# Made of daemonset/kustomize/{name} by `make manifests`.\n{render(name)}"


def pods(objects: Sequence[Object]) -> Iterator[Object]:
    """The pod specs of workloads."""
    yield from (obj["spec"]["template"]["spec"] for obj in objects if obj["kind"] == "DaemonSet")


def containers(objects: Sequence[Object]) -> Iterator[Object]:
    """Their containers, those that run first included."""
    for pod in pods(objects):
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def complaints(obj: Object) -> list[str]:
    """What is wrong with an object by the API's own description: unknown fields, wrong types, what is missing."""
    model = f"V1{obj['kind']}"
    found = list(_walk(obj, model, obj["kind"]))
    if not found:
        try:
            ApiClient().deserialize(json.dumps(obj), model, "application/json")
        except ValueError as error:
            found.append(f"{obj['kind']}: {error}")
    return found


def _walk(value: Any, kind: str, where: str) -> Iterator[str]:
    """Compare a value with a type as a model names it: `str`, `object`, `List[...]`, `Dict[str, ...]` or a model."""
    if inner := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, each in enumerate(value):
            yield from _walk(each, inner[1], f"{where}[{number}]")
    elif inner := re.fullmatch(r"[dD]ict[(\[]str, (.*)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{where} is no map"
            return
        for key, each in value.items():
            yield from _walk(each, inner[1], f"{where}.{key}")
    elif kind in MISTYPED:
        if type(value) is not MISTYPED[kind]:
            yield f"{where}: {value!r} is no {kind}"
    elif kind not in ("object", "datetime"):
        yield from _fields(value, getattr(models, kind), where)


def _fields(value: Any, model: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no {model.__name__}"
        return
    types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for key, each in value.items():
        if key not in types:
            yield f"{where}.{key} is unknown"
        else:
            yield from _walk(each, types[key], f"{where}.{key}")


if __name__ == "__main__":
    for each in overlays():
        (HOME / f"{each}.yaml").write_text(text(each))
