"""Texts of val and test that train text repeats: MinHash to find the pairs, exact containment to judge them.

A text is the set of its 5-grams of words. A text of val or test is a near-duplicate of one of train when that
holds at least 0.8 of its set: what counts is how much of it has been learnt, whatever else was (containment in
Broder, "On the resemblance and containment of documents", 1997). That is so wherever their resemblance, which is
Jaccard's similarity, is 0.8. Resemblance is what finds the pairs: a MinHash of 128 is cut into bands of 6 rows
(Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, 3.4), and a pair of resemblance s shares one of the
21 bands with probability 1 - (1 - s^6)^21, which is 0.998 at 0.8, 0.63 at 0.6 and 0.28 at 0.5.

Everything that a fingerprint depends on is written here, none of it in a library's random numbers or in
Python's hash(): the same text has the same fingerprint everywhere, and may be stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]

THRESHOLD = 0.8
MIN_WORDS = 50
SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
NUM_BANDS = 21
BAND_ROWS = 6

MAX_CHARS = 1_000_000
"""Of a text; what lies behind is not compared."""

MAX_PER_BUCKET = 8

_WORD = re.compile(r"\w+")
_TO_BLANKS = {code: " " for code in range(128) if _WORD.match(chr(code)) is None}
_BLOCK_WORDS = 1 << 16  # a block's hashes stay in the processor's cache for all permutations
_RECENT_TEXTS = 1024
_MAX_KNOWN_WORDS = 1 << 17
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(value: UInt64) -> UInt64:
    """SplitMix64's finaliser: every bit of the result depends on every bit of the value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _constants(count: int, seed: int) -> UInt64:
    """The first numbers of SplitMix64 from that seed."""
    return _mix(np.array([(seed + (i + 1) * _GOLDEN) & _MASK for i in range(count)], dtype=np.uint64))


