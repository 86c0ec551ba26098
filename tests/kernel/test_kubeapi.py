"""Credentials over real HTTP: tokens that others renew in a file, and whose server it is that gets them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kuberouter.model.core import Unavailable
from kuberouter.sources.apiserver import RESOURCES
from kuberouter.wire.kubeapi import Keepalive, KubeApi, Unauthorized, Unreachable, connect
from tests.kernel.drive import sh
from tests.support.apiserver import ApiServer

NAMESPACES = RESOURCES["namespaces"].path
Make = Callable[[], KubeApi]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """In a volume as the kubelet makes it: renewing moves a link."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "token").symlink_to("..data/token")
    (tmp_path / "ca.crt").write_text("nobody looks at it here")
    put(tmp_path / "token", "first")
    return tmp_path / "token"


def put(token: Path, text: str) -> None:
    """Renew the token as the kubelet does."""
    home = token.parent
    folder = home / f"..{len(list(home.iterdir()))}"
    folder.mkdir()
    (folder / "token").write_text(text)
    (home / "..new").symlink_to(folder.name)
    os.replace(home / "..new", home / "..data")


def kubeconfig(token: Path, server: str, user: str = "{tokenFile: token}") -> str:
    file = token.parent / "kubeconfig"
    file.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: lab
clusters: [{{name: lab, cluster: {{server: "{server}"}}}}]
users: [{{name: me, user: {user}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: me}}}}]
"""
    )
    return str(file)


@pytest.fixture(params=["service account", "kubeconfig", "kubeconfig and master"])
def make(request: pytest.FixtureRequest, server: ApiServer, token: Path) -> Make:
    """Connects in one of the ways that read a token from a file."""
    if request.param == "service account":
        return lambda: connect("", server.url, service_account=token.parent)
    if request.param == "kubeconfig":
        return lambda: connect(kubeconfig(token, server.url), "")
    return lambda: connect(kubeconfig(token, "https://192.0.2.1:6443"), server.url)


def test_a_token_that_was_renewed_is_used_at_once(make: Make, server: ApiServer, token: Path) -> None:
    server.rules = {"first": {"namespaces"}}
    api = make()
    assert api.list_page(NAMESPACES)
    for text in ("second", "third\n"):
        server.rules = {text.strip(): {"namespaces"}}
        with pytest.raises(Unauthorized):
            api.list_page(NAMESPACES)
        put(token, text)
        assert api.list_page(NAMESPACES)
        assert api.list_page(NAMESPACES)
    assert api.host == server.url


def test_while_the_file_is_away_or_empty_the_last_token_stays(make: Make, server: ApiServer, token: Path) -> None:
    server.rules = {"first": {"namespaces"}}
    api = make()
    put(token, "")
    assert api.list_page(NAMESPACES)
    (token.parent / "..data").unlink()
    assert api.list_page(NAMESPACES)


@pytest.mark.parametrize("text", ["", " \n"])
def test_without_a_token_in_it_nobody_starts(make: Make, token: Path, text: str) -> None:
    put(token, text)
    with pytest.raises(Unavailable, match="empty"):
        make()


def test_a_token_file_must_be_there_where_a_kubeconfig_names_one(server: ApiServer, token: Path) -> None:
    token.unlink()
    with pytest.raises(Unavailable, match="token"):
        connect(kubeconfig(token, server.url), "")
    assert connect("", server.url, service_account=token.parent).list_page(NAMESPACES), "a pod may have no token"


def test_what_no_header_can_carry_is_told_without_it(make: Make, token: Path) -> None:
    put(token, "s3cret\nX-Other: 1")
    with pytest.raises(Unreachable, match="cannot be sent") as found:
        make().list_page(NAMESPACES)
    assert "s3cret" not in str(found.value)


def test_a_master_stays_the_server_beside_a_token_in_the_kubeconfig(server: ApiServer, token: Path) -> None:
    api = connect(kubeconfig(token, "https://192.0.2.1:6443", "{token: first}"), server.url)
    server.rules = {"first": {"namespaces"}}
    for _ in range(3):
        assert api.list_page(NAMESPACES)


def test_a_master_alone_is_asked_without_credentials_where_there_are_none(server: ApiServer, tmp_path: Path) -> None:
    api = connect("", server.url + "/", service_account=tmp_path / "none")
    assert api.host == server.url
    assert "authorization" not in {name.lower() for name in api._headers()}


def test_a_kubeconfig_counts_before_a_service_account(token: Path, server: ApiServer) -> None:
    api = connect(kubeconfig(token, server.url, "{token: from-the-kubeconfig}"), "", service_account=token.parent)
    assert api._headers()["authorization"] == "Bearer from-the-kubeconfig"


def test_what_there_is_none_of_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="in-cluster configuration: "):
        connect("", "", service_account=tmp_path)


@pytest.mark.root
def test_a_watch_notices_when_the_apiserver_vanishes_without_a_word(namespace: str) -> None:
    """A machine that loses its power sends nothing, and neither does who only listens."""
    del namespace
    sh("ip", "link", "set", "lo", "up")
    with ApiServer() as server:
        api = connect("", server.url, keepalive=Keepalive(1, 1, 2))
        server.apply({"kind": "Namespace", "metadata": {"name": "a"}})
        lines = api.watch(NAMESPACES, "1")
        assert b'"a"' in next(lines)
        sh("iptables", "-A", "INPUT", "-i", "lo", "-j", "DROP")
        began = time.monotonic()
        with pytest.raises(Unreachable):
            list(lines)
        # Without being asked it would be silent for minutes.
        assert time.monotonic() - began < 60.0
        sh("iptables", "-F", "INPUT")
