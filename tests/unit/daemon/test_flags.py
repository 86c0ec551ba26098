"""The command line's language, rule by rule, on a table that has every kind of flag; and the help of the real one."""

from __future__ import annotations

import pytest

from kuberouter.daemon import flags
from kuberouter.daemon.commandline import UsageError, parse, past, show_duration, usage
from kuberouter.daemon.flags import Flag

TABLE = (
    Flag("run", flags.BOOL, True, "Run it.", "r"),
    Flag("quiet", flags.BOOL, False, "Say nothing.", "q"),
    Flag("name", flags.STRING, "", "A name."),
    Flag("v", flags.STRING, "0", "A level.", "v"),
    Flag("port", flags.UINT16, 80, "A port."),
    Flag("mark", flags.UINT32, 0, "A mark."),
    Flag("asn", flags.UINT, 0, "A number."),
    Flag("period", flags.DURATION, 300.0, "A period."),
    Flag("range", flags.STRINGS, ("10.96.0.0/12",), "Ranges."),
    Flag("peer", flags.UINTS, (), "Peers."),
)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--name=a", "name", "a"),
        ("--name a", "name", "a"),
        ("--name=", "name", ""),
        ("--name=a=b", "name", "a=b"),
        ("--name --run", "name", "--run"),
        ("--name a --name b", "name", "b"),
        ("-v2", "v", "2"),
        ("-v 2", "v", "2"),
        ("-v=2", "v", "2"),
        ("--v=2", "v", "2"),
        ("-v=", "v", "="),
        ("-qv2", "v", "2"),
        ("-qv2", "quiet", True),
        ("-r=false", "run", False),
        ("--quiet", "quiet", True),
        ("--run=false", "run", False),
        ("", "run", True),
        ("--port=0x50", "port", 80),
        ("--port=0b101_0000", "port", 80),
        ("--port=0o120", "port", 80),
        ("--port=0120", "port", 80),
        ("--port=6_4", "port", 64),
        ("--port=65535", "port", 65535),
        ("--port=00", "port", 0),
        ("--mark=4294967295", "mark", 4294967295),
        ("--asn=18446744073709551615", "asn", 18446744073709551615),
        ("--asn=0b" + "1" * 64, "asn", 18446744073709551615),
        ("--period=0", "period", 0.0),
        ("--period=1h2m3.5s", "period", 3723.5),
        ("--period=-1.5s", "period", -1.5),
        ("--period=+300ms", "period", 0.3),
        ("--period=250us", "period", 250e-6),
        ("--period=250µs", "period", 250e-6),
        ("--range=10.0.0.0/8", "range", ("10.0.0.0/8",)),
        ("--range=a,b --range c", "range", ("a", "b", "c")),
        ("--range=", "range", ()),
        ('--range="a,b",c', "range", ("a,b", "c")),
        ('--range="so-""hi""",c', "range", ('so-"hi"', "c")),
        ("--range=a,,b,", "range", ("a", "", "b", "")),
        ("--peer=1,2 --peer=3", "peer", (1, 2, 3)),
        ("--peer=010", "peer", (10,)),
    ],
)
def test_a_word_sets_a_value(words: str, name: str, value: object) -> None:
    found = parse(words.split(), TABLE).values[name]
    assert found == pytest.approx(value) if isinstance(value, float) else found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_spellings_of_true(text: str) -> None:
    assert parse([f"--quiet={text}"], TABLE).values["quiet"] is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_spellings_of_false(text: str) -> None:
    assert parse([f"--run={text}"], TABLE).values["run"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nope"], "--nope"),
        (["--nam=a"], "--nam"),
        (["-x"], "'x' in -x"),
        (["-qx"], "'x' in -qx"),
        (["--=a"], "--=a"),
        (["---name"], "---name"),
        (["--name"], "needs an argument: --name"),
        (["-v"], "needs an argument: -v"),
        (["--run=yes"], "'yes' for -r, --run"),
        (["--run="], "'' for -r, --run"),
        (["--quiet=TrUe"], "'TrUe'"),
        (["--port=65536"], "'65536' for --port"),
        (["--port=-1"], "'-1'"),
        (["--port=+1"], "'+1'"),
        (["--port="], "''"),
        (["--port= 80"], "' 80'"),
        (["--port=80\n"], "for --port"),
        (["--port=0x"], "'0x'"),
        (["--port=09"], "'09'"),
        (["--port=8__0"], "'8__0'"),
        (["--port=80_"], "'80_'"),
        (["--port=\u0661"], "for --port"),
        (["--mark=4294967296"], "4294967295"),
        (["--asn=18446744073709551616"], "'18446744073709551616' for --asn"),
        (["--asn=" + "9" * 5000], "for --asn"),
        (["--asn=0x" + "f" * 5000], "for --asn"),
        (["--period=5"], "'5' for --period"),
        (["--period=5x"], "'5x'"),
        (["--period=5 m"], "'5 m'"),
        (["--period="], "''"),
        (["--period=3000000h"], "for --period"),
        (["--period=\u0661s"], "for --period"),
        (["--peer=0x10"], "'0x10'"),
        (["--peer=1_0"], "'1_0'"),
        (["--peer=1,,2"], "for --peer"),
        (["--peer="], "for --peer"),
        (["--peer=18446744073709551616"], "for --peer"),
        (['--range="a'], "for --range"),
        (['--range=a"b"'], "for --range"),
        (['--range="a"b'], "for --range"),
        (["--range=a\nb"], "for --range"),
    ],
)
def test_a_wrong_word_is_refused_by_flag_and_value(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words, TABLE)
    assert said in str(caught.value)


