"""window: this cycle's new train chunks, and the val and test sets up to now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.contracts.records import Json, Split
from jobs.files import write_json_array
from jobs.replay.sources import ChunkSource, open_source, window_of
from jobs.replay.table import ChunkTable, Rows, code_of
from jobs.stages import Inputs, Outputs

_EVAL: tuple[tuple[str, Split], ...] = (("val_set", "val"), ("test_set", "test"))


@dataclass(frozen=True)
class Config:
    """Settings of `window`."""

    window_idx: int | None = None
    """The newest, or the one of this cycle in a store, unless given."""
    min_new_messages: int = 10
    """With fewer new train messages the cycle is to be skipped."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write those of new_train, val_set and test_set that are wanted, each an array of manifest entries.

    Chunks whose texts have been deleted are in none of them.

    new_train is the window's own train chunks. val and test are all chunks of theirs up to the
    window, except those of threads that were excluded by then; `masked_messages` lists the short
    digests of messages that evaluation leaves out of a chunk's score.
    """
    source = open_source(inputs.paths, inputs.archive, inputs.cycle, messages=True)
    table = source.table
    window_idx = window_of(source, config.window_idx)
    of_window = (table.split == code_of("train")) & (table.window_idx == window_idx)
    if config.window_idx is None and _brought_nothing(inputs):
        of_window[:] = False
    new = np.flatnonzero(of_window & ~source.forgotten)
    num_messages = source.count_messages(new)
    result: dict[str, Any] = {
        "window_idx": window_idx,
        "num_new_train_chunks": len(new),
        "num_new_train_messages": num_messages,
        "skipped": num_messages is not None and num_messages < config.min_new_messages,
    }
    if "new_train" in outputs:
        write_json_array(outputs["new_train"], table.take(new).entries())
    if any(kind in outputs for kind, _ in _EVAL):
        result |= _write_eval_sets(source, outputs, window_idx)
    if source.notes:
        result["notes"] = source.notes
    return result


def _brought_nothing(inputs: Inputs) -> bool:
    """Whether this is a cycle that was given mail of which none was new: the newest window is another's."""
    if inputs.archive is None or not inputs.has_sources:
        return False
    return not any(header.cycle == inputs.cycle for header in inputs.archive.headers())


def _write_eval_sets(source: ChunkSource, outputs: Outputs, window_idx: int) -> Json:
    table = source.table
    rules = source.exclusions(window_idx)
    tainted = pa.array([rule.id for rule in rules if rule.kind == "thread"], type=pa.large_string())
    masked = {rule.id for rule in rules if rule.kind == "message"}
    is_tainted = pc.is_in(table.thread_ids, value_set=tainted).to_numpy(zero_copy_only=False)[table.thread]
    result: Json = {}
    for kind, split in _EVAL:
        if kind not in outputs:
            continue
        of_split = (table.split == code_of(split)) & (table.window_idx <= window_idx) & ~source.forgotten
        rows = np.flatnonzero(of_split & ~is_tainted)
        hidden = source.masked_messages(rows, masked)
        write_json_array(outputs[kind], _eval_entries(table, rows, hidden))
        result[f"num_{split}_chunks"] = len(rows)
        result[f"num_{split}_excluded_chunks"] = int((of_split & is_tainted).sum())
        result[f"num_{split}_masked_messages"] = sum(map(len, hidden.values()))
    return result


def _eval_entries(table: ChunkTable, rows: Rows, hidden: dict[int, list[str]]) -> Iterator[Json]:
    for row, entry in zip(rows.tolist(), table.take(rows).entries(), strict=True):
        yield asdict(entry) | ({"masked_messages": hidden[row]} if row in hidden else {})
