"""Scripts for iptables-restore, and the tags by which their rules are found again."""

from __future__ import annotations

from kuberouter.model.netfilter import packed_tags, rule_tag, rule_tags
from kuberouter.wire.text.iptables import MARKER, Script, parse_tables

RULES = ("-p tcp -j RETURN", "-j DROP")


def saved(script: Script, *more: str) -> bytes:
    """The tags of a chain as they are read back from a table that holds the script's rules, and more."""
    lines = str(script).replace("COMMIT\n", "\n".join((*more, "COMMIT", "")))
    return packed_tags(parse_tables(lines)["filter"].tags["KUBE-A"])


def script(tags: bytes | None = None) -> Script:
    made = Script("filter")
    made.chain("KUBE-A", RULES, "A", tags=tags)
    return made


def test_every_rule_carries_the_tag_of_its_text() -> None:
    lines = [f"-A KUBE-A -m comment --comment {MARKER}{rule_tag(text)} {text}" for text in RULES]
    assert str(script()).splitlines() == ["*filter", ":KUBE-A - [0:0]", *lines, "COMMIT"]
    assert str(script(rule_tags(RULES))) == str(script())


def test_tags_are_read_back_as_they_were_meant() -> None:
    assert saved(script()) == rule_tags(RULES)


def test_a_rule_of_somebody_else_in_a_chain_shows_in_its_tags() -> None:
    assert saved(script(), "-A KUBE-A -j ACCEPT") != rule_tags(RULES)