def test_a_bool_never_takes_the_next_word() -> None:
    parsed = parse(["--run", "false", "--quiet"], TABLE)
    assert parsed.values["run"] is True
    assert parsed.values["quiet"] is True
    assert parsed.positionals == ("false",)


def test_flags_and_positionals_may_interleave_until_the_double_dash() -> None:
    parsed = parse(["a", "--name=x", "-", "--", "--run=false", "b"], TABLE)
    assert parsed.positionals == ("a", "-", "--run=false", "b")
    assert parsed.values["run"] is True
    assert parsed.given == {"name"}


def test_a_list_flag_replaces_its_default_even_by_the_same_items() -> None:
    assert parse(["--range=10.96.0.0/12"], TABLE).values["range"] == ("10.96.0.0/12",)


def test_parsing_leaves_the_table_as_it_is() -> None:
    parse(["--range=a", "--range=b"], TABLE)
    assert parse([], TABLE).values["range"] == ("10.96.0.0/12",)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (1e-9, "1ns"),
        (1.5e-6, "1.5µs"),
        (0.0015, "1.5ms"),
        (0.3, "300ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (60.0, "1m0s"),
        (90.0, "1m30s"),
        (300.0, "5m0s"),
        (3600.0, "1h0m0s"),
        (3723.5, "1h2m3.5s"),
        (-90.0, "-1m30s"),
        (64800.000000001, "18h0m0.000000001s"),
    ],
)
def test_a_duration_is_shown_as_it_may_be_written(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
    assert parse([f"--period={text}"], TABLE).values["period"] == pytest.approx(seconds)


def test_help_has_columns_names_of_types_and_defaults_that_are_not_zero() -> None:
    assert usage("prog", TABLE) == "\n".join(
        (
            "Usage of prog:",
            "      --asn uint          A number.",
            "      --mark uint32       A mark.",
            "      --name string       A name.",
            "      --peer uints        Peers.",
            "      --period duration   A period. (default 5m0s)",
            "      --port uint16       A port. (default 80)",
            "  -q, --quiet             Say nothing.",
            "      --range strings     Ranges. (default [10.96.0.0/12])",
            "  -r, --run               Run it. (default true)",
            '  -v, --v string          A level. (default "0")',
            "",
        )
    )


def test_what_does_nothing_here_is_taken_and_stands_in_no_help() -> None:
    hidden = [flag.name for flag in flags.FLAGS if flag.past]
    assert hidden == ["cluster-cidr", "config-sync-period"]
    shown = usage("prog")
    assert not [name for name in hidden if f"--{name} " in shown]
    told = past(parse(["--config-sync-period=1m", "--cluster-cidr=10.0.0.0/8", "--cluster-cidr=", "--enable-pprof"]))
    assert [sentence.partition(" ")[0] for sentence in told] == ["--cluster-cidr", "--config-sync-period"]


def test_every_default_can_be_written_on_a_command_line() -> None:
    for flag in flags.FLAGS:
        text = show_duration(flag.default) if isinstance(flag.default, float) else str(flag.default)
        text = ",".join(map(str, flag.default)) if isinstance(flag.default, tuple) else text
        if flag.kind is flags.UINTS and not text:
            # Of numbers alone there is no empty list, and the flag is left out.
            assert parse([]).values[flag.name] == flag.default
            continue
        assert parse([f"--{flag.name}={text}"]).values[flag.name] == flag.default


def test_names_and_letters_are_used_once_and_every_flag_is_explained_in_a_sentence() -> None:
    names = [flag.name for flag in flags.FLAGS]
    letters = [flag.short for flag in flags.FLAGS if flag.short]
    assert len(set(names)) == len(names)
    assert sorted(letters) == ["V", "h", "v"]
    assert [flag.name for flag in flags.FLAGS if not flag.help.endswith(".")] == []


ROUTING = {
    "run-router": True,
    "hostname-override": "",
    "enable-ipv4": True,
    "enable-ipv6": False,
    "cluster-asn": 64512,  # 0 there, which means the same
    "nodes-full-mesh": True,
    "enable-ibgp": True,
    "bgp-port": 179,
    "bgp-holdtime": 90.0,
    "bgp-graceful-restart": False,
    "bgp-graceful-restart-time": 90.0,
    "bgp-graceful-restart-deferral-time": 360.0,
    "router-id": "",
    "peer-router-ips": (),
    "peer-router-asns": (),
    "peer-router-ports": (),
    "peer-router-passwords": (),
    "peer-router-passwords-file": "",
    "peer-router-multihop-ttl": 0,
    "enable-bfd": False,
    "bfd-port": 3784,
    "bfd-detection-multiplier": 3,
    "bfd-desired-min-tx-interval": 1000,
    "bfd-required-min-rx-interval": 1000,
    "override-nexthop": False,
    "advertise-pod-cidr": True,
    "advertise-cluster-ip": False,
    "advertise-external-ip": False,
    "advertise-loadbalancer-ip": False,
    "strict-external-ip-validation": True,
    "enable-overlay": True,
    "overlay-type": "subnet",
    "overlay-encap": "ipip",
    "overlay-encap-port": 5555,
    "auto-mtu": True,
    "enable-cni": True,
    "enable-pod-egress": True,
    "disable-source-dest-check": True,
    "routes-sync-period": 300.0,
    "injected-routes-sync-period": 60.0,
    "gobgp-admin-address": "127.0.0.1",
    "gobgp-admin-port": 0,  # 50051 there: here it is gobgpd that would listen, and unasked it does so nowhere
    "metrics-port": 0,
    "cache-sync-timeout": 60.0,
}
"""Flags of the Go kube-router that are about routing, with their defaults."""


def test_flags_about_routing_are_all_there_and_mean_the_same_when_they_are_not_given() -> None:
    defaults = {flag.name: flag.default for flag in flags.FLAGS if not flag.past}
    assert {name: defaults.get(name) for name in ROUTING} == ROUTING
