"""The sampler: a table worked by hand, and what holds for every archive."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay.builders import archive, entry

from jobs.contracts.errors import InputError, UsageError
from jobs.contracts.records import ManifestEntry
from jobs.replay import StratifiedReplaySampler
from jobs.replay.batches import Batch, interleave

# A manifest of 16 chunks in five (sender, thread) buckets.
TABLE = {("ann", "t1"): 6, ("ann", "t2"): 3, ("bob", "t3"): 4, ("bob", "t4"): 1, ("cay", "t5"): 2}


def manifest() -> list[ManifestEntry]:
    return [
        entry(f"{thread}-{i}", thread, sender=f"{sender}@example.org")
        for (sender, thread), size in TABLE.items()
        for i in range(size)
    ]


def fresh(count: int, tokens: int = 100) -> list[ManifestEntry]:
    return [entry(f"new-{i}", "new", sender="dan@example.org", window=5, tokens=tokens) for i in range(count)]


def drawn_by_thread(batches: list[Batch]) -> dict[str, int]:
    names = [name for batch in batches if batch.source == "replay" for name in batch.chunk_ids]
    assert len(set(names)) == len(names)
    return dict(Counter(name.split("-")[0] for name in names))


def test_hand_worked_with_one_per_bucket() -> None:
    # Quota: 40 new, 1:4 -> 10; cap 0.2 -> 40 * 0.2 / 0.8 = 10; available 16. So 10.
    # Phase 1 gives 1 to each of five buckets; 5 are left.
    # Senders, by volume 9 : 5 : 2 of 16: 5*9/16 = 2.8125, 5*5/16 = 1.5625, 5*2/16 = 0.625.
    #   Room: ann 7, bob 3, cay 1, nobody is full. Whole parts 2, 1, 0; the two left go to the
    #   remainders .8125 (ann) and .625 (cay), not to .5625 (bob): ann 3, bob 1, cay 1.
    # Threads: ann's 3 by 6 : 3 = 2, 1. Bob's 1: t4 has nothing more, so t3. Cay's 1: t5.
    # Together with phase 1: t1 1+2, t2 1+1, t3 1+1, t4 1, t5 1+1.
    sampler = StratifiedReplaySampler(manifest(), fresh(40), replay_ratio="1:4", min_per_bucket=1)
    assert sampler.quota == 10
    for epoch in range(3):
        assert drawn_by_thread(sampler.epoch(epoch)) == {"t1": 3, "t2": 2, "t3": 2, "t4": 1, "t5": 2}


def test_hand_worked_with_two_per_bucket() -> None:
    # Quota: 52 new, 1:4 -> 13. Phase 1: 2, 2, 2, 1 (all it has), 2 = 9; 4 are left.
    # Senders: cay has no room. Ann and bob by 9 : 5 of 14: 4*9/14 = 2.571, 4*5/14 = 1.429,
    #   below their room of 5 and 2. Whole parts 2, 1; the one left goes to .571: ann 3, bob 1.
    # Threads: ann's 3 by 6 : 3 = 2, 1; t2's room is 1, which it fills. Bob's 1: t3.
    # Together: t1 2+2, t2 2+1, t3 2+1, t4 1, t5 2.
    sampler = StratifiedReplaySampler(manifest(), fresh(52), replay_ratio="1:4", min_per_bucket=2)
    assert sampler.quota == 13
    assert drawn_by_thread(sampler.epoch(0)) == {"t1": 4, "t2": 3, "t3": 3, "t4": 1, "t5": 2}


def test_hand_worked_without_a_minimum() -> None:
    # Quota 8 of 32 new. Senders: 8*9/16 = 4.5, 8*5/16 = 2.5, 8*2/16 = 1. Whole parts 4, 2, 1; the
    #   remainders .5 tie, and the larger volume wins: ann 5, bob 2, cay 1.
    # Threads: ann's 5 by 6 : 3 = 3.33, 1.67 -> 3, 2. Bob's 2 by 4 : 1 = 1.6, 0.4 -> 2, 0. Cay's 1.
    sampler = StratifiedReplaySampler(manifest(), fresh(32), replay_ratio="1:4", min_per_bucket=0)
    assert drawn_by_thread(sampler.epoch(0)) == {"t1": 3, "t2": 2, "t3": 2, "t5": 1}


def test_a_quota_below_the_minimum_of_all_gives_each_as_much_as_all_can_have() -> None:
    # Quota 7 of 28 new, five buckets that want 2, 2, 2, 1, 2: one each, and two of them a second.
    sampler = StratifiedReplaySampler(manifest(), fresh(28), replay_ratio="1:4", min_per_bucket=2)
    drawn = drawn_by_thread(sampler.epoch(0))
    assert sum(drawn.values()) == 7
    assert set(drawn) == {"t1", "t2", "t3", "t4", "t5"}
    assert max(drawn.values()) == 2


def test_a_chunk_in_both_lists_is_new() -> None:
    both = [*fresh(20), manifest()[0]]
    batches = StratifiedReplaySampler(manifest(), both, replay_ratio="1:1", max_share=0.5).epoch(0)
    sources = {name: batch.source for batch in batches for name in batch.chunk_ids}
    assert sources["t1-0"] == "new"
    assert Counter(sources.values()) == {"new": 21, "replay": 15}


def test_first_cycle_has_no_rehearsal() -> None:
    sampler = StratifiedReplaySampler([], fresh(5), batch_size=2)
    assert [batch.source for batch in sampler.epoch(0)] == ["new"] * 3
    assert sampler.report().share_chunks == 0


def test_nothing_new_is_an_empty_schedule() -> None:
    sampler = StratifiedReplaySampler(manifest(), [], window_idx=3)
    assert list(sampler.schedule()) == [[], [], []]


def test_bare_chunk_ids_will_do() -> None:
    batches = StratifiedReplaySampler(["a", "b"], ["c", "d", "e", "f"], replay_ratio="1:4").epoch(0)
    assert sorted(name for batch in batches for name in batch.chunk_ids)[-4:] == ["c", "d", "e", "f"]


def test_token_batches_need_lengths() -> None:
    with pytest.raises(InputError, match="no token count, c among them"):
        StratifiedReplaySampler([], ["c"], batch_tokens=1000)


@pytest.mark.parametrize("name", ["batch_size", "batch_tokens", "num_epochs"])
def test_settings_that_make_no_sense(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0"):
        StratifiedReplaySampler([], fresh(1), **{name: 0})  # type: ignore[arg-type]


sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=0, max_size=14)
options = st.fixed_dictionaries(
    {
        "replay_ratio": st.sampled_from(["1:4", "1:1", "0.3", "3:1", "0:1"]),
        "max_share": st.sampled_from(["0.2", "0.5", "0.75"]),
        "batch_size": st.integers(1, 7),
        "batch_tokens": st.sampled_from([None, 600, 4000]),
        "min_per_bucket": st.integers(0, 3),
        "max_samples": st.sampled_from([None, 0, 5]),
        "seed": st.integers(0, 3),
        "window_idx": st.integers(0, 40),
        "num_epochs": st.integers(1, 3),
    }
)


def made(threads: list[tuple[int, int]], num_new: int) -> tuple[list[ManifestEntry], list[ManifestEntry]]:
    old = [
        entry(f"t{t}-{i}", f"t{t}", sender=f"s{sender}", tokens=50 + (37 * t + 211 * i) % 1400)
        for t, (sender, size) in enumerate(threads)
        for i in range(size)
    ]
    new = [entry(f"n-{i}", "n", sender="s0", window=50, tokens=50 + (401 * i) % 1400) for i in range(num_new)]
    return old, new


@settings(max_examples=120, deadline=None)
@given(sizes, st.integers(0, 40), options)
def test_every_epoch(threads: list[tuple[int, int]], num_new: int, given_options: dict[str, object]) -> None:
    old, new = made(threads, num_new)
    sampler = StratifiedReplaySampler(old, new, **given_options)  # type: ignore[arg-type]
    facts = {one.chunk_id: one for one in [*old, *new]}
    for epoch, batches in enumerate(sampler.schedule()):
        names = [name for batch in batches for name in batch.chunk_ids]
        assert len(set(names)) == len(names), "no chunk twice in an epoch"
        of_new = {name for batch in batches if batch.source == "new" for name in batch.chunk_ids}
        assert of_new == {one.chunk_id for one in new}, "every new chunk once"
        of_old = [name for name in names if name not in of_new]
        assert len(of_old) == sampler.quota
        assert len(of_old) <= sampler.max_share * len(names), "the cap"
        for batch in batches:
            assert {facts[name].length_bucket for name in batch.chunk_ids} == {batch.length_bucket}
            assert batch.num_tokens == sum(facts[name].num_tokens for name in batch.chunk_ids)
            assert all((name in of_new) == (batch.source == "new") for name in batch.chunk_ids)
            if sampler.batch_tokens is None:
                assert len(batch.chunk_ids) <= sampler.batch_size
            elif len(batch.chunk_ids) > 1:
                assert len(batch.chunk_ids) * max(facts[n].num_tokens for n in batch.chunk_ids) <= sampler.batch_tokens
        is_replay = np.array([batch.source == "replay" for batch in batches], dtype=bool)
        num_replay = int(is_replay.sum())
        assert is_replay.tolist() == interleave(len(batches) - num_replay, num_replay).tolist(), epoch
        buckets = Counter((facts[name].sender, facts[name].thread_id) for name in old_names(old))
        drawn = Counter((facts[name].sender, facts[name].thread_id) for name in of_old)
        wanted = {key: min(size, sampler.min_per_bucket) for key, size in buckets.items()}
        if sum(wanted.values()) <= sampler.quota:
            assert all(drawn[key] >= least for key, least in wanted.items()), "minimum per stratum"
        elif len(buckets) <= sampler.quota:
            assert all(drawn[key] >= 1 for key in buckets)
        else:
            assert max(drawn.values(), default=0) <= 1


def old_names(old: list[ManifestEntry]) -> list[str]:
    return [one.chunk_id for one in old]


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 30), options, st.randoms(use_true_random=False))
def test_the_order_of_the_lists_does_not_matter(
    threads: list[tuple[int, int]], num_new: int, given_options: dict[str, object], shuffle: random.Random
) -> None:
    old, new = made(threads, num_new)
    first = list(StratifiedReplaySampler(old, new, **given_options).schedule())  # type: ignore[arg-type]
    shuffle.shuffle(old)
    shuffle.shuffle(new)
    assert list(StratifiedReplaySampler(old, new, **given_options).schedule()) == first  # type: ignore[arg-type]


def test_epochs_differ_and_repeat() -> None:
    old = [one for one in archive() if one.split == "train" and one.window_idx < 9]
    new = fresh(200)
    sampler = StratifiedReplaySampler(old, new, batch_size=8)
    first, second = sampler.epoch(0), sampler.epoch(1)
    assert first == StratifiedReplaySampler(old, new, batch_size=8).epoch(0)
    assert {frozenset(b.chunk_ids) for b in first}.isdisjoint(
        frozenset(b.chunk_ids) for b in second if len(b.chunk_ids) > 2
    )
    order = [[b.chunk_ids[0] for b in batches if b.source == "new"] for batches in (first, second)]
    assert order[0] != order[1]
    assert StratifiedReplaySampler(old, new, batch_size=8, seed=7).epoch(0) != first


def test_rehearsal_batches_are_spread_evenly() -> None:
    sampler = StratifiedReplaySampler(
        [entry(f"t{i}-0", f"t{i}") for i in range(100)], fresh(400), batch_size=8, min_per_bucket=1
    )
    for epoch in range(3):
        is_replay = [batch.source == "replay" for batch in sampler.epoch(epoch)]
        at = [i for i, old in enumerate(is_replay) if old]
        assert len(at) == 13
        gaps = {after - before for before, after in pairwise(at)}
        assert max(gaps) - min(gaps) <= 1


def test_report_adds_up() -> None:
    sampler = StratifiedReplaySampler(manifest(), fresh(40, tokens=300), min_per_bucket=1, batch_size=4, num_epochs=2)
    report = sampler.report()
    assert (report.new_chunks, report.replay_chunks) == (80, 20)
    assert report.share_chunks == 0.2
    assert report.share_tokens == round(20 * 100 / (20 * 100 + 80 * 300), 6)
    assert report.padding == 0  # all new ones are equally long, and so are all old ones
    assert [(row.sender, row.new, row.available, row.drawn, row.share) for row in report.senders] == [
        ("dan@example.org", 40, 0, 0, 0.0),
        ("ann@example.org", 0, 9, 10, 0.5),
        ("bob@example.org", 0, 5, 6, 0.3),
        ("cay@example.org", 0, 2, 4, 0.2),
    ]
    assert [(row.thread_id, row.available, row.drawn) for row in report.strata] == [
        ("t1", 6, 6), ("t2", 3, 4), ("t3", 4, 4), ("t4", 1, 2), ("t5", 2, 4),
    ]  # fmt: skip
    assert "50.0%  ann@example.org" in report.text()


def test_padding_of_token_batches_is_small() -> None:
    new = [entry(f"n-{i}", "n", window=5, tokens=20 + (i * 7919) % 2000) for i in range(6000)]
    report = StratifiedReplaySampler([], new, batch_tokens=16384).report()
    assert 0 < report.padding <= 0.02
    assert StratifiedReplaySampler([], new, batch_size=16).report().padding > 0.1
