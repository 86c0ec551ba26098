"""The flags of the Go kube-router (v2.11) as facts: name, type, default in the spelling of its help, empty for zero.

Written down from its documented behaviour; nothing here is read from our own table.
"""

from __future__ import annotations

from typing import NamedTuple


class GoFlag(NamedTuple):
    """One flag of theirs."""

    name: str
    kind: str
    default: str = ""


_FACTS = """
advertise-cluster-ip bool
advertise-external-ip bool
advertise-loadbalancer-ip bool
advertise-pod-cidr bool true
auto-mtu bool true
bfd-desired-min-tx-interval uint32 1000
bfd-detection-multiplier uint32 3
bfd-port uint32 3784
bfd-required-min-rx-interval uint32 1000
bgp-graceful-restart bool
bgp-graceful-restart-deferral-time duration 6m0s
bgp-graceful-restart-time duration 1m30s
bgp-holdtime duration 1m30s
bgp-port uint32 179
cache-sync-timeout duration 1m0s
cleanup-config bool
cluster-asn uint
disable-source-dest-check bool true
enable-bfd bool
enable-cni bool true
enable-ibgp bool true
enable-ipv4 bool true
enable-ipv6 bool
enable-overlay bool true
enable-pod-egress bool true
enable-pprof bool
excluded-cidrs strings
gobgp-admin-address string 127.0.0.1
gobgp-admin-port uint16 50051
hairpin-mode bool
health-addr string
health-port uint16 20244
help bool
hostname-override string
injected-routes-sync-period duration 1m0s
iptables-sync-period duration 5m0s
ipvs-graceful-period duration 30s
ipvs-graceful-termination bool
ipvs-permit-all bool true
ipvs-sync-period duration 5m0s
kubeconfig string
loadbalancer-default-class bool true
loadbalancer-ip-range strings
loadbalancer-sync-period duration 1m0s
masquerade-all bool
master string
metrics-addr string
metrics-path string /metrics
metrics-port uint16
netpol-default-deny bool
nodeport-bindon-all-ip bool
nodes-full-mesh bool true
overlay-encap string ipip
overlay-encap-port uint32 5555
overlay-type string subnet
override-nexthop bool
peer-router-asns uints
peer-router-ips ipSlice
peer-router-multihop-ttl uint8
peer-router-passwords strings
peer-router-passwords-file string
peer-router-ports uints
router-id string
routes-sync-period duration 5m0s
run-firewall bool true
run-loadbalancer bool
run-router bool true
run-service-proxy bool true
runtime-endpoint string
service-cluster-ip-range strings 10.96.0.0/12
service-external-ip-range strings
service-node-port-range string 30000-32767
service-tcp-timeout duration
service-tcpfin-timeout duration
service-udp-timeout duration
strict-external-ip-validation bool true
use-nftables-for-netpol bool
v string 0
version bool
"""
GO_FLAGS = tuple(GoFlag(*line.split()) for line in _FACTS.split("\n") if line)

SEED_ERA = (GoFlag("cluster-cidr", "string"), GoFlag("config-sync-period", "duration", "1m0s"))
"""Taken by releases before 1.1 and 0.2, and by no later one."""

DIFFERENT = {
    "cluster-asn": "64512, which is what its 0 means",
    "gobgp-admin-port": "0: gobgpd listens on TCP only where the flag is given",
}
"""Where our default is another one on purpose, and why."""
