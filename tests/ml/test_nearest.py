"""The nearest vectors: the same as by looking at every row, in any company."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ml import nearest as module
from jobs.ml.nearest import Found, nearest


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    halves = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16)
    return halves.astype(np.float32)


def by_hand(vectors: np.ndarray, query: np.ndarray, end: int, excluded: np.ndarray, k: int) -> Found:
    gone = set(excluded.tolist())
    scores = [
        (-sum(a * b for a, b in zip(vectors[row].tolist(), query.tolist(), strict=True)), row)
        for row in range(end)
        if row not in gone
    ]
    return [(row, -score) for score, row in sorted(scores)[:k]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 9), st.integers(1, 70), st.sampled_from([1, 3, 100])
)
def test_the_same_as_by_hand(seed: int, num_rows: int, num_queries: int, k: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    pool = unit(rng, distinct, 8)
    vectors = pool[rng.integers(0, distinct, num_rows)]  # with few distinct ones nearly all products are equal
    queries = unit(rng, num_queries, 8)
    ends = rng.integers(0, num_rows + 1, num_queries)
    excluded = [np.unique(rng.integers(0, max(1, num_rows), rng.integers(0, 5))) for _ in range(num_queries)]
    got = nearest(vectors, queries, ends, excluded, k)
    for at in range(num_queries):
        expected = by_hand(vectors, queries[at], int(ends[at]), excluded[at], k)
        assert [round(score, 9) for _, score in got[at]] == [round(score, 9) for _, score in expected]
        assert all(score > later or row < after for (row, score), (after, later) in pairwise(got[at]))
        assert {row for row, _ in got[at]}.isdisjoint(excluded[at].tolist())
        assert all(row < ends[at] for row, _ in got[at])


@pytest.mark.parametrize("group", [1, 3, 256])
def test_a_query_s_answer_does_not_depend_on_the_others(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 3000, 16), unit(rng, 40, 16)
    vectors[1000:] = vectors[:2000]  # everything is there twice
    ends = rng.integers(1, 3001, 40)
    excluded = [np.unique(rng.integers(0, 3000, 20)) for _ in range(40)]
    monkeypatch.setattr(module, "_GROUP", group)
    together = nearest(vectors, queries, ends, excluded, 10)
    alone = [nearest(vectors, queries[[at]], ends[[at]], [excluded[at]], 10)[0] for at in range(40)]
    assert together == alone
    monkeypatch.setattr(module, "_MOST_EXCLUDED", 0)
    assert nearest(vectors, queries, ends, excluded, 10) == alone
    monkeypatch.setattr(module, "_MOST_PRODUCTS", 100)
    monkeypatch.setattr(module, "_MOST_EXCLUDED", 1024)
    assert nearest(vectors, queries, ends, excluded, 10) == alone


def test_more_equal_ones_than_are_asked_for_come_in_their_order() -> None:
    rng = np.random.default_rng(2)
    vectors = np.repeat(unit(rng, 1, 16), 500, axis=0)
    (got,) = nearest(vectors, unit(rng, 1, 16), np.array([500]), [np.array([0, 2])], 5)
    assert [row for row, _ in got] == [1, 3, 4, 5, 6]
