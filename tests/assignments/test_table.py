"""The log as columns, held against plain dictionaries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logwriting import PARAMETERS, row, thread_id, window_rows

from jobs.assignments import fixed_form
from jobs.assignments.digests import DigestIndex, number_by_first, pack, unhex
from jobs.assignments.export import assignment_entries
from jobs.assignments.segment import Draft, Head, Segment, decode, encode
from jobs.assignments.table import LogTable
from jobs.contracts.errors import IntegrityError
from jobs.contracts.records import SPLITS, Assignment, chunk_id

DIGESTS = st.integers(0, 9).map(lambda n: hashlib.sha256(str(n).encode()).hexdigest()[:32])
OUR_THREADS = st.integers(0, 5).map(thread_id)
ANY_THREADS = OUR_THREADS | st.sampled_from(
    ["", "thread_1", "thread_" + "A" * 24, "ü_window_1", 'a"]\\b', "thread_" + "0" * 25]
)


@st.composite
def logs(draw: st.DrawFn, threads: st.SearchStrategy[str] = ANY_THREADS) -> list[list[Assignment]]:
    """Rows by segment; k counts up within each thread, but for chunk ids of another form."""
    next_k: dict[str, int] = {}
    segments = []
    for window_idx in range(draw(st.integers(0, 4))):
        rows = []
        for thread in draw(st.lists(threads, max_size=6)):
            k = next_k.setdefault(thread, draw(st.sampled_from([0, 9, 10, 99])))
            next_k[thread] += 1
            made = row(thread, k, window_idx, draw(st.sampled_from(SPLITS)), draw(st.integers(0, 3)))
            if threads is ANY_THREADS and draw(st.integers(0, 9)) == 0:
                made = replace(made, chunk_id=f"chunk {len(rows)} of {window_idx}")
            rows.append(replace(made, ghosts=draw(st.lists(DIGESTS, max_size=2))))
        segments.append(rows)
    return segments


def encoded(log: list[list[Assignment]]) -> Iterator[Segment]:
    head = Head()
    for window_idx, rows in enumerate(log):
        segment = decode(encode(Draft(rows, window_idx, PARAMETERS), head)[1])
        head = segment.head
        yield segment


def with_rows(segment: Segment, body: bytes) -> Segment:
    return replace(segment, rows_data=memoryview(body))


def table_of(log: list[list[Assignment]], *, digests: bool = True) -> LogTable:
    table = LogTable(digests=digests)
    table.extend(encoded(log))
    return table


def assert_same(table: LogTable, rows: list[Assignment]) -> None:
    numbers = range(len(rows))
    threads = list(dict.fromkeys(r.thread_id for r in rows))
    assert len(table) == len(rows)
    assert [table.chunk_id(n) for n in numbers] == [r.chunk_id for r in rows]
    assert table.thread.tolist() == [threads.index(r.thread_id) for r in rows]
    assert [table.thread_id(code) for code in range(table.num_threads)] == threads
    assert [SPLITS[code] for code in table.split] == [r.split for r in rows]
    assert table.window_idx.tolist() == [r.window_idx for r in rows]
    again = list(reversed(threads))
    assert table.thread_codes([*threads, "absent", *again]).tolist() == [
        *range(len(threads)),
        -1,
        *range(len(threads))[::-1],
    ]
    for name in table.digests:
        first: dict[str, int] = {}
        for n in numbers:
            for digest in getattr(rows[n], name):
                first.setdefault(digest, n)
        asked = [*first, "f" * 32]
        assert table.rows_of(name, asked).tolist() == [*first.values(), -1]
        assert table.lookup(name, asked).tolist() == [*(table.thread[n] for n in first.values()), -1]


@given(logs())
def test_the_table_is_what_the_rows_are(log: list[list[Assignment]]) -> None:
    rows = [r for segment in log for r in segment]
    assert_same(table_of(log), rows)
    assert_same(table_of(log, digests=False), rows)
    assert list(assignment_entries(table_of(log))) == [
        (r.chunk_id, {"split": r.split, "thread_id": r.thread_id, "window_idx": r.window_idx}) for r in rows
    ]


@given(logs(), st.data())
def test_extended_bit_by_bit_or_at_once(log: list[list[Assignment]], data: st.DataObject) -> None:
    table = LogTable(digests=True)
    for segment in encoded(log):
        table.extend([segment])
        if data.draw(st.booleans()):  # what was derived before is not kept
            table.rows_of("messages", [])
            assert len(table.next_k) == table.num_threads
    assert_same(table, [r for rows in log for r in rows])


@given(logs(OUR_THREADS))
def test_what_is_known_of_each_thread(log: list[list[Assignment]]) -> None:
    rows = [r for segment in log for r in segment]
    table = table_of(log, digests=False)
    for code in range(table.num_threads):
        own = [r for r in rows if r.thread_id == table.thread_id(code)]
        assert SPLITS[table.thread_split[code]] == own[0].split
        assert table.first_window[code] == own[0].window_idx
        assert table.last_window[code] == own[-1].window_idx
        assert chunk_id(own[0].thread_id, int(table.next_k[code]) - 1) == own[-1].chunk_id
        assert rows[table.first_rows[code]] == own[0]


@given(logs(OUR_THREADS))
@settings(max_examples=30)
def test_our_rows_are_read_in_the_fast_way(log: list[list[Assignment]]) -> None:
    for segment in encoded(log):
        assert fixed_form.read_rows(segment.body, segment.header.window_idx) is not None
        assert fixed_form.read_rows(segment.body, segment.header.window_idx + 1) is None or not segment.body


def test_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_form, "_BLOCK_BYTES", 1000)
    rows = [row(thread_id(n), 0, 0, num_messages=n % 4) for n in range(50)]
    table = table_of([rows])
    assert not table.foreign_chunks
    assert_same(table, rows)


@given(st.data())
@settings(max_examples=300)
def test_a_byte_that_differs_is_never_misread(data: st.DataObject) -> None:
    """Whatever the fast way takes is what JSON makes of the same bytes; the text's digest alone it passes over."""
    rows = [row(thread_id(n), n * 7, 5, SPLITS[n % 3], n % 3) for n in range(3)]
    whole = bytearray(encode(Draft(rows, 5, PARAMETERS), Head())[1])
    text_digests = [m.span(1) for m in re.finditer(rb'"text_sha256":"(.{64})"', whole)]
    at = data.draw(
        st.integers(whole.index(b"\n") + 1, len(whole) - 1).filter(
            lambda at: not any(start <= at < end for start, end in text_digests)
        )
    )
    whole[at] = data.draw(st.sampled_from(b'"0123456789abcdefg,:[]{}\\\n tv'))
    try:
        segment = decode(bytes(whole))
    except IntegrityError:  # another number of lines
        return
    if fixed_form.read_rows(segment.body, 5) is None:
        return
    table = LogTable(digests=True)
    table.extend([segment])
    assert_same(table, segment.rows())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"split":"train"', '"split":"training"'),
        ('"messages":["', '"messages":["x'),
        ('"messages":["', '"messages":["É'),
    ],
)
def test_a_row_that_is_none_is_named(old: str, new: str) -> None:
    segment = decode(encode(Draft(window_rows(0), 0, PARAMETERS), Head())[1])
    body = segment.body.decode().replace(old, new)
    assert body != segment.body.decode()
    with pytest.raises(IntegrityError, match="segment 0 is damaged"):
        LogTable(digests=True).extend([with_rows(segment, body.encode())])


