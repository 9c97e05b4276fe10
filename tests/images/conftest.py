"""The images that this machine's buildah holds, built before by `make images` (or by `make e2e`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from components import require

from images.containers import Container

REGISTRY = os.environ.get("REFRAIN_IMAGES", "localhost")


def buildah(*arguments: str) -> str:
    return subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def image() -> Iterator[Callable[[str], tuple[str, Path, dict]]]:
    """An image's full name, the folder with its files and its configuration."""
    require(os.geteuid() == 0 and shutil.which("buildah") and shutil.which("runc"), "root, buildah and runc")
    mounted: dict[str, tuple[str, Path, dict]] = {}
    containers = []

    def mount(name: str) -> tuple[str, Path, dict]:
        if name not in mounted:
            full = f"{REGISTRY}/refrain-{name}"
            known = json.loads(buildah("images", "--json"))
            tags = [tag for row in known for tag in row.get("names") or () if tag.rpartition(":")[0] == full]
            require(tags, f"no image {full} in buildah's store: make images")
            containers.append(buildah("from", "--pull-never", tags[0]))
            config = json.loads(buildah("inspect", "--type", "image", tags[0]))["OCIv1"]["config"]
            mounted[name] = tags[0], Path(buildah("mount", containers[-1])), config
        return mounted[name]

    yield mount
    for container in containers:
        buildah("rm", container)


@pytest.fixture
def container(image: Callable[[str], tuple[str, Path, dict]], tmp_path: Path) -> Callable[[str], Container]:
    """The container of one of the images."""

    def of(name: str) -> Container:
        _, root, config = image(name)
        return Container(name, root, tmp_path, config)

    return of
