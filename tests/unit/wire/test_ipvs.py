"""The kernel's own table of IPVS as text."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from kuberouter.wire.ipvs import DestinationFacts, parse_table

TABLE = b"""IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0050 rr persistent 10800 FFFFFFFF
  -> 0AF40105:1F90      Masq    1      2          33        
  -> 0AF40106:1F90      Masq    0      0          0         
UDP  0A600001:0035 rr ops 
SCTP  0A600001:0009 mh 
  -> 0AF40105:0009      Route   5      0          0         
TCP  [fd96:0000:0000:0000:0000:0000:0000:0001]:0050 sh 
  -> [fd44:0000:0000:0000:0000:0000:0000:0005]:1F90      Masq    1      0          0         
FWM  00000010 rr 
  -> 0AF40107:0000      Tunnel  1      0          0         
TCP  0A600002:0050 rr 
  -> 0AF40108:1F90      Tunnel  65535  0          0         
"""  # noqa: W291 - the kernel pads its columns


def packed(text: str) -> bytes:
    return ip_address(text).packed


def test_destinations_are_told_by_service() -> None:
    vip, pod = packed("10.96.0.1"), packed("10.244.1.5")
    assert parse_table(TABLE) == {
        (socket.AF_INET, 6, vip, 80): [
            DestinationFacts(pod, 8080, 1, 0),
            DestinationFacts(packed("10.244.1.6"), 8080, 0, 0),
        ],
        (socket.AF_INET, 17, vip, 53): [],
        (socket.AF_INET, 132, vip, 9): [DestinationFacts(pod, 9, 5, 3)],
        (socket.AF_INET6, 6, packed("fd96::1"), 80): [DestinationFacts(packed("fd44::5"), 8080, 1, 0)],
        (socket.AF_INET, 6, packed("10.96.0.2"), 80): [DestinationFacts(packed("10.244.1.8"), 8080, 65535, 2)],
    }


def test_an_empty_table_and_none_at_all_have_no_services() -> None:
    assert parse_table(b"") == {}
    assert parse_table(b"\n".join(TABLE.splitlines()[:3])) == {}


def test_a_weight_that_leaves_its_column_and_the_longest_one_that_does_not_are_read_whole() -> None:
    lines = b"TCP  0A600001:0050 rr \n" + b"".join(
        b"  -> 0AF40105:%04X      Masq    %-6d 12345678901 0          \n" % (port, weight)
        for port, weight in enumerate((999999, 1000000, 65535), 1)
    )
    (found,) = parse_table(lines).values()
    assert [(each.port, each.weight) for each in found] == [(1, 999999), (2, 1000000), (3, 65535)]
