"""The whole log as columns, a few bytes a row: what the stages look things up in.

Threads have codes, numbered from 0 by their first row in the log; rows are numbered likewise.
Built from segments, or from a checkpoint and the segments after it; equal either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from jobs.assignments.columns import (
    DIGEST_COLUMNS,
    THREAD_BYTES,
    Columns,
    DigestColumn,
    columns_of_rows,
    concatenated,
    thread_keys,
)
from jobs.assignments.digests import WIDTH, Bytes, DigestIndex, Ints, SmallInts, number_by_first, pack
from jobs.assignments.fixed_form import read_rows
from jobs.assignments.segment import Segment
from jobs.contracts.artifacts import segment_key
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import SPLITS, chunk_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH_ROWS = 1 << 19
_BLOCK_THREADS = 1 << 18


class LogTable:
    """Rows of the log up to some segment. Not to be changed but by `extend`."""

    def __init__(self, *, digests: bool = False) -> None:
        self.thread: Ints = np.empty(0, np.int32)
        """Code of each row's thread."""
        self.k: Ints = np.empty(0, np.int32)
        """Which chunk of its thread each row is; -1 for a chunk id of another form."""
        self.split: SmallInts = np.empty(0, np.int8)
        """Index into SPLITS."""
        self.window_idx: Ints = np.empty(0, np.int32)
        self.digests: dict[str, DigestColumn] = {}
        """By name (messages, contents, ghosts), where asked for."""
        if digests:
            self.digests = {name: DigestColumn(np.empty((0, WIDTH), np.uint8), self.k) for name in DIGEST_COLUMNS}
        self.thread_ids: Bytes = np.empty((0, THREAD_BYTES), np.uint8)
        """The 12 bytes of each thread's id, by code."""
        self.foreign_threads: dict[int, str] = {}
        """Thread ids not of our form, by code."""
        self.foreign_chunks: dict[int, str] = {}
        """Chunk ids not of our form, by row."""

    def __len__(self) -> int:
        return len(self.thread)

    @property
    def num_threads(self) -> int:
        """How many threads have a chunk."""
        return len(self.thread_ids)

    def extend(self, segments: Iterable[Segment]) -> None:
        """Add the rows of the segments that follow. IntegrityError names the segment with a row that is none."""
        pending: list[Columns] = []
        for segment in segments:
            pending.append(_columns(segment, digests=bool(self.digests)))
            if sum(map(len, pending)) >= _BATCH_ROWS:
                self._add(concatenated(pending))
                pending = []
        if pending:
            self._add(concatenated(pending))

    def thread_id(self, code: int) -> str:
        """The id of a thread."""
        foreign = self.foreign_threads.get(code)
        return f"thread_{self.thread_ids[code].tobytes().hex()}" if foreign is None else foreign

    def thread_codes(self, thread_ids: Sequence[str]) -> Ints:
        """The codes of threads by id; -1 where a thread is not in the log. Better asked once for many than often."""
        keys = thread_keys(thread_ids)
        numbers, firsts = number_by_first(keys)
        return self._codes(keys[firsts])[numbers]

    def chunk_id(self, row: int) -> str:
        """The id of a row's chunk."""
        foreign = self.foreign_chunks.get(row)
        return chunk_id(self.thread_id(int(self.thread[row])), int(self.k[row])) if foreign is None else foreign

    def rows_of(self, name: str, digests: Bytes | Sequence[str]) -> Ints:
        """The first row that names each of the digests (16 bytes each, or hex) as one of its `name`; -1 where none."""
        index = self._digest_indexes.get(name)
        if index is None:
            column = self.digests[name]
            index = self._digest_indexes[name] = DigestIndex(column.digests, column.rows)
        return index.find(digests if isinstance(digests, np.ndarray) else pack(digests))

    def lookup(self, name: str, digests: Bytes | Sequence[str]) -> Ints:
        """Code of the thread whose row first names each of the digests; -1 where none does."""
        rows = self.rows_of(name, digests)
        return np.where(rows < 0, np.int32(-1), self.thread[rows]) if len(self) else rows

    @cached_property
    def first_rows(self) -> Ints:
        """Row of each thread's first chunk."""
        if not len(self):
            return np.empty(0, np.int32)
        # Codes are given by first appearance: a thread is new where its code exceeds all before.
        newest = np.maximum.accumulate(self.thread)
        return np.flatnonzero(np.diff(newest, prepend=-1)).astype(np.int32)

    @cached_property
    def thread_split(self) -> SmallInts:
        """Split of each thread."""
        return self.split[self.first_rows]

    @cached_property
    def first_window(self) -> Ints:
        """Window of each thread's first chunk."""
        return self.window_idx[self.first_rows]

    @cached_property
    def last_window(self) -> Ints:
        """Window of each thread's newest chunk."""
        return _most(self.thread, self.window_idx, self.num_threads)

    @cached_property
    def next_k(self) -> Ints:
        """The k that each thread's next chunk gets."""
        return _most(self.thread, self.k, self.num_threads) + np.int32(1)

    @cached_property
    def _digest_indexes(self) -> dict[str, DigestIndex]:
        return {}

    def _add(self, columns: Columns) -> None:
        row_base = np.int32(len(self))
        self._add_threads(columns)
        self.k = np.concatenate([self.k, columns.k])
        self.split = np.concatenate([self.split, columns.split])
        self.window_idx = np.concatenate([self.window_idx, columns.window_idx])
        for name, column in self.digests.items():
            more = columns.digests[name]
            self.digests[name] = DigestColumn(
                np.concatenate([column.digests, more.digests]), np.concatenate([column.rows, more.rows + row_base])
            )
        self.foreign_chunks |= {int(row_base) + row: value for row, value in columns.foreign_chunks.items()}
        self._forget_derived()

    def _add_threads(self, columns: Columns) -> None:
        numbers, firsts = number_by_first(columns.thread_keys)
        keys = columns.thread_keys[firsts]
        codes = self._codes(keys)
        new = np.flatnonzero(codes < 0)
        codes[new] = np.arange(len(new), dtype=np.int32) + np.int32(self.num_threads)
        thread = codes[numbers]
        for row, value in columns.foreign_threads.items():
            self.foreign_threads.setdefault(int(thread[row]), value)
        self.thread_ids = np.concatenate([self.thread_ids, keys[new, :THREAD_BYTES]])
        self.thread = np.concatenate([self.thread, thread])

    def _codes(self, keys: Bytes) -> Ints:
        """The codes of threads by key, no two of them equal; -1 for those that are not here."""
        # The few are indexed and the many looked up among them, a block at a time: an index of them
        # all would take five times the memory of their ids.
        index = DigestIndex(keys, np.arange(len(keys), dtype=np.int32))
        codes = np.full(len(keys), -1, np.int32)
        may_be = np.zeros(1 << 24, np.bool_)
        may_be[_first_24_bits(keys)] = True
        for start in range(0, self.num_threads, _BLOCK_THREADS):
            block = self._thread_keys(start, start + _BLOCK_THREADS)
            asked = np.flatnonzero(may_be[_first_24_bits(block)])
            found = index.find(block[asked])
            codes[found[found >= 0]] = asked[found >= 0].astype(np.int32) + np.int32(start)
        return codes

    def _thread_keys(self, start: int, end: int) -> Bytes:
        """What stands for some of the threads in `Columns`."""
        ids = self.thread_ids[start:end]
        keys = np.zeros((len(ids), WIDTH), np.uint8)
        keys[:, :THREAD_BYTES] = ids
        foreign = [code for code in self.foreign_threads if start <= code < end]
        if foreign:
            keys[np.array(foreign) - start] = thread_keys([self.foreign_threads[code] for code in foreign])
        return keys

    def _forget_derived(self) -> None:
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                self.__dict__.pop(name, None)


def split_code(split: str) -> int:
    """The number that stands for a split in the table."""
    return SPLITS.index(split)


def _columns(segment: Segment, *, digests: bool) -> Columns:
    columns = read_rows(segment.rows_data, segment.header.window_idx, digests=digests)
    if columns is not None:
        return columns
    try:
        return columns_of_rows(segment.rows(), digests=digests)
    except IntegrityError as error:
        seq = segment.header.seq
        raise IntegrityError(f"segment {seq} is damaged: {error.what}", where=segment_key(seq)) from error


def _first_24_bits(keys: Bytes) -> NDArray[np.uint32]:
    heads: NDArray[np.uint32] = np.ascontiguousarray(keys[:, :4]).view(">u4")[:, 0].astype(np.uint32)
    return heads >> np.uint32(8)


def _most(groups: Ints, values: Ints, num_groups: int) -> Ints:
    most = np.full(num_groups, -1, np.int32)
    np.maximum.at(most, groups, values)
    return most
