"""Seeded choice that is the same everywhere: SHA-256 for names, splitmix64 for the many.

Nothing here depends on a library's random generator, whose streams may change between versions,
nor on the order in which things come: an item's key is a function of its name and of the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

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
    """The first eight bytes of each name's SHA-256, as big-endian numbers."""
    sha256 = hashlib.sha256
    heads = b"".join(sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names)
    return np.frombuffer(heads, dtype=">u8").astype(np.uint64)


def hash_column(column: Any) -> Keys:
    """`hash_names` of a pyarrow string array, block by block."""
    blocks = [hash_names(column.slice(start, _BLOCK_ROWS).to_pylist()) for start in range(0, len(column), _BLOCK_ROWS)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.uint64)


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


def places(first_seen: npt.NDArray[np.int32], *names: npt.NDArray[Any]) -> Keys:
    """A place on the circle (of circumference 2^64) for each thing, that it keeps when later ones join.

    Things are numbered by when they were first seen, then by the names; number i lies i steps of
    √3 from 0. However many there are, their distances are of three sizes at most, the widest a
    small multiple of the narrowest (three-gap theorem): nobody hides close behind another.
    """
    order = np.lexsort((*reversed(names), first_seen))
    positions = np.empty(len(order), dtype=np.uint64)
    positions[order] = np.arange(len(order), dtype=np.uint64) * np.uint64(ROOT_THREE)
    return positions


def clockwise(positions: Keys, draw: int, step: int = GOLDEN) -> Keys:
    """How far each position on the circle lies ahead of where this draw begins.

    Draw d begins d steps from 0; by default, d/φ of the way round. Of any n consecutive draws the
    widest stretch in which none begins is then below 1.9/n of the circle, whatever number the
    first one has. So if each takes the first q of B things clockwise from its beginning, everything is
    taken within about 2B/q draws, also while more things join.
    """
    ahead: Keys = positions - np.uint64(draw * step & _MASK)
    return ahead