# Digests


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_pack(digests: list[bytes]) -> None:
    assert pack([digest.hex() for digest in digests]).tobytes() == b"".join(digests)


@pytest.mark.parametrize("digests", [["a" * 31], ["a" * 33], ["A" * 32], ["g" * 32], ["a" * 31, "a" * 33], ["é" * 32]])
def test_what_is_no_digest_is_not_packed(digests: list[str]) -> None:
    with pytest.raises(ValueError, match="digest"):
        pack(digests)


def test_unhex_takes_lower_case_hex_digits_alone() -> None:
    for byte in range(256):
        digits = np.array([[byte, ord("0")]], np.uint8)
        if chr(byte) in "0123456789abcdef":
            assert unhex(digits) == int(chr(byte) + "0", 16)
        else:
            assert unhex(digits) is None


HALVES = st.sampled_from([bytes(8), b"\xff" * 8, b"\0" * 7 + b"\1", b"\x80" + bytes(7)])
KEYS = st.lists(st.tuples(HALVES, HALVES).map(b"".join), max_size=30)


def as_rows(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


@given(KEYS, KEYS)
def test_an_index_finds_the_first_of_equal_digests(keys: list[bytes], asked: list[bytes]) -> None:
    """Also among digests that share a half, which real ones never do by chance."""
    index = DigestIndex(as_rows(keys), np.arange(len(keys), dtype=np.int32))
    assert len(index) == len(keys)
    assert index.find(as_rows(asked)).tolist() == [keys.index(key) if key in keys else -1 for key in asked]


@given(KEYS)
def test_numbers_by_first_appearance(keys: list[bytes]) -> None:
    unique = list(dict.fromkeys(keys))
    numbers, firsts = number_by_first(as_rows(keys))
    assert numbers.tolist() == [unique.index(key) for key in keys]
    assert firsts.tolist() == [keys.index(key) for key in unique]
