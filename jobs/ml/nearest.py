"""The nearest vectors, exactly: FAISS over the rows that all queries of a group may see, and products for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Found = list[tuple[int, float]]

_GROUP = 256
"""Queries that are answered at once; sorted by how many rows they may see, so that these are nearly the same."""
_MOST_PRODUCTS = 1 << 25
"""Products that are held for the rows that only some of a group may see."""
_MOST_EXCLUDED = 1024
"""A query that excludes more rows is answered by itself."""
_SLACK = 16
_ROUNDING = 1e-5
"""How far a product in fp32 may lie beside the true one."""


def nearest(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    ends: NDArray[np.int64],
    excluded: Sequence[NDArray[np.int64]],
    k: int,
) -> list[Found]:
    """For each query the rows with the highest inner products: (row, product), best first, at most k.

    A query sees the rows before its `end` but its excluded ones. All vectors are of length 1. The answers are
    those of products in float64, so they do not depend on what else is asked; equal ones come in the order
    of the rows.
    """
    answers: list[Found] = [[]] * len(queries)
    alone = [at for at, rows in enumerate(excluded) if len(rows) > _MOST_EXCLUDED]
    for at in alone:
        answers[at] = _best(vectors, queries[at], _likely(vectors, queries[at], int(ends[at]), excluded[at], k), k)
    order = np.setdiff1d(np.flatnonzero(ends > 0), alone)
    order = order[np.argsort(ends[order], kind="stable")]
    for group in _groups(order, ends):
        wanted = k + _SLACK + max(len(excluded[at]) for at in group)
        rows, bounds = _candidates(vectors, queries[group], ends[group], wanted)
        for at, own, bound in zip(group.tolist(), rows, bounds, strict=True):
            likely = np.setdiff1d(own[own >= 0], excluded[at])
            found = _best(vectors, queries[at], likely, k)
            if bound > -np.inf and (len(found) < k or found[-1][1] < bound + _ROUNDING):
                likely = _likely(vectors, queries[at], int(ends[at]), excluded[at], k)
                found = _best(vectors, queries[at], likely, k)
            answers[at] = found
    return answers


def _groups(order: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Runs of queries, sorted by their ends, that are answered at once."""
    first = 0
    while first < len(order):
        last = min(len(order), first + _GROUP)
        while last - first > 1 and (last - first) * (ends[order[last - 1]] - ends[order[first]]) > _MOST_PRODUCTS:
            last = first + (last - first) // 2
        yield order[first:last]
        first = last


def _candidates(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], ends: NDArray[np.int64], wanted: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Likely rows of each query, -1 for none, and what no row that is left out exceeds."""
    import faiss

    common, most = int(ends[0]), int(ends[-1])
    scores, rows = faiss.knn(queries, vectors[:common], min(wanted, common), metric=faiss.METRIC_INNER_PRODUCT)
    bounds = scores.min(axis=1) if wanted < common else np.full(len(queries), -np.inf, np.float32)
    if most == common:
        return rows, bounds
    products = queries @ vectors[common:most].T
    products[np.arange(common, most)[None, :] >= ends[:, None]] = -np.inf
    keep = min(wanted, most - common)
    later = np.argpartition(-products, keep - 1, axis=1)[:, :keep]
    scores = np.take_along_axis(products, later, axis=1)
    if keep < most - common:
        bounds = np.maximum(bounds, scores.min(axis=1))
    return np.concatenate([rows, np.where(np.isfinite(scores), later + common, -1)], axis=1), bounds


def _likely(
    vectors: NDArray[np.float32], query: NDArray[np.float32], end: int, excluded: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """All rows that may be among the k best, by looking at every one."""
    products = vectors[:end] @ query
    products[excluded[excluded < end]] = -np.inf
    if end <= k:
        return np.flatnonzero(np.isfinite(products))
    least = np.partition(products, end - k)[end - k]
    return np.flatnonzero((products >= least - 2 * _ROUNDING) & np.isfinite(products))


def _best(vectors: NDArray[np.float32], query: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Found:
    """The k best of some rows, in ascending order, by products in float64."""
    # Not a matrix product: that adds up a row in another order where it stands at another place.
    exact = np.einsum("ij,j->i", vectors[rows].astype(np.float64), query.astype(np.float64))
    best = np.argsort(-exact, kind="stable")[:k]
    return list(zip(rows[best].tolist(), exact[best].tolist(), strict=True))
