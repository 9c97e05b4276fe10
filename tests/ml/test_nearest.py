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
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(1, 70),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([1, 7, 30, 100]),
)
def test_the_same_as_by_hand(seed: int, num_rows: int, num_queries: int, k: int, distinct: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    pool = unit(rng, distinct, 8)
    vectors = pool[rng.integers(0, distinct, num_rows)]  # with few distinct ones nearly all products are equal
    queries = unit(rng, num_queries, 8)
    ends = rng.integers(0, num_rows + 1, num_queries)
    excluded = [np.unique(rng.integers(0, max(1, num_rows), rng.integers(0, 5))) for _ in range(num_queries)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        got = nearest(vectors, queries, ends, excluded, k)
    for at in range(num_queries):
        expected = by_hand(vectors, queries[at], int(ends[at]), excluded[at], k)
        assert [round(score, 9) for _, score in got[at]] == [round(score, 9) for _, score in expected]
        assert all(score > later or row < after for (row, score), (after, later) in pairwise(got[at]))
        assert {row for row, _ in got[at]}.isdisjoint(excluded[at].tolist())
        assert all(row < ends[at] for row, _ in got[at])


@pytest.mark.parametrize(("group", "block"), [(1, 8192), (3, 100), (256, 64), (256, 1000)])
def test_a_query_s_answer_does_not_depend_on_the_others(
    group: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = unit(rng, 3000, 16), unit(rng, 40, 16)
    vectors[1000:] = vectors[:2000]  # everything is there twice
    ends = rng.integers(1, 3001, 40)
    excluded = [np.unique(rng.integers(0, 3000, 20 if at else 2500)) for at in range(40)]
    alone = [nearest(vectors, queries[[at]], ends[[at]], [excluded[at]], 10)[0] for at in range(40)]
    monkeypatch.setattr(module, "_GROUP", group)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert nearest(vectors, queries, ends, excluded, 10) == alone


def test_it_is_what_faiss_finds() -> None:
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    vectors, queries = unit(rng, 20_000, 32), unit(rng, 50, 32)
    index = faiss.IndexFlatIP(32)
    index.add(vectors)
    scores, rows = index.search(queries, 20)
    got = nearest(vectors, queries, np.full(50, 20_000), [np.empty(0, np.int64)] * 50, 20)
    assert [[row for row, _ in found] for found in got] == rows.tolist()
    assert np.allclose([[score for _, score in found] for found in got], scores, atol=1e-6)


def test_more_equal_ones_than_are_asked_for_come_in_their_order() -> None:
    rng = np.random.default_rng(2)
    vectors = np.repeat(unit(rng, 1, 16), 500, axis=0)
    (got,) = nearest(vectors, unit(rng, 1, 16), np.array([500]), [np.array([0, 2])], 5)
    assert [row for row, _ in got] == [1, 3, 4, 5, 6]
