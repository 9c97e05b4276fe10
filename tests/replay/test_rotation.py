"""Where buckets outnumber the quota: who has waited how long."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from replay.builders import entry

from jobs.replay import StratifiedReplaySampler
from jobs.replay.buckets import Buckets, lowest
from jobs.replay.hashing import clockwise, hash_names, mix, stream
from jobs.replay.rehearsal import Strata
from jobs.replay.table import ChunkTable


def buckets(count: int) -> Buckets:
    """One chunk in each bucket, three buckets in each window."""
    return Buckets.of(table(count), seed=42)


def table(count: int) -> ChunkTable:
    return ChunkTable.from_entries([entry(f"t{i}-0", f"t{i}", window=i // 3) for i in range(count)])


@pytest.mark.parametrize(("count", "quota"), [(500, 1), (500, 3), (500, 20), (97, 12), (40, 39)])
@pytest.mark.parametrize("first", [0, 81, 100_003])
def test_every_bucket_has_its_turn(count: int, quota: int, first: int) -> None:
    """Each within 2.1 times the draws that it would take at best, whatever number the first draw has."""
    of = buckets(count)
    left = np.ones(count, dtype=bool)
    for draw in range(first, first + round(2.1 * count / quota) + 1):
        shares = of.shares(quota, 2, draw)
        assert shares.sum() == quota
        assert shares.max() == 1
        left &= shares == 0
    assert not left.any()


def test_growth_leaves_places_as_they_are() -> None:
    small, large = buckets(300), buckets(900)
    assert (large.position[:300] == small.position).all()
    assert (large.among(np.arange(300), table(300).window_idx).position[:300] == small.position).all()


def test_every_bucket_has_its_turn_while_the_archive_grows() -> None:
    """An archive that doubles: those that were there at first wait no longer than in the doubled one."""
    quota, first, last = 5, 300, 600
    of, windows = buckets(last), table(last).window_idx
    num_draws = round(2.1 * last / quota)
    left = np.ones(first, dtype=bool)
    for draw in range(num_draws):
        present = first + (last - first) * draw // num_draws
        shares = of.among(np.arange(present), windows[:present]).shares(quota, 2, draw)
        assert shares[present:].sum() == 0
        left &= shares[:first] == 0
    assert not left.any()


@pytest.mark.parametrize("cap", [40, 100, 250, 380])
@pytest.mark.parametrize("num_epochs", [1, 3])
def test_turns_in_the_manifest_and_turns_in_the_draw_do_not_fall_into_step(cap: int, num_epochs: int) -> None:
    """A capped manifest that rotates, and draws from it that rotate: everyone is reached, if not as soon.

    Chance alone would leave one in exp(12) out.
    """
    strata = Strata.of(table(400), seed=42)
    quota = 8
    left = np.ones(400, dtype=bool)
    for window in range(round(12 * 400 / (quota * num_epochs))):
        rows = strata.choose(window_idx=window, seed=42, max_samples=cap, max_per_stratum=None)
        assert len(rows) == cap
        manifest = strata.among(rows).buckets
        for epoch in range(num_epochs):
            left &= manifest.shares(quota, 2, window * num_epochs + epoch) == 0
    assert left.sum() == 0


def test_epochs_and_cycles_go_on_where_the_last_one_ended() -> None:
    """Epoch 1 of window 4 is the draw after epoch 0 of it, and before epoch 0 of window 5."""
    old = [entry(f"t{i}-0", f"t{i}", window=i // 3) for i in range(50)]
    new = [entry(f"n{i}", "n", window=99) for i in range(16)]

    def drawn(window: int, epoch: int) -> set[str]:
        sampler = StratifiedReplaySampler(old, new, window_idx=window, num_epochs=2)
        return {name for batch in sampler.epoch(epoch) if batch.source == "replay" for name in batch.chunk_ids}

    turns = [drawn(window, epoch) for window in (4, 5) for epoch in (0, 1)]
    expected = [
        {f"t{i}-0" for i in np.argsort(clockwise(buckets(50).position, number), kind="stable")[:4]}
        for number in (8, 9, 10, 11)
    ]
    assert turns == expected
    assert all(a.isdisjoint(b) for a, b in pairwise(turns))


def test_draws_within_a_bucket_change() -> None:
    group = np.zeros(50, dtype=np.int64)
    keys = hash_names(f"c{i}" for i in range(50))
    drawn = [tuple(lowest(group, mix(keys, stream(42, "draw", n)), np.array([5])).tolist()) for n in range(4)]
    assert len(set(drawn)) == 4
