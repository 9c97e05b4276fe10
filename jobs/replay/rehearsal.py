"""Which old chunks may be rehearsed in a cycle: the manifest, stratified and capped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.replay.allocation import Counts, largest_remainders, minimums
from jobs.replay.buckets import Buckets, first_windows, lowest
from jobs.replay.hashing import ROOT_TWO, clockwise, hash_column, hash_pairs, mix, order_of, places, stream
from jobs.replay.table import ChunkTable, Codes, Rows, code_of


def eligible(table: ChunkTable, window_idx: int, active_windows: int) -> Rows:
    """The rows that may be rehearsed: train chunks from before the active windows."""
    old = table.window_idx < window_idx - active_windows + 1
    return np.flatnonzero((table.split == code_of("train")) & old)


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Chunks with what the manifest's choice among them goes by; a stratum is one sender, thread and length bucket."""

    buckets: Buckets
    length_bucket: npt.NDArray[np.int16]
    window_idx: Codes
    rows: Rows
    """Of each chunk in `chunk_ids`."""
    chunk_ids: Any
    """pyarrow large_string."""

    @classmethod
    def of(cls, old: ChunkTable, seed: int) -> Strata:
        """Those of a table."""
        return cls(Buckets.of(old, seed), old.length_bucket, old.window_idx, np.arange(len(old)), old.chunk_ids)

    def among(self, rows: Rows) -> Strata:
        """As if the table had these rows alone."""
        windows = self.window_idx[rows]
        buckets = self.buckets.among(rows, windows)
        return Strata(buckets, self.length_bucket[rows], windows, self.rows[rows], self.chunk_ids)

    def choose(self, *, window_idx: int, seed: int, max_samples: int | None, max_per_stratum: int | None) -> Rows:
        """The rows of the manifest, ascending: at most `max_samples`, and of a stratum at most `max_per_stratum`.

        Each stratum gives one chunk at least; the rest goes in proportion to their sizes by largest
        remainders. Where the strata outnumber the cap, they take turns from window to window as
        the sampler's buckets do, but by another step: else the one's turns would always meet the
        same part of the other's. Inside a stratum a hash of seed, window and chunk id chooses.
        """
        width = int(self.length_bucket.max(initial=0)) + 1
        codes, of_row, sizes = np.unique(
            self.buckets.of_row * width + self.length_bucket, return_inverse=True, return_counts=True
        )
        capacities: Counts = sizes if max_per_stratum is None else np.minimum(sizes, max_per_stratum)
        quota = int(capacities.sum()) if max_samples is None else min(max_samples, int(capacities.sum()))
        bucket, length = np.divmod(codes, width)
        keys = hash_pairs(self.buckets.keys[bucket], length.astype(np.uint64))
        position = places(first_windows(of_row, len(codes), self.window_idx), keys)
        ahead = clockwise(position, window_idx, ROOT_TWO)
        given = minimums(capacities, 1, quota, order_of(ahead))
        rest = np.array([quota - int(given.sum())])
        group = np.zeros(len(codes), dtype=np.int64)
        shares = given + largest_remainders(rest, group, sizes, capacities - given, ahead)
        rows = np.flatnonzero(shares[of_row] > 0)  # few, where there is a cap: hashes of the others are not needed
        hashes = hash_column(self.chunk_ids.take(pa.array(self.rows[rows])))
        return rows[lowest(of_row[rows], mix(hashes, stream(seed, "rehearse", window_idx)), shares)]
