"""Chunks from an archive: the log's columns, and the length metadata that its segments name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from jobs.assignments.archive import Archive, rows_without_text
from jobs.assignments.digests import pack
from jobs.assignments.segment import DataFile, Segment, SegmentHeader
from jobs.assignments.table import LogTable
from jobs.contracts.errors import IntegrityError, MissingInputError
from jobs.contracts.records import Exclusion
from jobs.replay.sources import as_exclusion, forgotten_note
from jobs.replay.table import UNKNOWN, ChunkTable, Mask, Rows, decoded_names


class ArchiveSource:
    """Chunks in an archive; see `ChunkSource`. Raises what reading the log and its data files raises."""

    def __init__(self, archive: Archive, cycle: str, *, messages: bool = False) -> None:
        self.notes: list[str] = []
        self._archive = archive
        self._cycle = cycle
        self._headers: list[SegmentHeader] = []
        self._log = LogTable(digests=messages)
        self._log.extend(self._segments())

    def _segments(self) -> Iterator[Segment]:
        for segment in self._archive.log.segments():
            self._headers.append(segment.header)
            yield segment

    @cached_property
    def table(self) -> ChunkTable:
        """See `ChunkSource`."""
        log = self._log
        lengths = pa.concat_tables([_empty_lengths(), *self._lengths()])
        sender, senders = decoded_names(lengths.column("sender"))
        return ChunkTable(
            chunk_ids=lengths.column("chunk_id").combine_chunks(),
            thread=log.thread,
            thread_ids=pa.array([log.thread_id(code) for code in range(log.num_threads)], type=pa.large_string()),
            split=log.split,
            window_idx=log.window_idx,
            sender=sender,
            senders=senders,
            num_tokens=lengths.column("num_tokens").to_numpy(),
            length_bucket=lengths.column("length_bucket").to_numpy(),
        ).with_buckets()

    @cached_property
    def forgotten(self) -> Mask:
        """See `ChunkSource`: the chunks whose file is not in the store any more."""
        forgotten = rows_without_text(self._archive.store, self._headers, self._log.split)
        if forgotten.any():
            self.notes.append(forgotten_note(forgotten))
        return forgotten

    def this_window(self) -> int:
        """See `ChunkSource`."""
        own = [header.window_idx for header in self._headers if header.cycle == self._cycle]
        return max(own or [header.window_idx for header in self._headers], default=0)

    def cycle_windows(self, window_idx: int) -> list[int]:
        """See `ChunkSource`: the last window of each run of segments that one cycle wrote."""
        upto = [header for header in self._headers if header.window_idx <= window_idx]
        ends = [one.window_idx for one, after in pairwise(upto) if one.cycle != after.cycle]
        return [*ends, *(header.window_idx for header in upto[-1:])]

    def exclusions(self, window_idx: int) -> list[Exclusion]:
        """See `ChunkSource`."""
        rules = [
            as_exclusion(record, f"{self._archive.store.url}/{file.key}")
            for header in self._headers
            for file in header.files.get("exclusions", ())
            for record in self._records(file)
        ]
        return [rule for rule in rules if rule.window_idx <= window_idx]

    def count_messages(self, rows: Rows) -> int | None:
        """See `ChunkSource`."""
        column = self._log.digests["messages"]
        digests = column.digests[np.isin(column.rows, rows)]
        return len(np.unique(np.ascontiguousarray(digests).view(f"V{digests.shape[1]}")))

    def masked_messages(self, rows: Rows, masked: set[str]) -> dict[int, list[str]]:
        """See `ChunkSource`."""
        if not masked:
            return {}
        column = self._log.digests["messages"]
        width = column.digests.shape[1]
        hits = np.isin(column.digests.view(f"V{width}")[:, 0], pack(sorted(masked)).view(f"V{width}")[:, 0])
        found: dict[int, list[str]] = {}
        for at in np.flatnonzero(hits & np.isin(column.rows, rows)).tolist():
            found.setdefault(int(column.rows[at]), []).append(column.digests[at].tobytes().hex())
        return {row: sorted(set(found[row])) for row in sorted(found)}

    def _lengths(self) -> Iterator[Any]:
        """Length metadata by segment, in the order of its rows."""
        first = 0
        for header in self._headers:
            parts = [part for file in header.files.get("lengths", ()) if (part := self._parquet(file)) is not None]
            num_rows = sum(part.num_rows for part in parts)
            if not parts:
                parts = [self._unknown_lengths(range(first, first + header.num_rows))]
            elif num_rows != header.num_rows:
                raise IntegrityError(
                    f"segment {header.seq} has {header.num_rows} rows, its length metadata {num_rows}",
                    where=self._archive.store.url,
                )
            first += header.num_rows
            yield from parts

    def _parquet(self, file: DataFile) -> Any:
        """Length metadata; None where it has been deleted."""
        names = ["chunk_id", "sender", "num_tokens", "length_bucket"]
        try:
            with self._archive.open_data(file) as stream:
                return pq.read_table(pa.BufferReader(stream.read()), columns=names).cast(_LENGTHS)
        except MissingInputError:
            return None

    def _unknown_lengths(self, rows: range) -> Any:
        columns = [
            [self._log.chunk_id(row) for row in rows],
            [""] * len(rows),
            [0] * len(rows),
            [UNKNOWN] * len(rows),
        ]
        return pa.table(columns, schema=_LENGTHS_PLAIN).cast(_LENGTHS)

    def _records(self, file: DataFile) -> Iterator[Any]:
        with self._archive.open_data(file) as stream:
            reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
            yield from map(orjson.loads, reader.read().splitlines())


def _empty_lengths() -> Any:
    return _LENGTHS.empty_table()


_LENGTHS = pa.schema(
    [
        ("chunk_id", pa.large_string()),
        ("sender", pa.dictionary(pa.int32(), pa.large_string())),
        ("num_tokens", pa.int32()),
        ("length_bucket", pa.int16()),
    ]
)
_LENGTHS_PLAIN = _LENGTHS.set(1, pa.field("sender", pa.large_string()))
