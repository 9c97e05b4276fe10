"""Seeded choice that is the same everywhere: splitmix64 over names and numbers, SHA-256 for the names of streams.

Nothing here depends on a library's random generator, whose streams may change between versions,
nor on the order in which things come: an item's key is a function of its name and of the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: multiples of it, modulo 2^64, spread evenly over the circle."""

ROOT_TWO = 0x6A09E667F3BCC908
ROOT_THREE = 0xBB67AE8584CAA73B
"""2^64 times the fraction of a square root: other steps, whose multiples never fall into step with those of GOLDEN."""

_MASK = (1 << 64) - 1
_BLOCK_ROWS = 1 << 16


def stream(*parts: int | str) -> int:
    """The 64-bit name of a random stream: the head of the SHA-256 of its parts, joined by `/`."""
    name = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def hash_names(names: Iterable[str]) -> Keys:
    """`hash_column` of names that Python holds."""
    return hash_column(pa.array(list(names), type=pa.large_string()))


def hash_column(column: Any) -> Keys:
    """64 bits of each string of a pyarrow large_string array.

    The UTF-8 bytes, eight at a time as little-endian words and the last one filled up with zeros, each
    mixed into what the ones before gave: h = mix(h xor word), begun with the number of bytes. Millions
    of names take less than a second; ids that come from outside are digests already.
    """
    blocks = [_hash_block(column.slice(start, _BLOCK_ROWS)) for start in range(0, len(column), _BLOCK_ROWS)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.uint64)


def _hash_block(column: Any) -> Keys:
    _, ends, values = column.buffers()
    offsets = np.frombuffer(ends, dtype="<i8")[column.offset : column.offset + len(column) + 1]
    text = values[offsets[0] : offsets[-1]].to_pybytes() if values is not None else b""
    words = np.ndarray(len(text) + 1, dtype="<u8", buffer=text + bytes(8), strides=(1,))
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    rows: Any = slice(None)
    for at in range(0, int(lengths.max(initial=0)), 8):
        if at >= lengths[rows].min():
            rows = np.flatnonzero(lengths > at)
        left = np.minimum(lengths[rows] - at, 8).astype(np.uint64)
        word = words[starts[rows] + at] & (np.uint64(_MASK) >> (np.uint64(64) - np.uint64(8) * left))
        hashes[rows] = mix(hashes[rows] ^ word, 0)
    return hashes


def hash_pairs(first: Keys, second: Keys) -> Keys:
    """A hash of pairs from the hashes of their members; which comes first matters."""
    return mix(first, 0) ^ second


def mix(keys: Keys, name: int) -> Keys:
    """The keys, mixed with the name of a stream by the finaliser of splitmix64 (Steele, Lea, Flood 2014).

    A bijection for every stream: keys that differ stay different.
    """
    z = keys ^ np.uint64(name)
    z = z + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def order_of(keys: Keys) -> npt.NDArray[np.int64]:
    """The stable order of keys of which hardly ever two are equal: several times faster than a stable sort."""
    order = np.argsort(keys)
    found = keys[order]
    return np.argsort(keys, kind="stable") if (found[1:] == found[:-1]).any() else order


def places(first_seen: npt.NDArray[np.int32], keys: Keys) -> Keys:
    """A place on the circle (of circumference 2^64) for each thing, that it keeps when later ones join.

    Things are numbered by when they were first seen, then by their keys; number i lies i steps of
    √3 from 0. However many there are, their distances are of three sizes at most, the widest a
    small multiple of the narrowest (three-gap theorem): nobody hides close behind another.
    """
    order = order_of(keys)
    order = order[np.argsort(_narrow(first_seen)[order], kind="stable")]
    positions = np.empty(len(order), dtype=np.uint64)
    positions[order] = np.arange(len(order), dtype=np.uint64) * np.uint64(ROOT_THREE)
    return positions


def _narrow(windows: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Numbers in the same order, of 16 bits where that is possible: numpy sorts such in linear time."""
    most = np.iinfo(np.uint16).max
    above = windows.astype(np.int64) - windows.min(initial=np.iinfo(np.int32).max)
    high = above[above >= most]
    if len(high) and high.min() != high.max():
        return windows
    narrow: npt.NDArray[np.uint16] = np.minimum(above, most).astype(np.uint16)
    return narrow


def clockwise(positions: Keys, draw: int, step: int = GOLDEN) -> Keys:
    """How far each position on the circle lies ahead of where this draw begins.

    Draw d begins d steps from 0; by default, d/φ of the way round. Of any n consecutive draws the
    widest stretch in which none begins is then below 1.9/n of the circle, whatever number the
    first one has. So if each takes the first q of B things clockwise from its beginning, everything is
    taken within about 2B/q draws, also while more things join.
    """
    ahead: Keys = positions - np.uint64(draw * step & _MASK)
    return ahead
