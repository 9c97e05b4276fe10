"""The manifest: who may be rehearsed, and who is left in when not all can be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay.builders import archive, entry

from jobs.replay.rehearsal import Strata, eligible
from jobs.replay.table import ChunkTable


def test_eligible_are_train_chunks_before_the_active_windows() -> None:
    entries = archive()
    table = ChunkTable.from_entries(entries)
    for active in (1, 3):
        rows = eligible(table, 7, active)
        expected = [i for i, one in enumerate(entries) if one.split == "train" and one.window_idx < 8 - active]
        assert rows.tolist() == expected


def test_by_hand() -> None:
    # Strata: t1 short 6, t1 long 2, t2 short 2; cap 5. One each, two left, by 6 : 2 : 2 of 10:
    # 1.2, .4, .4: one whole for t1 short, and one for a remainder of .4, a tie of equal weights.
    sizes = {("t1", 100): 6, ("t1", 600): 2, ("t2", 100): 2}
    entries = [
        entry(f"{thread}-{tokens}-{i}", thread, tokens=tokens)
        for (thread, tokens), size in sizes.items()
        for i in range(size)
    ]
    rows = Strata.of(ChunkTable.from_entries(entries), 42).choose(
        window_idx=3, seed=42, max_samples=5, max_per_stratum=None
    )
    drawn = Counter((entries[row].thread_id, entries[row].num_tokens) for row in rows)
    assert drawn["t1", 100] == 2
    assert sorted([drawn["t1", 600], drawn["t2", 100]]) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from([100, 400])), max_size=60),
    st.none() | st.integers(0, 70),
    st.none() | st.integers(1, 5),
    st.integers(0, 9),
)
def test_caps_and_strata(
    drawn: list[tuple[int, int, int]], max_samples: int | None, max_per_stratum: int | None, window: int
) -> None:
    entries = [
        entry(f"c{i}", f"t{thread}", sender=f"s{sender}", tokens=tokens)
        for i, (sender, thread, tokens) in enumerate(drawn)
    ]
    strata = Strata.of(ChunkTable.from_entries(entries), 42)
    rows = strata.choose(window_idx=window, seed=42, max_samples=max_samples, max_per_stratum=max_per_stratum)
    assert len(set(rows.tolist())) == len(rows)
    assert (np.diff(rows) > 0).all(), "in the log's order"
    sizes = Counter((one.sender, one.thread_id, one.length_bucket) for one in entries)
    chosen = Counter((entries[r].sender, entries[r].thread_id, entries[r].length_bucket) for r in rows)
    room = sum(min(size, max_per_stratum or size) for size in sizes.values())
    assert len(rows) == min(room, room if max_samples is None else max_samples)
    assert all(count <= (max_per_stratum or count) for count in chosen.values())
    if max_samples is None or max_samples >= len(sizes):
        assert chosen.keys() == sizes.keys(), "at least one of each stratum"


@pytest.mark.parametrize("cap", [1, 7, 50])
def test_strata_take_turns_while_the_archive_grows(cap: int) -> None:
    """Five new strata with every window: the first hundred have their turn in about twice the least time."""
    num_windows = round(2.1 * 200 / cap)
    entries = [entry(f"t{i}", f"t{i}", window=0 if i < 100 else 1 + (i - 100) * num_windows // 100) for i in range(200)]
    strata = Strata.of(ChunkTable.from_entries(entries), 42)
    left = np.ones(200, dtype=bool)
    for window in range(1, num_windows + 2):
        rows = np.flatnonzero(strata.window_idx < window)
        chosen = strata.among(rows).choose(window_idx=window, seed=42, max_samples=cap, max_per_stratum=None)
        left[rows[chosen]] = False
    assert not left[:100].any()
