"""Rows read many at a time are the rows read one by one; and digests are numbered and found as a dict would."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jobs.assignments import fixed_form
from jobs.assignments.columns import columns_of_rows
from jobs.assignments.digests import DigestIndex, number_by_first
from jobs.assignments.fixed_form import read_rows
from jobs.contracts.records import SPLITS, Assignment, chunk_id

digest = st.binary(min_size=16, max_size=16).map(bytes.hex)
thread_id = st.binary(min_size=12, max_size=12).map(lambda raw: f"thread_{raw.hex()}")


@st.composite
def assignments(draw):
    """A row of our form, of window 7."""
    thread = draw(thread_id)
    return Assignment(
        chunk_id=chunk_id(thread, draw(st.integers(0, 10**9 - 1))),
        thread_id=thread,
        split=draw(st.sampled_from(SPLITS)),
        window_idx=7,
        messages=draw(st.lists(digest, max_size=4)),
        contents=draw(st.lists(digest, max_size=4)),
        ghosts=draw(st.lists(digest, max_size=2)),
        text_sha256=draw(digest) + draw(digest),
    )


def body(rows: list[Assignment]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def same(a, b) -> bool:
    columns = [(getattr(a, name), getattr(b, name)) for name in ("thread_keys", "k", "split", "window_idx")]
    columns += [
        (getattr(a.digests[n], part), getattr(b.digests[n], part)) for n in b.digests for part in ("digests", "rows")
    ]
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in columns) and a.digests.keys() == b.digests.keys()


@given(st.lists(assignments(), max_size=8), st.booleans(), st.sampled_from([700, 1500, 1 << 20]))
def test_rows_of_our_form_are_what_they_are_one_by_one(rows, digests, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_form, "_BLOCK_BYTES", block_bytes)  # lines longer than a block too
        found = read_rows(body(rows), 7, digests=digests)
    if block_bytes == 1 << 20:
        assert found is not None
    if found is not None:
        assert same(found, columns_of_rows(rows, digests=digests))
    assert not rows or read_rows(body(rows), 8, digests=digests) is None


@given(st.lists(assignments(), min_size=1, max_size=3), st.data())
def test_what_is_taken_of_a_damaged_body_is_what_its_json_says(rows, data):
    whole = bytearray(body(rows))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    damaged = bytes(whole)
    assume(damaged.endswith(b"\n") and damaged.count(b"\n") == len(rows))  # a segment is looked at for these before
    assume(not 2 < damaged.index(b"\n", at) - at <= 66)  # a text's digest is passed over: no column holds it
    found = read_rows(damaged, 7)
    if found is not None:
        again = [Assignment(**orjson.loads(line)) for line in damaged.splitlines()]
        assert same(found, columns_of_rows(again))


narrow = st.binary(min_size=2, max_size=2).map(lambda raw: bytes([raw[0] % 2] + [0] * 14 + [raw[1] % 3]))
"""Keys of which many are equal, and many more in their first half."""


@given(st.lists(narrow, max_size=40), st.lists(narrow, max_size=10))
def test_digests_are_numbered_and_found_by_first_appearance(keys, asked):
    array = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    first: dict[bytes, int] = {}
    for at, key in enumerate(keys):
        first.setdefault(key, at)
    order = {key: number for number, key in enumerate(first)}
    numbers, firsts = number_by_first(array)
    assert numbers.tolist() == [order[key] for key in keys]
    assert firsts.tolist() == list(first.values())
    index = DigestIndex(array, np.arange(len(keys), dtype=np.int32))
    found = index.find(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 16))
    assert found.tolist() == [first.get(key, -1) for key in asked]
