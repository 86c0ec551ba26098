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


def test_a_complaint_leads_to_the_rule_that_it_is_about() -> None:
    made = script()
    assert made.faults("iptables-restore: line 4 failed\n") == [("A", RULES[1])]
    # Line 2 declares the chain, and the last one commits.
    assert made.faults("iptables-restore: line 2 failed\n") == [("A", "")]
    assert made.faults("iptables-restore: line 5 failed\n") == []


def test_what_the_kernel_lacks_is_blamed_where_the_tool_warns_and_names_no_rule() -> None:
    lacking = ("-m physdev --physdev-in veth1 -j DROP", "-p tcp -j NFLOG --nflog-group 100")
    made = script()
    made.chain("KUBE-B", lacking, "B")
    warning = "Warning: Extension {} revision 0 not supported, missing kernel module?\n"
    at_commit = "iptables-restore: line 8 failed\n"
    assert made.faults(warning.format("physdev") + at_commit) == [("B", lacking[0])]
    both = warning.format("NFLOG") + warning.format("physdev") + at_commit
    assert set(made.faults(both)) == {("B", rule) for rule in lacking}
    # The nft tool warns of what it has words of its own for, too, and then blames the rule.
    assert made.faults(warning.format("NFLOG") + "line 4: RULE_APPEND failed (No such file)\n") == [("A", RULES[0])]
