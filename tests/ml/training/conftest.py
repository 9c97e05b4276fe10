"""A small plan to train by, its data, and what an undisturbed run makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def plan(chunks: Any) -> Any:
    """Two epochs: of 4 batches, and of 3 in another order."""
    from ml.training.runs import cut, of_train, schedule

    first = cut(of_train(chunks, 16), 4)
    return schedule(first, first[:0:-1])


@pytest.fixture(scope="module")
def data(chunks: Any, encoder: Any, plan: Any) -> Any:
    from ml.training.runs import data_of

    return data_of(chunks, encoder, plan)


@pytest.fixture(scope="module")
def undisturbed(base: Any, data: Any, tmp_path_factory: Any) -> tuple[Path, Any]:
    """The run's folder and outcome; not to be changed."""
    from ml.training.runs import train

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, train(base, data, folder)
