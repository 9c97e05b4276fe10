"""rehearse: the manifest of old train chunks that may be rehearsed in this cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.contracts.errors import UsageError
from jobs.contracts.records import SPLITS, Split
from jobs.files import write_json_array
from jobs.replay.numbered_shards import write_numbered
from jobs.replay.rehearsal import Strata, eligible
from jobs.replay.sources import open_source, window_of
from jobs.replay.table import ChunkTable, Rows, code_of
from jobs.stages import Inputs, Outputs


@dataclass(frozen=True)
class Config:
    """Settings of `rehearse`."""

    window_idx: int | None = None
    """The newest, or the one of this cycle in a store, unless given."""
    active_windows: int = 1
    max_rehearsal_samples: int | None = 20000
    max_per_bucket: int | None = None
    """Cap on the chunks of one sender in one thread and one length bucket."""
    shard_size: int | None = None
    """Write numbered files of so many chunks each."""
    split: Split = "train"
    """Of numbered files: val and test chunks can be packaged too, never rehearsed."""
    seed: int = 42


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write the manifest, an array of manifest entries in the log's order; an empty one in a first cycle."""
    _check(config)
    source = open_source(inputs.paths, inputs.archive, inputs.cycle)
    table = source.table
    window_idx = window_of(source, config.window_idx)
    if config.split == "train":
        candidates = np.setdiff1d(eligible(table, window_idx, config.active_windows), np.flatnonzero(source.forgotten))
        candidates = _without(table, candidates, inputs)
        strata = Strata.of(table.take(candidates), config.seed)
        chosen = candidates[
            strata.choose(
                window_idx=window_idx,
                seed=config.seed,
                max_samples=config.max_rehearsal_samples,
                max_per_stratum=config.max_per_bucket,
            )
        ]
    else:
        of_split = (table.split == code_of(config.split)) & (table.window_idx <= window_idx)
        candidates = chosen = np.flatnonzero(of_split & ~source.forgotten)
    result: dict[str, Any] = {
        "window_idx": window_idx,
        "num_old_chunks": len(candidates),
        "num_manifest_chunks": len(chosen),
    }
    entries = table.take(chosen).entries()
    if config.shard_size is None:
        write_json_array(outputs["manifest"], entries)
    else:
        shards = write_numbered(outputs["manifest"], config.split, entries, len(chosen), config.shard_size)
        result["num_shards"] = len(shards)
    if source.notes:
        result["notes"] = source.notes
    return result


def _without(table: ChunkTable, rows: Rows, inputs: Inputs) -> Rows:
    """The rows without the chunks of the current window's shards."""
    current = inputs.paths.get("current_window_shards", [])
    gone = [table.find(ChunkTable.from_file(path).chunk_ids) for path in current]
    return np.setdiff1d(rows, np.concatenate(gone)) if gone else rows


def _check(config: Config) -> None:
    if config.active_windows < 1:
        raise UsageError(f"active windows are {config.active_windows}; the newest is always active")
    if config.split not in SPLITS:
        raise UsageError(f"no such split: {config.split}", hint=f"one of {', '.join(SPLITS)}")
    if config.split != "train" and config.shard_size is None:
        raise UsageError(
            f"{config.split} chunks are never rehearsed", hint="--split is for numbered shards, with --shard-size"
        )
