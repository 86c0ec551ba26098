"""The lab itself: builds nodes and fabric, keeps the API objects, attaches pods, and takes everything down again."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import yaml

from tests.support.apiserver import ApiServer
from tests.support.lab import netns, objects
from tests.support.lab.fabric import OUTSIDE, Fabric, sites
from tests.support.lab.node import Node
from tests.support.lab.objects import Object, endpoint_slices, field, identity, is_object, items, text
from tests.support.lab.pods import Pod
from tests.support.lab.stores import ApiStore, ManifestStore, Store
from tests.support.probes import PATIENCE, Prober


class Lab:
    """A cluster in a box, for use as a context manager.

    `node1`, `node2`, ... are spread over the subnets in blocks, so of three nodes in two subnets the first two are
    neighbours and the third is behind the router. Build it from the main thread: its processes die with the thread
    that starts them.
    """

    def __init__(
        self,
        nodes: int = 3,
        subnets: int = 2,
        *,
        families: Sequence[int] = (4,),
        manifests: bool = False,
        daemon_arguments: Sequence[str] = (),
        annotations: Mapping[str, Mapping[str, str]] | None = None,
        runtime: bool = False,
    ) -> None:
        """`families` are those of Nodes, Pods and CIDRs in the API; `annotations` are per node name.

        With `manifests` the daemons read a directory instead of the lab apiserver; with `runtime` each node has a
        container runtime that tells where pods are.
        """
        self.prefix = netns.unique_prefix()
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self.families = tuple(families)
        self.fabric = Fabric(self.prefix, subnets)
        self.nodes = [
            Node(self.prefix, site, self.home / site.name, daemon_arguments) for site in sites(nodes, subnets)
        ]
        self.pods: dict[str, Pod] = {}
        self.objects: dict[tuple[str, str, str], Object] = {}
        self._annotations = dict(annotations or {})
        self._manifests = manifests
        self._runtime = runtime
        self._store: Store | None = None
        self._outside: Prober | None = None
        self._closed = False
        atexit.register(self.close)

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            with contextlib.suppress(Exception):
                print(self.dump(), file=sys.stderr)
        self.close()

    def _build(self) -> None:
        self.fabric.build()
        for node in self.nodes:
            node.build()
            self.fabric.attach(node.namespace, node.site)
            if self._runtime:
                node.start_runtime()
        self._outside = Prober(netns.path(self.fabric.outside), "outside")
        self._store = ManifestStore(self.home / "manifests") if self._manifests else ApiStore(self.fabric.name)
        for node in self.nodes:
            annotations = self._annotations.get(node.name, {})
            self.apply(objects.node(node.site, self.families, annotations))
        for name in ("default", "kube-system"):
            self.apply(objects.namespace(name))
        self._note()

    def close(self) -> None:
        """End every process and remove every namespace and file. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        steps: list[Callable[[], None]] = [pod.close for pod in self.pods.values()]
        steps += [self._outside.close] if self._outside else []
        steps += [node.close for node in self.nodes]
        steps += [self._store.close] if self._store else []
        steps.append(self.fabric.remove)
        for step in steps:
            # One step that fails must not keep the others from cleaning up.
            with contextlib.suppress(Exception):
                step()
        for name in netns.names(f"{self.prefix}-"):
            netns.remove(name)
        shutil.rmtree(self.home, ignore_errors=True)

    def _note(self) -> None:
        """Leave a note for people and tools that look around in a running lab."""
        note = {
            "pid": os.getpid(),
            "outside": self.fabric.outside,
            "nodes": {node.name: node.namespace for node in self.nodes},
            "pods": {pod.key: [pod.network, pod.node, *pod.ips] for pod in self.pods.values()},
        }
        (self.home / "lab.json").write_text(json.dumps(note, indent=1))
        (self.home / "objects.json").write_text(json.dumps(list(self.objects.values())))

    @property
    def store(self) -> Store:
        assert self._store is not None, "the lab is not built"
        return self._store

    @property
    def api(self) -> ApiServer:
        """The lab apiserver, for faults and for what was asked."""
        assert isinstance(self._store, ApiStore), "this lab has manifests instead"
        return self._store.server

    @property
    def outside(self) -> Prober:
        """The prober of the client outside the cluster."""
        assert self._outside is not None, "the lab is not built"
        return self._outside

    @property
    def outside_ip(self) -> str:
        return OUTSIDE[0]

    def node(self, name: str) -> Node:
        """A node by name."""
        return next(node for node in self.nodes if node.name == name)

    def start(self) -> None:
        """Start gobgpd and the daemon on every node."""
        for node in self.nodes:
            self.start_node(node)

    def start_node(self, node: Node) -> None:
        """Start gobgpd (unless the route controller is off, or does that itself) and the daemon on one node."""
        arguments = [*self.store.arguments(), f"--hostname-override={node.name}"]
        if 6 in self.families:
            arguments.append("--enable-ipv6=true")
        if 4 not in self.families:
            arguments.append("--enable-ipv4=false")
        node.base_arguments = arguments
        if not {"--run-router=false", "--gobgpd=spawn"}.intersection(node.daemon_arguments):
            node.start_gobgpd()
        node.start_daemon()

    def apply(self, what: Object | str) -> None:
        """Create or replace objects: one object, or a text of YAML documents. A Pod is attached to its nodeName."""
        documents = list(yaml.safe_load_all(what)) if isinstance(what, str) else [what]
        for document in documents:
            if not is_object(document):
                raise ValueError(f"not an API object: {document!r}")
            if document["kind"] == "Pod":
                self._run(document)
            else:
                self._put(document)
        self.reconcile_endpoints()

    def _run(self, document: Object) -> None:
        """Play kubelet for a Pod manifest with a nodeName: attach it and serve its ports."""
        _, namespace, name = identity(document)
        ports = [
            (
                text(port, "protocol", default="TCP").lower(),
                int(str(field(port, "containerPort"))),
                text(port, "name"),
            )
            for container in items(document, "spec", "containers")
            for port in items(container, "ports")
        ]
        labels = field(document, "metadata", "labels")
        self.pod(
            name,
            text(document, "spec", "nodeName"),
            namespace=namespace or "default",
            labels={key: str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
            ports=ports,
        )

    def _put(self, obj: Object) -> None:
        self.objects[identity(obj)] = obj
        self.store.apply(obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object; one that is gone is no error."""
        self.objects.pop((kind, namespace, name), None)
        self.store.delete(kind, namespace, name)
        self.reconcile_endpoints()

    def reconcile_endpoints(self) -> None:
        """Play the endpoint controller: make the EndpointSlices what Services and Pods ask for."""
        wanted = {
            identity(piece): piece
            for (kind, _, _), obj in list(self.objects.items())
            if kind == "Service"
            for piece in endpoint_slices(obj, self.pods.values())
        }
        for key in [key for key in self.objects if key[0] == "EndpointSlice" and key not in wanted]:
            del self.objects[key]
            self.store.delete(*key)
        for key, piece in wanted.items():
            if self.objects.get(key) != piece:
                self._put(piece)

    def pod(
        self,
        name: str,
        node: str,
        *,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        ports: Sequence[tuple[str, int, str]] = (("tcp", 80, "http"), ("udp", 80, "dns")),
    ) -> Pod:
        """Attach a pod to a node, start its servers and report its status to the API.

        `ports` are protocol in lower case, number and name; they are declared and served.
        """
        it = Pod(name, namespace, node, f"{self.prefix}-pod-{namespace}-{name}", labels or {})
        it.ports = tuple(ports)
        netns.add(it.network)
        self.pods[it.key] = it
        it.ips = self.node(node).attacher.add(it.network, it.network)
        it.start()
        if (runtime := self.node(node).runtime) is not None:
            runtime.put(it.container, pid=it.prober.pid)
        self.update(it)
        self._note()
        return it

    def update(self, it: Pod) -> None:
        """Report a pod's labels, readiness and addresses to the API, as kubelet does."""
        self._put(objects.pod(it, self.node(it.node).ip, self.families))
        self.reconcile_endpoints()

    def remove_pod(self, it: Pod) -> None:
        """Delete a pod: first from the API, then its network."""
        del self.pods[it.key]
        self.delete("Pod", it.space, it.name)
        it.close()
        if (runtime := self.node(it.node).runtime) is not None:
            del runtime.containers[it.container]
        self.node(it.node).attacher.remove(it.network, it.network)
        netns.remove(it.network)
        self._note()

    def wait(self, wanted: Callable[[], object], bound: float = 20.0, what: str = "") -> float:
        """Wait until `wanted()` is true; seconds it took. Raises TimeoutError with `what` after `bound` seconds.

        The bound is in seconds of an ordinary machine; a guest that emulates its processor gets more.
        """
        start = asked = time.monotonic()
        while not wanted():
            answered = time.monotonic()
            if answered - start > bound * PATIENCE:
                raise TimeoutError(f"not within {bound * PATIENCE:g} s: {what or wanted}")
            # Who asks by starting programs would else take the processor from those who are to do what is wanted.
            time.sleep(min(0.02 + answered - asked, 0.2))
            asked = time.monotonic()
        return time.monotonic() - start

    def check_alive(self) -> bool:
        """True; raises RuntimeError with the last words of a daemon or gobgpd that has ended by itself."""
        for node in self.nodes:
            for child in node.children():
                if (status := child.returncode()) is not None:
                    raise RuntimeError(f"{node.name}: {child.log.stem} ended with {status}: {child.tail(3)}")
        return True

    def wire_statically(self) -> None:
        """Do by hand what the daemon does for pods: CNI ranges and routes, the router's included."""
        for node in self.nodes:
            text = json.loads(node.cni_file.read_text())
            text["plugins"][0]["ipam"]["ranges"] = [[{"subnet": cidr}] for cidr in node.site.pod_cidrs]
            node.cni_file.write_text(json.dumps(text))
            routes = [f"route add {c} via {a}" for c, a in zip(node.site.pod_cidrs, node.site.addresses, strict=True)]
            neighbours = [n.namespace for n in self.nodes if n is not node and n.site.subnet == node.site.subnet]
            for namespace in (self.fabric.name, *neighbours):
                netns.configure(namespace, *routes)

    def dump(self) -> str:
        """The state of every node and the end of every log, for a failure's report."""
        parts = []
        for node in self.nodes:
            look = "ip -br addr; ip route; ip rule; ip route show table 77; iptables-save | head -150; ipset list -n"
            look += "; ipvsadm -Ln; ipvsadm -Lnc | head -300; conntrack -L -p tcp 2>/dev/null | head -600"
            parts.append(f"===== {node.name}\n{node.readyz()}\n{node.sh(look, check=False)}")
            parts += [f"----- {child.log.name} ({child.returncode()})\n{child.tail()}" for child in node.children()]
        return "\n".join(parts)
