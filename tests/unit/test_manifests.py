"""What is shipped in `daemonset/`: made of one base, understood by the API, and by our own command line."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from kuberouter import __version__
from kuberouter.daemon.commandline import parse
from kuberouter.daemon.config import load as configure
from kuberouter.daemon.flags import FLAGS
from kuberouter.decode.scalars import boolean
from tests.support import manifests, rbac
from tests.support.kubectl import Missing
from tests.support.kubelet import PROBES
from tests.support.manifests import HOME, ROOT, UPSTREAM, Object, complaints, containers, overlays, pods, shipped

EXAMPLES = {
    "--master=%APISERVER%": "--master=https://192.0.2.1:6443",
    "--peer-router-ips=<CHANGE ME>": "--peer-router-ips=192.0.2.1",
    "--peer-router-asns=<CHANGE ME>": "--peer-router-asns=64512",
    "--loadbalancer-ip-range=<CHANGE ME>": "--loadbalancer-ip-range=192.0.2.0/24",
}
"""What has to be filled in, and with what it might be."""
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: me, user: {token: nothing}}]
"""
ALL = overlays()
PAGE = (ROOT / "docs" / "manifests.md").read_text()


def daemon(objects: list[Object]) -> Object:
    """The container in which the daemon runs."""
    (found,) = (each for each in containers(objects) if each["name"] == "kube-router")
    return found


def environment(container: Object, home: Path) -> dict[str, str]:
    """Its environment, with a CNI directory below `home`."""
    said = {each["name"]: str(each.get("value", "somewhere")) for each in container["env"]}
    return {
        name: value.replace("/etc/cni/net.d", str(home))
        for name, value in {**said, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}.items()
    }


def test_upstreams_names_are_all_there_and_nothing_lies_about() -> None:
    assert set(ALL) >= UPSTREAM
    assert {path.stem for path in HOME.glob("*.yaml")} == set(ALL)


def test_what_is_shipped_comes_out_of_the_base() -> None:
    """`make manifests` writes it anew. Kustomizes differ in the order of objects and fields, not in what they say."""
    try:
        drifted = [name for name in ALL if manifests.load(manifests.text(name)) != shipped(name)]
    except Missing as error:
        pytest.skip(str(error))
    assert drifted == []


@pytest.mark.parametrize("name", ALL)
def test_the_api_knows_every_field(name: str) -> None:
    assert [text for obj in shipped(name) for text in complaints(obj)] == []


@pytest.mark.parametrize(
    ("place", "planted", "said"),
    [
        ((), {"speck": {}}, "DaemonSet.speck is unknown"),
        (("spec", "template", "spec"), {"hostNetworks": True}, "DaemonSet.spec.template.spec.hostNetworks is unknown"),
        (("spec", "template", "spec", "containers", 0, "startupProbe", "httpGet"), {"paht": "/"}, "paht is unknown"),
        (("spec", "template", "spec", "containers", 0, "env", 0), {"value": True}, "True is no str"),
        (("spec", "template", "spec", "tolerations"), None, "tolerations is no list"),
        (("spec", "selector"), None, "selector"),
    ],
)
def test_a_planted_mistake_is_seen_at_any_depth(place: tuple[Any, ...], planted: Object | None, said: str) -> None:
    (obj,) = (copy.deepcopy(obj) for obj in shipped("generic-kuberouter") if obj["kind"] == "DaemonSet")
    at: Any = obj
    for step in place[:-1] if planted is None else place:
        at = at[step]
    if planted is not None:
        at.update(planted)
    elif place[-1] == "tolerations":
        at[place[-1]] = {}
    else:
        del at[place[-1]]
    (found,) = complaints(obj)
    assert said in found


@pytest.mark.parametrize("name", ALL)
def test_every_argument_is_understood_and_makes_a_whole_configuration(name: str, tmp_path: Path) -> None:
    container = daemon(shipped(name))
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    (tmp_path / "kubeconfig.conf").write_text(KUBECONFIG)
    words = [EXAMPLES.get(word, word).replace("/var/lib/kube-router", str(tmp_path)) for word in container["args"]]
    parsed = parse(words)
    assert parsed.positionals == ()
    assert [flag.name for flag in FLAGS if flag.past and flag.name in parsed.given] == []
    config, errors = configure(parsed, environment(container, tmp_path))
    assert errors == []
    assert config is not None
    assert (config.router is None) == ("10-kuberouter" not in str(container["env"]) and "gobgpd" not in names(name))
    # Words of a kind never say two things, but for lists.
    said = [word.partition("=")[0] for word in words]
    assert {flag for flag in said if said.count(flag) > 1} <= {"--service-cluster-ip-range"}
    assert all(boolean(word.partition("=")[2]) in (True, False) for word in words if word.startswith("--run-"))


def names(manifest: str) -> list[str]:
    """The names of all containers."""
    return [each["name"] for each in containers(shipped(manifest))]


