"""The data files of one commit: made here, written to the archive, and named in the segment that follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from jobs.assignments.archive import Archive
from jobs.assignments.segment import DataFile
from jobs.contracts.records import Length
from jobs.files import scratch_output

_RECORDS_SUFFIX = ".jsonl.zst"
_BLOCK_BYTES = 1 << 18
_THREADS = 6


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
    """JSON lines on their way into a data file; another thread compresses them."""

    def __init__(self, stream: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._pool = pool
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._under_way: Future[int] | None = None
        self.count = 0

    def write(self, record: Any) -> None:
        """Add a record."""
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        self._lines.append(line)
        self._num_bytes += len(line)
        self.count += 1
        if self._num_bytes >= _BLOCK_BYTES:
            self._hand_over()

    def finish(self) -> None:
        """All that was added is in the stream."""
        self._hand_over()
        self.wait()

    def wait(self) -> None:
        """Nothing is being written to the stream any more."""
        if self._under_way is not None:
            self._under_way.result()

    def _hand_over(self) -> None:
        self.wait()  # one block at a time, and in their order
        self._under_way = self._pool.submit(self._stream.write, b"".join(self._lines))
        self._lines, self._num_bytes = [], 0


class DataFiles:
    """The data files of one window: made in a scratch folder, written to the archive, named in the segment.

    Several are compressed and written at once, so that the archive's delays do not add up. To be used in a
    `with` block, behind which nothing is under way any more.
    """

    def __init__(self, archive: Archive, window_idx: int, folder: Path) -> None:
        self._archive = archive
        self._window_idx = window_idx
        self._folder = folder
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="data-files")
        self._files: list[tuple[str, Future[DataFile]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def written(self) -> dict[str, list[DataFile]]:
        """All files by kind, each in the order in which it was added, once they are in the archive."""
        found: dict[str, list[DataFile]] = {}
        for kind, file in self._files:
            found.setdefault(kind, []).append(file.result())
        return found

    @contextmanager
    def records(self, kind: str, name: str) -> Iterator[RecordsFile]:
        """A file of compressed JSON lines; none is written where there is no record."""
        path = self._folder / f"{kind}-{name}{_RECORDS_SUFFIX}"
        with scratch_output(path) as stream:
            records = RecordsFile(stream, self._pool)
            try:
                yield records
                records.finish()
            finally:
                records.wait()
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
        write = self._archive.write_data
        file = self._pool.submit(write, kind, self._window_idx, name, source, num_rows=num_rows, suffix=suffix)
        self._files.append((kind, file))
