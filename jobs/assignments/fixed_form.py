"""Rows of a segment, in the form in which we write them, read by numpy many at a time. Pure.

A row is the bytes below, where H is a hex digit and each list holds any number of digests:

    {"chunk_id":"thread_HHH…_window_K","thread_id":"thread_HHH…","split":"S","window_idx":W,
    "messages":["HHH…",…],"contents":[…],"ghosts":[…],"text_sha256":"HHH…"}

All rows of a block are read in step: each has a cursor, every literal is compared, every number
checked, and every cursor must end at its line's end. One byte that differs and nothing is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from jobs.assignments.columns import DIGEST_COLUMNS, THREAD_BYTES, Columns, DigestColumn, concatenated
from jobs.assignments.digests import WIDTH, Bytes, Ints, SmallInts, unhex
from jobs.contracts.records import SPLITS

_BLOCK_BYTES = 1 << 20
_PADDING = bytes(128)  # longer than any one field, so that a cursor may look past the end
_NEWLINE, _QUOTE, _COMMA, _BRACKET, _ZERO, _NINE = b'\n",]09'
_MAX_DIGITS = 9
_ITEM_BYTES = 2 * WIDTH + 3  # two quotes and a comma


class _OtherFormError(Exception):
    """Some row is not of this form."""


def read_rows(body: bytes, window_idx: int, *, digests: bool = True) -> Columns | None:
    """A segment's rows as columns; None where one of them is not of this form, or of another window."""
    try:
        return concatenated([_read_block(block, window_idx, digests=digests) for block in _blocks(body)])
    except _OtherFormError:
        return None


def _blocks(body: bytes) -> Iterator[bytes]:
    """The body in pieces of whole lines, at least one."""
    start = 0
    while True:
        end = body.find(b"\n", start + _BLOCK_BYTES) + 1 or len(body)
        yield body[start:end]
        if end == len(body):
            return
        start = end


def _read_block(block: bytes, window_idx: int, *, digests: bool) -> Columns:
    rows = _Rows(block)
    (thread,) = rows.expect(b'{"chunk_id":"thread_', 2 * THREAD_BYTES, b"_window_")
    k = rows.number()
    (thread_again,) = rows.expect(b'","thread_id":"thread_', 2 * THREAD_BYTES, b'","split":"')
    if not np.array_equal(thread, thread_again):
        raise _OtherFormError
    split = rows.one_of([f'{split}"'.encode() for split in SPLITS])
    rows.expect(b',"window_idx":%d' % window_idx)
    columns = {}
    closing = b""
    for name in DIGEST_COLUMNS:
        rows.expect(closing + b',"%s":[' % name.encode())
        if digests:
            columns[name] = rows.digests()
        else:
            rows.to_bracket()
        closing = b"]"
    rows.expect(b'],"text_sha256":"', 64, b'"}\n')
    rows.expect_end()
    keys = np.zeros((len(k), WIDTH), np.uint8)
    keys[:, :THREAD_BYTES] = _unhex(thread)
    return Columns(keys, k, split, np.full(len(k), window_idx, np.int32), columns)


class _Rows:
    """Rows of one block, each with a cursor."""

    def __init__(self, block: bytes) -> None:
        self._data = np.frombuffer(block + _PADDING, np.uint8)
        self._ends = np.flatnonzero(self._data[: len(block)] == _NEWLINE) + 1
        self._at = np.concatenate([np.zeros(min(1, len(self._ends)), np.int64), self._ends[:-1]])
        self._brackets = np.append(np.flatnonzero(self._data == _BRACKET), len(block))

    def expect(self, *parts: bytes | int) -> list[Bytes]:
        """Every row goes on with these bytes; for a number, with so many of any kind, which are returned."""
        taken = []
        ahead = self._ahead(sum(part if isinstance(part, int) else len(part) for part in parts))
        for part in parts:
            width = part if isinstance(part, int) else len(part)
            piece, ahead = ahead[:, :width], ahead[:, width:]
            if isinstance(part, int):
                taken.append(piece)
            elif not (piece == np.frombuffer(part, np.uint8)).all():
                raise _OtherFormError
            self._at = self._at + width
        return taken

    def expect_end(self) -> None:
        """Every row ends here."""
        if not np.array_equal(self._at, self._ends):
            raise _OtherFormError

    def number(self) -> Ints:
        """A number of up to nine digits, without leading zeros, in every row."""
        ahead = self._ahead(_MAX_DIGITS + 1)
        is_digit = (ahead >= _ZERO) & (ahead <= _NINE)
        lengths = np.argmin(is_digit, axis=1)  # 0 also where all ten are digits
        if (lengths == 0).any() or ((ahead[:, 0] == _ZERO) & (lengths > 1)).any():
            raise _OtherFormError
        value = np.zeros(len(ahead), np.int32)
        for place in range(int(lengths.max(initial=0))):
            more = place < lengths
            value[more] = value[more] * 10 + (ahead[more, place] - np.uint8(_ZERO))
        self._at = self._at + lengths
        return value

    def one_of(self, words: list[bytes]) -> SmallInts:
        """Which of the words every row goes on with."""
        ahead = self._ahead(max(map(len, words)))
        index = np.full(len(ahead), -1, np.int8)
        for number, word in enumerate(words):
            index[(ahead[:, : len(word)] == np.frombuffer(word, np.uint8)).all(axis=1)] = number
        if (index < 0).any():
            raise _OtherFormError
        self._at = self._at + np.array([len(word) for word in words])[index]
        return index

    def to_bracket(self) -> Any:
        """Go on to the next closing bracket; where every row was before."""
        before = self._at
        self._at = self._brackets[np.searchsorted(self._brackets[:-1], before)]
        return before

    def digests(self) -> DigestColumn:
        """A list of digests in every row, up to its closing bracket."""
        starts = self.to_bracket()
        num_bytes = self._at - starts
        counts = (num_bytes + 1) // _ITEM_BYTES
        if not np.array_equal(np.maximum(counts * _ITEM_BYTES - 1, 0), num_bytes):
            raise _OtherFormError
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        items = sliding_window_view(self._data, _ITEM_BYTES)[starts[rows] + place * _ITEM_BYTES]
        after = np.where(place == counts[rows] - 1, np.uint8(_BRACKET), np.uint8(_COMMA))
        if not ((items[:, 0] == _QUOTE) & (items[:, -2] == _QUOTE) & (items[:, -1] == after)).all():
            raise _OtherFormError
        return DigestColumn(_unhex(items[:, 1:-2]), rows)

    def _ahead(self, width: int) -> Bytes:
        if len(self._at) and self._at[-1] + width > len(self._data):
            raise _OtherFormError
        ahead: Bytes = sliding_window_view(self._data, width)[self._at]
        return ahead


def _unhex(digits: Bytes) -> Bytes:
    packed = unhex(digits)
    if packed is None:
        raise _OtherFormError
    return packed
