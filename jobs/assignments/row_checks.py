"""What must hold among the rows of a log, whoever wrote them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from jobs.assignments.digests import number_by_first
from jobs.assignments.segment import SegmentHeader
from jobs.assignments.table import LogTable
from jobs.contracts.records import SPLITS

_MAX_NAMED = 10
"""Of one kind of problem; the rest are counted."""


def row_problems(table: LogTable, headers: list[SegmentHeader]) -> Iterator[tuple[int, str]]:
    """What is wrong with the rows of a whole log, each with the number of the segment that it stands in."""
    yield from _header_problems(headers)
    ends = np.cumsum([header.num_rows for header in headers])
    for rows, what in (
        (_two_splits(table), "has another split than its thread's first chunk"),
        (_duplicates(table), "is in the log already"),
        (_gaps(table), "does not follow its thread's last chunk"),
        (_in_two_threads(table), "holds a message that is in another thread's chunk already"),
    ):
        for row in rows[:_MAX_NAMED].tolist():
            seq = int(np.searchsorted(ends, row, side="right"))
            yield seq, f"segment {seq}: chunk {table.chunk_id(row)} ({SPLITS[table.split[row]]}) {what}"
        if len(rows) > _MAX_NAMED:
            seq = int(np.searchsorted(ends, rows[_MAX_NAMED], side="right"))
            yield seq, f"from segment {seq} on: {len(rows) - _MAX_NAMED} more chunks: each {what}"


def _header_problems(headers: list[SegmentHeader]) -> Iterator[tuple[int, str]]:
    for before, header in pairwise(headers):
        if header.window_idx < before.window_idx:
            yield header.seq, f"segment {header.seq} is of window {header.window_idx}, after {before.window_idx}"
        if header.parameters != before.parameters:
            yield header.seq, f"segment {header.seq} was written with other parameters"


def _two_splits(table: LogTable) -> Any:
    return np.flatnonzero(table.split != table.thread_split[table.thread])


def _duplicates(table: LogTable) -> Any:
    """Later rows of the same thread and k, or of the same foreign chunk id."""
    order = np.lexsort((table.k, table.thread))
    thread, k = table.thread[order], table.k[order]
    again = (thread[1:] == thread[:-1]) & (k[1:] == k[:-1]) & (k[1:] >= 0)
    first_row: dict[str, int] = {}
    foreign = [row for row, value in sorted(table.foreign_chunks.items()) if first_row.setdefault(value, row) != row]
    return np.sort(np.concatenate([order[1:][again], np.array(foreign, np.int64)]))


def _gaps(table: LogTable) -> Any:
    """Rows whose k is not the number of chunks that their thread had before; foreign chunk ids have none."""
    numbered = np.ones(table.num_threads, bool)
    numbered[table.thread[list(table.foreign_chunks)]] = False
    order = np.argsort(table.thread, kind="stable")
    counts = np.bincount(table.thread, minlength=table.num_threads)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    wrong = (table.k[order] != place) & numbered[table.thread[order]]
    return np.sort(order[wrong])


def _in_two_threads(table: LogTable) -> Any:
    column = table.digests["messages"]
    numbers, firsts = number_by_first(column.digests)
    thread = table.thread[column.rows]
    return np.unique(column.rows[thread != thread[firsts][numbers]])
