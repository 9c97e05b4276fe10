"""A world to serve, made once for all processes of a test run: a server in it, and a copy of its archive for a test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from components import require

try:
    import torch
    from serving.world import World, make_world
except ImportError:
    torch = None

from jobs.files import one_at_a_time
from jobs.serving.gate import Limits

if TYPE_CHECKING:
    from serving.running import Inside


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    require(torch, "torch is not installed")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if own.name.startswith("popen-") else own) / "serving-world"
    digests = folder / "digests.json"
    with one_at_a_time(folder.with_suffix(".lock")):
        if not digests.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            digests.write_text(json.dumps(make_world(folder).digests))
    return World(folder, folder / "base", folder / "embedder", json.loads(digests.read_text()))


@pytest.fixture(scope="module")
def door(made: World) -> Iterator[Inside]:
    """A server of the first adapter."""
    from serving.running import in_process

    with in_process(made, served=made.served("a"), limits=Limits(max_new_tokens=400)) as inside:
        yield inside


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """Nothing is in service in it yet."""
    shutil.copytree(made.folder / "archive", tmp_path / "archive")
    return replace(made, folder=tmp_path)
