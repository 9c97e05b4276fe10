"""The nearest vectors, exactly: products by blocks, for many questions at once, and only what may win is looked at.

Every product is computed, as in FAISS's flat index; that one is left out since its own products take three times
as long as those of numpy's BLAS (benchmarks/rows/retrieval.py), and it knows no limit of each question's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Found = list[tuple[int, float]]

_GROUP = 256
"""Questions that are answered at once."""
_BLOCK = 8192
"""Rows whose products with a group are held at once."""
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
    of the rows. Time goes with the rows that are seen, and answering many at once takes a fraction of it.
    """
    answers: list[Found] = [[]] * len(queries)
    order = np.argsort(ends, kind="stable")
    for start in range(0, len(order), _GROUP):
        group = order[start : start + _GROUP]
        best = _scan(vectors, queries[group], ends[group], [excluded[at] for at in group], k + _SLACK)
        for at, rows, bound in zip(group.tolist(), best.rows, best.bounds(), strict=True):
            found = _exact(vectors, queries[at], np.sort(rows[rows >= 0]), k)
            if bound > -np.inf and found[-1][1] < bound + _ROUNDING:  # what was left out may be as good
                likely = _likely(vectors, queries[at], int(ends[at]), excluded[at], k)
                found = _exact(vectors, queries[at], likely, k)
            answers[at] = found
    return answers


@dataclass(slots=True)
class _Best:
    """The best rows so far of each query of a group."""

    scores: NDArray[np.float32]
    """(queries, wanted); -inf where there are fewer."""
    rows: NDArray[np.int64]
    """Likewise; -1 where there are fewer."""

    def bounds(self) -> NDArray[np.float32]:
        """What no row that was left out exceeds; -inf where none was."""
        least: NDArray[np.float32] = self.scores.min(axis=1)
        return least

    def take(self, hits: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]) -> None:
        """Take the better ones of more rows: (query, row, score) of each."""
        num_queries, wanted = self.scores.shape
        own = np.repeat(np.arange(num_queries), wanted)
        query = np.concatenate([own, *(one[0] for one in hits)])
        row = np.concatenate([self.rows.ravel(), *(one[1] for one in hits)])
        score = np.concatenate([self.scores.ravel(), *(one[2] for one in hits)])
        order = np.lexsort((-score, query))
        first = np.searchsorted(query[order], np.arange(num_queries))
        kept = order[first[:, None] + np.arange(wanted)]
        self.scores, self.rows = score[kept], row[kept]


def _scan(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    ends: NDArray[np.int64],
    excluded: Sequence[NDArray[np.int64]],
    wanted: int,
) -> _Best:
    """The best rows of each query by products in fp32; `ends` ascend.

    Rows below the worst of the best are passed over at once. That limit is renewed whenever the rows seen have
    doubled, so that few rows pass it in between.
    """
    shape = (len(queries), wanted)
    best = _Best(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64))
    hits: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    hidden = _Hidden.of(ends, excluded)
    renewed = 0
    most = int(ends[-1])
    for start in range(0, most, _BLOCK):
        stop = min(start + _BLOCK, most)
        first = int(np.searchsorted(ends, start, side="right"))
        products = queries[first:] @ vectors[start:stop].T
        hidden.hide(products, first, start)
        if start == 0 and stop > wanted:  # the whole block would pass: only its best do
            rows = np.argpartition(products, stop - wanted, axis=1)[:, stop - wanted :]
            limits = np.take_along_axis(products, rows, axis=1).min(axis=1)
            limits = np.nextafter(limits, np.float32(-np.inf))
        else:
            limits = best.bounds()[first:]
        flat = np.flatnonzero(products > limits[:, None])
        hits.append((flat // (stop - start) + first, flat % (stop - start) + start, products.ravel()[flat]))
        if stop >= 2 * renewed or stop == most:
            best.take(hits)
            hits, renewed = [], stop
    return best


@dataclass(frozen=True, slots=True)
class _Hidden:
    """What queries must not see: rows from their ends on (which ascend), and their excluded ones."""

    ends: NDArray[np.int64]
    query: NDArray[np.int64]
    row: NDArray[np.int64]
    """Ascending; with `query` the pairs that are excluded."""

    @classmethod
    def of(cls, ends: NDArray[np.int64], excluded: Sequence[NDArray[np.int64]]) -> _Hidden:
        query = np.repeat(np.arange(len(ends)), [len(rows) for rows in excluded])
        row = np.concatenate([np.empty(0, np.int64), *excluded])
        order = np.argsort(row, kind="stable")
        return cls(ends, query[order], row[order])

    def hide(self, products: NDArray[np.float32], first: int, start: int) -> None:
        """Make it worse than everything in the products of queries from `first` on with rows from `start` on."""
        stop = start + products.shape[1]
        for at in range(first, int(np.searchsorted(self.ends, stop))):
            products[at - first, self.ends[at] - start :] = -np.inf
        inside = slice(*np.searchsorted(self.row, (start, stop)))
        query, row = self.query[inside], self.row[inside]
        seen = query >= first
        products[query[seen] - first, row[seen] - start] = -np.inf


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


def _exact(vectors: NDArray[np.float32], query: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Found:
    """The k best of some rows, in ascending order, by products in float64."""
    # Not a matrix product: that adds up a row in another order where it stands at another place.
    exact = np.einsum("ij,j->i", vectors[rows].astype(np.float64), query.astype(np.float64))
    best = np.argsort(-exact, kind="stable")[:k]
    return list(zip(rows[best].tolist(), exact[best].tolist(), strict=True))
