"""Coverage without a memory: what earlier cycles drew is drawn again, and is what they drew."""

from __future__ import annotations

import numpy as np
import pytest
from replay.builders import archive

from jobs.replay import StratifiedReplaySampler, coverage
from jobs.replay.coverage import cover
from jobs.replay.rehearsal import Strata, eligible
from jobs.replay.table import ChunkTable, code_of

LOG = ChunkTable.from_entries(archive(num_threads=150, num_windows=12))


def cycle(window: int, cap: int | None, active: int) -> StratifiedReplaySampler:
    """The sampler as the cycle of a window makes it, from what the log held then."""
    old = LOG.take(eligible(LOG, window, active))
    rows = Strata.of(old, 42).choose(window_idx=window, seed=42, max_samples=cap, max_per_stratum=None)
    new = LOG.take((LOG.split == code_of("train")) & (LOG.window_idx == window))
    return StratifiedReplaySampler(old.take(rows), new, window_idx=window, num_epochs=2)


@pytest.mark.parametrize("cap", [None, 60])
@pytest.mark.parametrize("active", [1, 2])
@pytest.mark.parametrize("windows", [list(range(12)), [3, 7, 11]])
def test_equals_the_union_of_all_cycles(cap: int | None, active: int, windows: list[int]) -> None:
    rehearsed: set[str] = set()
    for window in windows:
        sampler = cycle(window, cap, active)
        for batches in sampler.schedule():
            rehearsed.update(name for batch in batches if batch.source == "replay" for name in batch.chunk_ids)
    got = cover(LOG, sampler, windows, active)
    assert 0 < got.chunks < got.of_chunks
    assert got.chunks == len(rehearsed)
    assert got.of_chunks == len(eligible(LOG, 11, active))
    assert (got.cycles, got.of_cycles) == (len(windows), len(windows))
    names = LOG.chunk_ids.to_pylist()
    buckets = {(LOG.sender[i], LOG.thread[i]) for i in range(len(LOG)) if names[i] in rehearsed}
    assert got.buckets == len(buckets)


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = cycle(11, None, 1)
    num_train = int((LOG.split == code_of("train")).sum())
    monkeypatch.setattr(coverage, "_MOST_WORK", 3 * num_train * 2)
    got = cover(LOG, sampler, list(range(12)), 1)
    assert (got.cycles, got.of_cycles) == (4, 12)
    assert got.chunks <= cover(LOG, sampler, list(range(12)), 1).chunks


def test_first_cycle_covers_nothing() -> None:
    sampler = cycle(0, None, 1)
    got = cover(LOG, sampler, [0], 1)
    assert (got.chunks, got.of_chunks, got.cycles) == (0, 0, 1)
    assert np.array(list(got.lines())).size == 2
