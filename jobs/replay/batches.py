"""Batches: each from one length bucket, by count or by a budget of tokens; and how old ones go among new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from jobs.replay.allocation import Counts
from jobs.replay.hashing import Keys, mix, order_of, stream
from jobs.replay.table import Rows

Source = Literal["new", "replay"]

_BLOCK_ROWS = 1 << 20
_BLUR = 128
"""Lengths that differ by less than one part in so many may change places between epochs."""


@dataclass(slots=True)
class Batch:
    """One batch of the schedule."""

    source: Source
    length_bucket: int
    num_tokens: int
    """Of its chunks, padding not counted."""
    chunk_ids: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Rows in the order of their batches: batch i holds `rows[starts[i]:starts[i + 1]]`."""

    rows: Rows
    starts: Counts

    def __len__(self) -> int:
        return len(self.starts) - 1


def by_count(rows: Rows, buckets: npt.NDArray[np.int16], keys: Keys, batch_size: int) -> Cut:
    """The rows of each length bucket in the order of their keys, `batch_size` to a batch; the last may be smaller."""
    order = np.lexsort((keys, buckets))
    rows, buckets = rows[order], buckets[order]
    edges = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]]) if len(rows) else np.zeros(0, dtype=np.int64)
    ends = np.r_[edges[1:], len(rows)] if len(rows) else edges
    starts = [np.arange(first, end, batch_size) for first, end in zip(edges, ends, strict=True)]
    return Cut(rows, np.concatenate([*starts, [len(rows)]]).astype(np.int64))


def by_tokens(
    rows: Rows, buckets: npt.NDArray[np.int16], num_tokens: npt.NDArray[np.int32], keys: Keys, batch_tokens: int
) -> Cut:
    """The rows of each length bucket from short to long, as many to a batch as fit in `batch_tokens` when padded.

    Lengths are blurred by up to 1/128 with the keys, so that neighbours change from epoch to
    epoch at little cost in padding. A chunk longer than the budget is a batch by itself.
    """
    blur = num_tokens.astype(np.uint64) * (keys >> np.uint64(40)) // np.uint64(_BLUR)
    order = np.lexsort((keys, (num_tokens.astype(np.uint64) << np.uint64(24)) + blur, buckets))
    rows, buckets, lengths = rows[order], buckets[order], num_tokens[order]
    starts: list[int] = []
    current, longest, count = -1, 0, 0
    for block in range(0, len(rows), _BLOCK_ROWS):
        part = slice(block, block + _BLOCK_ROWS)
        pairs = zip(buckets[part].tolist(), lengths[part].tolist(), strict=True)
        for at, (bucket, length) in enumerate(pairs, block):
            longest = max(longest, length)
            count += 1
            if bucket != current or longest * count > batch_tokens:
                starts.append(at)
                current, longest, count = bucket, length, 1
    return Cut(rows, np.array([*starts, len(rows)], dtype=np.int64))


def shuffled(num_batches: int, *name: int | str) -> Counts:
    """The numbers of that many batches in the order of a named stream."""
    return order_of(mix(np.arange(num_batches, dtype=np.uint64), stream(*name)))


def interleave(num_new: int, num_replay: int) -> npt.NDArray[np.bool_]:
    """Where the replay batches stand among the new ones: true for replay.

    Replay batch j of r comes after ⌈(2j + 1)n / 2r⌉ of the n new ones: the stretches of new
    batches between two replay batches differ by one at most, and a replay batch never opens the
    epoch unless there is no new one.
    """
    after = -((2 * np.arange(num_replay) + 1) * -num_new // (2 * max(1, num_replay)))
    pattern = np.zeros(num_new + num_replay, dtype=np.bool_)
    pattern[after + np.arange(num_replay)] = True
    return pattern
