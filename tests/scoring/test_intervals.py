"""Intervals by thread: against values worked out by hand, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.scoring.intervals import Interval, interval_of, paired_interval, ratio_influences, ratio_interval

T_975_2 = 4.302652729911275
"""Student's t at 97.5 % with two degrees of freedom, from a printed table."""


def test_threads_of_equal_size_are_a_students_t() -> None:
    # Means 1, 2, 3: estimate 2, standard error 1/√3.
    found = ratio_interval([10, 20, 30], [10, 10, 10], 0.95)
    assert found.estimate == pytest.approx(2)
    assert found.high - found.estimate == pytest.approx(T_975_2 / math.sqrt(3))
    assert found.estimate - found.low == pytest.approx(T_975_2 / math.sqrt(3))
    assert found.num_threads == 3


def test_unequal_threads_are_the_jackknife() -> None:
    # 6/6 = 1; leaving out each: (6-1)/(6-1) = 1, (6-1)/(6-2) = 5/4, (6-4)/(6-3) = 2/3.
    found = ratio_interval([1, 1, 4], [1, 2, 3], 0.95)
    without = np.array([1, 5 / 4, 2 / 3])
    error = math.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())
    assert found.estimate == pytest.approx(1)
    assert found.high - found.estimate == pytest.approx(T_975_2 * error)


def test_a_long_thread_counts_for_its_length() -> None:
    assert ratio_interval([1, 90], [1, 9], 0.95).estimate == pytest.approx(91 / 10)


def test_paired_differences_leave_out_what_both_have_in_common() -> None:
    sizes = [10, 20, 30, 40]
    hard = np.array([50.0, 20.0, 120.0, 40.0])
    found = paired_interval(hard - 0.1 * np.array(sizes), hard, sizes, 0.95)
    assert found.estimate == found.low == found.high == pytest.approx(-0.1)
    apart = ratio_interval(hard, sizes, 0.95)
    assert apart.high - apart.low > 1


def test_threads_without_anything_do_not_count() -> None:
    assert ratio_interval([10, 0, 20, 30], [10, 0, 10, 10], 0.9) == ratio_interval([10, 20, 30], [10, 10, 10], 0.9)
    with pytest.raises(ValueError, match="no thread"):
        ratio_interval([0, 0], [0, 0], 0.95)


@pytest.mark.parametrize("num", [0, 1])
def test_under_two_threads_nothing_is_known(num: int) -> None:
    assert interval_of(3.0, [0.0] * num, 0.95) == Interval(3.0, -math.inf, math.inf, num)
    assert interval_of(3.0, [0.0] * num, 0.95).bounds == [None, None]


def test_one_thread() -> None:
    assert ratio_interval([6], [3], 0.95) == Interval(2.0, -math.inf, math.inf, 1)


def test_more_confidence_is_wider() -> None:
    widths = [ratio_interval([1, 5, 4], [1, 2, 3], confidence).high for confidence in (0.8, 0.95, 0.99)]
    assert widths == sorted(set(widths))


def test_influences_of_threads_of_equal_size_are_the_plain_ones() -> None:
    estimate, influences = ratio_influences([1, 2, 6], [1, 1, 1])
    assert estimate == 3
    assert influences == pytest.approx(np.array([-2, -1, 3]) / 3)


@pytest.mark.parametrize("num_threads", [10, 20, 35])
def test_95_percent_hold_the_truth(num_threads: int) -> None:
    """Threads of a median 200 tokens, some ten times as long as others, each with a level of its own."""
    drawn = np.random.default_rng(num_threads)
    num_held = 0
    for _ in range(2000):
        sizes = np.maximum(1, drawn.lognormal(math.log(200), 0.7, num_threads).round())
        means = 3.0 + drawn.normal(0, 0.3, num_threads) + drawn.normal(0, 1, num_threads) / np.sqrt(sizes)
        found = ratio_interval(means * sizes, sizes, 0.95)
        num_held += found.low <= 3.0 <= found.high
    assert 0.925 <= num_held / 2000 <= 0.965
