from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logwriting import PARAMETERS, row, thread_id

from jobs.assignments.segment import DataFile, Draft, Head, decode, digest, encode
from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import SPLITS, Assignment

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=6,
)
FILES = st.builds(DataFile, TEXT, HEX, st.integers(0, 2**50), st.integers(0, 2**40))


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    window_idx = draw(st.integers(0, 2**31 - 1))
    rows = st.builds(
        Assignment, TEXT, TEXT, st.sampled_from(SPLITS), st.just(window_idx), st.lists(HEX, max_size=3),
        st.lists(HEX, max_size=3), st.lists(HEX, max_size=3), HEX,
    )  # fmt: skip
    return Draft(
        rows=draw(st.lists(rows, max_size=5)),
        window_idx=window_idx,
        parameters=draw(st.dictionaries(TEXT, JSON, max_size=3)),
        cycle=draw(TEXT),
        period=draw(TEXT),
        files=draw(st.dictionaries(TEXT, st.lists(FILES, max_size=2), max_size=2)),
        cursors=draw(st.dictionaries(TEXT, JSON, max_size=2)),
    )


HEADS = st.builds(Head, st.integers(-1, 10**9), HEX)


@given(drafts(), HEADS)
def test_what_is_encoded_is_decoded(draft: Draft, after: Head) -> None:
    header, data = encode(draft, after)
    segment = decode(data)
    assert segment.header == header
    assert segment.rows() == draft.rows
    assert segment.head == Head(after.seq + 1, digest(data))
    assert (header.seq, header.prev_sha256) == (after.seq + 1, after.sha256)
    assert header.parameters == draft.parameters
    assert header.cursors == draft.cursors
    assert header.files == draft.files


@given(drafts(), HEADS)
def test_bytes_are_a_function_of_contents(draft: Draft, after: Head) -> None:
    reordered = replace(
        draft,
        parameters=dict(reversed(draft.parameters.items())),
        files=dict(reversed(draft.files.items())),
        cursors=dict(reversed(draft.cursors.items())),
    )
    assert encode(reordered, after)[1] == encode(draft, after)[1]


@given(drafts(), HEADS, st.data())
def test_a_segment_that_is_cut_short_is_refused(draft: Draft, after: Head, data: st.DataObject) -> None:
    whole = encode(draft, after)[1]
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(IntegrityError):
        decode(whole[:length])


def test_the_form_is_fixed() -> None:
    """The bytes that older archives hold: a change here needs a new format number."""
    draft = Draft(
        [row("thread_" + "0" * 24, 0, 3)],
        3,
        {"seed": 42, "ratios": [0.8, 0.1, 0.1]},
        "c",
        "2019-W27",
        {"chunks": [DataFile("chunks/a", "f" * 64, 10, 1)]},
        {"inbox": {"uid": 7}},
    )
    header, first_row = encode(draft, Head(1, "e" * 64))[1].splitlines()
    assert header.decode() == (
        '{"format":1,"seq":2,"prev_sha256":"' + "e" * 64 + '","num_rows":1,"cycle":"c","window_idx":3,'
        '"period":"2019-W27","parameters":{"ratios":[0.8,0.1,0.1],"seed":42},"files":{"chunks":[{"key":"chunks/a","sha256":"'
        + "f" * 64
        + '","num_bytes":10,"num_rows":1}]},"cursors":{"inbox":{"uid":7}}}'
    )
    assert list(json.loads(first_row)) == list(asdict(draft.rows[0]))
    assert first_row.startswith(b'{"chunk_id":"thread_' + b"0" * 24 + b'_window_0","thread_id":"thread_000')


def test_a_row_of_another_window_is_not_written() -> None:
    with pytest.raises(InputError, match="row of window 1 in a segment of window 2"):
        encode(Draft([row(thread_id(1), 0, 1)], 2, PARAMETERS), Head())


def test_what_json_cannot_hold_is_not_written() -> None:
    with pytest.raises(InputError, match="cannot be written to the log"):
        encode(Draft([], 0, {"seed": object()}), Head())
    with pytest.raises(InputError, match="cannot be written to the log"):
        encode(Draft([row("thread_\udc80", 0, 0)], 0, PARAMETERS), Head())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'{"format":1', b'{"format":2', "format 2, not 1"),
        (b'{"format":1', b'{"format"=1', "header is not JSON"),
        (b'"num_rows":2', b'"num_rows":3', "tells of 3 rows, there are 2"),
        (b'"cursors":{}', b'"cursor":{}', "cursor, cursors"),
        (b'"files":{}', b'"files":[]', "list of files is malformed"),
    ],
)
def test_a_damaged_header_is_refused(old: bytes, new: bytes, message: str) -> None:
    data = encode(Draft([row(thread_id(1), k, 0) for k in range(2)], 0, PARAMETERS), Head())[1]
    assert old in data
    with pytest.raises(IntegrityError, match=message):
        decode(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"split":"train"', b'"split"="train"', "line 2 is not JSON"),
        (b'"split":"train"', b'"spilt":"train"', "line 2 is not an assignment"),
        (b'"window_idx":0,"messages"', b'"window_idx":1,"messages"', "line 2 is of window 1, its segment of 0"),
    ],
)
def test_a_damaged_row_is_refused(old: bytes, new: bytes, message: str) -> None:
    data = encode(Draft([row(thread_id(1), k, 0) for k in range(2)], 0, PARAMETERS), Head())[1]
    assert old in data
    with pytest.raises(IntegrityError, match=message):
        decode(data.replace(old, new, 1)).rows()
