"""Metrics over TLS and behind a token, on loopback, while their files change under the server."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouter.daemon.access import Access, Tls, Token, access_of
from kuberouter.daemon.web import MetricsServer
from kuberouter.model.settings import MetricsSettings


def issue(folder: Path, name: str) -> None:
    """Put a new self-signed certificate and its key into a folder."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    files = ["-keyout", str(folder / "new.key"), "-out", str(folder / "new.crt")]
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*words, *files, *subject], check=True, capture_output=True, timeout=20)
    os.replace(folder / "new.key", folder / "tls.key")
    os.replace(folder / "new.crt", folder / "tls.crt")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders, each with a certificate and its key."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        issue(folder, f"{folder.name}.test")
    return folders


@contextlib.contextmanager
def serving(access: Access) -> Iterator[MetricsServer]:
    server = MetricsServer("127.0.0.1", 0, "/metrics", access)
    server.serve(lambda: "x 1\n")
    try:
        yield server
    finally:
        server.close()


WHO = 401, "Bearer"


def ask(
    server: MetricsServer, authorization: str = "", trusted: Path | None = None, path: str = "/metrics"
) -> int | tuple[int, str]:
    """Status of an answer, of a refusal also how to ask; over TLS where a certificate is trusted, whatever its name."""
    context = None
    if trusted is not None:
        context = ssl.create_default_context(cafile=str(trusted))
        context.check_hostname = False
    scheme = "https" if trusted is not None else "http"
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            assert answer.read() == b"x 1\n"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("WWW-Authenticate", "")


def replace(target: Path, source: Path) -> None:
    """Put a copy in a file's place, as whoever rotates Secrets does."""
    shutil.copyfile(source, target.with_suffix(".next"))
    os.replace(target.with_suffix(".next"), target)


def test_tls_follows_its_files_and_stays_with_what_worked(
    pairs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = pairs
    for name in ("tls.crt", "tls.key"):
        replace(tmp_path / name, first / name)
    with serving(Access(tls=Tls(tmp_path / "tls.crt", tmp_path / "tls.key"))) as server:
        assert ask(server, trusted=first / "tls.crt") == 200
        # Half of the change: the key is not that of the certificate.
        replace(tmp_path / "tls.crt", second / "tls.crt")
        for _ in range(2):
            assert ask(server, trusted=first / "tls.crt") == 200
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
        assert "what was read before stays in use" in caplog.text
        replace(tmp_path / "tls.key", second / "tls.key")
        assert ask(server, trusted=second / "tls.crt") == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(server, trusted=first / "tls.crt")
        (tmp_path / "tls.key").unlink()
        assert ask(server, trusted=second / "tls.crt") == 200


def test_who_speaks_plain_http_or_nothing_to_tls_disturbs_nobody(pairs: list[Path]) -> None:
    certificate = pairs[0] / "tls.crt"
    with serving(Access(tls=Tls(certificate, pairs[0] / "tls.key"))) as server, contextlib.ExitStack() as clients:
        for words in (b"GET /metrics HTTP/1.0\r\n\r\n", b""):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            client.sendall(words)
        assert ask(server, trusted=certificate) == 200


def test_only_who_knows_the_token_reads_and_another_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text("open-sesame\n")
    with serving(Access(token=Token(file))) as server:
        assert ask(server, "Bearer open-sesame") == 200
        assert ask(server, "bearer open-sesame") == 200
        for wrong in ("", "Bearer", "Bearer open", "Basic open-sesame", "open-sesame", "Bearer open-sesame2"):
            assert ask(server, wrong) == WHO, wrong
        assert ask(server, path="/") == WHO, "not even what is there is told"
        file.write_text("another-word")
        assert ask(server, "Bearer open-sesame") == WHO
        assert ask(server, "Bearer another-word") == 200
        file.write_text("")
        assert ask(server, "Bearer ") == WHO
        assert ask(server, "Bearer another-word") == 200
    assert "no token in it" in caplog.text
    assert "sesame" not in caplog.text
    assert "another-word" not in caplog.text


@pytest.mark.parametrize(("content", "why"), [("", "no token"), ("a\nb\n", "one line"), ("ä", "ASCII")])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ValueError, match=why):
        Token(tmp_path / "token")


def test_a_mistake_names_its_flag(pairs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (str(folder / "tls.crt") for folder in pairs)
    with pytest.raises(ValueError, match=r"--metrics-tls-cert-file, --metrics-tls-key-file: .*"):
        access_of(MetricsSettings(1, certificate=first, key=str(pairs[1] / "tls.key")))
    (tmp_path / "token").write_text("open-sesame")
    token = str(tmp_path / "token")
    both = access_of(MetricsSettings(1, certificate=second, key=str(pairs[1] / "tls.key"), token=token))
    assert None not in both
    assert caplog.messages == []
    assert access_of(MetricsSettings(1, token=token)).tls is None
    assert "crosses the network as it is" in caplog.text
    (tmp_path / "token").write_text("")
    with pytest.raises(ValueError, match="--metrics-token-file: there is no token"):
        access_of(MetricsSettings(1, token=token))


def test_files_that_cannot_be_used_are_refused(pairs: list[Path], tmp_path: Path) -> None:
    first, second = pairs
    for certificate, key in ((first / "tls.crt", second / "tls.key"), (first / "tls.key", first / "tls.key")):
        with pytest.raises(ssl.SSLError):
            Tls(certificate, key)
    with pytest.raises(FileNotFoundError):
        Tls(first / "tls.crt", tmp_path / "tls.key")
    secret = ["openssl", "ec", "-in", str(first / "tls.key"), "-aes256", "-passout", "pass:x"]
    subprocess.run([*secret, "-out", str(tmp_path / "tls.key")], check=True, capture_output=True, timeout=20)
    with pytest.raises(ssl.SSLError):
        Tls(first / "tls.crt", tmp_path / "tls.key")
