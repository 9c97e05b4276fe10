"""Archives to split into, to train on and to evaluate in, and what an undisturbed training makes of one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trainable
from components import require
from trainable import copied

from jobs.assignments.archive import Archive

if TYPE_CHECKING:
    from evaluating import World


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.open(str(tmp_path / "archive"))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: Any) -> Path:
    """What trainable.make makes; not to be changed."""
    return trainable.make(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def url(ready: Path, tmp_path: Path) -> str:
    """A copy of the archive for the test."""
    return copied(ready, (tmp_path / "archive").as_uri())


@pytest.fixture(scope="module")
def undisturbed(ready: Path, tmp_path_factory: Any) -> tuple[str, Any]:
    """Another copy that has been trained on, and the result; not to be changed."""
    url = copied(ready, (tmp_path_factory.mktemp("undisturbed") / "archive").as_uri())
    return url, trainable.train(ready, url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small world to evaluate in."""
    require(find_spec("torch"), "torch is not installed")
    from evaluating import make_world

    return make_world(tmp_path_factory.mktemp("world"))
