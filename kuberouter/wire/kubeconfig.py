"""A kubeconfig as far as it must be known before anybody connects: that it makes sense, and where its token lies.

Everything else in it is left to the client library, which finds mistakes late and in words of its own.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from kuberouter.wire.text.shallowyaml import explain, load

LARGEST = 1 << 20
"""Bytes; what is larger is no kubeconfig."""


class _Section(msgspec.Struct, rename="kebab"):
    """Unknown fields are skipped."""


class _Cluster(_Section):
    server: str | None = None


class _NamedCluster(_Section):
    name: str
    cluster: _Cluster


class _User(_Section):
    token_file: str | None = msgspec.field(default=None, name="tokenFile")
    auth_provider: object = None


class _NamedUser(_Section):
    name: str
    user: _User | None = None


class _Context(_Section):
    cluster: str
    user: str | None = None


class _NamedContext(_Section):
    name: str
    context: _Context


class _File(_Section):
    current_context: str
    contexts: list[_NamedContext]
    clusters: list[_NamedCluster]
    users: list[_NamedUser] | None = None


class Kubeconfig(msgspec.Struct, frozen=True):
    """What the current context says."""

    server: str
    """URL of the apiserver; empty when there is none."""
    token_file: Path | None
    """Where others keep a bearer token that they renew."""


def read(path: Path) -> Kubeconfig:
    """The current context of a file. Raises ValueError with a sentence that names the field, and no secret."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise ValueError(f"is larger than {LARGEST} bytes")
        found = msgspec.convert(load(raw.decode("utf-8-sig")), _File)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("is no text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(explain(error)) from None
    except RecursionError:
        raise ValueError("contains itself") from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise ValueError(f"{place.strip('.`') or 'the file'}: {message}") from None
    return _current(found, path)


def _current(found: _File, path: Path) -> Kubeconfig:
    contexts = {named.name: named.context for named in found.contexts}
    context = contexts.get(found.current_context)
    if context is None:
        raise ValueError(f"current-context: there is no context {found.current_context!r}")
    clusters = {named.name: named.cluster for named in found.clusters}
    cluster = clusters.get(context.cluster)
    if cluster is None:
        raise ValueError(f"contexts: {found.current_context!r} names a cluster {context.cluster!r} that is not there")
    users = {named.name: named.user for named in found.users or ()}
    user = users.get(context.user or "")
    # A provider's tokens come first, as the client library has it.
    named = user.token_file if user is not None and not user.auth_provider else None
    return Kubeconfig(cluster.server or "", path.absolute().parent / named if named else None)
