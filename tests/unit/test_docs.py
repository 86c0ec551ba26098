"""The documentation: its links lead somewhere, its commands are ones that there are, every page is in the site."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kuberouter.daemon.commandline import parse
from tests.support.kubelet import PROBES
from tests.support.lanes import LANES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
LINK = re.compile(r"(?<!\!)\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
MAKEFILE = (ROOT / "Makefile").read_text()
OUTSIDE = ("https://",)
"""What is not in this repository is not looked up here: no test needs the world."""
TOOLS = frozenset(
    {
        *(
            "cat",
            "cd",
            "conntrack",
            "curl",
            "echo",
            "gobgp",
            "grep",
            "head",
            "ip",
            "ip6tables-save",
            "ipset",
            "iptables",
        ),
        *(
            "iptables-save",
            "ipvsadm",
            "kubectl",
            "kube-router",
            "make",
            "nft",
            "rm",
            "sed",
            "promtool",
            "tcpdump",
            "true",
        ),
        *("ctr", "helm", "kubeadm"),
        *(".venv/bin/python", "$tool", "$tool-save", "for", "do", "done", "if", "then", "else", "fi", "{", "}"),
    }
)
"""What the examples run. A name that is not among them is a slip, or belongs here."""
PATHS = ("cmd/kube-router", "/usr/local/bin/kube-router")


def anchors(page: Path) -> set[str]:
    """What can be linked to on a page, as the generator of the site names it."""
    found: set[str] = set()
    for line in FENCE.sub("", page.read_text()).splitlines():
        if (heading := re.match(r"#+ (.*)", line)) is not None:
            words = re.sub(r"[^\w\s-]", "", heading[1].replace("`", "").lower()).strip()
            found.add(re.sub(r"[-\s]+", "-", words))
    return found


def links(page: Path) -> Iterator[str]:
    """The targets of the links of a page."""
    yield from LINK.findall(FENCE.sub("", page.read_text()))


def shell(page: Path) -> Iterator[str]:
    """The shell examples of a page: those that are fenced, and in the README those that are indented."""
    text = page.read_text()
    yield from (body for language, body in FENCE.findall(text) if language == "sh" and not body.startswith("Usage of "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(OUTSIDE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_shell_example_is_shell_and_runs_what_there_is(page: Path) -> None:
    targets = set(re.findall(r"[a-z]+", " ".join(re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)))) | set(LANES)
    for example in shell(page):
        checked = subprocess.run(["bash", "-n"], input=example, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, f"{checked.stderr} in\n{example}"
        for words in commands(example):
            assert words[0] in TOOLS or words[0].startswith(PATHS), f"{words[0]}: not known here"
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, f"{words}: no such target"
            elif words[0] == "kube-router" or words[0].startswith(PATHS):
                parse(words[1:])


def commands(example: str) -> Iterator[list[str]]:
    """The commands of an example, in words; of what spans lines in quotes, only the first."""
    for line in example.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()[:1]
        if words and not re.fullmatch(r"\w+=.*", words[0]):
            yield words[1:] if words[0] == "sudo" else words


def test_every_page_has_its_place_in_the_site() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for below in entry.values():
                yield from pages(below)
        elif isinstance(entry, list):
            for below in entry:
                yield from pages(below)

    placed = list(pages(nav))
    assert len(placed) == len(set(placed))
    assert set(placed) == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_every_page_is_a_link_of_the_index() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "docs" / "index.md")}
    assert {path.name for path in (ROOT / "docs").rglob("*.md")} - {"index.md"} <= linked
    assert "docs/index.md" in set(links(ROOT / "README.md"))


def test_the_page_about_health_and_the_manifests_have_the_probes_that_we_test() -> None:
    wanted = {kind: probe.manifest() for kind, probe in PROBES.items()}
    (shown,) = (
        text for language, text in FENCE.findall((ROOT / "docs" / "health.md").read_text()) if language == "yaml"
    )
    assert yaml.safe_load(shown) == wanted
    for manifest in sorted((ROOT / "daemonset").glob("*.yaml")):
        for document in yaml.safe_load_all(manifest.read_text()):
            if document["kind"] != "DaemonSet":
                continue
            for container in document["spec"]["template"]["spec"]["containers"]:
                if container["name"] == "kube-router":
                    assert {kind: container.get(kind) for kind in wanted} == wanted, manifest.name
