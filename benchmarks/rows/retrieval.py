"""The nearest passages, exactly, with a date and exclusions for each question; beside products and a partition."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

NUM_QUERIES = 256
DIMENSION = 384
K = 100
BATCH = 32


def _load():
    import numpy as np

    vectors = np.load("vectors.npy")
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((NUM_QUERIES, DIMENSION), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    # A cycle's questions: of the newest weeks, the mail that is answered and the reply left out.
    ends = np.sort(rng.integers(int(0.98 * len(vectors)), len(vectors) + 1, NUM_QUERIES))
    excluded = [np.sort(rng.integers(0, end, 6)) for end in ends]
    return vectors, queries, ends, excluded


def _refrain(step: int = NUM_QUERIES) -> None:
    from jobs.ml.nearest import nearest

    vectors, queries, ends, excluded = _load()
    nearest(vectors[:1000], queries[:32], ends[:32].clip(0, 1000), excluded[:32], K)
    begin = time.process_time()
    for start in range(0, NUM_QUERIES, step):
        some = slice(start, start + step)
        nearest(vectors, queries[some], ends[some], excluded[some], K)
    _tell(begin)


def _numpy(step: int) -> None:
    import numpy as np

    vectors, queries, ends, excluded = _load()
    begin = time.process_time()
    for start in range(0, NUM_QUERIES, step):
        products = queries[start : start + step] @ vectors.T
        for row, at in enumerate(range(start, min(start + step, NUM_QUERIES))):
            products[row, ends[at] :] = -np.inf
            products[row, excluded[at]] = -np.inf
        rows = np.argpartition(-products, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(products, rows, axis=1), axis=1)
        np.take_along_axis(rows, order, axis=1)
    _tell(begin)


def _faiss() -> None:
    """Without dates and exclusions, which it does not know of each question."""
    import faiss

    vectors, queries, _, _ = _load()
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    faiss.cvar.distance_compute_blas_threshold = 20
    begin = time.process_time()
    index.search(queries, K)
    _tell(begin)


def _tell(begin: float) -> None:
    print(json.dumps({"seconds": time.process_time() - begin}))


PROGRAMS: dict[str, Callable[[], None]] = {
    "refrain": _refrain,
    "refrain-alone": partial(_refrain, 1),
    "faiss": _faiss,
    "numpy": partial(_numpy, BATCH),
    "numpy-alone": partial(_numpy, 1),
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from rows import AtLeast, Contestant, Row  # noqa: E402


def prepare(folder: Path, num_passages: int) -> None:
    """Vectors of length 1 in random directions."""
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((num_passages, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "vectors.npy", vectors)


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


def _versions() -> str:
    return f"faiss {version('faiss-cpu')}, numpy {version('numpy')}"


NUMPY, BATCHED = "numpy, one by one", f"numpy, {BATCH} at a time"
FAISS = "faiss.IndexFlatIP, all at once"

ROW = Row(
    title="Retrieval by vectors",
    unit="questions",
    size=100_000,
    size_unit="passages lie there",
    work=NUM_QUERIES,
    prepare=prepare,
    contestants=(
        Contestant("`Index.search`'s nearest rows", partial(_program, "refrain")),
        Contestant("the same, one by one", partial(_program, "refrain-alone")),
        Contestant(FAISS, partial(_program, "faiss")),
        Contestant(NUMPY, partial(_program, "numpy-alone")),
        Contestant(BATCHED, partial(_program, "numpy")),
    ),
    goals=(
        AtLeast(8, NUMPY),
        AtLeast(8, NUMPY, times=10),
        AtLeast(2, BATCHED),
        AtLeast(2, BATCHED, times=10),
        AtLeast(1, FAISS, times=10),
    ),
    versions=_versions,
    turns=3,
    note=(
        f"The {K} nearest of 384-dimensional vectors for {NUM_QUERIES} questions, each with a date of its own in the "
        "newest fiftieth and six rows left out; the answers are exact. numpy: products, then `argpartition`; with "
        "batches, half of its time and more is the products alone, which all need: there the goal is as if choosing "
        "took nothing, and 8× cannot be. FAISS: without dates and rows left out, by its BLAS."
    ),
)
