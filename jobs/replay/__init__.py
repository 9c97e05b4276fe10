"""Rehearsal: which old chunks are seen again, how many, and in which batches beside the new ones.

`table` holds chunks as columns, `allocation` says how many of them each bucket gives, `sampler`
draws them and makes the schedule, `shard_window` keeps the newest train shards active.
"""

from jobs.replay.sampler import StratifiedReplaySampler

__all__ = ["StratifiedReplaySampler"]
