"""Hashes that must never change: schedules of the past depend on them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from jobs.replay.hashing import clockwise, hash_column, hash_names, mix, stream


def test_mix_is_splitmix64() -> None:
    # The reference generator of Steele, Lea and Flood (splitmix64.c of Vigna), seed 1234567: its first two numbers.
    state = np.array([1234567], dtype=np.uint64)
    assert mix(state, 0).tolist() == [6457827717110365317]
    assert mix(state + np.uint64(0x9E3779B97F4A7C15), 0).tolist() == [3203168211198807973]


def test_names_are_hashed_by_sha256() -> None:
    expected = [int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in ("a", "ü")]
    assert hash_names(["a", "ü"]).tolist() == expected
    assert hash_column(pa.array(["a", "ü"], type=pa.large_string())).tolist() == expected
    assert stream(42, "draw", 7) == int(hashlib.sha256(b"42/draw/7").hexdigest()[:16], 16)


def test_clockwise_wraps() -> None:
    positions = np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)
    assert clockwise(positions, 0).tolist() == positions.tolist()
    assert clockwise(positions, 1, step=2**63).tolist() == [2**63, 0, 2**63 - 1]
