"""window: this cycle's new train chunks, and the val and test sets up to now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jobs.contracts.records import Json, Split
from jobs.files import write_json_array
from jobs.replay import sources
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

    new_train is the window's own train chunks. val and test are all chunks of theirs up to the
    window, except those of threads that were excluded by then; `masked_messages` lists the short
    digests of messages that evaluation leaves out of a chunk's score.
    """
    chunks = sources.load(inputs)
    table = chunks.table
    window_idx = sources.this_window(config.window_idx, inputs, table)
    new = np.flatnonzero((table.split == code_of("train")) & (table.window_idx == window_idx))
    num_messages = _num_messages(inputs, table, new)
    result: dict[str, Any] = {
        "window_idx": window_idx,
        "new_train_chunks": len(new),
        "new_train_messages": num_messages,
        "skipped": num_messages is not None and num_messages < config.min_new_messages,
    }
    if num_messages is None:
        chunks.notes.append("how many messages are new is not known: chunks.json does not tell them")
    if "new_train" in outputs:
        write_json_array(outputs["new_train"], table.take(new).entries())
    if any(kind in outputs for kind, _ in _EVAL):
        result |= _write_eval_sets(inputs, outputs, table, window_idx)
    if chunks.notes:
        result["notes"] = chunks.notes
    return result


def _num_messages(inputs: Inputs, table: ChunkTable, new: Rows) -> int | None:
    """How many different messages these chunks have as targets; None where that cannot be known."""
    if not len(new):
        return 0
    digests = sources.messages(inputs, table, new)
    return None if digests is None else len({digest for row in digests.values() for digest in row})


def _write_eval_sets(inputs: Inputs, outputs: Outputs, table: ChunkTable, window_idx: int) -> Json:
    rules = sources.exclusions(inputs, window_idx)
    tainted = {rule.id for rule in rules if rule.kind == "thread"}
    masked = {rule.id for rule in rules if rule.kind == "message"}
    is_tainted = np.isin(
        table.thread, [code for code, name in enumerate(table.thread_ids.to_pylist()) if name in tainted]
    )
    result: Json = {}
    for kind, split in _EVAL:
        if kind not in outputs:
            continue
        of_split = (table.split == code_of(split)) & (table.window_idx <= window_idx)
        rows = np.flatnonzero(of_split & ~is_tainted)
        digests = sources.messages(inputs, table, rows) if masked else None
        write_json_array(outputs[kind], _eval_entries(table, rows, digests or {}, masked))
        result[f"{split}_chunks"] = len(rows)
        result[f"{split}_excluded_chunks"] = int((of_split & is_tainted).sum())
    return result


def _eval_entries(table: ChunkTable, rows: Rows, digests: dict[int, list[str]], masked: set[str]) -> Iterator[Json]:
    for row, entry in zip(rows.tolist(), table.take(rows).entries(), strict=True):
        hidden = sorted(masked.intersection(digests.get(row, ())))
        yield asdict(entry) | {"masked_messages": hidden} if hidden else asdict(entry)
