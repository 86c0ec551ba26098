"""Builds the image of the Dockerfile by buildah, from a base that mmdebstrap makes.

What the builder's own network needs (certificates, settings of apt and pip) goes in as secrets of the build, so that no
layer has it. Bases and layers are kept in the cache, outside the checkout.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from kuberouter import __version__
from tests.vm.kernel import cache

ROOT = Path(__file__).resolve().parents[2]
BASE = "docker.io/library/debian:bookworm-slim"
"""The name that the Dockerfile asks for."""
IMAGE = "localhost/kube-router:built"
SUITES = (
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian", "bookworm-updates"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
)
SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
"""What Debian's slim images leave out, of packages that are installed later too."""
FRESH = 7 * 86400.0
"""Seconds after which a base is made anew, for the fixes that Debian has made since."""
MOST_KEPT = 6_000_000_000
"""Bytes of kept layers after which all of them go."""
BOUND = 900.0


def kept() -> Path:
    """Where bases and layers are kept."""
    return cache() / "image"


def buildah(*words: str, bound: float = BOUND) -> str:
    """Run buildah on our own storage; what it prints. Raises CalledProcessError."""
    storage = ["--root", str(kept() / "storage"), "--runroot", "/run/kube-router-image", "--storage-driver", "overlay"]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    words = ("buildah", *storage, *words)
    return subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=bound, check=True
    ).stdout.strip()


def apt_settings() -> str:
    """What apt has to know of this builder's way to Debian: nothing but how things are fetched."""
    words = ["apt-config", "dump", "--no-empty"]
    dumped = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    wanted = ("Acquire::Check-", "Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::ForceIPv4")
    return "".join(f"{line}\n" for line in dumped.splitlines() if line.startswith(wanted))


def secrets(folder: Path) -> Iterator[str]:
    """Words that hand the builder's settings to a build, as far as there are any."""
    apt, pip = folder / "apt", folder / "pip"
    apt.write_text(apt_settings())
    places = [os.environ.get("PIP_CONFIG_FILE", ""), "/etc/pip.conf"]
    text = next((Path(place).read_text() for place in places if place and Path(place).is_file()), "[global]\n")
    index = os.environ.get("PIP_INDEX_URL")
    pip.write_text(text + (f"\n[install]\nindex-url = {index}\n" if index else ""))
    found = {"apt": apt, "pip": pip}
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    if Path(certificates).is_file():
        found["ca"] = Path(certificates)
    for name, path in found.items():
        yield f"--secret=id={name},src={path}"


def make_base(folder: Path) -> None:
    """Have the base in the storage under the name that the Dockerfile expects."""
    stamp = kept() / "base"
    recipe = repr((SUITES, SLIM))
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if stamp.read_text() == recipe and time.time() - stamp.stat().st_mtime < FRESH:
            buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", BASE)
            return
    tar = folder / "base.tar"
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
    words += [f"--aptopt={line.rstrip(';')}" for line in apt_settings().splitlines()]
    words += [f"--dpkgopt={line}" for line in SLIM]
    words += ["bookworm", str(tar), *(f"deb {where} {suite} main" for where, suite in SUITES)]
    subprocess.run(words, timeout=BOUND, check=True)
    container = buildah("from", "scratch")
    try:
        buildah("add", "--quiet", container, str(tar), "/")
        buildah("config", "--cmd", "bash", container)
        buildah("commit", "--quiet", container, BASE)
    finally:
        buildah("rm", container)
        tar.unlink()
    stamp.write_text(recipe)


def size(folder: Path) -> int:
    """Bytes of the files below a folder, each counted once."""
    words = ["du", "--bytes", "--summarize", "--one-file-system", str(folder)]
    return int(subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout.split()[0])


def build() -> None:
    """Build the image. Raises CalledProcessError, TimeoutExpired."""
    kept().mkdir(parents=True, exist_ok=True)
    storage = kept() / "storage"
    folder = kept() / f"build-{os.getpid()}"
    folder.mkdir()
    with (kept() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if storage.exists() and size(storage) > MOST_KEPT:
                buildah("rm", "--all")
                buildah("rmi", "--all", "--force")
            make_base(folder)
            words = ["bud", "--quiet", "--pull-never", "--layers", "--force-rm", "--network=host", *secrets(folder)]
            buildah(*words, f"--build-arg=VERSION={__version__}", f"--tag={IMAGE}", "--file=Dockerfile", ".")
        finally:
            shutil.rmtree(folder)


@contextlib.contextmanager
def unpacked(name: str = IMAGE) -> Iterator[Path]:
    """The root file system of a container that is made of an image, and goes again."""
    container = buildah("from", "--pull-never", name)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def labels() -> Mapping[str, str]:
    """The labels of the image."""
    lines = buildah(
        "inspect",
        "--type",
        "image",
        "--format",
        "{{range $k, $v := .OCIv1.Config.Labels}}{{$k}}={{$v}}\n{{end}}",
        IMAGE,
    )
    return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)