_POSITIONS = _constants(SHINGLE_WORDS, seed=1) | np.uint64(1)
_FACTORS = (_constants(NUM_PERMUTATIONS, seed=2) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_TERMS = (_constants(NUM_PERMUTATIONS, seed=3) >> np.uint64(32)).astype(np.uint32)
_ROWS = _constants(BAND_ROWS, seed=4) | np.uint64(1)


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, digits and underscores."""
    lower = text[:MAX_CHARS].lower()
    # The same in half the time where all is ASCII.
    return lower.translate(_TO_BLANKS).split() if lower.isascii() else _WORD.findall(lower)


def shingles(text: str) -> set[tuple[str, ...]]:
    """The 5-grams of a text's words; none for a text of fewer than 50 words."""
    found = words(text)
    if len(found) < MIN_WORDS:
        return set()
    return set(zip(*(found[start:] for start in range(SHINGLE_WORDS)), strict=False))


def containment(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """The share of a's shingles that stand in b too (Broder 1997); 0 where a has none."""
    return len(a & b) / len(a) if a else 0.0


def fingerprints(texts: Sequence[str]) -> tuple[NDArray[np.bool_], UInt64]:
    """Which texts are long enough to be compared, and the band keys of each: bool[m], uint64[m, 21].

    The keys of a text that is too short are 0.
    """
    valid = np.zeros(len(texts), dtype=np.bool_)
    bands = np.zeros((len(texts), NUM_BANDS), dtype=np.uint64)
    for rows, hashes, starts in _blocks(texts):
        valid[rows] = True
        bands[rows] = _band_keys(_min_hashes(_shingle_hashes(hashes, starts), starts))
    return valid, bands


class _WordHashes(dict[str, int]):
    """64 bits of BLAKE2b of each word; those of the last many words are remembered."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if len(self) >= _MAX_KNOWN_WORDS:
            self.clear()
        self[word] = value
        return value


_WORD_HASHES = _WordHashes()


def _blocks(texts: Sequence[str]) -> Iterator[tuple[list[int], UInt64, NDArray[np.int64]]]:
    """Runs of comparable texts: their rows, the hashes of all their words, and where each text's begin."""
    rows: list[int] = []
    lengths: list[int] = []
    hashes: list[int] = []
    for row, text in enumerate(texts):
        found = words(text)
        if len(found) < MIN_WORDS:
            continue
        rows.append(row)
        lengths.append(len(found))
        hashes += map(_WORD_HASHES.__getitem__, found)
        if len(hashes) >= _BLOCK_WORDS:
            yield rows, np.array(hashes, dtype=np.uint64), np.cumsum([0, *lengths])
            rows, lengths, hashes = [], [], []
    if rows:
        yield rows, np.array(hashes, dtype=np.uint64), np.cumsum([0, *lengths])


def _shingle_hashes(hashes: UInt64, starts: NDArray[np.int64]) -> UInt32:
    """A hash of the 5-gram that begins at each word; the last four of each text repeat the one before them."""
    last = np.repeat(starts[1:] - SHINGLE_WORDS, np.diff(starts))
    begin = np.minimum(np.arange(len(hashes)), last)
    total = np.zeros(len(hashes), dtype=np.uint64)
    for position, factor in enumerate(_POSITIONS):
        total += hashes[begin + position] * factor
    return (_mix(total) >> np.uint64(32)).astype(np.uint32)


def _min_hashes(shingle_hashes: UInt32, starts: NDArray[np.int64]) -> UInt32:
    """The least image of each text's shingles under each permutation x -> (factor x + term) mod 2^32."""
    least = np.empty((NUM_PERMUTATIONS, len(starts) - 1), dtype=np.uint32)
    image = np.empty_like(shingle_hashes)
    for row, factor, term in zip(least, _FACTORS, _TERMS, strict=True):
        np.multiply(shingle_hashes, factor, out=image)
        np.add(image, term, out=image)
        np.minimum.reduceat(image, starts[:-1], out=row)
    return least


def _band_keys(least: UInt32) -> UInt64:
    """One key for the rows of each band, text by text."""
    rows = least[: NUM_BANDS * BAND_ROWS].astype(np.uint64).reshape(NUM_BANDS, BAND_ROWS, -1)
    return _mix((rows * _ROWS[:, None]).sum(axis=1, dtype=np.uint64)).T


def candidates(
    bands: UInt64, train: NDArray[np.bool_], first_new: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of an eval row and a train row that share a band: ascending by eval row, then the likeliest first.

    Rows are comparable texts' (see fingerprints) in the order in which they came; only pairs with a row from
    `first_new` on are given. Among those that share a key, a row meets the last MAX_PER_BUCKET of the other
    side before it: a hundred thousand nearly identical notices are no more work than a few, and what a row
    meets does not depend on what came later, so that many imports find what a single one finds. The
    likeliest is who shares the most bands, then the earliest.
    """
    pairs, shared = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for band in range(bands.shape[1]):
        pairs, shared = _counted(pairs, shared, _meetings(bands[:, band], train, first_new))
    eval_rows, train_rows = np.divmod(pairs, max(len(bands), 1))
    order = np.lexsort((train_rows, -shared, eval_rows))
    return eval_rows[order], train_rows[order]


def _meetings(keys: UInt64, train: NDArray[np.bool_], first_new: int) -> NDArray[np.int64]:
    """Pairs with an equal key, as eval row * number of rows + train row."""
    rows = _in_buckets(keys, first_new)
    in_train = train[rows]
    begins = np.append(True, keys[rows[1:]] != keys[rows[:-1]])[: len(rows)]
    bucket = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    found = []
    for others_train in (True, False):
        others = rows[in_train == others_train]
        num_before = np.cumsum(in_train == others_train) - (in_train == others_train)
        asking = np.flatnonzero((in_train != others_train) & (rows >= first_new))
        high = num_before[asking]
        low = np.maximum(num_before[bucket[asking]], high - MAX_PER_BUCKET)
        ours = np.repeat(rows[asking], high - low)
        theirs = others[_ranges(low, high)]
        eval_rows, train_rows = (ours, theirs) if others_train else (theirs, ours)
        found.append(eval_rows * len(keys) + train_rows)
    return np.concatenate(found)


def _in_buckets(keys: UInt64, first_new: int) -> NDArray[np.int64]:
    """The rows whose key a new row shares with another, sorted by key; those of one key in their order."""
    rows = _perhaps_in_buckets(keys, first_new)
    if 0 < first_new < len(keys):
        new_keys = np.unique(keys[first_new:])
        place = np.minimum(np.searchsorted(new_keys, keys[rows]), len(new_keys) - 1)
        rows = rows[new_keys[place] == keys[rows]]
    rows = rows[np.argsort(keys[rows], kind="stable")]
    equal = keys[rows[1:]] == keys[rows[:-1]]
    shared: NDArray[np.int64] = rows[np.append(False, equal)[: len(rows)] | np.append(equal, False)[: len(rows)]]
    return shared


def _perhaps_in_buckets(keys: UInt64, first_new: int) -> NDArray[np.int64]:
    """All of those rows and some others: what sorting can leave out. Keys are mixed, any of their bits will do."""
    size = 1 << (4 * len(keys)).bit_length()
    slots = (keys & np.uint64(size - 1)).astype(np.int64)
    if 0 < first_new < len(keys):
        has_new = np.zeros(size, dtype=np.bool_)
        has_new[slots[first_new:]] = True
        return np.flatnonzero(has_new[slots])
    return np.flatnonzero(np.bincount(slots, minlength=size)[slots] > 1)


def _ranges(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from low[0] to below high[0], then those from low[1] on, and so forth."""
    lengths = high - low
    ranges: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(high - np.cumsum(lengths), lengths)
    return ranges


def _counted(
    pairs: NDArray[np.int64], shared: NDArray[np.int64], more: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each pair once, with how many bands it shares by now."""
    if not len(more):
        return pairs, shared
    pairs = np.concatenate([pairs, more])
    shared = np.concatenate([shared, np.ones_like(more)])
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    first = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1]))
    return pairs[first], np.add.reduceat(shared[order], first)


def verified(
    eval_rows: NDArray[np.int64], train_rows: NDArray[np.int64], text: Callable[[int], str]
) -> list[tuple[int, int, float]]:
    """For each eval row its first candidate that it nearly stands in: (eval row, train row, containment).

    Pairs of one eval row stand together. A row's text is asked for when it is needed; one match is enough to
    keep an eval message out of the scores.
    """

    @lru_cache(maxsize=_RECENT_TEXTS)
    def shingles_of(row: int) -> set[tuple[str, ...]]:
        return shingles(text(row))

    found: list[tuple[int, int, float]] = []
    for eval_row, train_row in zip(eval_rows.tolist(), train_rows.tolist(), strict=True):
        if found and found[-1][0] == eval_row:
            continue
        share = containment(shingles_of(eval_row), shingles_of(train_row))
        if share >= THRESHOLD:
            found.append((eval_row, train_row, share))
    return found
