"""Search by words: BM25 over all passages, cut by date exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

K1 = 1.5
B = 0.75
_WORD = re.compile(r"\w+(?:[-._@/+]\w+)*")
_PART = re.compile(r"\w+")
_MAX_WORD_CHARS = 64


class WordIndex:
    """BM25 (Lucene's form, k1 1.5, b 0.75) over texts in a fixed order.

    How rare a word is, is counted over all texts, later ones too: a question's date limits what is
    found, not what is known of words.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import bm25s

        self._words: dict[str, int] = {}
        rows = [[self._words.setdefault(word, len(self._words)) for word in words(text)] for text in texts]
        self._size = len(rows)
        self._scorer = bm25s.BM25(k1=K1, b=B, method="lucene")
        if self._words:
            self._scorer.index((rows, dict(self._words)), create_empty_token=False, show_progress=False)

    def search(self, text: str, num_rows: int, excluded: NDArray[np.int64], k: int) -> list[tuple[int, float]]:
        """The best of the first `num_rows` rows but the excluded ones: (row, score), best first, at most k.

        Rows that share no word with the text are not found. Equal scores are in the order of the rows.
        """
        known = [self._words[word] for word in words(text) if word in self._words]
        if not known or not num_rows:
            return []
        scores = self._scorer.get_scores_from_ids(known)[:num_rows].copy()
        scores[excluded[excluded < num_rows]] = 0
        return [(int(row), float(scores[row])) for row in best_rows(scores, k) if scores[row] > 0]


def words(text: str) -> list[str]:
    """What a text is searched by: its words in lower case; of compound ones (`raid5.c`, `a@b.org`) the parts too."""
    found = []
    for match in _WORD.finditer(text.lower()):
        word = match[0]
        if len(word) <= _MAX_WORD_CHARS:
            found.append(word)
        if not word.isalnum():
            found += [part for part in _PART.findall(word) if part != word and len(part) <= _MAX_WORD_CHARS]
    return found


def best_rows(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The rows of the k highest scores, highest first; equal ones in their order, exactly."""
    k = min(k, len(scores))
    if not k:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= least)
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
