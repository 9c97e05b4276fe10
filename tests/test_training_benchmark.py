"""The arithmetic of the GPU benchmark: operations that must be done, shares, ratios, what its table says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from components import require


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The modules of benchmarks/training as they see each other."""
    require(sys.platform == "linux", "benchmarks read /proc")
    path = list(sys.path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    before = set(sys.modules)
    yield {name: import_module(name) for name in ("measure", "training.work", "training.run")}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name == "measure" or name.partition(".")[0] == "training":
            del sys.modules[name]


def test_operations_that_must_be_done(modules: dict[str, Any]) -> None:
    work = modules["training.work"]
    shape = work.SHAPES["8b"]
    # Llama 3.1 8B has 8,030,261,248 weights; its embeddings and norms are not multiplied by.
    assert shape.num_weights == 8_030_261_248 - 128_256 * 4096 - 65 * 4096
    one, two = (work.num_operations(shape, np.array([length])) for length in (1024, 2048))
    assert one == 4 * shape.num_weights * 1024 + 6 * 4096 * 32 * 1024**2
    assert two - 2 * one == 6 * 4096 * 32 * (2048**2 - 2 * 1024**2)


def test_the_table_judges_by_medians_of_ratios(modules: dict[str, Any]) -> None:
    run, work, measurement = modules["training.run"], modules["training.work"], modules["measure"].Measurement
    shape, lengths = work.SHAPES["8b"], np.full(1000, 500)
    at_half_of_the_peak = work.num_operations(shape, lengths) / (0.5 * run.PEAK_OPERATIONS)

    def turns(*factors: float) -> list[Any]:
        figures = {"padding": 0.02, "peak_gib": 99.0}
        return [measurement(at_half_of_the_peak * factor, 0, figures) for factor in factors]

    measured = {"refrain": turns(1, 1, 2), "random": turns(3, 3, 2), "grouped": turns(1.2, 1.2, 9)}
    text = "\n".join(run._table(measured, lengths, shape))
    assert f"| {500_000 / at_half_of_the_peak:,.0f} |  | 50.0% | 2.0% | 99 GiB |" in text
    assert "- reached: 50.0% of the peak, goal ≥ 45%" in text
    assert "- reached: 3.00× Trainer + PEFT, random padded batches, goal ≥ 2×" in text
    assert "- **not reached**: 1.20× Trainer + PEFT, group_by_length, goal ≥ 1.25×" in text
    assert "TRL" not in text
