"""Quantiles of Student's t beside scipy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from jobs.scoring.student_t import t_quantile


@given(st.integers(1, 1_000_000), st.floats(0.5, 0.999_999))
def test_quantiles_are_those_of_scipy(degrees: int, probability: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(t.ppf(probability, degrees), rel=1e-10, abs=1e-10)


def test_tables() -> None:
    assert round(t_quantile(0.975, 1), 3) == 12.706
    assert round(t_quantile(0.975, 10), 3) == 2.228
    assert round(t_quantile(0.95, 30), 3) == 1.697


@pytest.mark.parametrize(("probability", "degrees"), [(0.4, 3), (1.0, 3), (0.9, 0), (math.nan, 3)])
def test_nonsense_is_refused(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile of"):
        t_quantile(probability, degrees)
