"""Rows of a segment, in the form in which we write them, read by numpy many at a time. Pure.

A row is the bytes below, where H is a hex digit and each list holds any number of digests:

    {"chunk_id":"thread_HHH…_window_K","thread_id":"thread_HHH…","split":"S","window_idx":W,
    "messages":["HHH…",…],"contents":[…],"ghosts":[…],"text_sha256":"HHH…"}

All rows of a block are read in step: each has a cursor, every literal is compared, every number
checked, and every cursor must end at its line's end. One byte that differs and nothing is taken.
Where digests are not asked for, their lists are passed over unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jobs.assignments.columns import THREAD_BYTES, Columns, DigestColumn, concatenated
from jobs.assignments.digests import WIDTH, Bytes, Ints, SmallInts, unhex
from jobs.contracts.records import SPLITS

Positions = NDArray[np.int64]

_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 1 << 12
_NEWLINE, _QUOTE, _COMMA, _BRACKET, _ZERO, _NINE = b'\n",]09'
_TEXT_DIGEST = (b'],"text_sha256":"', 64, b'"}\n')
_MAX_DIGITS = 9
_ITEM_BYTES = 2 * WIDTH + 3  # two quotes and a comma


class _OtherFormError(Exception):
    """Some row is not of this form."""


def read_rows(body: bytes | memoryview, window_idx: int, *, digests: bool = True) -> Columns | None:
    """A segment's rows as columns; None where one of them is not of this form, or of another window."""
    try:
        return concatenated([_read_block(block, window_idx, digests=digests) for block in _blocks(body)])
    except _OtherFormError:
        return None


def _blocks(body: bytes | memoryview) -> Iterator[Bytes]:
    """The body in pieces of whole lines, at least one."""
    data = np.frombuffer(body, np.uint8)
    start = 0
    while len(data) - start > _BLOCK_BYTES:
        end = _last_line_end(data[start : start + _BLOCK_BYTES])
        yield data[start : start + end]
        start += end
    yield data[start:]


def _last_line_end(piece: Bytes) -> int:
    """Behind the last line end of a piece; rows that are longer than a piece are not of this form."""
    for width in (_TAIL_BYTES, len(piece)):
        line_ends = np.flatnonzero(piece[-width:] == _NEWLINE)
        if len(line_ends):
            return len(piece) - width + int(line_ends[-1]) + 1
    raise _OtherFormError


def _read_block(block: Bytes, window_idx: int, *, digests: bool) -> Columns:
    rows = _Rows(block)
    (thread,) = rows.expect(b'{"chunk_id":"thread_', 2 * THREAD_BYTES, b"_window_")
    k = rows.number()
    (thread_again,) = rows.expect(b'","thread_id":"thread_', 2 * THREAD_BYTES, b'","split":"')
    if not np.array_equal(thread, thread_again):
        raise _OtherFormError
    split = rows.one_of([f'{split}"'.encode() for split in SPLITS])
    rows.expect(b',"window_idx":%d,"messages":[' % window_idx)
    columns = {}
    if digests:
        columns["messages"] = rows.digests()
        rows.expect(b'],"contents":[')
        columns["contents"] = rows.digests()
        rows.expect(b'],"ghosts":[')
        columns["ghosts"] = rows.digests()
    else:
        rows.skip_to_last(_width(_TEXT_DIGEST))
    rows.expect(*_TEXT_DIGEST)
    rows.expect_end()
    keys = np.zeros((len(k), WIDTH), np.uint8)
    keys[:, :THREAD_BYTES] = _unhex(thread)
    return Columns(keys, k, split, np.full(len(k), window_idx, np.int32), columns)


def _width(parts: tuple[bytes | int, ...]) -> int:
    return sum(part if isinstance(part, int) else len(part) for part in parts)


class _Rows:
    """Rows of one block, each with a cursor."""

    def __init__(self, block: Bytes) -> None:
        self._data = block
        self._ends = np.flatnonzero(block == _NEWLINE) + 1
        self._at = np.concatenate([np.zeros(min(1, len(self._ends)), np.int64), self._ends[:-1]])

    def expect(self, *parts: bytes | int) -> list[Bytes]:
        """Every row goes on with these bytes; for a number, with so many of any kind, which are returned."""
        taken = []
        ahead = self._ahead(_width(parts))
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
        """Which of the words, that differ in some one place all from each other, every row goes on with."""
        width = max(map(len, words))
        ahead = self._ahead(width)
        place = next(i for i in range(width) if len({word[i] for word in words}) == len(words))
        word_of = np.full(256, -1, np.int8)
        word_of[[word[place] for word in words]] = np.arange(len(words))
        index = word_of[ahead[:, place]]
        if (index < 0).any():
            raise _OtherFormError
        padded = np.frombuffer(b"".join(word.ljust(width, b"\0") for word in words), np.uint8).reshape(-1, width)
        if not ((ahead == padded[index]) | (padded == 0)[index]).all():
            raise _OtherFormError
        self._at = self._at + np.array([len(word) for word in words])[index]
        return index

    def skip_to_last(self, width: int) -> None:
        """Go on, in every row, to where so many bytes are left."""
        last = self._ends - width
        if (last < self._at).any():
            raise _OtherFormError
        self._at = last

    def digests(self) -> DigestColumn:
        """A list of digests in every row, up to its closing bracket."""
        starts = self._at
        self._at = self._brackets[np.searchsorted(self._brackets[:-1], starts)]
        num_bytes = self._at - starts
        counts = (num_bytes + 1) // _ITEM_BYTES
        if not np.array_equal(np.maximum(counts * _ITEM_BYTES - 1, 0), num_bytes):
            raise _OtherFormError
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        if not len(rows):
            return DigestColumn(np.empty((0, WIDTH), np.uint8), rows)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        items = _taken(self._data, starts[rows] + place * _ITEM_BYTES, _ITEM_BYTES)
        after = np.where(place == counts[rows] - 1, np.uint8(_BRACKET), np.uint8(_COMMA))
        if not ((items[:, 0] == _QUOTE) & (items[:, -2] == _QUOTE) & (items[:, -1] == after)).all():
            raise _OtherFormError
        return DigestColumn(_unhex(items[:, 1:-2]), rows)

    @cached_property
    def _brackets(self) -> Positions:
        """Where the closing brackets are, and the end."""
        return np.append(np.flatnonzero(self._data == _BRACKET), len(self._data))

    def _ahead(self, width: int) -> Bytes:
        if not len(self._at):
            return np.empty((0, width), np.uint8)
        # Behind each field that is looked at so, a row goes on for longer than the field may be.
        if int(self._at.max()) + width > len(self._data):
            raise _OtherFormError
        return _taken(self._data, self._at, width)


def _taken(data: Bytes, at: Positions, width: int) -> Bytes:
    """So many bytes from each of these positions on, which must be within the data."""
    # As items of one type they are copied whole, in a third of the time that an array of bytes takes.
    items = np.ndarray(len(data) - width + 1, np.dtype((np.void, width)), data, strides=(1,))[at]
    taken: Bytes = items.view(np.uint8).reshape(-1, width)
    return taken


def _unhex(digits: Bytes) -> Bytes:
    packed = unhex(digits)
    if packed is None:
        raise _OtherFormError
    return packed
