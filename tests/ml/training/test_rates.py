from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.ml.training.rates import rate_factor


def factors(num_steps: int, kind: str, warmup_ratio: float) -> list[float]:
    return [rate_factor(step, num_steps, kind, warmup_ratio) for step in range(num_steps)]  # type: ignore[arg-type]


def test_worked_by_hand() -> None:
    assert factors(8, "linear", 0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 0.75, 0.5, 0.25])
    assert factors(4, "cosine", 0) == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert factors(4, "constant", 0.25) == pytest.approx([0.5, 1, 1, 1])


@given(st.integers(1, 500), st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 1, exclude_max=True))
def test_every_step_learns(num_steps: int, kind: str, warmup_ratio: float) -> None:
    assert all(0 < one <= 1 for one in factors(num_steps, kind, warmup_ratio))
