"""`python -m tests.image.sbom`: what the image is made of (CycloneDX, build/sbom.cdx.json), and under which licences.

Python's packages are told by cyclonedx-py and pip-licenses, Debian's by dpkg and the copyright file of each. Both are
read off the image that was built.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

from tests.image import build

ROOT = build.ROOT
TOOLS = ROOT / ".venv" / "sbom"
_LICENCE = re.compile(r"^License:[ \t]*(\S.*?)[ \t]*$", re.M)
"""A short name in a copyright file of Debian's machine-readable form (DEP 5)."""
_COMMON = re.compile(r"/usr/share/common-licenses/([\w.-]*\w)")
"""What a copyright file of another form refers to."""

CHECK = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
with open(sys.argv[1]) as file:
    sys.exit(JsonStrictValidator(SchemaVersion.from_version(sys.argv[2])).validate_str(file.read()))
"""
"""Ends with what is wrong by the schema, if anything is."""


class Package(NamedTuple):
    """A package of Debian."""

    name: str
    version: str
    architecture: str
    licences: tuple[str, ...]


def run(*words: str | Path, bound: float = 300.0) -> str:
    """What a command prints. Raises CalledProcessError."""
    return subprocess.run([*map(str, words)], stdout=subprocess.PIPE, text=True, timeout=bound, check=True).stdout


def tools() -> None:
    """Have the tools, pinned, in an environment of their own."""
    if not (TOOLS / "bin" / "python").exists():
        run(sys.executable, "-m", "venv", TOOLS)
    pip = (TOOLS / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--require-hashes", "--requirement", ROOT / "image" / "sbom.lock")


def debian(image: Path) -> list[Package]:
    """The packages of Debian in a file system."""
    words = ("dpkg-query", f"--admindir={image}/var/lib/dpkg", "--show")
    lines = run(*words, "--showformat=${Package}\t${Version}\t${Architecture}\n").splitlines()
    found = (line.split("\t") for line in lines)
    return [Package(name, version, arch, licences(image, name)) for name, version, arch in found]


def licences(image: Path, package: str) -> tuple[str, ...]:
    """The licences that a package of Debian names."""
    place = image / "usr/share/doc" / package
    if place.is_symlink() and (target := place.readlink()).is_absolute():
        place = image / target.relative_to("/")
    try:
        text = (place / "copyright").read_text(errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(sorted(set(_LICENCE.findall(text)) or set(_COMMON.findall(text))))


def component(package: Package) -> dict[str, Any]:
    """A package of Debian as a component of CycloneDX 1.6."""
    name, version = (urllib.parse.quote(text, safe="") for text in package[:2])
    purl = f"pkg:deb/debian/{name}@{version}?arch={package.architecture}&distro=debian-12"
    named = [{"license": {"name": text}} for text in package.licences]
    found = {"type": "library", "bom-ref": purl, "name": package.name, "version": package.version, "purl": purl}
    return {**found, "licenses": named} if named else found


def main() -> None:
    """Write both files."""
    tools()
    build.build()
    out = ROOT / "build"
    out.mkdir(exist_ok=True)
    with build.unpacked() as image, tempfile.TemporaryDirectory() as folder:
        # A Python that finds the image's packages, and nothing else.
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        (site,) = Path(folder).glob("lib/python3*/site-packages")
        (packages,) = (image / "opt/kube-router/.venv").glob("lib/python3*/site-packages")
        (site / "image.pth").write_text(f"{packages}\n")
        python = Path(folder) / "bin" / "python"
        bom = run(TOOLS / "bin/cyclonedx-py", "environment", "--pyproject", ROOT / "pyproject.toml", python)
        table = run(TOOLS / "bin/pip-licenses", f"--python={python}", "--order=name")
        packaged = debian(image)
    document = json.loads(bom)
    document["components"] += [component(package) for package in packaged]
    (out / "sbom.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [f"{each.name} {each.version}: {', '.join(each.licences) or 'see its source'}" for each in packaged]
    text = f"Python\n\n{table}\nDebian\n\n" + "\n".join(lines) + "\n"
    (out / "licences.txt").write_text(text)
    run(TOOLS / "bin/python", "-c", CHECK, out / "sbom.cdx.json", document["specVersion"])
    print(f"build/sbom.cdx.json: {len(document['components'])} components, {len(packaged)} of them Debian's")


if __name__ == "__main__":
    main()
