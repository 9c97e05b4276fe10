"""Hashes that must never change: schedules of the past depend on them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.replay.hashing import (
    ROOT_THREE,
    clockwise,
    hash_column,
    hash_names,
    hash_pairs,
    mix,
    order_of,
    places,
    stream,
)


def test_mix_is_splitmix64() -> None:
    # The reference generator of Steele, Lea and Flood (splitmix64.c of Vigna), seed 1234567: its first two numbers.
    state = np.array([1234567], dtype=np.uint64)
    assert mix(state, 0).tolist() == [6457827717110365317]
    assert mix(state + np.uint64(0x9E3779B97F4A7C15), 0).tolist() == [3203168211198807973]


def hash_of(name: str) -> int:
    """What `hash_column` says it does, in whole numbers."""
    text = name.encode()
    found = len(text)
    for at in range(0, len(text), 8):
        word = int.from_bytes(text[at : at + 8], "little")
        found = int(mix(np.array([found ^ word], dtype=np.uint64), 0)[0])
    return found


@given(st.lists(st.text(max_size=40)))
def test_names_are_hashed_by_their_bytes(names: list[str]) -> None:
    expected = [hash_of(name) for name in names]
    assert hash_names(names).tolist() == expected
    column = pa.array(["before", *names, "behind"], type=pa.large_string())
    assert hash_column(column.slice(1, len(names))).tolist() == expected
    assert hash_column(column).tolist() == [hash_of("before"), *expected, hash_of("behind")]


def test_hashes_of_names_are_those_of_the_past() -> None:
    names = ["", "a", "ü", "thread_0123456789abcdef01234567_window_12"]
    assert hash_names(names).tolist() == [
        0,
        7075883509774426401,
        6214343741670964777,
        10256715865288658454,
    ]
    first, second = hash_names(["a", "b"]), hash_names(["b", "a"])
    assert len({*hash_pairs(first, second).tolist(), *hash_pairs(first, first).tolist()}) == 4


def test_streams_are_named_by_sha256() -> None:
    assert stream(42, "draw", 7) == int(hashlib.sha256(b"42/draw/7").hexdigest()[:16], 16)


def test_clockwise_wraps() -> None:
    positions = np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)
    assert clockwise(positions, 0).tolist() == positions.tolist()
    assert clockwise(positions, 1, step=2**63).tolist() == [2**63, 0, 2**63 - 1]


@given(
    st.lists(st.tuples(st.sampled_from([-1, 0, 1, 7, 65534, 65535, 65536, 2**31 - 1]), st.integers(0, 3)), max_size=30)
)
def test_places_are_given_by_first_window_then_key(things: list[tuple[int, int]]) -> None:
    windows = np.array([window for window, _ in things], dtype=np.int32)
    keys = np.array([key for _, key in things], dtype=np.uint64)
    assert order_of(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    order = sorted(range(len(things)), key=things.__getitem__)
    expected = np.empty(len(things), dtype=np.uint64)
    expected[order] = np.arange(len(things), dtype=np.uint64) * np.uint64(ROOT_THREE)
    assert places(windows, keys).tolist() == expected.tolist()
