"""What goes into the image: the versions that are tested, under licences that go with ours."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PERMISSIVE = re.compile(
    r"Apache|MIT|BSD|ISC|Python Software Foundation|PSF|Unlicense|0BSD|Mozilla Public License 2\.0|MPL[- ]2\.0", re.I
)
"""Licences that go with Apache-2.0; MPL-2.0 asks for the source of its own files only."""
STRICT = re.compile(r"\b(A?GPL|LGPL|GNU|SSPL|BUSL|Proprietary|Commercial)", re.I)
PIN = re.compile(r"^(\S+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.M)


def pins(lock: str) -> dict[str, tuple[str, str]]:
    """Version and hashes of each package of a lock."""
    text = (ROOT / lock).read_text()
    return {found[1]: (found[2], found[3]) for found in PIN.finditer(text)}


def licence(package: str) -> str:
    """What a package says of its licence, in whichever field."""
    said = metadata.metadata(package)
    classified = [line for line in said.get_all("Classifier") or () if line.startswith("License ::")]
    return "; ".join((said.get("License-Expression") or (said.get("License") or "").split("\n")[0], *classified))


def test_the_image_has_what_is_tested() -> None:
    tested, shipped = pins("requirements.lock"), pins("image/requirements.lock")
    assert shipped.items() <= tested.items()
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in named}
    assert names <= set(shipped)


def test_every_package_of_the_image_has_a_licence_that_goes_with_ours() -> None:
    said = {package: licence(package) for package in pins("image/requirements.lock")}
    unclear = {name: text for name, text in said.items() if not PERMISSIVE.search(text) or STRICT.search(text)}
    assert unclear == {}


def test_we_say_our_own_licence_everywhere_alike() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == {"text": "Apache-2.0"}
    assert 'licenses="Apache-2.0"' in (ROOT / "Dockerfile").read_text()


def test_the_image_names_no_processor() -> None:
    assert not re.search(r"amd64|x86|arm64|aarch64", (ROOT / "Dockerfile").read_text())
