"""Who may read the metrics: TLS and a bearer token, from files that may change while we run, as those of a Secret do.

Files are looked at for every client, by one `stat` each. What cannot be used, half-written pairs among it, is logged
once, and what was read before stays in use.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from kuberouter.model.settings import MetricsSettings

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]
"""Of each file what changes with it: mtime, size and inode."""

log = logging.getLogger(__name__)

LONGEST_TOKEN = 64 << 10
"""Bytes of a token file that are read; a longer one is refused."""


class _Kept(Generic[T]):
    """What some files say, read again when they change."""

    def __init__(self, files: tuple[Path, ...], read: Callable[[], T]) -> None:
        """Raises OSError or ValueError when they cannot be used now."""
        self._files = files
        self._read = read
        self._lock = threading.Lock()
        self._trouble = ""
        self._stamp = self._look()
        self._value = read()

    def value(self) -> T:
        """What they say now, or said when they could be used last; called from any thread."""
        with self._lock:
            try:
                if (stamp := self._look()) != self._stamp:
                    self._value, self._stamp = self._read(), stamp
                    log.info("%s: read again", self._names())
                self._trouble = ""
            except (OSError, ValueError) as error:
                if str(error) != self._trouble:
                    log.error("%s: %s; what was read before stays in use", self._names(), error)
                self._trouble = str(error)
            return self._value

    def _look(self) -> Stamp:
        found = (path.stat() for path in self._files)
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _names(self) -> str:
        return ", ".join(map(str, self._files))


class Tls:
    """A certificate and its key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises OSError, of which what OpenSSL says is one, or ValueError when they cannot be used."""
        self._kept = _Kept((certificate, key), lambda: _context(certificate, key))

    def context(self) -> ssl.SSLContext:
        """What to speak to the next client with."""
        return self._kept.value()


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    # OpenSSL costs memory: only who wants TLS pays for it.
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without a password OpenSSL would ask for one on the terminal.
    made.load_cert_chain(certificate, key, password="")
    return made


class Token:
    """A bearer token (RFC 6750, section 2.1). What is kept of it is a hash, so nothing can tell it."""

    def __init__(self, file: Path) -> None:
        """Raises OSError or ValueError when the file cannot be read or has no token."""
        self._kept = _Kept((file,), lambda: _digest(_token(file)))

    def admits(self, authorization: str) -> bool:
        """Whether a client that sends this header may read."""
        scheme, _, given = authorization.partition(" ")
        # In constant time, and of hashes, so that how long it takes says nothing of the token.
        same = hmac.compare_digest(_digest(given.strip().encode("latin-1", "replace")), self._kept.value())
        return same and scheme.lower() == "bearer"


def _token(file: Path) -> bytes:
    with file.open("rb") as opened:
        found = opened.read(LONGEST_TOKEN + 1).strip()
    if not found:
        raise ValueError("there is no token in it")
    if len(found) > LONGEST_TOKEN or not found.isascii() or b"\n" in found:
        raise ValueError("it holds more than one line of ASCII")
    return found


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Access(NamedTuple):
    """What is asked of clients; None is nothing."""

    tls: Tls | None = None
    token: Token | None = None


OPEN = Access()


def access_of(asked: MetricsSettings) -> Access:
    """Who may read the metrics. Raises ValueError, which names the flag, when a file cannot be used."""
    tls = token = None
    flag = "--metrics-tls-cert-file, --metrics-tls-key-file"
    try:
        if asked.certificate:
            tls = Tls(Path(asked.certificate), Path(asked.key))
        flag = "--metrics-token-file"
        if asked.token:
            token = Token(Path(asked.token))
    except (OSError, ValueError) as error:
        raise ValueError(f"{flag}: {error}") from None
    if token is not None and tls is None:
        log.warning("--metrics-token-file without --metrics-tls-cert-file: the token crosses the network as it is")
    return Access(tls, token)
