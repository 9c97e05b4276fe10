"""Digests as arrays: 16 bytes each, `(n, 16)` of uint8, and an index to look many of them up at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
SmallInts = NDArray[np.int8]

WIDTH = 16
_ZERO, _A = b"0a"


def pack(digests: Sequence[str]) -> Bytes:
    """Short digests (32 hex digits each) as an array; ValueError where one is not."""
    joined = "".join(digests)
    if any(len(digest) != 2 * WIDTH for digest in digests):
        raise ValueError("a digest is not 32 hex digits long")
    packed = unhex(np.frombuffer(joined.encode("ascii", "replace"), np.uint8).reshape(-1, 2 * WIDTH))
    if packed is None:
        raise ValueError("a digest is not of lower-case hex digits")
    return packed


def short_digests(names: Iterable[str]) -> Bytes:
    """`records.short_digest` of each string, as an array."""
    heads = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:WIDTH] for name in names]
    return np.frombuffer(b"".join(heads), np.uint8).reshape(-1, WIDTH)


def unhex(digits: Bytes) -> Bytes | None:
    """Rows of hex digits, as characters, to rows of half as many bytes; None where one is no lower-case hex digit."""
    # Arithmetic on bytes, which wraps: several times faster than a table.
    if not (((digits - np.uint8(_ZERO)) < 10) | ((digits - np.uint8(_A)) < 6)).all():
        return None
    nibbles: Any = (digits & np.uint8(15)) + np.uint8(9) * (digits >> np.uint8(6))
    packed: Bytes = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    return packed


class DigestIndex:
    """From a digest to the number that stands for it: 20 bytes a digest, all look-ups vectorised.

    Of equal digests the first one given counts.
    """

    def __init__(self, digests: Bytes, numbers: Ints) -> None:
        high, low = _halves(digests)
        order = _sorted_by(high)
        self._high = high[order]
        self._low = low[order]
        self._numbers = numbers[order]

    def __len__(self) -> int:
        return len(self._high)

    def find(self, digests: Bytes) -> Ints:
        """The number of each digest; -1 where it is not here."""
        high, low = _halves(digests)
        found = np.full(len(high), -1, np.int32)
        asked = np.arange(len(high))
        at = np.searchsorted(self._high, high)
        # One round, but for digests that agree in their first half alone.
        while len(asked):
            inside = at < len(self._high)
            asked, at = asked[inside], at[inside]
            alike = self._high[at] == high[asked]
            asked, at = asked[alike], at[alike]
            equal = self._low[at] == low[asked]
            found[asked[equal]] = self._numbers[at[equal]]
            asked, at = asked[~equal], at[~equal] + 1
        return found


def number_by_first(keys: Bytes) -> tuple[Ints, Ints]:
    """Equal keys get one number, by first appearance: the number of each key, and where each number first appears."""
    high, low = _halves(keys)
    order = _sorted_by(high)
    if (low[order[1:]] != low[order[:-1]])[high[order[1:]] == high[order[:-1]]].any():
        order = np.lexsort((low, high))  # digests that agree in their first half alone
    high, low = high[order], low[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    firsts = order[starts]  # both orders are stable
    by_appearance = np.argsort(firsts)
    number_of_run = np.empty(len(firsts), np.int32)
    number_of_run[by_appearance] = np.arange(len(firsts), dtype=np.int32)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = number_of_run[np.cumsum(starts) - 1]
    return numbers, firsts[by_appearance].astype(np.int32)


def _sorted_by(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A stable order of the keys. Few are equal: sorting anyhow and mending those is several times faster."""
    order = np.argsort(keys)
    found = keys[order]
    equal = found[1:] == found[:-1]
    if not equal.any():
        return order
    again = np.flatnonzero(np.append(False, equal) | np.append(equal, False))
    order[again] = order[again][np.lexsort((order[again], found[again]))]
    return order


def _halves(digests: Bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    halves: NDArray[Any] = np.ascontiguousarray(digests).reshape(-1, WIDTH).view(">u8")
    return halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64)
