"""Rows of the host itself: sysctls, the CNI configuration, health check node ports."""

from __future__ import annotations

from kuberouter.model.core import KeyValue, Prefix, Value


class SysctlKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A kernel setting by its path below /proc/sys, with slashes."""

    path: str

    def __str__(self) -> str:
        # As sysctl(8) names it: parts are parted by dots, so a dot in a link's name becomes a slash.
        return self.path.translate(_DOTS)


_DOTS = str.maketrans("./", "/.")


class Sysctl(Value, frozen=True, gc=False):
    """A kernel setting and its value as written to the file. There is no un-setting: removal leaves it alone.

    With `instead_of` it is written in place of that value only; any other value, and a kernel without the setting, is
    as good. Nothing depends on an `optional` one: where it cannot be had that is a problem, but no lack of readiness.
    """

    key: SysctlKey
    value: str
    instead_of: str = ""
    optional: bool = False


class CniSettingsKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A CNI configuration file by its path."""

    path: str


class CniSettings(Value, frozen=True, gc=False):
    """The fields of the CNI configuration that are ours: address ranges and MTU (0: not ours). Others are kept."""

    key: CniSettingsKey
    ranges: tuple[Prefix, ...]
    mtu: int = 0


class SourceCheckKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """An instance of EC2 by its region and id."""

    region: str
    instance: str

    def __str__(self) -> str:
        return f"{self.instance} in {self.region}"


class NoSourceCheck(Value, frozen=True, gc=False):
    """The cloud does not check whether packets of an instance carry its own addresses; those of pods do not."""

    key: SourceCheckKey


class HealthPortKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A health check node port."""

    port: int


class HealthPort(Value, frozen=True, gc=False):
    """What is answered on a health check node port: for which Service, and how many of its endpoints are here."""

    key: HealthPortKey
    namespace: str
    name: str
    endpoints: int


class LeftFileKey(KeyValue, frozen=True, gc=False, cache_hash=True):
    """A file, or a line of one where there is a `line`."""

    path: str
    line: str = ""


class LeftFile(Value, frozen=True, gc=False):
    """What a kube-router has put into a file of the host. Only cleanup knows it, and never desires it."""

    key: LeftFileKey
