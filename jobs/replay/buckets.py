"""Rows grouped by whose they are, each group with a fixed place on the circle that rotation goes round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from jobs.replay.allocation import Counts, largest_remainders, minimums, ranks, sums_by
from jobs.replay.hashing import Keys, clockwise, hash_column, hash_pairs, mix, order_of, places, stream
from jobs.replay.table import ChunkTable, Codes, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """The (sender, thread) buckets of a table.

    Buckets are placed on a circle in the order of the windows that first held them, so that those
    that join later leave the others where they are.
    """

    of_row: Counts
    """The bucket of each row."""
    sender: Counts
    """Of each bucket: index into the table's `senders`."""
    thread: Counts
    """Of each bucket: index into the table's `thread_ids`."""
    sizes: Counts
    """Rows of each bucket."""
    position: Keys
    """Of each bucket, on the circle."""
    keys: Keys
    """Seeded hash of each bucket's names."""
    sender_keys: Keys
    """Seeded hash of each name in the table's `senders`."""

    @classmethod
    def of(cls, table: ChunkTable, seed: int) -> Buckets:
        """The buckets of a table."""
        num_threads = max(1, len(table.thread_ids))
        codes, of_row, sizes = np.unique(
            table.sender.astype(np.int64) * num_threads + table.thread, return_inverse=True, return_counts=True
        )
        sender, thread = np.divmod(codes, num_threads)
        senders, threads = hash_column(table.senders), hash_column(table.thread_ids)
        keys = mix(hash_pairs(senders[sender], threads[thread]), stream(seed, "bucket"))
        return cls(
            of_row=of_row,
            sender=sender,
            thread=thread,
            sizes=sizes,
            position=places(first_windows(of_row, len(codes), table.window_idx), keys),
            keys=keys,
            sender_keys=mix(senders, stream(seed, "sender")),
        )

    def among(self, rows: Rows, window_idx: Codes) -> Buckets:
        """As if the table had these rows alone, of these windows; the other buckets are empty."""
        of_row = self.of_row[rows]
        position = places(first_windows(of_row, len(self), window_idx), self.keys)
        return replace(self, of_row=of_row, sizes=np.bincount(of_row, minlength=len(self)), position=position)

    def __len__(self) -> int:
        return len(self.sizes)

    def shares(self, quota: int, minimum: int, draw: int) -> Counts:
        """How many chunks each bucket gives to a draw of `quota`; they add up to it, or to all there are.

        Phase 1 gives each bucket `minimum`, or all it has; where the quota is too small for that,
        one round after the other, the last one clockwise from where this draw begins. Phase 2
        shares out the rest among the senders in proportion to their rows, and each sender's part
        among its threads in proportion to theirs, both by largest remainders.
        """
        ahead = clockwise(self.position, draw)
        given = minimums(self.sizes, minimum, quota, order_of(ahead))
        rest = quota - int(given.sum())
        if rest == 0 or not len(self):
            return given
        num_senders = len(self.sender_keys)
        volumes = sums_by(self.sender, self.sizes, num_senders)
        spare = sums_by(self.sender, self.sizes - given, num_senders)
        of_sender = largest_remainders(
            np.array([rest]),
            np.zeros(num_senders, dtype=np.int64),
            np.maximum(volumes, 1),
            spare,
            clockwise(self.sender_keys, draw),
        )
        return given + largest_remainders(of_sender, self.sender, self.sizes, self.sizes - given, ahead)


def first_windows(group: Counts, num_groups: int, window_idx: Codes) -> Codes:
    """The oldest window of each group's members; the highest number there is for a group without any."""
    first = np.full(num_groups, np.iinfo(np.int32).max, dtype=np.int32)
    np.minimum.at(first, group, window_idx)
    return first


def lowest(group: Counts, keys: Keys, shares: Counts) -> Rows:
    """Of each group as many rows as its share, those with the lowest keys; ascending."""
    rows = np.flatnonzero(shares[group] > 0)
    order = rows[np.lexsort((keys[rows], group[rows]))]
    chosen: npt.NDArray[np.bool_] = ranks(group[order]) < shares[group[order]]
    return np.sort(order[chosen])
