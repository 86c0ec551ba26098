"""What a kubeconfig says, and how its mistakes are told: by field, before anything is touched, and without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuberouter.model.core import Unavailable
from kuberouter.wire.kubeapi import connect
from kuberouter.wire.kubeconfig import LARGEST, Kubeconfig, read

GOOD = """
apiVersion: v1
kind: Config
current-context: lab
clusters: [{name: lab, cluster: {server: "https://10.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: s3cret}}]
contexts: [{name: lab, context: {cluster: lab, user: me}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kubeconfig"


def test_the_current_context_counts(file: Path) -> None:
    file.write_text(GOOD)
    assert read(file) == Kubeconfig("https://10.0.0.1:6443", None)
    assert connect(str(file), "").host == "https://10.0.0.1:6443"
    assert connect(str(file), "http://other/").host == "http://other"
    file.write_text(GOOD.replace("token: s3cret", "tokenFile: t") + "preferences: {}\n")
    assert read(file).token_file == file.parent / "t"
    file.write_text(GOOD.replace("token: s3cret", "tokenFile: /t"))
    assert read(file).token_file == Path("/t")
    file.write_text(GOOD.replace("token: s3cret", "tokenFile: /t, auth-provider: {name: oidc}"))
    assert read(file).token_file is None
    file.write_text(GOOD.replace("user: me}", "user: nobody}"))
    assert read(file).token_file is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is no YAML: did not find expected ',' or ']' in line "),
        ("token: s3cret: x", "is no YAML: mapping values are not allowed"),
        ("token: *s3cret", "is no YAML: ComposerError in line 1, column 8"),
        ("token: !s3cret", "is no YAML: ConstructorError in line 1, column 8"),
        ("hello", "the file: Expected `object`, got `str`"),
        ("", "the file: Expected `object`, got `null`"),
        ("[]", "the file: Expected `object`, got `array`"),
        ("{}", "missing required field `current-context`"),
        ("\x00", "is no YAML: unacceptable character #x0000"),
        ("[" * 100_000, "is no YAML: it is nested more than 200 levels deep"),
        ("a: &a [*a]", "missing required field"),
        ("# " + "x" * LARGEST, f"is larger than {LARGEST} bytes"),
        (GOOD.replace("contexts: [", "contexts: [1, "), "contexts[0]: Expected `object`, got `int`"),
        (GOOD.replace("current-context: lab", "current-context: 1"), "current-context: Expected `str`, got `int`"),
        (GOOD.replace("current-context: lab", "current-context: x"), "current-context: there is no context 'x'"),
        (GOOD.replace("cluster: lab,", "cluster: x,"), "contexts: 'lab' names a cluster 'x' that is not there"),
        (GOOD.replace("token: s3cret", "tokenFile: [s3cret]"), "users[0].user.tokenFile: Expected `str | null`"),
    ],
)
def test_a_mistake_is_told_in_one_line_without_a_secret(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r".") as found:
        read(file)
    assert said in str(found.value)
    with pytest.raises(Unavailable) as unavailable:
        connect(str(file), "")
    assert str(unavailable.value) == f"kubeconfig {file}: {found.value}"
    assert "\n" not in str(unavailable.value)
    assert "s3cret" not in str(unavailable.value)


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("insecure", "certificate-authority-data: 5, insecure"),
        GOOD.replace("insecure", "certificate-authority-data: abc, insecure"),
        GOOD.replace("insecure", "certificate-authority: /does/not/exist, insecure"),
        GOOD.replace("token: s3cret", "token: s3cret, client-certificate: /does/not/exist"),
        GOOD.replace("token: s3cret", "token: s3cret, auth-provider: {name: oidc, config: {a: b}}"),
        GOOD.replace("user: {token: s3cret}", "token: s3cret"),
        GOOD.replace("token: s3cret", "tokenFile: ../s3crets/missing"),
    ],
)
def test_what_the_client_library_stumbles_over_is_told_and_no_secret_is(file: Path, text: str) -> None:
    file.write_text(text)
    read(file)
    with pytest.raises(Unavailable) as found:
        connect(str(file), "")
    assert "{" not in str(found.value)
    assert "'s3cret'" not in str(found.value)


def test_what_cannot_be_read_is_told(file: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read(file)
    with pytest.raises(ValueError, match="Is a directory"):
        read(file.parent)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        read(file)
