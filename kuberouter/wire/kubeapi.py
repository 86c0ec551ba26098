"""Kubernetes API over HTTP: list, watch, get, patch as raw bytes.

The official client does what should never be written by hand: configuration, TLS, credentials and their renewal. Its
models are never touched: they cost 40 times the time and 30 times the memory of reading just our fields.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from kuberouter.model.core import Unavailable, Value
from kuberouter.wire.kubeconfig import read

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PAGE = 500
"""Objects per page of a list."""
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
WATCH_TIMEOUT = 300
"""Seconds after which the apiserver ends a watch by itself; a silent connection is given a little more."""


class Keepalive(Value, frozen=True):
    """Seconds of silence until the other end is asked whether it is there, between such questions, and how many of them
    may be left without an answer.
    """

    idle: int = 30
    interval: int = 10
    tries: int = 3

    def options(self) -> list[tuple[int, int, int]]:
        """As a socket takes them (tcp(7)). They come in place of urllib3's own, of which one is for small requests."""
        tcp = socket.IPPROTO_TCP
        return [
            (tcp, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (tcp, socket.TCP_KEEPIDLE, self.idle),
            (tcp, socket.TCP_KEEPINTVL, self.interval),
            (tcp, socket.TCP_KEEPCNT, self.tries),
        ]


KEEPALIVE = Keepalive()
"""An apiserver may vanish without a word, or a balancer before it forget a connection: a watch would go on waiting."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(Exception):
    """The apiserver answered with an error. `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gone(ApiError):
    """410: the resourceVersion or continue token is too old; list again."""


class Unauthorized(ApiError):
    """401: the apiserver does not accept these credentials, whatever they would allow."""


class Forbidden(ApiError):
    """403: the credentials do not allow this."""


class Unreachable(Exception):
    """No answer: connection refused, cut, timed out, or no valid TLS."""


def _error(status: int, body: bytes) -> ApiError:
    message = body[:300].decode(errors="replace").strip()
    if status == 401:
        return Unauthorized(status, f"HTTP 401: the apiserver does not accept these credentials: {message}")
    return {410: Gone, 403: Forbidden}.get(status, ApiError)(status, f"HTTP {status}: {message}")


def connect(
    kubeconfig: str, master: str, *, service_account: Path = SERVICE_ACCOUNT, keepalive: Keepalive = KEEPALIVE
) -> KubeApi:
    """A client from `--kubeconfig`, from `--master`, or from the pod's service account, in this order.

    `--master` beside a kubeconfig replaces its server. Alone it uses the service account (a directory) where there is
    one and goes without credentials otherwise. Raises Unavailable with the reason when no configuration is found.
    """
    # A fifth of a second and 20 MB: only who speaks to an apiserver pays for it.
    import yaml
    from kubernetes import client, config

    settings = client.Configuration()
    token_file: Path | None = None
    try:
        if kubeconfig:
            token_file = read(Path(kubeconfig)).token_file
            config.load_kube_config(config_file=kubeconfig, client_configuration=settings, persist_config=False)
        elif not master or (service_account / "token").exists():
            _with_service_account(settings, service_account, "replaced" if master else "")
            token_file = service_account / "token"
    except yaml.YAMLError:
        raise Unavailable(f"kubeconfig {kubeconfig}: is no YAML that the client library reads") from None
    # Anything but the first two is how the library says that a field is not what it should be.
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        source = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster configuration"
        # The library names a part of the file by what is in it, and that may be a secret.
        said = str(error).partition("/{")[0] or type(error).__name__
        raise Unavailable(f"{source}: {said}") from None
    if token_file is not None:
        _renew(settings, token_file)
    if master:
        settings.host = master.rstrip("/")
    settings.retries = False
    settings.connection_pool_maxsize = 16
    settings.socket_options = keepalive.options()
    return KubeApi(client.ApiClient(settings))


def _with_service_account(settings: Any, directory: Path, host: str) -> None:
    """Read a service account; a host in place of the environment's is set by the caller anyhow."""
    from kubernetes.config import incluster_config

    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"} if host else os.environ
    incluster_config.InClusterConfigLoader(
        token_filename=str(directory / "token"),
        cert_filename=str(directory / "ca.crt"),
        try_refresh_token=False,
        environ=environment,
    ).load_and_set(settings)


def _renew(settings: Any, file: Path) -> None:
    """Have the settings follow a token file, in place of the token that was in it."""
    token = TokenFile(file)
    if not token.header():
        raise Unavailable(f"token file {file} cannot be read, or is empty")

    def renew(configuration: Any) -> None:
        configuration.api_key["authorization"] = token.header()

    settings.api_key.pop("BearerToken", None)
    settings.refresh_api_key_hook = renew
    renew(settings)


class TokenFile:
    """A bearer token in a file that others renew long before it expires: read whenever the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._header = ""

    def header(self) -> str:
        """What to send as `Authorization` now; empty if there never was a token.

        While the file is away, unreadable or empty the last token stays: whoever renews it may be at it.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp and (token := self._path.read_text().strip()):
                self._stamp, self._header = stamp, f"Bearer {token}"
        except (OSError, UnicodeDecodeError):
            pass
        return self._header


class KubeApi:
    """Requests to one apiserver. Safe to use from several threads."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.host = str(client.configuration.host)
        """The server's URL. Renewing credentials may reset the client's own notion of it to what a file says."""

    def _headers(self) -> dict[str, str]:
        from kubernetes import config

        headers = {"Accept": "application/json", "User-Agent": "kube-router"}
        try:
            # Asking for the settings anew is what renews a token that is read from a file or a plugin.
            found = self._client.configuration.auth_settings().values()
        except (config.ConfigException, OSError, ValueError) as error:
            raise Unreachable(f"{self.host}: the credentials cannot be renewed: {error}") from error
        for setting in found:
            value = (setting["value"] or "").strip()
            # What complains of it later would show it.
            if not (value.isascii() and value.isprintable()):
                raise Unreachable(f"{self.host}: the token has characters in it that cannot be sent")
            if setting["in"] == "header" and value:
                headers[setting["key"]] = value
        return headers

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        *,
        body: bytes | None = None,
        read_timeout: float = READ_TIMEOUT,
        content_type: str = "",
    ) -> Any:
        import urllib3

        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = self._headers()
        if content_type:
            headers["Content-Type"] = content_type
        try:
            answer = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=headers,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=read_timeout),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{self.host}: {error}") from error
        if answer.status >= 400:
            try:
                raise _error(answer.status, answer.read())
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Unreachable(f"{self.host}: {error}") from error
            finally:
                answer.release_conn()
        return answer

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """One request and its whole answer. Raises ApiError or Unreachable."""
        import urllib3

        answer = self._open(method, path, query or {}, body=body, content_type=content_type if body else "")
        try:
            return bytes(answer.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{self.host}: {error}") from error
        finally:
            answer.release_conn()

    def list_page(self, path: str, continue_token: str = "", query: Mapping[str, str | int] | None = None) -> bytes:
        """One page of a list; an empty token asks for the first."""
        asked: dict[str, str | int] = {**(query or {}), "limit": PAGE}
        if continue_token:
            asked["continue"] = continue_token
        return self.request("GET", path, asked)

    def watch(self, path: str, resource_version: str, query: Mapping[str, str | int] | None = None) -> Iterator[bytes]:
        """The lines of a watch from a resourceVersion on, bookmarks included, until the server ends it.

        The watch is open once this returns. This and the iterator raise ApiError or Unreachable; closing the iterator
        closes the connection.
        """
        asked: dict[str, str | int] = {
            **(query or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": WATCH_TIMEOUT,
        }
        return self._lines(self._open("GET", path, asked, read_timeout=WATCH_TIMEOUT + 30.0))

    def _lines(self, answer: Any) -> Iterator[bytes]:
        import urllib3

        rest = b""
        try:
            for chunk in answer.stream(65536, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if line)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"{self.host}: {error}") from error
        finally:
            # The connection may have more to say: it cannot be used again.
            answer.close()
