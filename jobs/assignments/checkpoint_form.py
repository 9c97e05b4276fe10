"""The form of a columnar checkpoint: Parquet, the segments' headers in its metadata. Pure but for the file.

Rows hold the code of their thread; a thread's id stands in its first row alone. The metadata holds a
digest of the headers and of each column's values, which are checked for whatever is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.assignments.columns import DIGEST_COLUMNS, THREAD_BYTES, DigestColumn
from jobs.assignments.digests import WIDTH
from jobs.assignments.segment import Head, SegmentHeader, header_from_json
from jobs.assignments.table import LogTable
from jobs.contracts.errors import IntegrityError

_ROW_GROUP_ROWS = 1 << 20
_ROW_COLUMNS = ("thread", "k", "split", "window_idx")
_HEADERS, _DIGESTS = b"refrain.headers", b"refrain.digests"


@dataclass(slots=True)
class Snapshot:
    """The log as it was read: how far, the headers, and the rows as columns."""

    head: Head
    headers: list[SegmentHeader]
    table: LogTable


def encode(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot that has digests to a file. Equal snapshots give equal bytes, by one version of Arrow."""
    table = snapshot.table
    columns: dict[str, Any] = {name: pa.array(getattr(table, name)) for name in _ROW_COLUMNS}
    columns["thread_id"] = _sparse_thread_ids(table)
    columns["foreign_thread"] = _sparse(len(table), _by_first_row(table))
    columns["foreign_chunk"] = _sparse(len(table), table.foreign_chunks)
    for name in DIGEST_COLUMNS:
        columns[name] = _lists(table.digests[name], len(table))
    headers = orjson.dumps({"sha256": snapshot.head.sha256, "headers": [asdict(h) for h in snapshot.headers]})
    digests = _column_digests(table) | {"headers": hashlib.sha256(headers).hexdigest()}
    arrow = pa.table(columns).replace_schema_metadata({_HEADERS: headers, _DIGESTS: orjson.dumps(digests)})
    pq.write_table(
        arrow, path, row_group_size=_ROW_GROUP_ROWS, compression="zstd", use_dictionary=["split", "window_idx"],
        write_statistics=False,
    )  # fmt: skip


def decode(stream: BinaryIO, *, digests: bool) -> Snapshot:
    """Read a snapshot, with or without its digests, and check it. Raises IntegrityError, or what Arrow raises."""
    file = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
    metadata = file.schema_arrow.metadata or {}
    recorded = orjson.loads(metadata[_DIGESTS])
    if hashlib.sha256(metadata[_HEADERS]).hexdigest() != recorded["headers"]:
        raise IntegrityError("the headers' digest does not match")
    contents = orjson.loads(metadata[_HEADERS])
    headers = [header_from_json(value) for value in contents["headers"]]
    table = _read_table(file, digests=digests)
    for name, digest in _column_digests(table).items():
        if digest != recorded[name]:
            raise IntegrityError(f"the digest of {name} does not match")
    return Snapshot(Head(headers[-1].seq, contents["sha256"]), headers, table)


def same_beginning(whole: Snapshot, part: Snapshot) -> bool:
    """Whether a snapshot, with digests, is what another one was at that point."""
    num_segments, num_rows = len(part.headers), len(part.table)
    if whole.headers[:num_segments] != part.headers:
        return False
    beginning = LogTable(digests=True)
    for name in _ROW_COLUMNS:
        setattr(beginning, name, getattr(whole.table, name)[:num_rows])
    for name, column in whole.table.digests.items():
        end = np.searchsorted(column.rows, num_rows)
        beginning.digests[name] = DigestColumn(column.digests[:end], column.rows[:end])
    num_threads = int(beginning.thread.max(initial=-1)) + 1
    beginning.thread_ids = whole.table.thread_ids[:num_threads]
    beginning.foreign_threads = {code: v for code, v in whole.table.foreign_threads.items() if code < num_threads}
    beginning.foreign_chunks = {row: v for row, v in whole.table.foreign_chunks.items() if row < num_rows}
    return _column_digests(beginning) == _column_digests(part.table)