@pytest.mark.parametrize("name", ALL)
def test_every_pod_is_what_a_node_relies_on(name: str) -> None:
    objects = shipped(name)
    for pod in pods(objects):
        assert (pod["priorityClassName"], pod["hostNetwork"]) == ("system-node-critical", True)
        assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert {(each["operator"], each.get("effect")) for each in pod["tolerations"]} == {
            ("Exists", "NoSchedule"),
            ("Exists", "NoExecute"),
            ("Exists", None),
        }
        mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
        mounted |= {mount["name"] for each in pod.get("initContainers", ()) for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        # Kubernetes takes one of the two.
        assert not (pod.get("hostPID") and pod.get("shareProcessNamespace"))
    container = daemon(objects)
    assert {each["name"] for each in container["env"]} >= {"NODE_NAME", "POD_NAME", "POD_NAMESPACE", "HOST_IP"}
    assert {each["image"] for each in containers(objects)} == {f"kube-router:{__version__}"}
    assert all(each["resources"]["requests"] for pod in pods(objects) for each in pod["containers"])
    strategies = [obj["spec"]["updateStrategy"]["type"] for obj in objects if obj["kind"] == "DaemonSet"]
    assert set(strategies) <= {"RollingUpdate", "OnDelete"}
    accounts = [obj["metadata"]["name"] for obj in objects if obj["kind"] == "ServiceAccount"]
    assert [pod["serviceAccountName"] for pod in pods(objects) if "serviceAccountName" in pod] == accounts


def test_the_probes_are_those_that_are_tested() -> None:
    probes = [
        {key: daemon(shipped(name))[key] for key in ("startupProbe", "livenessProbe", "readinessProbe")} for name in ALL
    ]
    assert all(each == probes[0] for each in probes)
    assert probes[0] == {kind: probe.manifest() for kind, probe in PROBES.items()}
    told = re.findall(r"^\| \w+ \| `(/\w+)` \| (\d+) s \| (\d+) s\b", PAGE, re.M)
    assert {path: (int(period), int(total)) for path, period, total in told} == {
        probe.path: (probe.period, probe.period * probe.failures) for probe in PROBES.values()
    }


def test_variables_that_are_set_are_variables_that_are_read() -> None:
    code = "".join(path.read_text() for path in (ROOT / "kuberouter").rglob("*.py"))
    read = set(re.findall(r'"(KUBE_ROUTER_[A-Z_]+)"', code))
    given = {each["name"] for name in ALL for each in daemon(shipped(name))["env"]}
    assert {name for name in given if name.startswith("KUBE_ROUTER_")} <= read


def test_privileges_are_named_one_by_one_where_that_is_promised() -> None:
    """Who enters network namespaces of pods needs two more, and nobody else has them."""
    usual = {"NET_ADMIN", "NET_BROADCAST", "NET_RAW", "SYS_MODULE"}
    for name, wanted in (
        ("least-privilege", usual),
        ("least-privilege-dsr", usual | {"SYS_ADMIN", "SYS_PTRACE"}),
    ):
        context = daemon(shipped(f"generic-kuberouter-all-features-{name}"))["securityContext"]
        assert not context["privileged"]
        assert not context["allowPrivilegeEscalation"]
        assert (context["capabilities"]["drop"], set(context["capabilities"]["add"])) == (["ALL"], wanted)
    for name in ALL:
        for each in containers(shipped(name)):
            if each["name"] == "gobgpd":
                assert each["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}


def test_gobgpd_ends_without_a_good_bye_to_its_peers() -> None:
    """What is the first process of its namespace cannot be killed from within."""
    for name in ALL:
        for pod in pods(shipped(name)):
            for each in pod["containers"]:
                if each["name"] == "gobgpd":
                    ended = each["lifecycle"]["preStop"]["exec"]["command"]
                    assert ended == [*each["command"], "--end"]
                    assert pod.get("shareProcessNamespace") or pod.get("hostPID")


def test_the_page_names_every_manifest_and_says_what_it_runs() -> None:
    said = re.findall(r"^\| `([a-z-]+)\.yaml` \| (.*?) \| (.*?) \| (.*?) \|", PAGE, re.M)
    assert {name for name, *_ in said} == set(ALL)
    for name, *runs in said:
        given = daemon(shipped(name))["args"]
        flags = ("run-router", "run-firewall", "run-service-proxy")
        assert [f"--{flag}=true" in given for flag in flags] == [each != "no" for each in runs], name


def test_the_page_has_the_rights_of_the_roles() -> None:
    rows = re.findall(r"^\| (core|[a-z0-9.]+k8s\.io) \| (.*?) \| (.*?) \| .*\|$", PAGE, re.M)
    said = {
        rbac.Right("" if group == "core" else group, resource, verb)
        for group, resources, verbs in rows
        for resource in resources.split(", ")
        for verb in verbs.split(", ")
    }
    assert said == {right for name in ALL for right in rbac.allowed(shipped(name))}
