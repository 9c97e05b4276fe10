"""Chunks as columns: ten million of them in well under 2 GiB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.contracts.errors import InputError
from jobs.contracts.records import LENGTH_NAMES, SPLITS, ManifestEntry, Split, length_bucket
from jobs.replay.reading import Fields, read_chunks

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

UNKNOWN = -1
"""Stands for a split, window or length bucket that no input tells."""

_BLOCK_ROWS = 1 << 16
_SPLIT_CODES: Mapping[Any, int] = {split: code for code, split in enumerate(SPLITS)} | {None: UNKNOWN, "": UNKNOWN}


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTable:
    """Chunks, one a row, in the order in which they came; every column is as long as the table.

    What is not known is '' for a thread or sender, 0 tokens, and UNKNOWN for the rest.
    """

    chunk_ids: Any
    """pyarrow large_string."""
    thread: Codes
    """Index into `thread_ids`."""
    thread_ids: Any
    """pyarrow large_string, each once."""
    split: npt.NDArray[np.int8]
    """Index into `SPLITS`."""
    window_idx: Codes
    sender: Codes
    """Index into `senders`."""
    senders: Any
    """pyarrow large_string, each once."""
    num_tokens: Codes
    length_bucket: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.chunk_ids)

    @classmethod
    def from_file(cls, path: Path) -> ChunkTable:
        """The chunks that a file lists, in any shape that `jobs.replay.reading` takes."""
        return cls.from_pairs(read_chunks(path), str(path))

    @classmethod
    def from_entries(cls, entries: Iterable[ManifestEntry | Fields | str]) -> ChunkTable:
        """The chunks of a list of entries, of objects with the same fields, or of bare chunk ids."""

        def pair(entry: ManifestEntry | Fields | str) -> tuple[str, Fields]:
            if isinstance(entry, str):
                return entry, {}
            fields = asdict(entry) if is_dataclass(entry) else entry
            return fields["chunk_id"], fields

        return cls.from_pairs([[pair(entry) for entry in entries]], "entries")

    @classmethod
    def from_pairs(cls, blocks: Iterable[list[tuple[str, Fields]]], where: str) -> ChunkTable:
        """The chunks of blocks of (chunk id, fields); InputError names a chunk with a field that is wrong."""
        columns: list[tuple[Any, ...]] = [_columns(block, where) for block in blocks if block]
        if not columns:
            columns = [_columns([], where)]
        ids, threads, splits, windows, senders, tokens, buckets = zip(*columns, strict=True)
        thread, thread_ids = decoded_names(pa.chunked_array(threads))
        sender, sender_names = decoded_names(pa.chunked_array(senders))
        return cls(
            chunk_ids=pa.concat_arrays(ids),
            thread=thread,
            thread_ids=thread_ids,
            split=np.concatenate(splits),
            window_idx=np.concatenate(windows),
            sender=sender,
            senders=sender_names,
            num_tokens=np.concatenate(tokens),
            length_bucket=np.concatenate(buckets),
        )

    def take(self, rows: Rows | npt.NDArray[np.bool_]) -> ChunkTable:
        """The rows of those numbers, in that order, or those where a mask is true; the dictionaries stay whole."""
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        return replace(
            self,
            chunk_ids=self.chunk_ids.take(pa.array(rows)),
            thread=self.thread[rows],
            split=self.split[rows],
            window_idx=self.window_idx[rows],
            sender=self.sender[rows],
            num_tokens=self.num_tokens[rows],
            length_bucket=self.length_bucket[rows],
        )

    def find(self, chunk_ids: Any) -> Rows:
        """The row of each of these chunk ids, -1 where there is none."""
        if self.chunk_ids.equals(chunk_ids):
            return np.arange(len(self))
        found: Rows = pc.fill_null(pc.index_in(chunk_ids, value_set=self.chunk_ids), -1).to_numpy().astype(np.int64)
        return found

    def distinct(self) -> ChunkTable:
        """Every chunk id once: its first row."""
        encoded = self.chunk_ids.dictionary_encode()
        if len(encoded.dictionary) == len(self):
            return self
        _, first = np.unique(encoded.indices.to_numpy(), return_index=True)
        return self.take(np.sort(first))

    def completed(self, other: ChunkTable) -> ChunkTable:
        """The same rows, with what is not known here filled in from another table's rows of the same ids."""
        found = other.find(self.chunk_ids)
        known = found >= 0
        source = found[known]

        def column(mine: Any, theirs: Any, missing: int) -> Any:
            filled = np.full(len(self), missing, dtype=mine.dtype)
            filled[known] = theirs[source]
            return np.where(mine == missing, filled, mine)

        at = np.flatnonzero(known)
        thread, thread_ids = _filled_names(self.thread, self.thread_ids, at, other.thread[source], other.thread_ids)
        sender, senders = _filled_names(self.sender, self.senders, at, other.sender[source], other.senders)
        return replace(
            self,
            thread=thread,
            thread_ids=thread_ids,
            sender=sender,
            senders=senders,
            split=column(self.split, other.split, UNKNOWN),
            window_idx=column(self.window_idx, other.window_idx, UNKNOWN),
            num_tokens=column(self.num_tokens, other.num_tokens, 0),
            length_bucket=column(self.length_bucket, other.length_bucket, UNKNOWN),
        )

    def with_buckets(self) -> ChunkTable:
        """The same rows; a length bucket that is not known is that of the token count, 0 where there is none."""
        missing = self.length_bucket == UNKNOWN
        if not missing.any():
            return self
        buckets = self.length_bucket.copy()
        buckets[missing] = length_buckets(self.num_tokens[missing])
        return replace(self, length_bucket=buckets)

    def entries(self) -> Iterator[ManifestEntry]:
        """The rows as manifest entries, made block by block."""
        for start in range(0, len(self), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            names = self.chunk_ids.slice(start, _BLOCK_ROWS).to_pylist()
            threads = self.thread_ids.take(pa.array(self.thread[rows])).to_pylist()
            senders = self.senders.take(pa.array(self.sender[rows])).to_pylist()
            numbers = zip(
                self.split[rows].tolist(),
                self.window_idx[rows].tolist(),
                self.num_tokens[rows].tolist(),
                self.length_bucket[rows].tolist(),
                strict=True,
            )
            for name, thread, sender, (split, window, tokens, bucket) in zip(
                names, threads, senders, numbers, strict=True
            ):
                yield ManifestEntry(name, thread, SPLITS[split], window, sender, tokens, bucket)

    def has_senders(self) -> bool:
        """Whether the sender of every row is known."""
        empty = pc.index(self.senders, "").as_py()
        return empty < 0 or not (self.sender == empty).any()

    def newest_window(self) -> int:
        """The highest window_idx; UNKNOWN where there is none."""
        return int(self.window_idx.max(initial=UNKNOWN))


def concat(first: ChunkTable, second: ChunkTable) -> ChunkTable:
    """The rows of both, one after the other."""
    thread, thread_ids = _joined_names(first.thread, first.thread_ids, second.thread, second.thread_ids)
    sender, senders = _joined_names(first.sender, first.senders, second.sender, second.senders)
    return ChunkTable(
        chunk_ids=pa.concat_arrays([first.chunk_ids, second.chunk_ids]),
        thread=thread,
        thread_ids=thread_ids,
        split=np.concatenate([first.split, second.split]),
        window_idx=np.concatenate([first.window_idx, second.window_idx]),
        sender=sender,
        senders=senders,
        num_tokens=np.concatenate([first.num_tokens, second.num_tokens]),
        length_bucket=np.concatenate([first.length_bucket, second.length_bucket]),
    )


def length_buckets(num_tokens: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """`records.length_bucket` of every number."""
    edges = [n for n in range(1, 1 << 16) if length_bucket(n) != length_bucket(n - 1)]
    return np.searchsorted(edges, num_tokens, side="right").astype(np.int16)


def code_of(split: Split) -> int:
    """The number that stands for a split in a table."""
    return _SPLIT_CODES[split]


def _columns(block: list[tuple[str, Fields]], where: str) -> tuple[Any, ...]:
    fields = [item for _, item in block]
    splits = [item.get("split") for item in fields]
    try:
        codes = np.fromiter(map(_SPLIT_CODES.__getitem__, splits), dtype=np.int8, count=len(splits))
    except (KeyError, TypeError) as error:
        raise _wrong(block, "split", splits, lambda split: split in (*SPLITS, None, ""), where) from error
    return (
        pa.array([name for name, _ in block], type=pa.large_string()),
        _names(block, "thread_id", where),
        codes,
        _numbers(block, "window_idx", [item.get("window_idx", UNKNOWN) for item in fields], np.int32, where),
        _names(block, "sender", where),
        _numbers(block, "num_tokens", [_first(item, LENGTH_NAMES) for item in fields], np.int32, where),
        _numbers(block, "length_bucket", [item.get("length_bucket", UNKNOWN) for item in fields], np.int16, where),
    )


def _names(block: list[tuple[str, Fields]], field: str, where: str) -> Any:
    values = [item.get(field) or "" for _, item in block]
    try:
        return pa.array(values, type=pa.large_string()).dictionary_encode()
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise _wrong(block, field, values, lambda value: isinstance(value, str), where) from error


def _numbers(
    block: list[tuple[str, Fields]], field: str, values: list[Any], dtype: type[np.integer[Any]], where: str
) -> npt.NDArray[Any]:
    most = int(np.iinfo(dtype).max)
    try:
        column = np.array(values)
    except (ValueError, OverflowError):
        column = np.zeros(0, dtype=object)
    is_plain = column.dtype == np.int64 and column.ndim == 1
    if not values or (is_plain and column.min() >= UNKNOWN and column.max() <= most):
        return column.astype(dtype)
    raise _wrong(block, field, values, lambda value: type(value) is int and UNKNOWN <= value <= most, where)


def _wrong(
    block: list[tuple[str, Fields]], field: str, values: list[Any], is_right: Callable[[Any], bool], where: str
) -> InputError:
    """The error that names the first chunk whose value is not right."""
    name, value = next((name, value) for (name, _), value in zip(block, values, strict=True) if not is_right(value))
    return InputError(f"chunk {name} has an impossible {field}: {value!r:.80}", where=where)


def _first(fields: Fields, names: tuple[str, ...]) -> Any:
    for name in names:
        if name in fields:
            return fields[name]
    return 0


def decoded_names(column: Any) -> tuple[Codes, Any]:
    """Codes and names of a chunked dictionary array: one dictionary for all chunks, each name once."""
    unified = column.unify_dictionaries()
    codes = [chunk.indices.to_numpy(zero_copy_only=False).astype(np.int32) for chunk in unified.chunks]
    if not codes:
        return np.zeros(0, dtype=np.int32), pa.array([], type=pa.large_string())
    return np.concatenate(codes), unified.chunk(unified.num_chunks - 1).dictionary


def _joined_names(codes: Codes, names: Any, more: Codes, more_names: Any) -> tuple[Codes, Any]:
    encoded = pa.concat_arrays([names, more_names]).dictionary_encode()
    index = encoded.indices.to_numpy().astype(np.int32)
    return np.concatenate([index[codes], index[len(names) :][more]]), encoded.dictionary


def _filled_names(codes: Codes, names: Any, at: Rows, other: Codes, other_names: Any) -> tuple[Codes, Any]:
    """Codes and names with '' replaced, in the rows `at`, by another table's."""
    empty = pc.index(names, "").as_py()
    if empty < 0:
        return codes, names
    joined, joined_names = _joined_names(codes, names, other, other_names)
    mine, theirs = joined[: len(codes)].copy(), joined[len(codes) :]
    missing = codes[at] == empty
    mine[at[missing]] = theirs[missing]
    return mine, joined_names
