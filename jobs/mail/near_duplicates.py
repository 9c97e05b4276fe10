"""Texts that nearly repeat one another: MinHash to find the pairs, exact Jaccard similarity to judge them.

A text is the set of its 5-grams of words; two are near-duplicates when those sets overlap by at least 0.8
(Broder 1997). A MinHash of 128 is cut into bands of 6 rows (Leskovec, Rajaraman and Ullman, *Mining of
Massive Datasets*, 3.4): a pair of similarity s shares one of the 21 bands with probability
1 - (1 - s^6)^21, which is 0.998 at 0.8 and 0.28 at 0.5. Texts come without their quotes.

Everything that a fingerprint depends on is written here, none of it in a library's random numbers or in
Python's hash(): the same text has the same fingerprint everywhere, and may be stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
MAX_CANDIDATES = 32

_WORD = re.compile(r"\w+")
_BLOCK_WORDS = 1 << 16  # a block's hashes stay in the processor's cache for all permutations
_BLOCK_ROWS = 1 << 16
_MAX_KNOWN_WORDS = 1 << 19
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
    return _WORD.findall(text[:MAX_CHARS].lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    """The 5-grams of a text's words; none for a text of fewer than 50 words."""
    found = words(text)
    if len(found) < MIN_WORDS:
        return set()
    return set(zip(*(found[start:] for start in range(SHINGLE_WORDS)), strict=False))


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Shared shingles by all shingles; 0 where there are none."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


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
    """64 bits of BLAKE2b of each word, remembered."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        if len(self) >= _MAX_KNOWN_WORDS:
            self.clear()
        self[word] = value
        return value


def _blocks(texts: Sequence[str]) -> Iterator[tuple[list[int], UInt64, NDArray[np.int64]]]:
    """Runs of comparable texts: their rows, the hashes of all their words, and where each text's begin."""
    table = _WordHashes()
    rows: list[int] = []
    lengths: list[int] = []
    hashes: list[int] = []
    for row, text in enumerate(texts):
        found = words(text)
        if len(found) < MIN_WORDS:
            continue
        rows.append(row)
        lengths.append(len(found))
        hashes += map(table.__getitem__, found)
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


def candidates(eval_bands: UInt64, train_bands: UInt64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of an eval row and a train row that share a band: ascending by eval row, then the likeliest first.

    Rows are comparable texts' (see fingerprints). At most MAX_CANDIDATES for an eval row, and at most
    MAX_PER_BUCKET of those that share one key, evenly spread: a hundred thousand nearly identical notices are
    no more work than a few. A pair at the threshold shares five bands on average, and what crowds it out of all
    of them is as likely to be a near-duplicate itself. Likeliest is who shares the most bands, then the first.
    """
    blocks = [
        _block_candidates(eval_bands[start : start + _BLOCK_ROWS], train_bands, start)
        for start in range(0, len(eval_bands), _BLOCK_ROWS)
    ]
    none = np.zeros(0, dtype=np.int64)
    eval_rows, train_rows = zip((none, none), *blocks, strict=True)
    return np.concatenate(eval_rows), np.concatenate(train_rows)


def _block_candidates(
    eval_bands: UInt64, train_bands: UInt64, first_row: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    num_train = len(train_bands)
    pairs = [_sharing(eval_bands[:, band], train_bands[:, band], num_train) for band in range(eval_bands.shape[1])]
    pair, shared = np.unique(np.concatenate(pairs), return_counts=True)
    eval_rows, train_rows = np.divmod(pair, max(num_train, 1))
    order = np.lexsort((train_rows, -shared, eval_rows))
    eval_rows, train_rows = eval_rows[order], train_rows[order]
    place = np.arange(len(eval_rows)) - np.searchsorted(eval_rows, eval_rows)
    kept = place < MAX_CANDIDATES
    return eval_rows[kept] + first_row, train_rows[kept]


def _sharing(eval_keys: UInt64, train_keys: UInt64, num_train: int) -> NDArray[np.int64]:
    """Pairs with an equal key, as eval row * num_train + train row."""
    wanted = np.unique(eval_keys)
    place = np.minimum(np.searchsorted(wanted, train_keys), len(wanted) - 1)
    hits = np.flatnonzero(wanted[place] == train_keys)
    hits = hits[np.argsort(train_keys[hits], kind="stable")]
    keys = train_keys[hits]
    low = np.searchsorted(keys, eval_keys)
    size = np.searchsorted(keys, eval_keys, side="right") - low
    taken = np.minimum(size, MAX_PER_BUCKET)
    eval_rows = np.repeat(np.arange(len(eval_keys)), taken)
    step = np.arange(len(eval_rows)) - np.repeat(np.cumsum(taken) - taken, taken)
    chosen = low[eval_rows] + step * size[eval_rows] // taken[eval_rows]
    pairs: NDArray[np.int64] = eval_rows * num_train + hits[chosen]
    return pairs


def verified(
    eval_rows: NDArray[np.int64],
    train_rows: NDArray[np.int64],
    eval_text: Callable[[int], str],
    train_text: Callable[[int], str],
) -> list[tuple[int, int, float]]:
    """For each eval row its first candidate that is a near-duplicate: (eval row, train row, similarity).

    The texts are asked for as they are needed; one match is enough to keep an eval message out of the scores.
    """
    found: list[tuple[int, int, float]] = []
    current, done = -1, False
    ours: set[tuple[str, ...]] = set()
    for eval_row, train_row in zip(eval_rows.tolist(), train_rows.tolist(), strict=True):
        if eval_row != current:
            current, done, ours = eval_row, False, shingles(eval_text(eval_row))
        if not done:
            similarity = jaccard(ours, shingles(train_text(train_row)))
            done = similarity >= THRESHOLD
            if done:
                found.append((eval_row, train_row, similarity))
    return found
