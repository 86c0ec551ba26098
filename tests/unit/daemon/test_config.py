"""From a command line and an environment to settings, and every mistake on the way, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.daemon.commandline import UsageError, parse
from kuberouter.daemon.config import Config, _reuse_mode, load
from kuberouter.decode.scalars import address, prefix
from kuberouter.model.balancer import AddressPool
from kuberouter.model.bgp import Bfd, PeerSpec
from kuberouter.model.core import Family, Secret
from kuberouter.model.settings import Advertise, ExternalPeers, GracefulRestart, MetricsSettings

POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "NODE_NAME": "node-1"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "10-kuberouter.conflist"
    file.write_text("{}")
    return {**POD, "KUBE_ROUTER_CNI_CONF_FILE": str(file)}


def good(words: str, environment: dict[str, str]) -> Config:
    config, errors = load(parse(words.split()), environment)
    assert errors == []
    assert config is not None
    return config


def test_defaults(environment: dict[str, str]) -> None:
    config = good("", environment)
    assert config.node.name == "node-1"
    assert config.node.families == (Family.IPV4,)
    assert config.proxy is not None
    assert config.proxy.sync_period == 300.0
    assert config.proxy.guard
    assert config.router is not None
    assert config.router.asn == 64512
    assert config.router.route_sync_period == 60.0
    assert config.router.cni_file == environment["KUBE_ROUTER_CNI_CONF_FILE"]
    assert config.firewall is not None
    assert config.firewall.cluster_ranges == (prefix("10.96.0.0/12"),)
    assert config.firewall.node_ports == (30000, 32767)
    assert not config.firewall.namespace_annotation
    assert not config.firewall.default_deny
    assert not config.firewall.cut_flows
    assert config.firewall.log_drops
    assert config.health_port == 20244
    assert config.iptables_mode == "auto"


def test_a_controller_that_is_off_has_no_settings(environment: dict[str, str]) -> None:
    config = good("--run-router=false --run-firewall=false", environment)
    assert config.router is None
    assert config.firewall is None
    assert config.proxy is not None


def test_the_override_beats_the_environment_in_naming_the_node(environment: dict[str, str]) -> None:
    assert good("--hostname-override=other", environment).node.name == "other"


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ("", 0),
        ("--overlay-encap=fou", 5555),
        # Nodes that do not send inside UDP yet, or no more, accept it.
        ("--overlay-encap-port=5555", 5555),
        ("--overlay-encap=ipip --overlay-encap-port=6666", 6666),
    ],
)
def test_a_port_for_tunnels_is_open_only_where_somebody_asks_for_it(
    words: str, port: int, environment: dict[str, str]
) -> None:
    router = good(words, environment).router
    assert router is not None
    assert router.overlay_port == port


def test_values_reach_their_settings(environment: dict[str, str]) -> None:
    words = (
        "--enable-ipv6 --service-cluster-ip-range=10.100.0.0/16,fd00:1::/108 --cluster-asn=4200000000 --bgp-port=0xb3 "
        "--overlay-type=full --router-id=generate --loadbalancer-ip-range=10.2.0.0/16 --enable-ibgp=false "
        "--loadbalancer-ip-range=fd00:2::/64 --service-external-ip-range=10.3.0.0/16 --health-addr=[::1] "
        "--service-node-port-range=20000:30000 --iptables-sync-period=1m --ipvs-sync-period=2m --masquerade-all "
        "--ipvs-permit-all=false --netpol-namespace-annotation --iptables-mode=legacy "
        "--netpol-default-deny --netpol-existing-flows=cut --netpol-log-drops=false "
        "--nodes-full-mesh=false --advertise-pod-cidr=false "
        "--bgp-import-allow-cidrs=10.244.0.0/16 --bgp-import-allow-cidrs=fd44::/48 --advertise-loadbalancer-ip "
        "--overlay-encap=fou --overlay-encap-port=7777 --non-masquerade-cidrs=172.16.0.0/12,fd00:9::/32"
    )
    config = good(words, environment)
    assert config.node.families == (Family.IPV4, Family.IPV6)
    assert config.router is not None
    assert (config.router.asn, config.router.bgp_port) == (4200000000, 179)
    assert config.router.overlay_full
    assert (config.router.overlay_encap, config.router.overlay_port) == ("fou", 7777)
    assert config.router.router_id == "generate"
    assert not config.router.ibgp
    assert not config.router.full_mesh
    assert config.router.advertise == Advertise(pod_cidr=False, load_balancer_ip=True)
    assert config.router.import_allow == (prefix("10.244.0.0/16"), prefix("fd44::/48"))
    assert config.router.plain_destinations == (prefix("172.16.0.0/12"), prefix("fd00:9::/32"))
    assert config.firewall is not None
    assert config.firewall.load_balancer_ranges == (prefix("10.2.0.0/16"), prefix("fd00:2::/64"))
    assert config.firewall.external_ranges == (prefix("10.3.0.0/16"),)
    assert config.firewall.node_ports == (20000, 30000)
    assert config.firewall.sync_period == 60.0
    assert config.firewall.namespace_annotation
    assert config.firewall.default_deny
    assert config.firewall.cut_flows
    assert not config.firewall.log_drops
    assert config.iptables_mode == "legacy"
    assert config.proxy is not None
    assert config.proxy.addresses == config.router.addresses
    assert config.proxy.sync_period == 120.0
    assert config.proxy.masquerade_all
    assert not config.proxy.guard
    assert config.proxy.node_ports == (20000, 30000)
    assert config.health_address == "::1"


@pytest.mark.parametrize(
    ("words", "families", "ranges"),
    [
        ("--service-cluster-ip-range=10.100.0.0/16", "4", ("10.100.0.0/16",)),
        (
            "--enable-ipv6 --service-cluster-ip-range=10.100.0.0/16 --service-cluster-ip-range=fd00:1::/108",
            "46",
            ("10.100.0.0/16", "fd00:1::/108"),
        ),
        (
            "--enable-ipv6 --service-cluster-ip-range=fd00:1::/108,10.100.0.0/16",
            "46",
            ("fd00:1::/108", "10.100.0.0/16"),
        ),
        ("--enable-ipv4=false --enable-ipv6 --service-cluster-ip-range=fd00:1::/108", "6", ("fd00:1::/108",)),
        (
            "--service-cluster-ip-range=10.100.0.0/16 --service-cluster-ip-range=10.200.0.0/16",
            "4",
            ("10.100.0.0/16", "10.200.0.0/16"),
        ),
    ],
)
def test_cluster_ip_ranges_are_repeated_and_replace_the_default(
    words: str, families: str, ranges: tuple[str, ...], environment: dict[str, str]
) -> None:
    """Pain 33."""
    config = good(words, environment)
    assert config.node.families == tuple({"4": Family.IPV4, "6": Family.IPV6}[family] for family in families)
    assert config.firewall is not None
    assert config.firewall.cluster_ranges == config.node.cluster_ranges == tuple(map(prefix, ranges))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--enable-ipv4=false", "--service-cluster-ip-range"),
        ("--enable-ipv4=false", "it is the default, set --service-cluster-ip-range"),
        (
            "--enable-ipv4=false --service-cluster-ip-range=fd00::/108 --enable-ipv6=false",
            "--enable-ipv4, --enable-ipv6",
        ),
        ("--service-cluster-ip-range=", "--service-cluster-ip-range"),
        ("--service-cluster-ip-range=10.0.0.0/16,10.1.0.0/16,10.2.0.0/16", "3 given"),
        (
            "--service-cluster-ip-range=10.0.0.0/16 --service-cluster-ip-range=10.1.0.0/16 "
            "--service-cluster-ip-range=10.2.0.0/16",
            "3 given",
        ),
        ("--service-cluster-ip-range=10.96.0.0/12,fd00::/108", "--service-cluster-ip-range: fd00::/108 is an IPv6"),
        (
            "--service-external-ip-range=198.51.100.0/24 --service-external-ip-range=y",
            "--service-external-ip-range: 'y'",
        ),
        ("--service-cluster-ip-range=10.0.0.0", "'10.0.0.0'"),
        ("--service-cluster-ip-range=10.0.0.0/33", "'10.0.0.0/33'"),
        ("--service-external-ip-range=fd00::/64", "--service-external-ip-range: fd00::/64 is an IPv6"),
        ("--loadbalancer-ip-range=x/8 --run-firewall=false", "--loadbalancer-ip-range: 'x/8'"),
        ("--service-node-port-range=30000", "--service-node-port-range: '30000'"),
        ("--service-node-port-range=3-2", "'3-2'"),
        ("--service-node-port-range=3-3", "'3-3'"),
        ("--service-node-port-range=0-9", "'0-9'"),
        ("--service-node-port-range=1-65536 --run-firewall=false", "'1-65536'"),
        ("--iptables-sync-period=0", "--iptables-sync-period: 0s"),
        ("--ipvs-sync-period=-1m", "--ipvs-sync-period: -1m0s"),
        ("--routes-sync-period=0s", "--routes-sync-period"),
        ("--cache-sync-timeout=0", "--cache-sync-timeout: 0s is not longer than zero"),
        ("--injected-routes-sync-period=0", "--injected-routes-sync-period"),
        ("--cluster-asn=65000000", "--cluster-asn: 65000000"),
        ("--cluster-asn=1 --run-router=false", "--cluster-asn: 1"),
        ("--bgp-port=0", "--bgp-port: 0"),
        ("--bgp-port=65536", "--bgp-port: 65536"),
        ("--iptables-mode=nftables", "--iptables-mode: 'nftables' is not one of auto, nft, legacy"),
        ("--netpol-existing-flows=drop", "--netpol-existing-flows: 'drop' is not one of keep, cut"),
        ("--overlay-type=half", "--overlay-type: 'half'"),
        ("--overlay-encap=vxlan", "--overlay-encap: 'vxlan' is not one of ipip, fou"),
        ("--overlay-encap-port=1023", "--overlay-encap-port: 1023"),
        ("--overlay-encap-port=65536", "--overlay-encap-port: 65536"),
        ("--router-id=1.2.3", "--router-id: '1.2.3'"),
        ("--router-id=0.0.0.0", "--router-id: '0.0.0.0'"),
        ("--router-id=::1", "--router-id: '::1'"),
        ("--router-id=Generate", "--router-id: 'Generate'"),
        ("--gobgp-socket=run/x.sock", "--gobgp-socket: 'run/x.sock'"),
        ("--gobgp-socket=/" + "x" * 107, "--gobgp-socket"),
        ("--gobgpd=start", "--gobgpd: 'start' is not one of connect, spawn"),
        ("--gobgp-admin-port=50051", "--gobgp-admin-port: it takes --gobgpd=spawn"),
        ("--gobgpd=spawn --gobgp-admin-port=50051 --gobgp-admin-address=x", "--gobgp-admin-address: 'x'"),
        ("--bgp-import-allow-cidrs=x", "--bgp-import-allow-cidrs: 'x'"),
        ("--non-masquerade-cidrs=10.0.0.0", "--non-masquerade-cidrs: '10.0.0.0'"),
        ("--non-masquerade-cidrs=fd00::/8", "--non-masquerade-cidrs: fd00::/8 is an IPv6 CIDR block while IPv6"),
        ("--bgp-holdtime=2s", "--bgp-holdtime: 2s is not a whole number of seconds from 3 to 65535"),
        ("--bgp-holdtime=1500ms", "--bgp-holdtime: 1.5s"),
        ("--bgp-graceful-restart-time=4096s", "--bgp-graceful-restart-time: 1h8m16s"),
        ("--bgp-graceful-restart-deferral-time=0", "--bgp-graceful-restart-deferral-time: 0s"),
        ("--peer-router-ips=10.0.0.1", "--peer-router-ips: there are 1 addresses and 0 AS numbers"),
        ("--peer-router-asns=65000", "--peer-router-ips: there are 0 addresses and 1 AS numbers"),
        ("--peer-router-ips=10.0.0 --peer-router-asns=65000", "--peer-router-ips: '10.0.0'"),
        ("--peer-router-ips=10.0.0.1 --peer-router-asns=64000", "--peer-router-asns: '64000'"),
        ("--peer-router-ips=10.0.0.1,10.0.0.1 --peer-router-asns=1,2", "--peer-router-ips: 10.0.0.1 is named twice"),
        (
            "--peer-router-ips=10.0.0.1 --peer-router-asns=1 --peer-router-ports=0",
            "--peer-router-ports: 0 is not a port",
        ),
        (
            "--peer-router-ips=10.0.0.1 --peer-router-asns=1 --peer-router-ports=179,180",
            "--peer-router-ips: there are 1 addresses and 2 ports",
        ),
        ("--peer-router-passwords-file=/does/not/exist", "--peer-router-passwords-file: /does/not/exist: No such file"),
        ("--bfd-port=65536", "--bfd-port: 65536 is not a number from 1 to 65535"),
        ("--bfd-detection-multiplier=0", "--bfd-detection-multiplier: 0"),
        ("--bfd-desired-min-tx-interval=4294968", "--bfd-desired-min-tx-interval: 4294968"),
        ("--bfd-required-min-rx-interval=0", "--bfd-required-min-rx-interval: 0"),
        ("--health-addr=nowhere", "--health-addr: 'nowhere'"),
        ("--kubeconfig=/does/not/exist", "--kubeconfig: /does/not/exist"),
        ("--master=10.0.0.1:6443", "--master: '10.0.0.1:6443'"),
        ("--master=http://h:x", "--master: 'http://h:x'"),
        ("--manifests=/does/not/exist", "--manifests: /does/not/exist"),
        ("--manifests=/ --master=http://h", "--master: http://h and --manifests"),
    ],
)
def test_a_mistake_names_its_flag(words: str, said: str, environment: dict[str, str]) -> None:
    config, errors = load(parse(words.split()), environment)
    assert config is None
    assert any(said in error for error in errors), errors


def test_all_mistakes_are_told_together(environment: dict[str, str]) -> None:
    words = ["--overlay-type=x", "--router-id=y", "--routes-sync-period=0", "--loadbalancer-ip-range=z", "--bgp-port=0"]
    _, errors = load(parse(words), environment)
    assert [error.partition(":")[0] for error in errors] == [
        "--routes-sync-period",
        "--loadbalancer-ip-range",
        "--overlay-type",
        "--router-id",
        "--bgp-port",
    ]


def test_somewhere_a_cluster_must_be() -> None:
    _, errors = load(parse(["--run-router=false"]), {"NODE_NAME": "n"})
    assert len(errors) == 1
    assert "KUBERNETES_SERVICE_HOST" in errors[0]
    config, errors = load(parse(["--run-router=false", "--manifests=/"]), {"NODE_NAME": "n"})
    assert errors == []
    assert config is not None


def test_the_cni_file_need_not_be_there_but_there_must_be_a_place_for_it(tmp_path: Path) -> None:
    """pain 25: who begins without the file has it made when the node is ready for pods."""
    good("", {**POD, "KUBE_ROUTER_CNI_CONF_FILE": str(tmp_path / "new.conflist")})
    environment = {**POD, "KUBE_ROUTER_CNI_CONF_FILE": str(tmp_path / "missing" / "new.conf")}
    _, errors = load(parse([]), environment)
    assert errors == [
        f"KUBE_ROUTER_CNI_CONF_FILE: {tmp_path}/missing/new.conf cannot be made, for {tmp_path}/missing is no "
        "directory; --enable-cni=false does without it"
    ]
    good("--enable-cni=false", environment)
    good("--run-router=false", environment)
    _, errors = load(parse([]), {**POD, "KUBE_ROUTER_CNI_CONF_FILE": str(tmp_path)})
    assert errors == [f"KUBE_ROUTER_CNI_CONF_FILE: {tmp_path} is no file; --enable-cni=false does without it"]


def test_metrics_are_off_until_a_port_is_given(environment: dict[str, str]) -> None:
    assert good("--netpol-metrics-per-policy", environment).metrics is None
    assert good("--metrics-port=65535", environment).metrics == MetricsSettings(65535)
    words = "--metrics-port=8080 --metrics-addr=[::1] --metrics-path=/m --netpol-metrics-per-policy"
    assert good(words, environment).metrics == MetricsSettings(8080, "::1", "/m", per_policy=True)


def test_metrics_want_a_path_and_an_address(environment: dict[str, str]) -> None:
    for path in ("metrics", "", "/a b", "/a?b", "/a#b"):
        config, errors = load(parse([f"--metrics-path={path}"]), environment)
        assert config is None
        assert errors == [f"--metrics-path: {path!r} is not a path such as /metrics"]
    config, errors = load(parse(["--metrics-addr=localhost"]), environment)
    assert config is None
    assert errors[0].startswith("--metrics-addr: ")


def test_metrics_over_tls_want_both_files_and_a_token_one(environment: dict[str, str], tmp_path: Path) -> None:
    certificate, key, token = (tmp_path / name for name in ("tls.crt", "tls.key", "token"))
    for file in (certificate, token):
        file.write_text("x")
    config, errors = load(parse(["--metrics-port=1", f"--metrics-tls-cert-file={certificate}"]), environment)
    assert config is None
    assert errors == ["--metrics-tls-cert-file, --metrics-tls-key-file: one is of no use without the other"]
    words = [f"--metrics-tls-cert-file={certificate}", f"--metrics-tls-key-file={key}", f"--metrics-token-file={token}"]
    _, errors = load(parse(["--metrics-port=1", *words]), environment)
    assert errors == [f"--metrics-tls-key-file: {key} is no file"]
    key.write_text("x")
    metrics = good(" ".join(["--metrics-port=1", *words]), environment).metrics
    assert metrics == MetricsSettings(1, certificate=str(certificate), key=str(key), token=str(token))


def test_peers_outside_the_cluster(environment: dict[str, str], tmp_path: Path) -> None:
    words = (
        "--peer-router-ips=10.0.0.1,2001:db8::9 --peer-router-asns=65000,4200000000 --peer-router-ports=179,1790 "
        "--peer-router-passwords=aHVzaA==, --peer-router-multihop-ttl=3 --override-nexthop --bgp-holdtime=30s "
        "--enable-bfd --bfd-detection-multiplier=5"
    )
    router = good(words, environment).router
    assert router is not None
    v4, v6, bfd = address("10.0.0.1"), address("2001:db8::9"), Bfd(multiplier=5)
    assert router.peers == ExternalPeers(
        (PeerSpec(v4, 65000, password=Secret("hush"), bfd=bfd), PeerSpec(v6, 4200000000, 1790, bfd=bfd)),
        hold_time=30,
        multihop_ttl=3,
        next_hop_self=True,
    )
    file = tmp_path / "passwords"
    file.write_text("aHVzaA==, aHVzaCBodXNo\n")
    both = "--peer-router-ips=10.0.0.1,10.0.0.2 --peer-router-asns=1,2"
    for more, expected in (
        (f"--peer-router-passwords-file={file}", [Secret("hush"), Secret("hush hush")]),
        (f"--peer-router-passwords-file={file} --peer-router-passwords=,aHVzaA==", [None, Secret("hush")]),
        ("", [None, None]),
    ):
        router = good(f"{both} {more}", environment).router
        assert router is not None
        assert [spec.password for spec in router.peers.specs] == expected
        assert router.peers.hold_time == 90


@pytest.mark.parametrize(
    "words",
    [
        "--peer-router-passwords=hush",
        "--peer-router-passwords=aHVzaA==,hush",
        '--peer-router-passwords="hush',
        "--peer-router-passwords hush,",
        "--peer-router-passwords-file={file}",
    ],
)
def test_no_mistake_shows_a_password(words: str, environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text("aHVzaA==,hush\n")
    peers = ["--peer-router-ips=10.0.0.1", "--peer-router-asns=1"]
    try:
        _, errors = load(parse([*peers, *words.format(file=file).split()]), environment)
    except UsageError as error:
        errors = [str(error)]
    assert errors
    assert "peer-router-passwords" in errors[0]
    assert not [error for error in errors if "hush" in error or "aHVz" in error]


def test_graceful_restart_is_asked_for(environment: dict[str, str]) -> None:
    router = good("--bgp-graceful-restart-time=2m", environment).router
    assert router is not None
    assert router.graceful is None
    router = good("--bgp-graceful-restart --bgp-graceful-restart-time=2m", environment).router
    assert router is not None
    assert router.graceful == GracefulRestart(120, 360)


def test_timeouts_are_whole_seconds(environment: dict[str, str]) -> None:
    proxy = good("--service-tcp-timeout=2h --service-udp-timeout=90s", environment).proxy
    assert proxy is not None
    assert (proxy.tcp_timeout, proxy.tcp_fin_timeout, proxy.udp_timeout) == (7200, 0, 90)
    words = ["--service-tcp-timeout=1500ms", "--service-tcpfin-timeout=-1s", "--service-udp-timeout=900h"]
    config, errors = load(parse(words), environment)
    assert config is None
    assert errors == [
        f"--service-{kind}-timeout: {text} is not a whole number of seconds from 0 to 2147483"
        for kind, text in (("tcp", "1.5s"), ("tcpfin", "-1s"), ("udp", "900h0m0s"))
    ]


@pytest.mark.parametrize(
    ("release", "mode"), [("4.19.0-27-amd64", 0), ("5.8.18", 0), ("5.9", 1), ("5.10.0-28", 1), ("6.1.0", 1), ("?", 1)]
)
def test_the_kernel_decides_what_becomes_of_a_port_that_is_used_again(release: str, mode: int) -> None:
    assert _reuse_mode(release) == mode


def test_excluded_networks_may_be_of_any_family(environment: dict[str, str]) -> None:
    proxy = good("--excluded-cidrs=198.51.100.0/24,2001:db8::/32 --vip-mode=route", environment).proxy
    assert proxy is not None
    assert proxy.excluded == (prefix("198.51.100.0/24"), prefix("2001:db8::/32"))
    assert proxy.local_routes
    config, errors = load(parse(["--excluded-cidrs=nonsense", "--vip-mode=both"]), environment)
    assert config is None
    assert errors == [
        "--vip-mode: 'both' is not one of address, route",
        "--excluded-cidrs: 'nonsense' is not a CIDR block: the prefix length is missing",
    ]


def test_endpoints_drain_when_asked_and_never_for_less_than_nothing(environment: dict[str, str]) -> None:
    proxy = good("", environment).proxy
    assert proxy is not None
    assert (proxy.graceful, proxy.graceful_period) == (False, 30.0)
    proxy = good("--ipvs-graceful-termination --ipvs-graceful-period=2m", environment).proxy
    assert proxy is not None
    assert (proxy.graceful, proxy.graceful_period) == (True, 120.0)
    config, errors = load(parse(["--ipvs-graceful-period=-1s"]), environment)
    assert config is None
    assert errors == ["--ipvs-graceful-period: -1s is shorter than zero"]


def test_mistakes_in_the_kubeconfig_are_told_with_all_others(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "kubeconfig"

    def told(text: str, *words: str) -> list[str]:
        file.write_text(text)
        return load(parse([f"--kubeconfig={file}", "--bgp-port=0", *words]), environment)[1]

    first = "--bgp-port: 0 is not a port number"
    assert told("hello") == [first, f"--kubeconfig: {file}: the file: Expected `object`, got `str`"]
    assert told("a: [1")[1].startswith(f"--kubeconfig: {file}: is no YAML: ")
    text = (
        "{current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}], "
        "clusters: [{name: x, cluster: {}}], users: [{name: x, user: {tokenFile: missing}}]}"
    )
    assert told(text) == [
        first,
        f"--kubeconfig: {file}: the cluster has no server, and --master is not given",
        f"--kubeconfig: {file}: tokenFile {tmp_path}/missing does not exist",
    ]
    (tmp_path / "missing").touch()
    assert told(text, "--master=http://h") == [first]


def test_who_runs_gobgpd(environment: dict[str, str]) -> None:
    router = good("", environment).router
    assert router is not None
    assert (router.gobgp_spawn, router.gobgp_listeners) == (False, ())
    router = good("--gobgpd=spawn --gobgp-admin-address=192.0.2.1 --gobgp-admin-port=50051", environment).router
    assert router is not None
    assert (router.gobgp_spawn, router.gobgp_listeners) == (True, ("192.0.2.1:50051", "127.0.0.1:50051"))


@pytest.mark.parametrize(
    ("flag", "advertise"),
    [
        ("", Advertise()),
        ("--advertise-cluster-ip", Advertise(cluster_ip=True)),
        ("--advertise-external-ip", Advertise(external_ip=True)),
        ("--advertise-loadbalancer-ip", Advertise(load_balancer_ip=True)),
        ("--withdraw-on-unschedulable", Advertise(withdraw_unschedulable=True)),
    ],
)
def test_what_is_advertised_by_default_and_by_flags(
    flag: str, advertise: Advertise, environment: dict[str, str]
) -> None:
    config = good(f"{flag} --run-service-proxy=false --strict-external-ip-validation=false", environment)
    assert config.proxy is None
    assert config.router is not None
    assert config.router.advertise == advertise
    assert not config.router.addresses.strict


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("enable-overlay", "overlay"),
        ("auto-mtu", "auto_mtu"),
        ("enable-cni", "cni"),
        ("enable-pod-egress", "pod_egress"),
        ("disable-source-dest-check", "disable_source_check"),
        ("enable-ibgp", "ibgp"),
        ("nodes-full-mesh", "full_mesh"),
    ],
)
def test_what_of_routing_is_on_can_be_turned_off(flag: str, field: str, environment: dict[str, str]) -> None:
    for words, wanted in (("", True), (f"--{flag}=false", False)):
        router = good(words, environment).router
        assert router is not None
        assert getattr(router, field) is wanted


def test_the_allocator_and_its_pools(environment: dict[str, str]) -> None:
    assert good("--loadbalancer-ip-range=192.0.2.0/24", environment).balancer is None
    pod = {**environment, "POD_NAME": "kube-router-x", "POD_NAMESPACE": "routing"}
    words = "--run-loadbalancer --loadbalancer-ip-range=192.0.2.0/25 --loadbalancer-ip-range=192.0.2.128/25"
    pools = ["web=192.0.2.112/28,192.0.2.64/27;namespaces=a,b;selector=x=y,t=", "own=192.0.2.192/26;namespaces=c"]
    config, errors = load(parse([*words.split(), *(f"--loadbalancer-pool={pool}" for pool in pools)]), pod)
    assert errors == []
    assert config is not None
    assert config.balancer is not None
    assert (config.balancer.identity, config.balancer.namespace) == ("kube-router-x", "routing")
    blocks = (prefix("192.0.2.112/28"), prefix("192.0.2.64/27"))
    first, second = config.balancer.pools
    assert first == AddressPool("web", blocks, ("a", "b"), (("t", ""), ("x", "y")))
    assert second.name == "own"


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        (["web"], "does not begin with a name and blocks"),
        (["web=192.0.2.0/28"], "is for all Services"),
        (["web=192.0.2.0/28;selector=x"], "is not a label and its value"),
        (["web=192.0.2.0/28;zone=x"], "is neither namespaces="),
        (["web=192.0.3.0/28;namespaces=a"], "is not in --loadbalancer-ip-range"),
        (["web=192.0.2.0/28;namespaces=a", "web=192.0.2.16/28;namespaces=a"], "is given twice"),
        (["a=192.0.2.0/28;namespaces=a", "b=192.0.2.8/29;namespaces=a"], "overlap"),
    ],
)
def test_a_pool_that_cannot_be(pools: list[str], said: str, environment: dict[str, str]) -> None:
    words = ["--loadbalancer-ip-range=192.0.2.0/24", *(f"--loadbalancer-pool={pool}" for pool in pools)]
    _, errors = load(parse(words), environment)
    assert len(errors) == 1
    assert errors[0].startswith("--loadbalancer-pool: ")
    assert said in errors[0]


def test_the_allocator_has_to_know_what_to_give_and_who_it_is(environment: dict[str, str]) -> None:
    _, errors = load(parse(["--run-loadbalancer"]), {**environment, "POD_NAMESPACE": "routing"})
    assert [error.partition(": ")[2].split()[0] for error in errors] == ["--loadbalancer-ip-range", "POD_NAME"]
