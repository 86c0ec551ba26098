"""The file of `--config`: what it gives, what counts before it, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.daemon.commandline import Parsed, parse
from kuberouter.daemon.configfile import changes, merge


def merged(tmp_path: Path, text: str, *words: str) -> tuple[Parsed, list[str]]:
    """A command line with a file of this text; the file's name is cut off from mistakes."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    found, errors = merge(parse([f"--config={file}", *words]))
    start = f"--config: {file}"
    assert all(error.startswith(start) for error in errors)
    return found, [error.removeprefix(start) for error in errors]


def test_values_of_every_kind(tmp_path: Path) -> None:
    text = """
run-router: false
bgp-port: 0x50
ipvs-sync-period: 1m30s
router-id: generate
v: 2
peer-router-ips: [192.0.2.1, 2001:db8::1]
peer-router-asns: [64512, 64513]
peer-router-ports: 179,1179
service-external-ip-range:
- 192.0.2.0/24
- 198.51.100.0/24
excluded-cidrs: 10.0.0.0/8,11.0.0.0/8
kubeconfig: ''
"""
    found, errors = merged(tmp_path, text)
    assert errors == []
    wanted = {
        "run-router": False,
        "bgp-port": 80,
        "ipvs-sync-period": 90.0,
        "router-id": "generate",
        "v": "2",
        "peer-router-ips": ("192.0.2.1", "2001:db8::1"),
        "peer-router-asns": (64512, 64513),
        "peer-router-ports": (179, 1179),
        "service-external-ip-range": ("192.0.2.0/24", "198.51.100.0/24"),
        "excluded-cidrs": ("10.0.0.0/8", "11.0.0.0/8"),
        "kubeconfig": "",
    }
    assert {name: found.values[name] for name in wanted} == wanted
    assert found.given == {"config", *wanted}
    assert changes(parse([]), found) == sorted({"config", *wanted} - {"kubeconfig"})


def test_a_flag_counts_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    found, errors = merged(tmp_path, "bgp-port: 1\ncluster-asn: 64600\n", "--bgp-port=2", "--excluded-cidrs=::/0")
    assert errors == []
    assert [found.values[name] for name in ("bgp-port", "cluster-asn", "overlay-encap-port")] == [2, 64600, 5555]


def test_a_list_in_the_file_is_replaced_by_the_flag_and_not_appended_to(tmp_path: Path) -> None:
    found, _ = merged(tmp_path, "peer-router-asns: [1, 2]", "--peer-router-asns=3")
    assert found.values["peer-router-asns"] == (3,)


def test_without_a_file_nothing_changes() -> None:
    parsed = parse(["--bgp-port=2"])
    assert merge(parsed) == (parsed, [])


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeffv: 0\n"])
def test_a_file_may_say_nothing(text: str, tmp_path: Path) -> None:
    assert merged(tmp_path, text)[1] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v: 1\nnope: 1", ", line 2: nope: there is no such flag"),
        ("\n\nhelp: true", ", line 3: help: can only be given on the command line"),
        ("config: x", ", line 1: config: can only be given"),
        ("v: 1\nv: 2", ", line 2: v: is there twice"),
        ("run-router: yes", ", line 1: run-router: 'yes' is not a boolean; true or false is wanted"),
        ("bgp-port:", ", line 1: bgp-port: has no value"),
        ("router-id: ~", ", line 1: router-id: has no value"),
        ("bgp-port: [1]", ", line 1: bgp-port: takes one plain value"),
        ("bgp-port: -1", ", line 1: bgp-port: "),
        ("peer-router-ips: {a: b}", ", line 1: peer-router-ips: takes a list of plain values"),
        ("peer-router-ips: [[a]]", ", line 1: peer-router-ips: takes a list of plain values"),
        ("peer-router-asns: [x]", ", line 1: peer-router-asns: 'x' is not a decimal number"),
        ("[a]: b", ", line 1: ?: there is no such flag"),
        ("- a", ", line 1: is no map from names of flags to values"),
        ("a: [1", ": is no YAML: "),
        ("v: 1\n---\nv: 2", ": is no YAML: "),
        ("a: " + "[" * 100_000, ": is no YAML: it is nested more than 200 levels deep"),
        ("#" * (1 << 20) + "\n", ": is larger than"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (error,) = merged(tmp_path, text)[1]
    assert error.startswith(said)


def test_all_mistakes_are_told_and_what_is_right_counts(tmp_path: Path) -> None:
    found, errors = merged(tmp_path, "a: 1\nbgp-port: 5\nb: 2")
    assert [error.split(": ")[1] for error in errors] == ["a", "b"]
    assert found.values["bgp-port"] == 5


@pytest.mark.parametrize(
    "text",
    [
        'peer-router-passwords: "s3cret',
        "peer-router-passwords: {s3cret: x}",
        "peer-router-passwords: s3cret: x",
        "peer-router-passwords: *s3cret",
        "peer-router-passwords: !s3cret [x",
        "peer-router-passwords: '\"s3cret'",
        "peer-router-passwords: @s3cret",
        "peer-router-passwords: [s3cret",
    ],
)
def test_no_mistake_shows_a_secret(text: str, tmp_path: Path) -> None:
    _, errors = merged(tmp_path, text)
    assert errors
    assert "s3cret" not in str(errors)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        (error,) = merge(parse([f"--config={path}"]))[1]
        assert error.startswith(f"--config: {path}: ")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert merge(parse([f"--config={tmp_path}/binary"]))[1] == [f"--config: {tmp_path}/binary: is no text in UTF-8"]