def _read_table(file: Any, *, digests: bool) -> LogTable:
    table = LogTable(digests=digests)
    num_rows = file.metadata.num_rows
    for name in _ROW_COLUMNS:
        setattr(table, name, np.empty(num_rows, getattr(table, name).dtype))
    parts: dict[str, list[DigestColumn]] = {name: [] for name in table.digests}
    thread_ids = []
    start = 0
    names = [*_ROW_COLUMNS, "thread_id", "foreign_thread", "foreign_chunk", *table.digests]
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=names).combine_chunks()
        end = start + rows.num_rows
        for name in _ROW_COLUMNS:
            getattr(table, name)[start:end] = rows[name].to_numpy()
        sparse_ids = _one_array(rows["thread_id"])
        thread_ids.append(_fixed(sparse_ids, THREAD_BYTES)[_is_there(sparse_ids)])
        table.foreign_threads |= {int(table.thread[row]): v for row, v in _dense(rows["foreign_thread"], start)}
        table.foreign_chunks |= dict(_dense(rows["foreign_chunk"], start))
        for name, listed in parts.items():
            listed.append(_digest_column(rows[name], start))
        start = end
        del rows
        pa.default_memory_pool().release_unused()
    table.thread_ids = np.concatenate([table.thread_ids, *thread_ids])
    for name, listed in parts.items():
        table.digests[name] = _joined([table.digests[name], *listed])
    return table


def _joined(parts: list[DigestColumn]) -> DigestColumn:
    return DigestColumn(np.concatenate([p.digests for p in parts]), np.concatenate([p.rows for p in parts]))


def _column_digests(table: LogTable) -> dict[str, str]:
    """A digest of the values of each column that the table has, whatever the file's encoding."""
    arrays: dict[str, list[Any]] = {name: [getattr(table, name)] for name in (*_ROW_COLUMNS, "thread_ids")}
    arrays |= {name: [column.digests, column.rows] for name, column in table.digests.items()}
    found = {}
    for name, parts in arrays.items():
        sha256 = hashlib.sha256()
        for array in parts:
            little_endian: Any = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            sha256.update(little_endian)
        found[name] = sha256.hexdigest()
    foreign = [sorted(table.foreign_threads.items()), sorted(table.foreign_chunks.items())]
    return found | {"foreign": hashlib.sha256(orjson.dumps(foreign)).hexdigest()}


def _sparse_thread_ids(table: LogTable) -> Any:
    """Each thread's id in its first row, and nothing in the others."""
    values = np.zeros(len(table), f"S{THREAD_BYTES}")
    values[table.first_rows] = np.ascontiguousarray(table.thread_ids).view(f"S{THREAD_BYTES}").reshape(-1)
    absent = np.ones(len(table), bool)
    absent[table.first_rows] = False
    validity = np.packbits(~absent, bitorder="little")
    return pa.Array.from_buffers(
        pa.binary(THREAD_BYTES), len(table), [pa.py_buffer(validity), pa.py_buffer(values)], int(absent.sum())
    )


def _by_first_row(table: LogTable) -> dict[int, str]:
    return {int(table.first_rows[code]): value for code, value in table.foreign_threads.items()}


def _sparse(length: int, values: dict[int, str]) -> Any:
    if not values:
        return pa.nulls(length, pa.string())
    rows = np.full(length, -1, np.int64)
    rows[list(values)] = np.arange(len(values))
    return pa.array(list(values.values()), pa.string()).take(pa.array(rows, mask=rows < 0))


def _dense(column: Any, start: int) -> Iterator[tuple[int, str]]:
    array = _one_array(column)
    rows = np.flatnonzero(_is_there(array))
    return ((row + start, array[row].as_py()) for row in rows.tolist())


def _lists(column: DigestColumn, length: int) -> Any:
    offsets = np.searchsorted(column.rows, np.arange(length + 1)).astype(np.int64)
    values = pa.Array.from_buffers(
        pa.binary(WIDTH), len(column.digests), [None, pa.py_buffer(np.ascontiguousarray(column.digests))]
    )
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def _digest_column(column: Any, start: int) -> DigestColumn:
    array = column.combine_chunks()
    counts = array.value_lengths().to_numpy()
    rows = np.repeat(np.arange(start, start + len(array), dtype=np.int32), counts)
    return DigestColumn(_fixed(array.flatten(), WIDTH), rows)


def _one_array(column: Any) -> Any:
    array = column.combine_chunks()
    return array.combine_chunks() if hasattr(array, "combine_chunks") else array


def _is_there(array: Any) -> Any:
    """Which values are not null: by hand, since Arrow's own way loads its compute functions, a tenth of a second."""
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.full(len(array), array.null_count == 0)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(bool)


def _fixed(array: Any, width: int) -> Any:
    """Values of a fixed-size binary array without nulls, as rows of bytes."""
    if hasattr(array, "combine_chunks"):
        array = array.combine_chunks()
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    return raw[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)
