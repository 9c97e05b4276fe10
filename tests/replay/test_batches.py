"""Cutting and interleaving."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.replay.batches import Cut, by_count, by_tokens, interleave
from jobs.replay.hashing import hash_names


def batches(cut: Cut) -> list[list[int]]:
    return [cut.rows[first:last].tolist() for first, last in pairwise(cut.starts)]


def keys(count: int) -> np.ndarray:
    return hash_names(str(i) for i in range(count))


def test_by_count_keeps_partial_batches() -> None:
    rows = np.arange(10, 17)
    cut = by_count(rows, np.array([0, 1, 0, 1, 0, 0, 0], dtype=np.int16), np.arange(7, dtype=np.uint64), 2)
    assert batches(cut) == [[10, 12], [14, 15], [16], [11, 13]]


def test_by_tokens_pads_to_at_most_the_budget() -> None:
    lengths = np.array([100, 10, 60, 10, 50, 300], dtype=np.int32)
    cut = by_tokens(np.arange(6), np.array([0, 0, 0, 0, 0, 1], dtype=np.int16), lengths, keys(6), 120)
    assert [sorted(batch) for batch in batches(cut)] == [[1, 3], [2, 4], [0], [5]]  # 300 is over the budget: alone


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 9), st.integers(1, 5000))
def test_every_row_in_one_batch_of_one_bucket(lengths: list[int], batch_size: int, budget: int) -> None:
    num_tokens = np.array(lengths, dtype=np.int32)
    buckets = (num_tokens // 1000).astype(np.int16)
    rows = np.arange(len(lengths))
    for cut in (
        by_count(rows, buckets, keys(len(rows)), batch_size),
        by_tokens(rows, buckets, num_tokens, keys(len(rows)), budget),
    ):
        assert sorted(cut.rows.tolist()) == rows.tolist()
        for batch in batches(cut):
            assert len(batch) > 0
            assert len({int(buckets[row]) for row in batch}) == 1


@given(st.integers(0, 200), st.integers(0, 200))
def test_interleave_is_even(num_new: int, num_replay: int) -> None:
    pattern = interleave(num_new, num_replay)
    assert pattern.sum() == num_replay
    assert len(pattern) == num_new + num_replay
    if num_new and num_replay:
        assert not pattern[0]
        at = np.flatnonzero(pattern)
        between = np.diff(at)
        assert between.max(initial=0) - between.min(initial=10**6) <= 1


def test_interleave_by_hand() -> None:
    assert "".join("NR"[int(old)] for old in interleave(8, 2)) == "NNRNNNNRNN"
    assert "".join("NR"[int(old)] for old in interleave(2, 3)) == "NRRNR"
    assert "".join("NR"[int(old)] for old in interleave(0, 2)) == "RR"
