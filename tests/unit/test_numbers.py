"""Weaknesses of the original, pains of users, tests that users ask for: each has tests that name it, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.conformance.scenarios import SERVES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "network-policy.md"
PROXY_PAGE = ROOT / "docs" / "service-proxy.md"
SCENARIOS = "test_compiled_rows_mean_what_the_manifests_say"
"""The test whose cases are named in a table."""
WEAKNESSES = [f"W{number}" for number in range(1, 31)]
DEFECTS = [f"B{number}" for number in range(1, 32)]
"""What the service proxy of the original gets wrong; the names of its tests begin with the number."""
OF_ROUTING = re.compile("bgp|rout|network|tunnel|cni|mtu|interop|hitless")
"""Whose files are named like this tell of the defects of the route controller, which are counted from B1 as well."""
ROUTING_DEFECTS = [f"B{number}" for number in range(1, 21)]
ROUTING_PAGES = [ROOT / "docs" / name for name in ("bgp.md", "bgp-services.md", "tunnels.md", "cni.md")]
PAINS = [f"pain {number}" for number in range(26, 35)]
WANTED = (
    "pod_first_packet",
    "except_then_allow",
    "protocol_only_rule",
    "named_port_many_pods",
    "named_port_differs_per_pod",
    "comment_overlong",
    "pod_without_ip",
    "bad_policy_isolated",
    "v6_sets_fresh",
    "nd_always",
    "foreign_rules_race",
    "foreign_rule_fidelity",
    "idempotent_100",
    "kill_midsync",
    "ns_label_change",
    "policy_delete",
    "all_pods_gone",
    "egress_vip",
    "startup_keeps_policy",
)


@cache
def documented(path: str) -> dict[str, str]:
    """Tests of a file with what they say of themselves."""
    found = (node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef))
    return {node.name: ast.get_docstring(node) or "" for node in found if node.name.startswith("test_")}


def names(number: str, text: str) -> bool:
    """Whether a text names a number."""
    return re.search(rf"\b{number}\b", text, re.IGNORECASE) is not None


def test_every_weakness_is_on_the_page_with_tests_that_exist_and_name_it() -> None:
    rows = re.findall(r"^\| (W\d+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [number for number, _, _ in rows] == WEAKNESSES
    for number, _, shown in rows:
        listed = re.findall(r"`([^`:]+)::([^`]+)`", shown)
        assert listed, number
        for path, name in listed:
            said = documented(path)[name]
            assert names(number, said) or (name == SCENARIOS and number in SERVES), (number, path, name)


def test_every_defect_of_the_proxy_is_on_its_page_with_all_tests_that_name_it() -> None:
    rows = re.findall(r"^\| (B\d+) \| (.+) \| (.+) \|$", PROXY_PAGE.read_text(), re.MULTILINE)
    assert [number for number, _, _ in rows] == DEFECTS
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    files = [path for path in files if not OF_ROUTING.search(path)]
    found = [(f"{path}::{name}", name) for path in files for name in documented(path)]
    for number, _, shown in rows:
        start = f"test_b{int(number[1:]):02}_"
        named = {place for place, name in found if name.startswith(start)}
        assert named, number
        assert set(re.findall(r"`([^`]+)`", shown)) == named, number


def test_defects_of_the_route_controller_are_on_its_pages_with_all_tests_that_name_them() -> None:
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    named: dict[str, set[str]] = {}
    for path in filter(OF_ROUTING.search, files):
        for name in documented(path):
            if number := re.match(r"test_b(\d\d)_", name):
                named.setdefault(f"B{int(number[1])}", set()).add(f"{path}::{name}")
    listed: dict[str, set[str]] = {}
    for page in ROUTING_PAGES:
        text = page.read_text() if page.exists() else ""
        for number, shown in re.findall(r"^\| (B\d+) \| .+ \| (.+) \|$", text, re.MULTILINE):
            listed.setdefault(number, set()).update(re.findall(r"`([^`]+)`", shown))
    assert listed == named
    assert named.keys() == set(ROUTING_DEFECTS)


def test_every_pain_and_every_wanted_test_is_found_by_its_name() -> None:
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    said = [text for path in files if path != "tests/unit/test_numbers.py" for text in documented(path).values()]
    assert [n for n in (*PAINS, *WANTED) if n not in SERVES and not any(names(n, text) for text in said)] == []
