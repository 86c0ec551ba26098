"""Rows of the host itself: sysctls and the CNI configuration."""

from __future__ import annotations

from kuberouter.model.core import KeyValue, Prefix, Value


class SysctlKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A kernel setting by its path below /proc/sys, with slashes."""

    path: str


class Sysctl(Value, frozen=True, gc=False):
    """A kernel setting and its value as written to the file. There is no un-setting: removal leaves it alone."""

    key: SysctlKey
    value: str


class CniSettingsKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A CNI configuration file by its path."""

    path: str


class CniSettings(Value, frozen=True, gc=False):
    """The fields of the CNI configuration that are ours: address ranges and MTU (0: not ours). Others are kept."""

    key: CniSettingsKey
    ranges: tuple[Prefix, ...]
    mtu: int = 0
