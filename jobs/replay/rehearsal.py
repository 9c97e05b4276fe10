"""Which old chunks may be rehearsed in a cycle: the manifest, stratified and capped."""

from __future__ import annotations

import numpy as np

from jobs.replay.allocation import Counts, largest_remainders, minimums
from jobs.replay.buckets import Buckets, lowest
from jobs.replay.hashing import clockwise, hash_column, mix, stream
from jobs.replay.table import ChunkTable, Rows, code_of


def eligible(table: ChunkTable, window_idx: int, active_windows: int) -> Rows:
    """The rows that may be rehearsed: train chunks from before the active windows."""
    old = table.window_idx < window_idx - active_windows + 1
    return np.flatnonzero((table.split == code_of("train")) & old)


def choose(
    old: ChunkTable, *, window_idx: int, seed: int, max_samples: int | None = None, max_per_bucket: int | None = None
) -> Rows:
    """The rows of the manifest, ascending: at most `max_samples`, and of one stratum at most `max_per_bucket`.

    A stratum is one sender's chunks in one thread and one length bucket. Each gives one chunk at
    least; the rest goes in proportion to their sizes by largest remainders. Where the strata
    outnumber the cap, they take turns from window to window, going round the sampler's circle.
    Inside a stratum a hash of seed, window and chunk id chooses.
    """
    buckets = Buckets.of(old, seed)
    width = int(old.length_bucket.max(initial=0)) + 1
    codes, of_row, sizes = np.unique(
        buckets.of_row * width + old.length_bucket, return_inverse=True, return_counts=True
    )
    capacities: Counts = sizes if max_per_bucket is None else np.minimum(sizes, max_per_bucket)
    quota = int(capacities.sum()) if max_samples is None else min(max_samples, int(capacities.sum()))
    # Strata of one bucket lie side by side on the circle.
    order = np.lexsort((codes, clockwise(buckets.position, window_idx)[codes // width]))
    ahead = np.empty(len(codes), dtype=np.uint64)
    ahead[order] = np.arange(len(codes), dtype=np.uint64)
    given = minimums(capacities, 1, quota, order)
    rest = np.array([quota - int(given.sum())])
    shares = given + largest_remainders(rest, np.zeros(len(codes), dtype=np.int64), sizes, capacities - given, ahead)
    keys = mix(hash_column(old.chunk_ids), stream(seed, "rehearse", window_idx))
    return lowest(of_row, keys, shares)
