"""The log as `assignments.json`: a map from chunk id to split, thread id and window."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.assignments.table import LogTable
from jobs.contracts.records import SPLITS, Json


def assignment_entries(table: LogTable) -> Iterator[tuple[str, Json]]:
    """The file's entries in the order of the log: chunk id, and its split, thread and window."""
    columns = zip(table.thread.tolist(), table.split.tolist(), table.window_idx.tolist(), strict=True)
    for row, (thread, split, window_idx) in enumerate(columns):
        entry = {"split": SPLITS[split], "thread_id": table.thread_id(thread), "window_idx": window_idx}
        yield table.chunk_id(row), entry
