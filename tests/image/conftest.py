"""The image, built once for all tests, as the file system that its containers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image import build
from tests.image.container import Container
from tests.support.lab import netns

Run = Callable[..., str]


@pytest.fixture(scope="session")
def image() -> Iterator[Path]:
    """The root file system of one container."""
    build.build()
    with build.unpacked() as root:
        yield root


@pytest.fixture
def run(image: Path, tmp_path: Path) -> Iterator[Run]:
    """Runs a command line in a container on a network of its own; what it prints on both."""
    name = f"{netns.unique_prefix()}-image"
    netns.add(name)

    def run(*words: str, fails: bool = False, **binds: Path) -> str:
        places = {f"/{place.replace('__', '/')}": path for place, path in binds.items()}
        done = Container(image, tmp_path, words, network=netns.path(name), binds=places).run()
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        yield run
    finally:
        netns.remove(name)
