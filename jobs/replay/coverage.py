"""How much of the archive rehearsal has reached so far, without a memory of earlier cycles.

Every draw is a function of the log, the settings and the window: so the draws of the cycles
before this one are made again, from what the log held then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.replay.allocation import replay_quota
from jobs.replay.buckets import lowest
from jobs.replay.hashing import Keys, hash_column, mix, stream
from jobs.replay.rehearsal import Strata
from jobs.replay.report import Coverage
from jobs.replay.sampler import StratifiedReplaySampler
from jobs.replay.table import ChunkTable, Codes, Rows, code_of

_MOST_WORK = 30_000_000
"""Chunks times draws that are made again at most: some seconds."""


def cover(
    log: ChunkTable, sampler: StratifiedReplaySampler, cycle_windows: Sequence[int], active_windows: int
) -> Coverage:
    """What this cycle and those that ended with these windows have rehearsed of the log's old train chunks.

    Exact for cycles that ran with these settings. The cap on their manifests is taken to be this
    cycle's: the size of its manifest, where that does not hold all that is old.
    """
    first_active = sampler.window_idx - active_windows + 1
    is_train = log.split == code_of("train")
    old = log.take(is_train & (log.window_idx < first_active))
    num_new = dict(zip(*_counts(log.window_idx[is_train]), strict=True))
    seen = np.zeros(len(old), dtype=np.bool_)
    drawn = np.unique(np.concatenate([sampler.draw(epoch)[0] for epoch in range(sampler.num_epochs)]))
    found = old.find(sampler.table.take(drawn).chunk_ids)
    seen[found[found >= 0]] = True
    history = _History(Strata.of(old, sampler.seed), hash_column(old.chunk_ids), num_new, sampler, active_windows)
    earlier = [window for window in cycle_windows if window < sampler.window_idx]
    again = earlier[max(0, len(earlier) - _MOST_WORK // max(1, len(old) * sampler.num_epochs)) :]
    for window_idx in again:
        for rows in history.draws(window_idx):
            seen[rows] = True
    buckets = history.strata.buckets.of_row
    return Coverage(
        cycles=len(again) + 1,
        of_cycles=len(earlier) + 1,
        chunks=int(seen.sum()),
        of_chunks=len(old),
        buckets=len(np.unique(buckets[seen])),
        of_buckets=len(np.unique(buckets)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _History:
    strata: Strata
    """Of all that is old by now."""
    keys: Keys
    """Hash of each chunk id."""
    num_new: Mapping[int, int]
    """Train chunks by window."""
    sampler: StratifiedReplaySampler
    active_windows: int

    def draws(self, window_idx: int) -> Iterator[Rows]:
        """The rows that each epoch of the cycle of an earlier window drew."""
        sampler = self.sampler
        rows = self._manifest(window_idx)
        num_new = self.num_new.get(window_idx, 0)
        quota = replay_quota(num_new, len(rows), sampler.ratio, sampler.max_share, sampler.max_samples)
        if not quota:
            return
        manifest = self.strata.among(rows)
        for epoch in range(sampler.num_epochs):
            number = window_idx * sampler.num_epochs + epoch
            shares = manifest.buckets.shares(quota, sampler.min_per_bucket, number)
            keys = mix(self.keys[rows], stream(sampler.seed, "draw", number))
            yield rows[lowest(manifest.buckets.of_row, keys, shares)]

    def _manifest(self, window_idx: int) -> Rows:
        rows = np.flatnonzero(self.strata.window_idx < window_idx - self.active_windows + 1)
        cap = self.sampler.num_old
        if len(rows) <= cap:
            return rows
        strata = self.strata.among(rows)
        chosen = strata.choose(window_idx=window_idx, seed=self.sampler.seed, max_samples=cap, max_per_stratum=None)
        return rows[chosen]


def _counts(values: Codes) -> tuple[list[int], list[int]]:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct.tolist(), counts.tolist()
