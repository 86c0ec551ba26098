"""The guest's kernel where the machine's apt knows none: from an archive of its own, here one on disk."""

from __future__ import annotations

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.vm.kernel import ARCHIVE, META_PACKAGE, fetch

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")
RELEASE = "6.1.0-9-amd64"
NAME = f"linux-image-{RELEASE}"


def build(archive: Path, name: str, depends: str = "") -> str:
    """Put a package into an archive; its entry in the archive's index."""
    home = archive / name
    for path, text in (
        (f"boot/vmlinuz-{RELEASE}", "an image"),
        (f"lib/modules/{RELEASE}/modules.order", ""),
        (f"lib/modules/{RELEASE}/modules.builtin", ""),
    ):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text)
    fields = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody <n@example.org>\n"
    fields += f"Depends: {depends}\n" if depends else ""
    (home / "DEBIAN").mkdir()
    (home / "DEBIAN" / "control").write_text(f"{fields}Description: a test's\n")
    file = archive / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--build", str(home), str(file)], check=True, capture_output=True)
    content = file.read_bytes()
    return f"{fields}Filename: ./{file.name}\nSize: {len(content)}\nSHA256: {sha256(content).hexdigest()}\n\n"


def index(archive: Path, packages: str) -> None:
    """Write what the archive says of itself, which nobody signs."""
    (archive / "Packages").write_text(packages)
    digest = sha256(packages.encode()).hexdigest()
    (archive / "Release").write_text(f"SHA256:\n {digest} {len(packages)} Packages\n")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A repository with a kernel and the package that names it."""
    home = tmp_path / "archive"
    home.mkdir()
    index(home, build(home, NAME) + build(home, META_PACKAGE, NAME))
    return home


def test_it_comes_from_the_archive_once(tmp_path: Path, archive: Path) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    image = fetch(folder, "", f"deb [arch=amd64 trusted=yes] file:{archive} ./")
    assert image == folder / NAME / "boot" / f"vmlinuz-{RELEASE}"
    assert image.read_text() == "an image"
    assert (folder / NAME / "lib" / "modules" / RELEASE / "modules.dep").exists()
    assert [entry.name for entry in folder.iterdir()] == [NAME]
    # No archive is asked for what is there, and the latest counts.
    newer = folder / NAME.replace("-9-", "-10-")
    image = newer / "boot" / f"vmlinuz-{newer.name.removeprefix('linux-image-')}"
    image.parent.mkdir(parents=True)
    image.touch()
    assert fetch(folder, "", "nonsense") == image


@pytest.mark.parametrize(
    ("source", "said"),
    [
        # Whoever can change what is downloaded could do as root what he likes, so a signature is asked for.
        ("deb [arch=amd64] file:{archive} ./", "not signed"),
        (ARCHIVE.replace("http://deb.debian.org/debian bookworm main", "file:{archive} ./"), "not signed"),
        ("deb [arch=amd64 trusted=yes] file:{archive}/nowhere ./", "nowhere"),
    ],
)
def test_an_archive_that_cannot_be_trusted_or_found_leaves_nothing(
    tmp_path: Path, archive: Path, source: str, said: str
) -> None:
    folder = tmp_path / "kernels"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=said):
        fetch(folder, "", source.format(archive=archive))
    assert list(folder.iterdir()) == []


def test_an_archive_without_a_kernel_is_named(tmp_path: Path, archive: Path) -> None:
    index(archive, "")
    with pytest.raises(RuntimeError, match=r"linux-image-amd64 names no kernel package in: deb .* file:"):
        fetch(tmp_path, "", f"deb [trusted=yes] file:{archive} ./")
