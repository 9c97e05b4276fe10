"""The data files of one commit: made here, written to the archive, and named in the segment that follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile
from jobs.contracts.records import Length
from jobs.files import scratch_output

_RECORDS_SUFFIX = ".jsonl.zst"


def length_table(lengths: Sequence[Length]) -> bytes:
    """Length metadata as Parquet, in the order of the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "chunk_id": pa.array([one.chunk_id for one in lengths], pa.string()),
            "sender": pa.array([one.sender for one in lengths], pa.string()).dictionary_encode(),
            "num_tokens": pa.array([one.num_tokens for one in lengths], pa.int32()),
            "num_target_tokens": pa.array([one.num_target_tokens for one in lengths], pa.int32()),
            "length_bucket": pa.array([one.length_bucket for one in lengths], pa.int8()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


class RecordsFile:
    """JSON lines on their way into a data file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def write(self, record: Any) -> None:
        """Add a record."""
        self._stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1


class DataFiles:
    """The data files of one window: made in a scratch folder, written to the archive, named in the segment."""

    def __init__(self, archive: Archive, window_idx: int, folder: Path) -> None:
        self._archive = archive
        self._window_idx = window_idx
        self._folder = folder
        self.written: dict[str, list[DataFile]] = {}

    @contextmanager
    def records(self, kind: str, name: str) -> Iterator[RecordsFile]:
        """A file of compressed JSON lines; none is written where there is no record."""
        path = self._folder / f"{kind}-{name}{_RECORDS_SUFFIX}"
        with scratch_output(path) as stream:
            records = RecordsFile(stream)
            yield records
        if records.count:
            self._add(kind, name, path, records.count, _RECORDS_SUFFIX)

    def add_records(self, kind: str, records: Iterable[Any], *, name: str = "") -> None:
        """A small file of records, by default named after its kind."""
        with self.records(kind, name or kind) as file:
            for record in records:
                file.write(record)

    def add_bytes(self, kind: str, data: bytes, num_rows: int, suffix: str) -> None:
        """A file made in memory."""
        if num_rows:
            self._add(kind, kind, data, num_rows, suffix)

    def _add(self, kind: str, name: str, source: bytes | Path, num_rows: int, suffix: str) -> None:
        file = self._archive.write_data(kind, self._window_idx, name, source, num_rows=num_rows, suffix=suffix)
        self.written.setdefault(kind, []).append(file)
