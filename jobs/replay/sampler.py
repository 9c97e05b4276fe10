"""The sampler: which old chunks are rehearsed beside the new ones, and in which batches, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.contracts.errors import InputError, UsageError
from jobs.contracts.records import ManifestEntry
from jobs.replay.allocation import Counts, parse_ratio, parse_share, replay_quota
from jobs.replay.batches import Batch, Cut, Source, by_count, by_tokens, interleave, shuffled
from jobs.replay.buckets import Buckets, lowest
from jobs.replay.hashing import hash_column, mix, stream
from jobs.replay.report import Report, Tally
from jobs.replay.table import ChunkTable, Rows, concat

_BLOCK_ROWS = 1 << 16

Chunks = ChunkTable | Iterable[ManifestEntry | dict[str, object] | str]


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """One epoch as numbers: batch i holds `rows[starts[i]:starts[i + 1]]` of the sampler's table."""

    epoch: int
    rows: Rows
    starts: Counts
    is_replay: npt.NDArray[np.bool_]
    """Of each batch."""
    shares: Counts
    """How many chunks each of the sampler's buckets gives."""


class StratifiedReplaySampler:
    """Mixes a little of the old into the new: stratified by sender and thread, capped, and the same every time.

    Each epoch holds every new chunk once, and a draw of old ones, in batches of one length bucket:

    - The quota of old chunks is the least of new · ratio, new · max_share / (1 - max_share),
      `max_samples` and what there is, rounded down.
    - Phase 1 gives every (sender, thread) bucket `min_per_bucket` chunks, or all it has. Where
      the quota is too small for that, the buckets take turns: the draws of all epochs of all
      cycles are numbered (window_idx · num_epochs + epoch), and each begins elsewhere on a
      circle on which every bucket has its fixed place. In about twice as many draws as it takes
      at best, each has had its turn (see `jobs.replay.hashing`).
    - Phase 2 shares out the rest among senders in proportion to their chunks, then among each
      sender's threads, by largest remainders.
    - Inside a bucket the chunks of a draw are chosen by a hash of seed, draw and chunk id.
    - Every epoch shuffles, by seed and epoch, which chunks share a batch and the order of the
      new and of the old batches; where old batches stand among the new ones depends on their
      numbers alone.

    A chunk in both lists is new. Nothing depends on the order of either list.

        >>> from jobs.contracts.records import ManifestEntry
        >>> old = [ManifestEntry(f"t{i}_window_0", f"t{i}", "train", 0, "ann@example.org", 90) for i in range(8)]
        >>> new = [ManifestEntry(f"n{i}_window_0", f"n{i}", "train", 1, "bob@example.org", 90) for i in range(8)]
        >>> sampler = StratifiedReplaySampler(old, new, replay_ratio="1:4", batch_size=4, num_epochs=2)
        >>> [(batch.source, len(batch.chunk_ids)) for batch in sampler.epoch(0)]
        [('new', 4), ('replay', 2), ('new', 4)]

    Args:
        old: the rehearsal manifest: old train chunks.
        new: this window's train chunks.
        replay_ratio: `1:4`, one old to four new; or the share of the total, as `0.2`.
        batch_size: chunks in a batch; the last of each length bucket may have fewer.
        batch_tokens: a budget instead: chunks in a batch times the longest of them is at most this.
        min_per_bucket: chunks that phase 1 gives each (sender, thread) bucket.
        max_share: cap on the old chunks' share of the total.
        max_samples: cap on their number in an epoch.
        seed: of every choice here.
        window_idx: this cycle's; the newest of the new chunks' unless given.
        num_epochs: of this cycle; part of the numbering of the draws.

    Raises UsageError for settings that make no sense, InputError where `batch_tokens` meets a
    chunk without a token count. It does not look at splits: `jobs.replay.checks` does.

    """

    def __init__(
        self,
        old: Chunks,
        new: Chunks,
        *,
        replay_ratio: str | float = "1:4",
        batch_size: int = 16,
        batch_tokens: int | None = None,
        min_per_bucket: int = 2,
        max_share: str | float = "0.2",
        max_samples: int | None = None,
        seed: int = 42,
        window_idx: int | None = None,
        num_epochs: int = 3,
    ) -> None:
        _at_least(1, batch_size=batch_size, batch_tokens=batch_tokens, num_epochs=num_epochs)
        _at_least(0, min_per_bucket=min_per_bucket, max_samples=max_samples, window_idx=window_idx)
        fresh = _table(new).distinct()
        stored = _table(old).distinct()
        again = fresh.find(stored.chunk_ids) >= 0
        self.num_new = len(fresh)
        self.num_old = len(stored) - int(again.sum())
        self.table = concat(fresh, stored.take(~again)).with_buckets()
        """New chunks first, then old ones."""
        self.ratio = parse_ratio(replay_ratio)
        self.max_share = parse_share(max_share, "cap on the share")
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.min_per_bucket = min_per_bucket
        self.max_samples = max_samples
        self.seed = seed
        self.window_idx = max(0, fresh.newest_window()) if window_idx is None else window_idx
        self.num_epochs = num_epochs
        self.quota = replay_quota(self.num_new, self.num_old, self.ratio, self.max_share, max_samples)
        if batch_tokens is not None:
            _require_lengths(self.table)
        self._keys = hash_column(self.table.chunk_ids)
        self.buckets = Buckets.of(self.table.take(np.arange(self.num_new, len(self.table))), seed)
        """Of the old chunks."""

    def draw(self, epoch: int) -> tuple[Rows, Counts]:
        """The old chunks of an epoch, as ascending rows of the table, and how many each bucket gives."""
        number = self.window_idx * self.num_epochs + epoch
        shares = self.buckets.shares(self.quota, self.min_per_bucket, number)
        keys = mix(self._keys[self.num_new :], stream(self.seed, "draw", number))
        return lowest(self.buckets.of_row, keys, shares) + self.num_new, shares

    def plan(self, epoch: int) -> EpochPlan:
        """One epoch as numbers: what the batches are made of."""
        drawn, shares = self.draw(epoch)
        new = self._cut(np.arange(self.num_new), epoch)
        replay = self._cut(drawn, epoch)
        is_replay = interleave(len(new), len(replay))
        # The batches' numbers, the replay batches counted on from the new ones, in the order of the epoch.
        sequence = np.zeros(len(is_replay), dtype=np.int64)
        sequence[~is_replay] = shuffled(len(new), self.seed, "order", "new", epoch)
        sequence[is_replay] = shuffled(len(replay), self.seed, "order", "replay", epoch) + len(new)
        first = np.concatenate([new.starts[:-1], replay.starts[:-1] + len(new.rows)])[sequence]
        sizes = np.concatenate([np.diff(new.starts), np.diff(replay.starts)])[sequence]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        source = np.repeat(first - starts[:-1], sizes) + np.arange(starts[-1])
        rows = np.concatenate([new.rows, replay.rows])[source]
        return EpochPlan(epoch, rows, starts, is_replay, shares)

    def batches(self, plan: EpochPlan) -> Iterator[Batch]:
        """The batches of a plan, in order, made block by block."""
        starts = plan.starts
        first = 0
        while first < len(starts) - 1:
            # As many whole batches as a block holds, at least one.
            last = int(np.searchsorted(starts, starts[first] + _BLOCK_ROWS, side="right")) - 1
            last = max(first + 1, last)
            yield from self._block(plan, first, last)
            first = last

    def epoch(self, epoch: int) -> list[Batch]:
        """The batches of one epoch, in order."""
        return list(self.batches(self.plan(epoch)))

    def schedule(self) -> Iterator[list[Batch]]:
        """The batches of every epoch of the cycle."""
        return (self.epoch(epoch) for epoch in range(self.num_epochs))

    def report(self) -> Report:
        """Who is rehearsed how much, the shares reached, and the padding, over all epochs of the cycle."""
        tally = Tally(self.table, self.num_new, self.buckets)
        for epoch in range(self.num_epochs):
            tally.add(self.plan(epoch))
        return tally.report()

    def _cut(self, rows: Rows, epoch: int) -> Cut:
        keys = mix(self._keys[rows], stream(self.seed, "batch", epoch))
        buckets = self.table.length_bucket[rows]
        if self.batch_tokens is None:
            return by_count(rows, buckets, keys, self.batch_size)
        return by_tokens(rows, buckets, self.table.num_tokens[rows], keys, self.batch_tokens)

    def _block(self, plan: EpochPlan, first: int, last: int) -> Iterator[Batch]:
        starts = plan.starts[first : last + 1]
        rows = plan.rows[starts[0] : starts[-1]]
        offsets = (starts - starts[0]).tolist()
        names = self.table.chunk_ids.take(rows).to_pylist()
        tokens = np.add.reduceat(self.table.num_tokens[rows].astype(np.int64), offsets[:-1]).tolist()
        buckets = self.table.length_bucket[rows[offsets[:-1]]].tolist()
        sources: list[Source] = ["replay" if old else "new" for old in plan.is_replay[first:last].tolist()]
        for i, source in enumerate(sources):
            yield Batch(source, buckets[i], tokens[i], names[offsets[i] : offsets[i + 1]])


def _table(chunks: Chunks) -> ChunkTable:
    return chunks if isinstance(chunks, ChunkTable) else ChunkTable.from_entries(chunks)


def _at_least(least: int, **settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}")


def _require_lengths(table: ChunkTable) -> None:
    missing = np.flatnonzero(table.num_tokens <= 0)
    if len(missing):
        raise InputError(
            f"{len(missing)} chunks have no token count, {table.chunk_ids[int(missing[0])].as_py()} among them",
            hint="give their lengths by --length-metadata, or cut the batches by --batch-size",
        )
