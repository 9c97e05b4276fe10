"""The log as `assignments.json`: a map from chunk id to split, thread id and window."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.assignments.table import LogTable
from jobs.contracts.records import SPLITS, Json, chunk_id


def assignment_entries(table: LogTable) -> Iterator[tuple[str, Json]]:
    """The file's entries in the order of the log: chunk id, and its split, thread and window."""
    columns = zip(table.thread.tolist(), table.k.tolist(), table.split.tolist(), table.window_idx.tolist(), strict=True)
    for row, (thread, k, split, window_idx) in enumerate(columns):
        thread_id = table.thread_id(thread)
        foreign = table.foreign_chunks.get(row)
        yield (
            chunk_id(thread_id, k) if foreign is None else foreign,
            {"split": SPLITS[split], "thread_id": thread_id, "window_idx": window_idx},
        )
